"""D25-D27: slices at one place that differ in echo, in kind, or in time."""

from dataclasses import replace

import numpy as np
import pydicom
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from hardcases import phantom
from hardcases.dicom_stacks import position, write
from hardcases.truth import Refusal, Scan, Truth, case


@case("D25", "two echoes in one series")
def two_echoes(folder):
    affine, scans = phantom.grid("LPS"), []
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    for number, echo in enumerate((4.92, 7.38)):
        values = phantom.fill(affine, time=2 * number)
        _, scan = write(
            folder, affine, values, names=range(number, 40, 2), EchoTime=str(echo),
            EchoNumbers=number + 1, per_slice=lambda n, e=number: {"InstanceNumber": 2 * n + e + 1}, **common,
        )  # fmt: skip
        scans.append(replace(scan, attrs={"echo_time_ms": echo}))
    return Truth(scans=scans)


@case("D25", "magnitude and phase in one series")
def magnitude_and_phase(folder):
    affine, scans = phantom.grid("LPS"), []
    common = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "EchoTime": "5",
    }
    for number, kind in enumerate("MP"):
        values = phantom.fill(affine, time=number)
        _, scan = write(
            folder, affine, values, names=range(number, 40, 2), ImageType=["ORIGINAL", "PRIMARY", kind, "ND"],
            **common,
        )  # fmt: skip
        scans.append(scan)
    return Truth(scans=scans)


VOLUMES = 3


def four_dimensional(
    folder,
    tags,
    *,
    time,
    order="volume",
    shape=phantom.SHAPE,
    blank=(),
    flags=(),
    lose=(),
    syntax=None,
    volumes=VOLUMES,
):
    """Write volumes that differ in time under one series; `tags(volume, slice)` tells them apart."""
    affine = phantom.grid("LPS", shape=shape)
    common = {
        "SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "syntax": syntax
    }  # fmt: skip
    values = np.stack([phantom.fill(affine, shape, time=t) for t in range(volumes)])
    for t, n in blank:
        values[t, n] = 0
    files = {}
    for t in range(volumes):
        numbers = [
            t * shape[0] + n if order == "volume" else n * volumes + t for n in range(shape[0])
        ]
        found, _ = write(
            folder, affine, values[t], names=numbers,
            per_slice=lambda n, t=t, number=numbers: {"InstanceNumber": number[n] + 1, **tags(t, n)}, **common,
        )  # fmt: skip
        files |= {(t, n): file for n, file in enumerate(found)}
    for key in lose:
        files.pop(key).unlink()
    return files, Scan(
        affine=affine, values=values, dtype="int16", time=time, flags=frozenset(flags)
    )


def _cine(t, n):
    # The heart beats differently from slice to slice.
    return {"TriggerTime": str(round(t * (310 + 7 * n), 1))}


@case("D26", "four dimensions by TemporalPositionIdentifier")
def temporal_position(folder):
    _, scan = four_dimensional(
        folder, lambda t, n: {"TemporalPositionIdentifier": t + 1, "TemporalResolution": "2500"},
        time=([0, 2.5, 5.0], "s"),
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D26", "cine by TriggerTime, which differs between slices")
def cine(folder):
    middle = [t * (310 + 7 * 4.5) / 1000 for t in range(VOLUMES)]
    _, scan = four_dimensional(folder, _cine, time=(middle, "s"), order="slice")
    return Truth(scans=[scan])


@case("D26", "volumes by AcquisitionTime")
def acquisition_time(folder):
    _, scan = four_dimensional(
        folder,
        lambda t, n: {"AcquisitionTime": f"1012{10 + 3 * t:02d}.500000"},
        time=([0, 3, 6], "s"),
    )
    return Truth(scans=[scan])


@case("D26", "every slice has an AcquisitionTime of its own, interleaved")
def slice_times(folder):
    def tags(t, n):
        second = 10 + 3 * t + (n // 2 + 5 * (n % 2)) * 0.25
        return {"AcquisitionTime": f"1012{second:09.6f}"}

    _, scan = four_dimensional(folder, tags, time=([0, 3, 6], "s"))
    return Truth(scans=[scan])


def _midnight(folder, *dates):
    def tags(t, n):
        day = {"AcquisitionDate": dates[t]} if dates else {}
        return {"AcquisitionTime": ("235958.0", "000000.5", "000003.0")[t], **day}

    return four_dimensional(folder, tags, time=([0, 2.5, 5], "s"))[1]


@case("D26", "volumes across midnight")
def midnight(folder):
    return Truth(scans=[_midnight(folder, "20200101", "20200102", "20200102")])


@case("D26", "volumes across midnight without a date")
def midnight_undated(folder):
    return Truth(scans=[replace(_midnight(folder), time=None, flags=None)])


@case("D26", "volumes that nothing but InstanceNumber tells apart")
def instance_only(folder):
    _, scan = four_dimensional(
        folder, lambda t, n: {"AcquisitionTime": "101210"}, time=([0, 1, 2], "frame"), flags=["time_inferred"]
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D26", "two positions at three times")
def short_cine(folder):
    _, scan = four_dimensional(
        folder, lambda t, n: {"TriggerTime": str(40 * t)}, time=([0, 0.04, 0.08], "s"), shape=(2, 12, 14)
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D26", "slices that are blank at two times are no duplicates")
def blank_slices(folder):
    _, scan = four_dimensional(
        folder, lambda t, n: {"TemporalPositionIdentifier": t + 1, "TemporalResolution": "1000"},
        time=([0, 1, 2], "s"), blank=[(0, 0), (1, 0), (2, 0)],
    )  # fmt: skip
    return Truth(scans=[scan])


@case("D27", "a volume lacks a slice")
def incomplete(folder):
    _, _ = four_dimensional(
        folder, lambda t, n: {"TemporalPositionIdentifier": t + 1}, time=None, lose=[(1, 4)]
    )
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE",), says=r"(?s)2 of 3.*volume 2")])


@case("D27", "the last volume lacks its upper half")
def aborted(folder):
    _, _ = four_dimensional(
        folder, lambda t, n: {"TemporalPositionIdentifier": t + 1}, time=None,
        lose=[(2, n) for n in range(5, 10)],
    )  # fmt: skip
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE",))])


def _moved(folder, slices):
    """Volumes of which the last lies elsewhere."""
    affine = phantom.grid("LPS")

    def tags(t, n):
        place = position(affine, n, along=3.0 * slices if t == VOLUMES - 1 else 0.0)
        return {"TemporalPositionIdentifier": t + 1, "ImagePositionPatient": place}

    return tuple(four_dimensional(folder, tags, time=None)[0].values())


@case("D27", "the last volume lies two slices higher")
def moved_by_slices(folder):
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE",), (_moved(folder, 2),))])


@case("D27", "the last volume lies half a slice higher")
def moved_by_half_a_slice(folder):
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE", "DCM-MIXED"), (_moved(folder, 0.5),))])


@case("D27", "a cine lacks one phase at one position")
def incomplete_cine(folder):
    _, _ = four_dimensional(folder, _cine, time=None, lose=[(0, 7)])
    return Truth(refused=[Refusal(("DCM-4D-INCOMPLETE",))])


WEIGHTS = (0, 750, 1500)
"""b-values of volumes, s/mm2."""


def _weighted(title, maker, private, *, syntax=None):
    """Three b-values in a maker's own element, in slices that are numbered in another order at each position."""

    @case("D26", f"diffusion whose b-values only {title} tells")
    def made(folder):
        files, scan = four_dimensional(
            folder, lambda t, n: {"Manufacturer": maker, "InstanceNumber": 3 * n + (t + n) % 3 + 1},
            time=([0, 1, 2], "frame"), flags=["time_inferred", "volume_order_conflict"], syntax=syntax,
        )  # fmt: skip
        group, creator, element, vr, values = private
        for (t, _), path in files.items():
            dataset = pydicom.dcmread(path)
            block = dataset.private_block(group, creator, create=True)
            block.add_new(element, vr, values(WEIGHTS[t]))
            dataset.save_as(path)
        return Truth(scans=[scan])

    return made


WEIGHTED = (
    _weighted("Siemens' (0019,100C)", "SIEMENS", (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", str)),
    _weighted(
        "GE's (0043,1039)", "GE MEDICAL SYSTEMS",
        (0x0043, "GEMS_PARM_01", 0x39, "IS", lambda b: [b + 10**9 if b else 0, 8, 0, 0]),
    ),
    _weighted(
        "Philips' (2001,1003)", "Philips Medical Systems",
        (0x2001, "Philips Imaging DD 001", 0x03, "FL", float), syntax=ImplicitVRLittleEndian,
    ),
)  # fmt: skip
