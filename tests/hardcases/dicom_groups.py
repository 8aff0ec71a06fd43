"""D14-D22: which slices do not belong together, and what they lack."""

from dataclasses import replace

from pydicom.uid import generate_uid

from hardcases import phantom
from hardcases.dicom_stacks import without, write
from hardcases.truth import Refusal, Scan, Truth, case

ROWS, COLUMNS = phantom.SHAPE[1:]


def _planes(folder, count, image_type):
    common = {
        "SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "ImageType": image_type
    }  # fmt: skip
    shape, files, scans = (count, ROWS, COLUMNS), [], []
    for number, codes in enumerate(("LPS", "PIL", "LIP")):
        affine = phantom.grid(codes, shape=shape, spacing=(1.2, 1.2, 5.0))
        names = range(number * 10, number * 10 + count)
        found, scan = write(folder, affine, phantom.fill(affine, shape), names=names, **common)
        files += found
        scans.append(scan)
    return files, scans


@case("D14", "a localizer of three crossing planes")
def localizer(folder):
    files, scans = _planes(folder, 5, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return Truth(skipped=len(files), also=[scans])


@case("D14", "a localizer, accepted", accept=["DCM-LOCALIZER"])
def localizer_accepted(folder):
    _, scans = _planes(folder, 5, ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return Truth(scans=scans)


@case("D14", "three crossing planes of one slice that do not call themselves a localizer")
def planes(folder):
    files, scans = _planes(folder, 1, ["ORIGINAL", "PRIMARY", "M"])
    return Truth(skipped=len(files), also=[scans])


@case("D15", "one slice only")
def one_slice(folder):
    files, scan = write(folder, phantom.grid("LPS"), SliceThickness="3")
    without(files, *range(1, 10))
    return Truth(skipped=1, also=[[Scan(affine=scan.affine, values=scan.values[:1])]])


@case("D15", "two slices only")
def two_slices(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    without(files, *range(2, 10))
    return Truth(skipped=2, also=[[Scan(affine=scan.affine, values=scan.values[:2])]])


@case("D15", "two slices, accepted", min_slices=2)
def two_slices_accepted(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    without(files, *range(2, 10))
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:2])])


@case("D15", "one slice, accepted", min_slices=1)
def one_slice_accepted(folder):
    files, scan = write(folder, phantom.grid("LPS"), SliceThickness="3")
    without(files, *range(1, 10))
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:1])])


def _mixed(folder, *, shapes=(phantom.SHAPE,) * 2, spacings=(phantom.SPACING,) * 2):
    """Two stacks, the second on top of the first, under one SeriesInstanceUID."""
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files, scans = [], []
    for number, (shape, spacing) in enumerate(zip(shapes, spacings, strict=True)):
        affine = phantom.grid(
            "LPS", shape=shape, spacing=spacing, centre=(-3, 12.5, 20 + 30 * number)
        )
        names = range(10 * number, 10 * number + shape[0])
        found, scan = write(folder, affine, phantom.fill(affine, shape), names=names, **common)
        files.append(tuple(found))
        scans.append(scan)
    return files, scans


OTHER_SHAPE = (10, 10, 16)
OTHER_SPACING = (1.0, 0.75, 3.0)


@case("D16", "two matrices in one series")
def matrix_mix(folder):
    files, scans = _mixed(folder, shapes=(phantom.SHAPE, OTHER_SHAPE))
    return Truth(refused=[Refusal(("DCM-MATRIX-MIX",), files)], also=[scans])


@case("D16", "two matrices in one series, split", split=True)
def matrix_split(folder):
    _, scans = _mixed(folder, shapes=(phantom.SHAPE, OTHER_SHAPE))
    return Truth(scans=scans)


@case("D17", "two pixel spacings in one series")
def spacing_mix(folder):
    files, scans = _mixed(folder, spacings=(phantom.SPACING, OTHER_SPACING))
    return Truth(refused=[Refusal(("DCM-SPACING-MIX",), files)], also=[scans])


@case("D17", "pixel spacings that differ in their rounding alone")
def spacing_rounded(folder):
    _, scan = write(
        folder, phantom.grid("LPS"),
        per_slice=lambda n: {"PixelSpacing": ["0.9", "1.2"] if n % 2 else ["0.90001", "1.19999"]},
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D17", "two pixel spacings in one series, split", split=True)
def spacing_split(folder):
    _, scans = _mixed(folder, spacings=(phantom.SPACING, OTHER_SPACING))
    return Truth(scans=scans)


@case("D17", "the upper half of a stack has another pixel spacing")
def spacing_mix_in_a_stack(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"PixelSpacing": ["0.8", "1.0"]} if n > 4 else {}
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-SPACING-MIX",), (tuple(files[:5]), tuple(files[5:])))])


@case("D18", "PixelSpacing is missing")
def spacing_missing(folder):
    files, _ = write(folder, phantom.grid("LPS"), PixelSpacing=None)
    return Truth(refused=[Refusal(("DCM-SPACING-MISSING",), (tuple(files),))])


@case("D18", "PixelSpacing is missing and ImagerPixelSpacing is there")
def imager_spacing(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), PixelSpacing=None, ImagerPixelSpacing=["0.5", "0.5"]
    )
    return Truth(refused=[Refusal(("DCM-SPACING-MISSING",), (tuple(files),))])


@case("D18", "PixelSpacing is missing on the last slice")
def spacing_missing_at_the_end(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"PixelSpacing": None} if n == 9 else {}
    )
    return Truth(refused=[Refusal(("DCM-SPACING-MIX",), (files[9],))])


@case("D18", "PixelSpacing is zero")
def spacing_zero(folder):
    files, _ = write(folder, phantom.grid("LPS"), PixelSpacing=["0", "0"])
    return Truth(refused=[Refusal(("DCM-SPACING-MISSING",), (tuple(files),))])


@case("D19", "ImagePositionPatient is missing")
def position_missing(folder):
    files, _ = write(folder, phantom.grid("LPS"), ImagePositionPatient=None, SliceThickness="3")
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (tuple(files),))])


@case("D19", "ImageOrientationPatient is missing")
def orientation_missing(folder):
    files, _ = write(folder, phantom.grid("LPS"), ImageOrientationPatient=None)
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (tuple(files),))])


@case("D19", "ImagePositionPatient is missing on the last slice")
def position_missing_at_the_end(folder):
    files, _ = write(
        folder, phantom.grid("LPS"),
        per_slice=lambda n: {"ImagePositionPatient": None} if n == 9 else {},
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (files[9],))])


@case("D19", "ImageOrientationPatient is missing on the last slice")
def orientation_missing_at_the_end(folder):
    files, _ = write(
        folder, phantom.grid("LPS"),
        per_slice=lambda n: {"ImageOrientationPatient": None} if n == 9 else {},
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (files[9],))])


@case("D19", "directions of rows and columns are not at right angles")
def crooked(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), ImageOrientationPatient=["1", "0", "0", "0.1", "0.995", "0"]
    )
    return Truth(refused=[Refusal(("DCM-NO-GEOMETRY",), (tuple(files),))])


@case("D20", "SpacingBetweenSlices is wrong")
def slice_spacing_tag(folder):
    _, scan = write(folder, phantom.grid("LPS"), SpacingBetweenSlices="3.6", SliceThickness="3")
    flags = frozenset({"slice_spacing_tag_wrong"})
    return Truth(scans=[replace(scan, flags=flags)])


@case("D20", "slices are thicker than they lie apart")
def overlapping(folder):
    _, scan = write(folder, phantom.grid("LPS"), SpacingBetweenSlices="3", SliceThickness="5")
    return Truth(scans=[scan])


@case("D21", "two patients under one SeriesInstanceUID")
def uid_collision(folder):
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files, scans = [], []
    for number, who in enumerate(("ANNA", "BERT")):
        affine = phantom.grid("LPS", centre=(-3, 12.5, 34 + 1.5 * number))
        names = range(number, 40, 2)
        found, scan = write(folder, affine, names=names, PatientID=who, **common)
        files.append(tuple(found))
        scans.append(scan)
    return Truth(refused=[Refusal(("DCM-UID-COLLISION",), files)], also=[scans])


@case("D21", "two patients in two studies under one SeriesInstanceUID")
def uid_collision_of_studies(folder):
    common = {"SeriesInstanceUID": generate_uid()}
    affine, files, scans = phantom.grid("LPS"), [], []
    for number, who in enumerate(("ANNA", "BERT")):
        values = phantom.fill(affine, time=number)
        found, scan = write(
            folder / who, affine, values, PatientID=who, StudyInstanceUID=generate_uid(), **common
        )
        files.append(tuple(found))
        scans.append(scan)
    return Truth(refused=[Refusal(("DCM-UID-COLLISION",), files)], also=[scans])


@case("D21", "two patients under one SeriesInstanceUID, at the same positions")
def uid_collision_in_place(folder):
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    affine = phantom.grid("LPS")
    files, scans = [], []
    for number, who in enumerate(("ANNA", "BERT")):
        values = phantom.fill(affine, time=number)
        found, scan = write(folder / who, affine, values, PatientID=who, **common)
        files.append(tuple(found))
        scans.append(scan)
    return Truth(refused=[Refusal(("DCM-UID-COLLISION",), files)], also=[scans])


@case("D21", "the end slice is another patient's")
def uid_collision_at_the_end(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"PatientID": "BERT" if n == 9 else "ANNA"}
    )
    return Truth(refused=[Refusal(("DCM-UID-COLLISION",), (tuple(files[:9]), files[9]))])


def _kept_apart(n):
    def tells(warnings):
        start = f"{n} scan"
        return [t.startswith(start) and "several SeriesInstanceUIDs" in t for t in warnings] == [
            True
        ]

    return tells


@case("D22", "the end slice has a SeriesInstanceUID of its own")
def end_slice_of_another_uid(folder):
    uids, study = (generate_uid(), generate_uid()), generate_uid()
    _, scan = write(
        folder, phantom.grid("LPS"), StudyInstanceUID=study,
        per_slice=lambda n: {"SeriesInstanceUID": uids[n == 9]},
    )  # fmt: skip
    flags = frozenset({"looks_like_one_series"})
    left = Scan(affine=scan.affine, values=scan.values[:9], flags=flags)
    return Truth(scans=[left], skipped=1, also=[[scan]], call={"warnings": _kept_apart(1)})


@case("D22", "one series under two SeriesInstanceUIDs")
def split_uids(folder):
    uids, study, affine = (generate_uid(), generate_uid()), generate_uid(), phantom.grid("LPS")
    _, scan = write(
        folder, affine, StudyInstanceUID=study, per_slice=lambda n: {"SeriesInstanceUID": uids[n // 5]}
    )  # fmt: skip
    upper = affine.copy()
    upper[:3, 3] += 5 * affine[:3, 2]
    flags = frozenset({"looks_like_one_series"})
    halves = [
        Scan(affine=a, values=v, flags=flags)
        for a, v in ((affine, scan.values[:5]), (upper, scan.values[5:]))
    ]
    return Truth(scans=halves, also=[[scan]], call={"warnings": _kept_apart(2)})


@case("D22", "odd slices have a SeriesInstanceUID of their own")
def odd_slices_of_another_uid(folder):
    uids, study, affine = (generate_uid(), generate_uid()), generate_uid(), phantom.grid("LPS")
    _, scan = write(
        folder, affine, StudyInstanceUID=study, per_slice=lambda n: {"SeriesInstanceUID": uids[n % 2]}
    )  # fmt: skip
    flags, halves = frozenset({"looks_like_one_series"}), []
    for first in (0, 1):
        own = affine.copy()
        own[:3, 3] += first * affine[:3, 2]
        own[:3, 2] *= 2
        halves.append(Scan(affine=own, values=scan.values[first::2], flags=flags))
    return Truth(scans=halves, also=[[scan]], call={"warnings": _kept_apart(2)})
