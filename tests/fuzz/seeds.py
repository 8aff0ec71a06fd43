"""The sound files that mutants are made of."""

import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import series
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from fuzz.packing import deflated, gzipped

CANARY, ROOT = "CANARY17", "1.2.826.1717"
"""In every text, and at the beginning of every UID, of a seed; in no sentence about a mutant."""

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
SYNTAXES = {
    "explicit": EXPLICIT,
    "implicit": IMPLICIT,
    "big endian": BIG,
    "rle": "1.2.840.10008.1.2.5",
    "jpeg lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
BUNDLED = (
    "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm", "CT_small.dcm",
    "JPEG-lossy.dcm", "image_dfl.dcm", "liver_1frame.dcm", "rtdose.dcm", "SC_rgb_rle_2frame.dcm", "no_meta.dcm",
    "badVR.dcm", "priv_SQ.dcm", "UN_sequence.dcm",
)  # fmt: skip
"""Files that come with pydicom."""

LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
"""VRs whose lengths have four bytes."""

PIXELS = 0x7FE00010
ITEM, END = b"\xfe\xff\0\xe0", b"\xfe\xff\xdd\xe0\0\0\0\0"
"""An item begins, a sequence of undefined length ends."""


@dataclass(frozen=True)
class Element:
    """Where an element of a DICOM file begins, where its value stands, and what kind of value it is."""

    tag: BaseTag
    vr: str
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Seed:
    """A sound file before `pack` compresses it as a whole, and the files beside it."""

    name: str
    kind: str
    data: bytes
    header_bytes: int
    beside: dict[str, bytes] = field(default_factory=dict)
    pack: Callable[[bytes], bytes] = bytes
    elements: tuple[Element, ...] = ()
    implicit: bool = False

    @property
    def is_compressed(self) -> bool:
        """Whether its pixels are."""
        return any(e.tag == PIXELS and self.data.startswith(ITEM, e.value) for e in self.elements)


@cache
def seeds() -> tuple[Seed, ...]:
    """Every sound file, in a fixed order."""
    return (
        *_slices(),
        _enhanced("enhanced", EXPLICIT),
        _enhanced("enhanced rle", SYNTAXES["rle"]),
        _mosaic(),
        *_bundled(),
        *_niftis(),
    )


def _dicom(name: str, data: bytes, **options: object) -> Seed:
    implicit = f"UI\x12\0{IMPLICIT}\0".encode() in data[:400]
    # The walk knows one order of bytes.
    elements = () if BIG.encode() in data[:400] else tuple(_walked(data, implicit=implicit))
    header = next((e.value for e in elements if e.tag == PIXELS), len(data) * 3 // 4)
    return Seed(name, "dicom", data, header, elements=elements, implicit=implicit, **options)


def _walked(data: bytes, *, implicit: bool) -> Iterator[Element]:
    """Elements of the outermost level, in order."""
    at = 132 if data[128:132] == b"DICM" else 0
    while at + 12 <= len(data):
        tag = Tag(*struct.unpack_from("<HH", data, at))
        vr = data[at + 4 : at + 6].decode("latin-1")
        if implicit and tag.group != 2:
            vr = dictionary_VR(tag)[:2] if dictionary_has_tag(tag) else "UN"
            value, length = at + 8, int.from_bytes(data[at + 4 : at + 8], "little")
        elif vr in LONG:
            value, length = at + 12, int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            value, length = at + 8, int.from_bytes(data[at + 6 : at + 8], "little")
        if length == 0xFFFFFFFF:
            # No seed has such a sequence within another.
            length = data.index(END, value) + len(END) - value
        end = min(value + length, len(data))
        yield Element(tag, vr, at, value, end)
        at = end


def _slices() -> Iterator[Seed]:
    """A slice, alone and between its neighbours, in every transfer syntax."""
    volume, _ = series.phantom((3, 16, 12), dtype=np.uint16)
    for name, syntax in SYNTAXES.items():
        before, middle, after = (_slice(pixels, i, syntax) for i, pixels in enumerate(volume))
        yield _dicom(name, middle)
        yield _dicom(f"{name} series", middle, beside={"b": before, "c": after})
        if syntax == EXPLICIT:
            yield _dicom("deflated", middle, pack=deflated)
    yield _dicom("jpeg baseline", _baseline())


LPS = np.diag([1.2, 0.9, 3.0, 1.0])


def _slice(pixels: np.ndarray, number: int, syntax: str) -> bytes:
    tags = _identity(number) | {
        "SOPClassUID": series.CT, "Modality": "CT", "RescaleSlope": "2", "RescaleIntercept": "-1024",
        "SliceThickness": "3", "EchoTime": "3.5",
    }  # fmt: skip
    return _written(series.slice_of(pixels, LPS, number, **tags), syntax)


def _baseline() -> bytes:
    """A slice of 8 bits in the JPEG of photographs, which pydicom and `series` do not write."""
    import imagecodecs

    volume, _ = series.phantom((1, 16, 12), dtype=np.uint8)
    whole = dcmread(BytesIO(_slice(volume[0], 1, EXPLICIT)))
    whole.PixelData = encapsulate([imagecodecs.jpeg8_encode(volume[0])])
    whole["PixelData"].VR = "OB"
    whole.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    file = BytesIO()
    whole.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _identity(number: int) -> dict[str, object]:
    texts = ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "InstitutionName")
    return {
        **dict.fromkeys(texts, CANARY),
        "SOPInstanceUID": f"{ROOT}.3.{number}",
        "SeriesInstanceUID": f"{ROOT}.4",
        "StudyInstanceUID": f"{ROOT}.5",
        "AcquisitionDate": "20240601",
        "AcquisitionTime": f"10153{number}.5",
        "PatientAge": "061Y",
    }


def _written(dataset: Dataset, syntax: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return series.save(dataset, Path(folder) / "a", syntax=syntax).read_bytes()


def _enhanced(name: str, syntax: str) -> Seed:
    """Four frames in one file, each with a place of its own."""
    volume, _ = series.phantom((4, 8, 6), dtype=np.uint16)
    whole = series.slice_of(volume.reshape(-1, 6), LPS, 0, **_identity(0))
    whole.SOPClassUID, whole.NumberOfFrames, whole.Rows = "1.2.840.10008.5.1.4.1.1.4.1", 4, 8
    plane = _with(ImageOrientationPatient=whole.ImageOrientationPatient)
    measures = _with(PixelSpacing=whole.PixelSpacing, SliceThickness="3")
    shared = _with(
        PlaneOrientationSequence=Sequence([plane]), PixelMeasuresSequence=Sequence([measures])
    )
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for number in range(4):
        place = _with(ImagePositionPatient=["11", "7.5", str(20 + 3 * number)])
        content = _with(DimensionIndexValues=[1, number + 1], InStackPositionNumber=number + 1)
        frames.append(
            _with(PlanePositionSequence=Sequence([place]), FrameContentSequence=Sequence([content]))
        )
    whole.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"):
        delattr(whole, keyword)
    return _dicom(name, _written(whole, syntax))


def _with(**tags: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def _bundled() -> Iterator[Seed]:
    """Files of pydicom."""
    for name in BUNDLED:
        path = get_testdata_file(name, download=False)
        assert path is not None, f"pydicom has lost {name}"
        yield _dicom(name, Path(path).read_bytes())


def _mosaic() -> Seed:
    """A header of Siemens that comes with nibabel, and 7 x 7 tiles of 8 x 8 pixels."""
    whole = dcmread(Path(nib.__file__).parent / "nicom/tests/data/0.dcm")
    pixels = np.random.default_rng(5).integers(0, 999, (56, 56)).astype(np.uint16)
    whole.Rows, whole.Columns, whole.PixelData = 56, 56, pixels.tobytes()
    return _dicom("mosaic", _written(whole, IMPLICIT))


def _niftis() -> Iterator[Seed]:
    """Both versions, both orders of bytes, 3-D and 4-D, in one file and in two."""
    kinds = {
        "nifti": (nib.Nifti1Image, "<", np.int16, (5, 6, 7)),
        "nifti float": (nib.Nifti1Image, "<", np.float32, (5, 6, 7)),
        "nifti big endian": (nib.Nifti1Image, ">", np.int16, (5, 6, 7)),
        "nifti time": (nib.Nifti1Image, "<", np.uint8, (5, 6, 7, 4)),
        "nifti-2": (nib.Nifti2Image, "<", np.int16, (5, 6, 7)),
        "nifti pair": (nib.Nifti1Pair, "<", np.int16, (5, 6, 7)),
    }
    for name, (kind, order, dtype, shape) in kinds.items():
        data, voxels = _nifti(kind, order, np.dtype(dtype), shape)
        header = 544 if kind is nib.Nifti2Image else 352
        yield Seed(name, "nifti", data, header, {"a.img": voxels} if voxels else {})
        if not voxels:
            yield Seed(f"{name}, gzipped", "nifti", data, header, pack=gzipped)


def _nifti(kind: type, order: str, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[bytes, bytes]:
    affine = np.array([[-1.2, 0, 0, 9], [0, 0.9, 0.1, -8], [0, -0.1, 3, 20], [0, 0, 0, 1]])
    header = kind.header_class(endianness=order)
    header.set_data_dtype(dtype.newbyteorder(order))
    image = kind(np.random.default_rng(3).integers(0, 99, shape).astype(dtype), affine, header)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    for name in ("descrip", "aux_file", "intent_name"):
        image.header[name] = CANARY
    if dtype.kind == "i":
        image.header.set_slope_inter(0.5, -3)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.hdr" if kind is nib.Nifti1Pair else "a.nii")
        nib.save(image, path)
        voxels = path.with_suffix(".img")
        return path.read_bytes(), voxels.read_bytes() if voxels.exists() else b""
