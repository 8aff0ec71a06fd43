"""D4, D5, D25: volumes that a tag cuts into groups of slices, and images of one series that are several all the same."""

from dataclasses import replace

import numpy as np
from pydicom.uid import generate_uid

from hardcases import phantom
from hardcases.dicom_frames import ENHANCED_MR, enhanced
from hardcases.dicom_stacks import without, write
from hardcases.dicom_times import VOLUMES, four_dimensional
from hardcases.truth import Refusal, Scan, Truth, case

PLAIN, MORE = ["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "M", "NORM"]
LAST = phantom.SHAPE[0] - 1


def torn(files, scan, others):
    """Refuse both parts of a volume, naming a file of each; who joins them is right, too."""
    parts = (
        tuple(f for n, f in enumerate(files) if n not in others),
        tuple(files[n] for n in others),
    )
    return Truth(refused=[Refusal(("DCM-TORN",), parts, says="ImageType|EchoTime")], also=[[scan]])


def _cut(row, title, others, tags, other_tags, **grid):
    """A volume of which the slices `others` say something else."""

    @case(row, title)
    def made(folder):
        affine = phantom.grid("LPS", **grid)
        files, scan = write(folder, affine, per_slice=lambda n: other_tags if n in others else tags)
        return torn(files, scan, others)

    return made


def _kinds(row, title, others, **grid):
    return _cut(row, title, others, {"ImageType": PLAIN}, {"ImageType": MORE}, **grid)


CUT = (
    _kinds("D4", "odd slices have a word more in their ImageType", range(1, 10, 2)),
    _kinds("D4", "every third slice has a word more in its ImageType", (2, 5, 8)),
    _kinds("D5", "the end slice has a word more in its ImageType", (LAST,)),
    _kinds("D5", "the first two slices have a word more in their ImageType", (0, 1)),
    _kinds("D5", "the upper half has a word more in its ImageType", range(5, 10)),
    _kinds("D5", "the end slice of a tilted stack has a word more in its ImageType", (LAST,), tilt=14.0),
    _cut("D5", "the end slice has another echo time", (LAST,), {"EchoTime": "5"}, {"EchoTime": "5.4"}),
    _cut("D5", "the end slice has no echo time", (LAST,), {"EchoTime": "5"}, {"EchoTime": None}),
)  # fmt: skip


@case("D4", "every slice has an echo time of its own")
def every_slice(folder):
    files, scan = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"EchoTime": f"{5 + 0.03 * n:.2f}"}
    )
    refusal = Refusal(("DCM-TORN",), (tuple(files),), says="EchoTime")
    return Truth(refused=[refusal], also=[[scan]])


@case("D4", "every slice of every volume has a kind of its own")
def every_slice_of_every_volume(folder):
    files, scan = four_dimensional(
        folder,
        lambda t, n: {"TemporalPositionIdentifier": t + 1, "ImageType": [*PLAIN, f"SLICE{n}"]},
        time=None,
    )
    refusal = Refusal(("DCM-TORN",), (tuple(files.values()),), says="ImageType")
    return Truth(refused=[refusal], also=[[scan]])


@case("D25", "one slice of many echoes in one series")
def echoes_of_one_slice(folder):
    affine, study = phantom.grid("LPS"), generate_uid()
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": study}
    for echo in range(6):
        files, _ = write(
            folder, affine, names=range(10 * echo, 10 * echo + 10), EchoTime=str(10 * (echo + 1)), **common
        )  # fmt: skip
        without(files, *range(1, 10))
    return Truth(skipped=6)


@case("D5", "the end slice has a word more in its ImageType, split", split=True)
def split(folder):
    _, scan = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"ImageType": MORE if n == LAST else PLAIN}
    )
    return Truth(scans=[Scan(affine=scan.affine, values=scan.values[:LAST])], skipped=1)


@case("D5", "the last two slices have a word more in their ImageType, and one before them is lost")
def torn_and_lost(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), per_slice=lambda n: {"ImageType": MORE if n > 7 else PLAIN}
    )
    without(files, 7)
    return Truth(refused=[Refusal(("DCM-TORN",), (tuple(files[:7]), tuple(files[8:])))])


@case("D5", "the end slice of every volume has a word more in its ImageType")
def every_volume(folder):
    files, scan = four_dimensional(
        folder, lambda t, n: {"TemporalPositionIdentifier": t + 1, "ImageType": MORE if n == LAST else PLAIN},
        time=None,
    )  # fmt: skip
    parts = [
        tuple(files[t, n] for t in range(VOLUMES) for n in own) for own in (range(LAST), (LAST,))
    ]
    return Truth(refused=[Refusal(("DCM-TORN",), parts)], also=[[scan]])


@case("D5", "the last frame of an enhanced MR has a word more in its FrameType")
def last_frame(folder):
    affine = phantom.grid("LPS")
    values = phantom.fill(affine)[None]

    def kind(t, n):
        return {"MRImageFrameTypeSequence": {"FrameType": MORE if n == LAST else PLAIN}}

    path = enhanced(folder / "all.dcm", affine, values, sop=ENHANCED_MR, frame=kind)
    scan = Scan(affine=affine, values=values[0])
    return Truth(refused=[Refusal(("DCM-TORN",), (path,))], shared=1, also=[[scan]])


def _in_time(row, title, other, tags, *, time, others=MORE, **catalog):
    """Volumes of one series, of which some say something else; `tags(volume, slice)` says when each was taken."""

    @case(row, title, **catalog)
    def made(folder):
        files, scan = four_dimensional(
            folder,
            lambda t, n: {**tags(t, n), **({"ImageType": others} if t in other else {"ImageType": PLAIN})},
            time=time, volumes=6,
        )  # fmt: skip
        parts = [
            tuple(f for (t, _), f in files.items() if (t in other) is own) for own in (False, True)
        ]
        return Truth(refused=[Refusal(("DCM-TORN",), parts, says="ImageType")], also=[[scan]])

    return made


TIMES = (
    _in_time("D27", "every second volume has a word more in its ImageType", (1, 3, 5),
             lambda t, n: {"TemporalPositionIdentifier": t + 1, "TemporalResolution": "2000"},
             time=(range(0, 12, 2), "s")),
    _in_time("D27", "the last volume has a word more in its ImageType", (5,),
             lambda t, n: {"AcquisitionTime": f"1012{10 + 3 * t:02d}.{25 * n:03d}"}, time=(range(0, 18, 3), "s")),
    _in_time("D27", "the first two phases of a cine have a word more in their ImageType", (0, 1),
             lambda t, n: {"TriggerTime": str(t * (31 + n))}, time=None),
)  # fmt: skip


@case("D27", "every second volume has an echo time that rounding moved")
def rounded_echo(folder):
    files, scan = four_dimensional(
        folder,
        lambda t, n: {"TemporalPositionIdentifier": t + 1, "EchoTime": "30" if t % 2 else "30.02"},
        time=None, volumes=6,
    )  # fmt: skip
    parts = [tuple(f for (t, _), f in files.items() if t % 2 == own) for own in (0, 1)]
    return Truth(refused=[Refusal(("DCM-TORN",), parts, says="EchoTime")], also=[[scan]])


def _both_in_time(folder, tags, kinds):
    """Two kinds of images of one series at the same places, three volumes each; `tags(kind, volume)` says when they were taken."""
    affine, scans = phantom.grid("LPS"), []
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    for number, kind in enumerate(kinds):
        values = np.stack([phantom.fill(affine, time=3 * number + t) for t in range(VOLUMES)])
        for t in range(VOLUMES):
            names = range(100 * number + 10 * t, 100 * number + 10 * t + 10)
            write(folder, affine, values[t], names=names, **kind, **tags(number, t), **common)
        scans.append(Scan(affine=affine, values=values))
    return scans


@case("D25", "magnitude and phase of three volumes in one series")
def both_of_each_volume(folder):
    kinds = [{"ImageType": ["ORIGINAL", "PRIMARY", word]} for word in "MP"]
    return Truth(
        scans=_both_in_time(folder, lambda k, t: {"TemporalPositionIdentifier": t + 1}, kinds)
    )


@case("D25", "two echoes of three volumes in one series, one after the other")
def echoes_after_each_other(folder):
    kinds = [{"EchoTime": echo, "EchoNumbers": n} for n, echo in enumerate(("4.92", "7.38"), 1)]
    tags = _every_minute
    return Truth(scans=_both_in_time(folder, tags, kinds))


@case("D25", "maps that were derived of three volumes, with times of their own")
def maps_of_each_volume(folder):
    kinds = [{"ImageType": PLAIN}, {"ImageType": ["DERIVED", "PRIMARY", "M"]}]
    return Truth(scans=_both_in_time(folder, _every_minute, kinds))


@case("D25", "volumes of two kinds, one after the other")
def kinds_after_each_other(folder):
    kinds = [{"ImageType": ["ORIGINAL", "PRIMARY", word]} for word in ("LABEL", "CONTROL")]
    scans = _both_in_time(folder, _every_minute, kinds)
    return Truth(scans=[replace(s, flags=frozenset({"possible_truncation"})) for s in scans])


def _every_minute(kind, volume):
    return {"AcquisitionTime": f"101{3 * kind + volume}10.0"}


def _kinds_of(folder, images, **common):
    """Images of one series: ImageType -> numbers of the slices that it has."""
    affine, files, scans = phantom.grid("LPS"), [], []
    common |= {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    for number, (kind, own) in enumerate(images.items()):
        values = phantom.fill(affine, time=number)
        found, _ = write(
            folder, affine, values, names=range(100 * number, 100 * number + 10), ImageType=kind.split("/"), **common
        )  # fmt: skip
        without(found, *(n for n in range(10) if n not in own))
        files.append([found[n] for n in own])
        start = affine.copy()
        start[:3, 3] += own[0] * affine[:3, 2]
        scans.append(Scan(affine=start, values=values[list(own)]))
    return files, scans


ALL = range(phantom.SHAPE[0])


@case("D5", "the end slices of magnitude and phase have a word more in their ImageType")
def both_kinds(folder):
    images = {"ORIGINAL/PRIMARY/M": ALL[:LAST], "ORIGINAL/PRIMARY/M/NORM": ALL[LAST:],
              "ORIGINAL/PRIMARY/P": ALL[:LAST], "ORIGINAL/PRIMARY/P/NORM": ALL[LAST:]}  # fmt: skip
    files, _ = _kinds_of(folder, images)
    return Truth(refused=[Refusal(("DCM-TORN",), [tuple(own) for own in files])])


@case("D5", "the end slice of the magnitude has a word more in its ImageType, the phase is whole")
def one_of_two_kinds(folder):
    images = {"ORIGINAL/PRIMARY/M": ALL[:LAST], "ORIGINAL/PRIMARY/M/NORM": ALL[LAST:],
              "ORIGINAL/PRIMARY/P": ALL}  # fmt: skip
    files, scans = _kinds_of(folder, images)
    return Truth(
        scans=scans[2:], refused=[Refusal(("DCM-TORN",), [tuple(own) for own in files[:2]])]
    )


@case("D5", "the phase ends one slice before the magnitude")
def short_phase(folder):
    images = {"ORIGINAL/PRIMARY/M": ALL, "ORIGINAL/PRIMARY/P": ALL[:LAST]}
    _, (magnitude, phase) = _kinds_of(folder, images)
    return Truth(scans=[magnitude, replace(phase, flags=frozenset({"possible_truncation"}))])


@case("D5", "the magnitude lacks its first slice and the phase its last")
def short_both(folder):
    files, scans = _kinds_of(
        folder, {"ORIGINAL/PRIMARY/M": ALL[1:], "ORIGINAL/PRIMARY/P": ALL[:LAST]}
    )
    refusal = Refusal(
        ("DCM-TORN",), [tuple(own) for own in files], says="at 8 of them.*copy the slices"
    )
    return Truth(refused=[refusal], also=[scans])


def _stray(title, tags, code, *, state="quarantined", flags=("possible_truncation",), number=LAST):
    """An end slice that no rule sets beside the others: they are taken, and said to lack something."""

    @case("D5", title)
    def made(folder):
        affine = phantom.grid("LPS")
        files, scan = write(
            folder, affine, per_slice=lambda n: {"ImageType": PLAIN, **(tags if n == LAST else {})}
        )
        for lost in files[number:LAST]:
            lost.unlink()
        left = Scan(affine=affine, values=scan.values[:number], flags=frozenset(flags))
        if state == "skipped":
            return Truth(scans=[left], skipped=1, also=[[scan]])
        return Truth(scans=[left], refused=[Refusal((code,), (files[LAST],))], also=[[scan]])

    return made


_TILTED = ["1", "0", "0", "0", "0.998", "0.0632"]
STRAYS = (
    _stray("the end slice has another kind and no PixelSpacing", {"PixelSpacing": None, "ImageType": MORE}, "DCM-SPACING-MISSING"),
    _stray("the end slice has another kind and no position", {"ImagePositionPatient": None, "ImageType": MORE}, "DCM-NO-GEOMETRY"),
    _stray("the end slice has another kind and no orientation", {"ImageOrientationPatient": None, "ImageType": MORE},
           "DCM-NO-GEOMETRY"),
    _stray("the end slice has another kind and another PixelSpacing", {"PixelSpacing": ["0.8", "0.8"], "ImageType": MORE}, "",
           state="skipped"),
    _stray("the end slice is tilted by 3.6 degrees", {"ImageOrientationPatient": _TILTED}, "", state="skipped"),
    _stray("the end slice calls itself a localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "", state="skipped"),
    _stray("the end slice has another kind, and five before it are lost", {"ImageType": MORE}, "", state="skipped", number=4),
)  # fmt: skip


@case("D5", "a slice of another kind and tilt within a stack")
def stray_within(folder):
    files, scans = _kinds_of(folder, {"ORIGINAL/PRIMARY": ALL, "ORIGINAL/PRIMARY/NORM": ALL[4:5]})
    return Truth(scans=scans[:1], skipped=len(files[1]))


@case("D25", "water, fat, in phase and out of phase in one series")
def dixon(folder):
    return Truth(
        scans=_kinds_of(folder, {f"ORIGINAL/PRIMARY/{w}": ALL for w in ("W", "F", "IP", "OP")})[1]
    )


@case("D25", "a map derived of every second slice beside its source")
def map_of_every_second(folder):
    _, (source, derived) = _kinds_of(
        folder, {"ORIGINAL/PRIMARY": ALL, "DERIVED/PRIMARY/ADC": ALL[1::2]}
    )
    affine = derived.affine @ np.diag([1, 1, 2, 1])
    return Truth(scans=[source, replace(derived, affine=affine)])


@case("D25", "a projection beside its source, where the next slice would be")
def projection(folder):
    files, (source, _) = _kinds_of(
        folder, {"ORIGINAL/PRIMARY": ALL[:LAST], "DERIVED/SECONDARY/MIP": ALL[LAST:]}
    )
    return Truth(scans=[source], skipped=len(files[1]))


@case("D25", "two stacks of one series, of two echo times, four slices apart")
def two_stacks(folder):
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    first, flags, scans = phantom.grid("LPS"), frozenset({"possible_truncation"}), []
    for number, echo in enumerate(("80", "85")):
        affine = first.copy()
        affine[:3, 3] += number * (LAST + 4) * affine[:3, 2]
        names = range(10 * number, 10 * number + 10)
        _, scan = write(folder, affine, names=names, EchoTime=echo, **common)
        scans.append(replace(scan, flags=flags))
    return Truth(scans=scans)


@case("D25", "two stacks of one series, of two kinds, one behind the other and 4 mm to the side")
def beside(folder):
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    scans = []
    for number, kind in enumerate((PLAIN, MORE)):
        affine = phantom.grid("LPS", centre=(-3 + 4 * number, 12.5, 20 + 30 * number))
        names = range(10 * number, 10 * number + 10)
        scans.append(write(folder, affine, names=names, ImageType=kind, **common)[1])
    return Truth(scans=scans)
