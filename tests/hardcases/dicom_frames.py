"""D23: enhanced multi-frame objects, whose frames say themselves where they lie."""

from dataclasses import replace
from itertools import product

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import RLELossless, generate_uid
from series import decimal, save, slice_of

from hardcases import phantom
from hardcases.truth import Refusal, Scan, Truth, case

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_MR = "1.2.840.10008.5.1.4.1.1.4.4"
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
J2K = "1.2.840.10008.1.2.4.90"
CONTENT = 0x00209111
TIME, ECHO = (CONTENT, 0x00209128), (0x00189114, 0x00189082)
"""Functional group and element of a third dimension, after stack and position."""


def item(**tags):
    """One item of a sequence; dicts become sequences of one item."""
    dataset = Dataset()
    for keyword, value in tags.items():
        if isinstance(value, dict):
            value = Sequence([item(**value)])
        setattr(dataset, keyword, value)
    return dataset


def geometry(affine):
    """Cosines and spacing of an affine that takes (column, row, slice) to RAS."""
    lps = TO_LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = np.concatenate([lps[:3, 0] / lengths[0], lps[:3, 1] / lengths[1]])
    return decimal(cosines), decimal([lengths[1], lengths[0]]), lengths[2]


def place(affine, number):
    """ImagePositionPatient of a slice."""
    return decimal((TO_LPS @ affine @ [0, 0, number, 1])[:3])


PIXEL_TAGS = "Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation"


def enhanced(path, affine, values, *, order=None, sop=ENHANCED_MR, frame=None, dtype=np.int16, positions=True,
             third=TIME, syntax=None, **tags):  # fmt: skip
    """Write volumes (time, slice, row, column) to one file.

    `order` lists (time, slice) as they stand in the file; ``frame(time, slice)`` adds functional groups to one frame,
    ``{"MREchoSequence": {...}}``; `third` is what the third of DimensionIndexValues counts.
    """
    order = list(np.ndindex(values.shape[:2])) if order is None else order
    kind = "CT" if sop == ENHANCED_CT else "MR"
    pixels = np.stack([values[t, n] for t, n in order]).astype(dtype)
    first = slice_of(pixels[0], TO_LPS @ affine, 0)
    dataset = item(
        **{keyword: first[keyword].value for keyword in PIXEL_TAGS.split()},
        **{
            "SOPClassUID": sop, "SOPInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(),
            "SeriesInstanceUID": generate_uid(), "PatientID": "P1", "Modality": kind, "SeriesNumber": 4,
            "InstanceNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "Manufacturer": "Maker",
            "ContentDate": "20200101", "ContentTime": "101010", "NumberOfFrames": len(order),
            "AcquisitionNumber": 1, "BurnedInAnnotation": "NO", **tags,
        },
    )  # fmt: skip
    cosines, spacing, step = geometry(affine)
    measures = {
        "PixelSpacing": spacing, "SliceThickness": f"{step:g}", "SpacingBetweenSlices": f"{step:g}"
    }  # fmt: skip
    shared = {
        "PixelMeasuresSequence": measures,
        "PlaneOrientationSequence": {"ImageOrientationPatient": cosines},
        f"{kind}ImageFrameTypeSequence": {"FrameType": list(dataset.ImageType)},
    }
    dataset.SharedFunctionalGroupsSequence = Sequence([item(**shared)])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [item(**_groups(affine, t, n, frame, positions=positions)) for t, n in order]
    )
    uid = {"DimensionOrganizationUID": generate_uid()}
    dataset.DimensionOrganizationSequence = Sequence([item(**uid)])
    dataset.DimensionIndexSequence = Sequence(
        [
            item(**uid, FunctionalGroupPointer=group, DimensionIndexPointer=pointer)
            for group, pointer in ((CONTENT, 0x00209056), (CONTENT, 0x00209057), third)
        ]
    )
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == J2K:
        return _save_j2k(dataset, pixels, path)
    return save(dataset, path, syntax=syntax)


def _groups(affine, t, n, frame, *, positions):
    """Functional groups of one frame."""
    groups = {
        "FrameContentSequence": {
            "StackID": "1", "InStackPositionNumber": n + 1, "TemporalPositionIndex": t + 1,
            "DimensionIndexValues": [1, n + 1, t + 1],
        }
    }  # fmt: skip
    if positions:
        groups["PlanePositionSequence"] = {"ImagePositionPatient": place(affine, n)}
    for name, group in (frame(t, n) if frame else {}).items():
        groups[name] = groups.get(name, {}) | group
    return groups


def _save_j2k(dataset, pixels, path):
    import imagecodecs

    save(dataset, path)
    options = {"level": 0, "reversible": True, "codecformat": "j2k"}
    dataset.PixelData = encapsulate([imagecodecs.jpeg2k_encode(p, **options) for p in pixels])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = J2K
    dataset.save_as(path, enforce_file_format=True)
    return path


def volumes(affine, times=1, shape=phantom.SHAPE):
    """Phantom at several times: (time, slice, row, column)."""
    return np.stack([phantom.fill(affine, shape, time=t) for t in range(times)])


def one(affine, values, **more):
    """Give the scan of one volume."""
    return Scan(affine=affine, values=values[0], dtype="int16", subject="P1", **more)


SHUFFLED = (3, 7, 0, 9, 1, 5, 8, 2, 6, 4)


@case("D23", "an enhanced MR")
def enhanced_mr(folder):
    affine = phantom.grid("LPS", turn=(0.1, 0.05, -0.1))
    values = volumes(affine)
    enhanced(folder / "mr.dcm", affine, values)
    return Truth(scans=[one(affine, values)])


@case("D23", "an enhanced MR with frames out of order and lying indices")
def enhanced_shuffled(folder):
    affine = phantom.grid("PIR")
    values = volumes(affine)
    lies = {n: (n * 7) % 10 + 1 for n in range(10)}

    def frame(t, n):
        return {
            "FrameContentSequence": {"InStackPositionNumber": lies[n], "DimensionIndexValues": [1, lies[n], 1]}
        }  # fmt: skip

    enhanced(folder / "mr", affine, values, order=[(0, n) for n in SHUFFLED], frame=frame)
    return Truth(scans=[one(affine, values)])


@case("D23", "an enhanced CT in HU, rescaled per frame alike")
def enhanced_ct(folder):
    affine = phantom.grid("LPI")
    values = volumes(affine)
    scale = {
        "PixelValueTransformationSequence": {
            "RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU"
        }
    }  # fmt: skip
    enhanced(
        folder / "ct.dcm",
        affine,
        values,
        sop=ENHANCED_CT,
        dtype=np.uint16,
        frame=lambda t, n: scale,
    )
    scan = one(affine, values - 1024, units="HU")
    return Truth(scans=[replace(scan, dtype="uint16")])


@case("D23", "an enhanced MR whose slope differs from frame to frame")
def enhanced_slopes(folder):
    affine = phantom.grid("LPS")
    values = volumes(affine)
    slopes = [1 + n / 8 for n in range(10)]

    def frame(t, n):
        return {
            "PixelValueTransformationSequence": {
                "RescaleSlope": f"{slopes[n]}", "RescaleIntercept": "2", "RescaleType": "US"
            }
        }  # fmt: skip

    enhanced(folder / "mr.dcm", affine, values, frame=frame)
    scaled = values * np.reshape(slopes, (-1, 1, 1)) + 2
    return Truth(scans=[replace(one(affine, scaled), dtype="float32")])


@case("D23", "an enhanced MR in four dimensions, time running fastest")
def enhanced_times(folder):
    affine = phantom.grid("LPS", shape=(6, 12, 14))
    values = volumes(affine, 3, (6, 12, 14))

    def frame(t, n):
        return {
            "FrameContentSequence": {"FrameAcquisitionDateTime": f"202001011010{10 + 2 * t:02d}.00"}
        }

    enhanced(
        folder / "mr.dcm", affine, values, order=[(t, n) for n in range(6) for t in range(3)], frame=frame
    )  # fmt: skip
    scan = Scan(affine=affine, values=values, dtype="int16", time=([0, 2, 4], "s"))
    return Truth(scans=[scan])


@case("D23", "enhanced MR, one file a time")
def enhanced_files(folder):
    affine = phantom.grid("LPS", shape=(6, 12, 14))
    values = volumes(affine, 3, (6, 12, 14))
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    for t in range(3):

        def frame(_, n, t=t):
            stamp = {"FrameAcquisitionDateTime": f"202001011010{10 + 2 * t:02d}.00"}
            return {"FrameContentSequence": {"TemporalPositionIndex": 1, **stamp}}

        enhanced(
            folder / f"{t}.dcm", affine, values[t : t + 1], frame=frame, InstanceNumber=t + 1,
            AcquisitionNumber=t + 1, **common,
        )  # fmt: skip
    scan = Scan(affine=affine, values=values, dtype="int16", time=([0, 2, 4], "s"))
    return Truth(scans=[scan])


def _two_echoes(folder, *, told):
    affine = phantom.grid("LPS")
    values = volumes(affine, 2)

    def frame(t, n):
        index = {
            "TemporalPositionIndex": 1,
            "DimensionIndexValues": [1, n + 1, t + 1 if told else 1],
        }
        return {
            "MREchoSequence": {"EffectiveEchoTime": (4.92, 7.38)[t]},
            "FrameContentSequence": index,
        }

    enhanced(folder / "mr.dcm", affine, values, frame=frame, third=ECHO if told else TIME)
    return Truth(scans=[one(affine, values[t : t + 1]) for t in range(2)], shared=1)


@case("D23", "two echoes in one enhanced MR")
def enhanced_echoes(folder):
    return _two_echoes(folder, told=True)


@case("D23", "two echoes in one enhanced MR whose indices do not tell them apart")
def enhanced_echoes_untold(folder):
    return _two_echoes(folder, told=False)


@case("D23", "two orientations in one enhanced MR")
def enhanced_orientations(folder):
    first, second = phantom.grid("LPS", shape=(5, 12, 14)), phantom.grid("PIL", shape=(5, 12, 14))
    a, b = volumes(first, 1, (5, 12, 14)), volumes(second, 1, (5, 12, 14))

    def frame(_, n):
        affine = first if n < 5 else second
        return {
            "PlanePositionSequence": {"ImagePositionPatient": place(affine, n % 5)},
            "PlaneOrientationSequence": {"ImageOrientationPatient": geometry(affine)[0]},
            "FrameContentSequence": {"StackID": "1" if n < 5 else "2"},
        }

    enhanced(folder / "mr.dcm", first, np.concatenate([a, b], axis=1), frame=frame)
    return Truth(scans=[one(first, a), one(second, b)], shared=1)


@case("D23", "an enhanced MR without positions")
def enhanced_no_positions(folder):
    affine = phantom.grid("LPS")
    path = enhanced(folder / "mr.dcm", affine, volumes(affine), positions=False)
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (path,))])


@case("D23", "an enhanced MR that lacks a frame in the middle")
def enhanced_gap(folder):
    affine = phantom.grid("LPS")
    order = [(0, n) for n in range(10) if n != 4]
    path = enhanced(folder / "mr.dcm", affine, volumes(affine), order=order)
    return Truth(refused=[Refusal(("DCM-GAP",), (path,))])


@case("D23", "an enhanced MR that lacks one frame of one time")
def enhanced_incomplete(folder):
    affine = phantom.grid("LPS")
    order = [key for key in product(range(3), range(10)) if key != (1, 4)]
    path = enhanced(folder / "mr.dcm", affine, volumes(affine, 3), order=order)
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE",), (path,))])


@case("D23", "an enhanced MR in RLE")
def enhanced_rle(folder):
    affine = phantom.grid("LPS")
    values = volumes(affine)
    enhanced(folder / "mr.dcm", affine, values, syntax=RLELossless)
    return Truth(scans=[one(affine, values)])


@case("D23", "an enhanced MR in JPEG 2000")
def enhanced_j2k(folder):
    affine = phantom.grid("LPS")
    values = volumes(affine)
    enhanced(folder / "mr.dcm", affine, values, syntax=J2K)
    return Truth(scans=[one(affine, values)])


@case("D23", "an enhanced MR cut short")
def enhanced_cut(folder):
    affine = phantom.grid("LPS")
    path = enhanced(folder / "mr.dcm", affine, volumes(affine))
    path.write_bytes(path.read_bytes()[:-500])
    return Truth(refused=[Refusal(("DCM-TRUNCATED",), (path,))])


@case("D23", "fewer functional groups than frames")
def enhanced_few_groups(folder):
    affine = phantom.grid("LPS")
    path = enhanced(folder / "mr.dcm", affine, volumes(affine), NumberOfFrames=12)
    return Truth(refused=[Refusal(("DCM-HEADER",), (path,))])


@case("D23", "a legacy converted MR")
def legacy(folder):
    affine = phantom.grid("LPS")
    values = volumes(affine)
    enhanced(folder / "mr.dcm", affine, values, sop=LEGACY_MR)
    return Truth(scans=[one(affine, values)])
