"""D24: mosaics of Siemens and grids of United Imaging: the slices of a volume side by side in one image."""

import struct

import numpy as np
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from series import MR, decimal, save, slice_of

from hardcases import phantom
from hardcases.dicom_frames import TO_LPS, item, place, volumes
from hardcases.truth import Refusal, Scan, Truth, case


def _tiled(volume, across, down):
    """Slices side by side, `across` to a row, row by row."""
    _, rows, columns = volume.shape
    sheet = np.zeros((down * rows, across * columns), volume.dtype)
    for n, pixels in enumerate(volume):
        y, x = divmod(n, across)
        sheet[y * rows : (y + 1) * rows, x * columns : (x + 1) * columns] = pixels
    return sheet


def csa(**entries):
    """Siemens CSA2 header of elements name -> (VR, values as text)."""
    parts = [b"SV10\4\3\2\1", struct.pack("<II", len(entries), 77)]
    for name, (vr, values) in entries.items():
        slots = max(6, len(values))
        parts.append(
            struct.pack("<64si4siii", name.encode(), len(values), vr.encode(), 6, slots, 77)
        )
        for n in range(slots):
            text = values[n].encode() + b"\0" if n < len(values) else b""
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)))
            parts.append(text + b"\0" * (-len(text) % 4))
    return b"".join(parts) + bytes(4)


def mosaic(path, affine, volume, *, count="csa", header=None, **tags):
    """Write a volume as a mosaic, a square of tiles.

    `count` says where the number of tiles stands: ``csa``, ``tag`` (0019,100A), ``both``, or ``none``, without any CSA
    header; `header` replaces the header's bytes.
    """
    slices, rows, columns = volume.shape
    across = int(np.ceil(np.sqrt(slices)))
    sheet = _tiled(volume.astype(np.int16), across, across)
    lps = TO_LPS @ affine
    # The header's position is that of the corner of a slice as large as the sheet around the first slice's centre.
    corner = np.array([(columns - sheet.shape[1]) / 2, (rows - sheet.shape[0]) / 2, 0, 1])
    step = lps[:3, 2] / np.linalg.norm(lps[:3, 2])
    spacing = np.linalg.norm(lps[:3, 2])
    dataset = slice_of(
        sheet, lps, 0,
        **{
            "SOPClassUID": MR, "Manufacturer": "SIEMENS", "PatientID": "P1",
            "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
            "ImagePositionPatient": decimal((lps @ corner)[:3]), "SpacingBetweenSlices": f"{spacing:g}",
            "SliceThickness": f"{spacing:g}", "SeriesInstanceUID": generate_uid(),
            "StudyInstanceUID": generate_uid(), "RepetitionTime": "2000", "AcquisitionMatrix": [columns, 0, 0, rows],
            **tags,
        },
    )  # fmt: skip
    entries = {"SliceNormalVector": ("FD", [f"{v:.8f}" for v in step])}
    if count in ("csa", "both"):
        entries["NumberOfImagesInMosaic"] = ("US", [str(slices)])
    if count != "none":
        block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x08, "CS", "IMAGE NUM 4")
        block.add_new(0x10, "OB", csa(**entries) if header is None else header)
        block.add_new(0x18, "CS", "MR")
        block.add_new(0x20, "OB", csa(MosaicRefAcqTimes=("FD", ["0"])))
    if count in ("tag", "both"):
        private = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        private.add_new(0x0A, "US", slices)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path)


def _one_mosaic(codes, **options):
    def make(folder):
        affine = phantom.grid(codes, turn=options.get("turn", (0, 0, 0)))
        volume = phantom.fill(affine)
        more = {k: v for k, v in options.items() if k != "turn"}
        mosaic(folder / "mosaic.dcm", affine, volume, **more)
        return Truth(scans=[Scan(affine=affine, values=volume, dtype="int16")])

    return make


MOSAICS = tuple(
    case("D24", title)(_one_mosaic(codes, **options))
    for title, codes, options in (
        ("a mosaic", "LPS", {}),
        ("a mosaic, coronal and oblique", "LIP", {"turn": (0.1, -0.2, 0.05)}),
        ("a mosaic whose slices run downwards", "LPI", {}),
        ("a mosaic with the number of tiles in both places", "LPS", {"count": "both"}),
        ("a mosaic with the number of tiles in (0019,100A) alone", "LPS", {"count": "tag"}),
    )
)


MANY = {"SliceNormalVector": ("FD", ["0", "0", "1"]), "NumberOfImagesInMosaic": ("US", ["1000"])}


def _bad_mosaic(title, **options):
    def make(folder):
        affine = phantom.grid("LPS")
        path = mosaic(folder / "mosaic.dcm", affine, phantom.fill(affine), **options)
        return Truth(refused=[Refusal(("DCM-MOSAIC",), (path,))])

    return case("D24", title)(make)


BAD_MOSAICS = (
    _bad_mosaic("a mosaic without a CSA header", count="none"),
    _bad_mosaic("a mosaic whose CSA header is damaged", header=b"SV10\4\3\2\1" + b"\xff" * 200),
    _bad_mosaic("a mosaic that claims more tiles than it has room for", header=csa(**MANY)),
)


@case("D24", "a time series of mosaics")
def mosaics(folder):
    affine = phantom.grid("LPS")
    values = volumes(affine, 3)
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    for t in range(3):
        mosaic(
            folder / f"{t}.dcm", affine, values[t], InstanceNumber=t + 1, AcquisitionNumber=t + 1,
            AcquisitionTime=f"1010{10 + 2 * t:02d}.000000", **common,
        )  # fmt: skip
    scan = Scan(affine=affine, values=values, dtype="int16", time=([0, 2, 4], "s"))
    return Truth(scans=[scan])


@case("D24", "a United Imaging grid")
def united_imaging(folder):
    affine = phantom.grid("LPS")
    volume = phantom.fill(affine)
    sheet = _tiled(volume.astype(np.int16), 4, 3)
    dataset = slice_of(
        sheet, TO_LPS @ affine, 0, Manufacturer="UIH", PatientID="P1",
        ImageType=["ORIGINAL", "PRIMARY", "M", "VFRAME"], SeriesInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(), SliceThickness="3", SpacingBetweenSlices="3",
    )  # fmt: skip
    block = dataset.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", "10")
    frames = [
        item(AcquisitionTime="101010", ImagePositionPatient=place(affine, n)) for n in range(10)
    ]
    block.add_new(0x51, "SQ", Sequence(frames))
    folder.mkdir(parents=True, exist_ok=True)
    save(dataset, folder / "grid.dcm")
    return Truth(scans=[Scan(affine=affine, values=volume, dtype="int16")])
