"""D1-D13, D49: which slices make a volume, in which order, and how far apart."""

import itertools
from dataclasses import replace

import numpy as np
from pydicom.uid import generate_uid
from series import CT, decimal, write_series

from hardcases import phantom
from hardcases.truth import Refusal, Scan, Truth, case


def write(folder, affine, values=None, *, dtype=np.int16, names=None, **options):
    """Write one file a slice, named after the first of `names`; give the files in spatial order and their scan."""
    values = phantom.fill(affine) if values is None else values
    names = None if names is None else list(names)[: len(values)]
    files = write_series(folder, values.astype(dtype), affine, names=names, **options)
    who = options.get("PatientID", "P1")
    return files, Scan(affine=affine, values=values, dtype=np.dtype(dtype).name, subject=who)


def position(affine, number, *, along=0.0, across=0.0):
    """ImagePositionPatient of a slice, moved along the stack and along its rows, mm."""
    step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    row = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    ras = affine[:3, 3] + number * affine[:3, 2] + along * step + across * row
    return decimal(ras * (-1, -1, 1))


def without(files, *numbers):
    """Lose some files."""
    for number in numbers:
        files[number].unlink()
    return [f for n, f in enumerate(files) if n not in numbers]


def linear(affine, *, along=None):
    """Values without the bump, for slices moved along the stack by `along` mm each."""
    points = phantom.world(affine, phantom.SHAPE)
    if along is not None:
        step = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
        points = points + np.asarray(along)[:, None, None, None] * step
    return np.rint(phantom.exact(points, bump=False))


@case("D1", "two series in one folder, names interleaved")
def two_series(folder):
    study = generate_uid()
    first, second = phantom.grid("LPS"), phantom.grid("PIR", centre=(2, 15, 30))
    scans = [
        write(
            folder, affine, names=range(start, 100, 2), StudyInstanceUID=study, SeriesNumber=start
        )[1]
        for start, affine in ((1, first), (2, second))
    ]
    return Truth(scans=scans)


@case("D1", "two series in one folder that differ by their UID alone")
def two_runs(folder):
    study, affine = generate_uid(), phantom.grid("LPS")
    scans = [
        write(folder / "all", affine, phantom.fill(affine, time=run), names=range(run, 100, 2),
              StudyInstanceUID=study,
              SeriesNumber=run + 1)[1]
        for run in (0, 1)
    ]  # fmt: skip
    return Truth(scans=scans)


@case("D2", "file names out of order")
def names_out_of_order(folder):
    _, scan = write(folder, phantom.grid("LPS"), names=(7, 2, 9, 4, 0, 1, 8, 3, 6, 5))
    return Truth(scans=[scan])


@case("D3", "InstanceNumber is not spatial")
def instance_not_spatial(folder):
    order = (3, 1, 10, 2, 8, 5, 6, 4, 9, 7)
    _, scan = write(folder, phantom.grid("LPS"), per_slice=lambda n: {"InstanceNumber": order[n]})
    return Truth(scans=[scan])


@case("D3", "InstanceNumber runs interleaved and SliceLocation lies")
def slice_location_lies(folder):
    _, scan = write(
        folder, phantom.grid("LPS"), names=(5, 0, 6, 1, 7, 2, 8, 3, 9, 4),
        per_slice=lambda n: {"InstanceNumber": n // 2 + 5 * (n % 2) + 1, "SliceLocation": str(n * n % 7)},
    )  # fmt: skip
    return Truth(scans=[scan])


def _gap(folder, *lost):
    affine = phantom.grid("LPS", spacing=(1.2, 0.9, 2.0))
    files, scan = write(folder, affine, linear(affine))
    without(files, *lost)
    return files, scan


def interpolated(scan):
    """Give what a scan of the linear phantom becomes on an even grid."""
    said = {"resampled": lambda text: "uniform" in text}
    return replace(scan, dtype="float32", tolerance=1.0, any_grid="linear", attrs=said)


@case("D4", "a middle slice is missing")
def middle_slice_missing(folder):
    files, scan = _gap(folder, 4)
    says = r"4\.0+ mm.*2\.0+"
    refusal = Refusal(("DCM-GAP",), (files[3], files[5]), says=says)
    return Truth(refused=[refusal], also=[[interpolated(scan)]])


@case("D4", "three slices in two places are missing")
def three_slices_missing(folder):
    files, scan = _gap(folder, 3, 4, 7)
    refusal = Refusal(("DCM-GAP",), (files[2], files[5]))
    return Truth(refused=[refusal], also=[[interpolated(scan)]])


@case("D4", "a middle slice is missing, resampled", resample="uniform")
def middle_slice_resampled(folder):
    _, scan = _gap(folder, 4)
    return Truth(scans=[interpolated(scan)])


@case("D4", "every second slice is missing, which two tags tell")
def every_second_missing(folder):
    affine = phantom.grid("LPS", spacing=(1.2, 0.9, 2.0))
    files, _ = write(folder, affine, per_slice=lambda n: {"SpacingBetweenSlices": "2"})
    without(files, 1, 3, 5, 7, 9)
    return Truth(refused=[Refusal(("DCM-GAP",), (files[0], files[2]), says=r"4\.0+ mm.*2\.0+")])


@case("D4", "every second slice is missing, which nothing can tell")
def every_second_missing_unseen(folder):
    affine = phantom.grid("LPS", spacing=(1.2, 0.9, 2.0))
    files, scan = write(folder, affine, ImagesInAcquisition=10)
    without(files, 1, 3, 5, 7, 9)
    wide = affine @ np.diag([1, 1, 2, 1])
    flags = frozenset({"possible_truncation"})
    return Truth(scans=[Scan(affine=wide, values=scan.values[::2], flags=flags, subject="P1")])


@case("D5", "an end slice is missing and ImagesInAcquisition knows")
def end_slice_missing(folder):
    files, scan = write(folder, phantom.grid("LPS"), ImagesInAcquisition=10)
    without(files, 9)
    flags = frozenset({"possible_truncation"})
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:9], flags=flags)])


@case("D5", "an end slice is missing and InstanceNumber, which begins in the middle, knows")
def end_slice_missing_by_number(folder):
    files, scan = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"InstanceNumber": (n + 5) % 10 + 1}
    )
    without(files, 9)
    flags = frozenset({"possible_truncation"})
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:9], flags=flags)])


@case("D5", "an end slice is missing and nothing knows")
def end_slice_missing_unseen(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    without(files, 9)
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:9])])


UNEVEN = (0.0, 0.0, 0.0, 0.0, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3)


def _uneven(folder):
    affine = phantom.grid("LPS")
    files, _ = write(
        folder, affine, linear(affine, along=UNEVEN),
        per_slice=lambda n: {"ImagePositionPatient": position(affine, n, along=UNEVEN[n])},
    )  # fmt: skip
    longer = affine.copy()
    longer[:3, 2] *= (27 + 1.3) / 27
    return files, Scan(affine=longer, values=linear(longer))


@case("D9", "uneven spacing")
def uneven(folder):
    files, scan = _uneven(folder)
    refusal = Refusal(("DCM-UNEVEN",), (files[3], files[4]), says=r"4\.3.*3\.0")
    return Truth(refused=[refusal], also=[[interpolated(scan)]])


@case("D9", "uneven spacing, resampled", resample="uniform")
def uneven_resampled(folder):
    _, scan = _uneven(folder)
    return Truth(scans=[interpolated(scan)])


@case("D9", "spacing that grows from slice to slice")
def growing(folder):
    affine = phantom.grid("LPS")
    along = [0.05 * n * n for n in range(10)]
    files, _ = write(
        folder, affine,
        per_slice=lambda n: {"ImagePositionPatient": position(affine, n, along=along[n])},
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-UNEVEN",), (tuple(files),))])


JITTER = (0.0, 0.008, -0.006, 0.01, -0.01, 0.004, 0.009, -0.003, -0.008, 0.0)


@case("D10", "positions jitter by a hundredth of a millimetre")
def jitter(folder):
    affine = phantom.grid("LPS")
    _, scan = write(
        folder, affine,
        per_slice=lambda n: {"ImagePositionPatient": position(affine, n, along=JITTER[n], across=JITTER[9 - n])},
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D10", "positions rounded to a hundredth of a millimetre")
def rounded(folder):
    affine = phantom.grid("LPS", spacing=(1.2, 0.9, 2.4583))

    def place(n):
        return [f"{float(v):.2f}" for v in position(affine, n)]

    _, scan = write(folder, affine, per_slice=lambda n: {"ImagePositionPatient": place(n)})
    ends = [np.array(place(n), float) * (-1, -1, 1) for n in (0, 9)]
    even = affine.copy()
    even[:3, 2] = (ends[1] - ends[0]) / 9
    even[:3, 3] = ends[0]
    return Truth(scans=[Scan(affine=even, values=scan.values)])


@case("D10", "steps within one per cent that add up to a fifth of a voxel")
def drift(folder):
    shape = (40, 5, 6)
    affine = phantom.grid("LPS", shape=shape)
    along = [0.0295 * min(n, 39 - n) for n in range(40)]
    files, _ = write(
        folder, affine, phantom.fill(affine, shape),
        per_slice=lambda n: {"ImagePositionPatient": position(affine, n, along=along[n])},
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-UNEVEN",), (tuple(files),))])


@case("D10", "a stack that bows by half a pixel in its plane")
def bowed(folder):
    affine = phantom.grid("LPS")
    files, _ = write(
        folder, affine,
        per_slice=lambda n: {"ImagePositionPatient": position(affine, n, across=0.12 * min(n, 9 - n))},
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-UNEVEN",), (tuple(files),))])


def _tilted(title, degrees, codes, centre):
    def make(folder):
        affine = phantom.grid(codes, tilt=degrees, centre=centre)
        _, scan = write(
            folder, affine, SOPClassUID=CT, Modality="CT", GantryDetectorTilt=str(-degrees), RescaleSlope="1",
            RescaleIntercept="0",
        )  # fmt: skip
        straightened = replace(scan, any_grid="bumpy", tolerance=12)
        return Truth(scans=[replace(scan, flags=frozenset({"sheared"}))], also=[[straightened]])

    return case("D11", title)(make)


TILTED = (
    _tilted("gantry tilt of 14 degrees", 14.0, "LPS", phantom.CENTRE),
    _tilted("gantry tilt of -20 degrees, descending", -20.0, "LPI", (10, -5, 20)),
)


@case("D11", "gantry tilt with a missing slice")
def tilted_gap(folder):
    files, _ = write(folder, phantom.grid("LPS", tilt=14.0), SOPClassUID=CT, Modality="CT")
    without(files, 6)
    return Truth(refused=[Refusal(("DCM-GAP",), (files[5], files[7]))])


def _turned(codes, turn):
    def make(folder):
        _, scan = write(folder, phantom.grid(codes, turn=turn))
        return Truth(scans=[scan])

    return make


ORIENTED = tuple(
    case("D12", title)(_turned(codes, turn))
    for title, codes, turn in (
        ("axial, descending", "LPI", (0, 0, 0)),
        ("sagittal", "PIL", (0, 0, 0)),
        ("coronal, back to front", "LIA", (0, 0, 0)),
        ("oblique by 20 degrees", "LPS", (0.0, 0.0, 0.35)),
        ("oblique about three axes", "LPS", (0.2, -0.3, 0.25)),
        ("sagittal, doubly oblique, right to left", "PIR", (-0.15, 0.3, 0.1)),
    )
)


@case("D12", "direction cosines that jitter in the fifth decimal")
def cosines_jitter(folder):
    affine = phantom.grid("LPS", turn=(0.0, 0.0, 0.35))
    row, column = (affine[:3, i] / np.linalg.norm(affine[:3, i]) * (-1, -1, 1) for i in (0, 1))

    def tags(n):
        off = (n % 3 - 1) * 1e-5
        return {"ImageOrientationPatient": [f"{v + off:.6f}" for v in (*row, *column)]}

    _, scan = write(folder, affine, per_slice=tags)
    return Truth(scans=[scan])


@case("D13", "all 48 orders and directions of axes")
def all_orders(folder):
    pairs = itertools.permutations(("RL", "AP", "SI"))
    codes = [c for order in pairs for c in itertools.product(*order)]
    scans = []
    for number, code in enumerate(codes):
        affine = phantom.grid(code, shape=(4, 5, 6), turn=(0.05, -0.08, 0.1))
        values = phantom.fill(affine, (4, 5, 6), time=number)
        scans.append(write(folder / f"{number}", affine, values, PatientID=f"{''.join(code)}")[1])
    return Truth(scans=scans)


def _lying(where):
    def make(folder):
        _, scan = write(folder, phantom.grid("LPS"), PatientPosition=where)
        return Truth(scans=[scan])

    return make


DECUBITUS = tuple(
    case("D49", f"PatientPosition {where}")(_lying(where)) for where in ("HFDR", "FFS", "FFP")
)
