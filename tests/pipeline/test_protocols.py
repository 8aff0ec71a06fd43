"""Acquisition groups: within a tolerance and no farther, whatever the order; who strays is named with numbers."""

import itertools
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid
from cohort.io.nifti_header import read_volume
from cohort.io.policy import DEFAULT, Notes
from cohort.pipeline.intake.protocols import (
    CATEGORIES,
    NUMBERS,
    TOLERANCE,
    Protocols,
    mixed,
    protocols,
)

T1 = {
    "modality": "MR",
    "kind": "dicom",
    "manufacturer": "siemens",
    "manufacturer_model": "prisma",
    "field_strength_t": 3.0,
    "scanning_sequence": "GR",
    "acquisition_type": "3D",
    "repetition_time_ms": 2000.0,
    "echo_time_ms": 2.26,
    "inversion_time_ms": 900.0,
    "flip_angle_deg": 8.0,
    "spacing_x_mm": 1.0,
    "spacing_y_mm": 0.9375,
    "spacing_z_mm": 0.9375,
    "shape_x": 176,
    "shape_y": 256,
    "shape_z": 256,
}
T2 = T1 | {"scanning_sequence": "SE", "repetition_time_ms": 3200.0, "echo_time_ms": 402.0, "inversion_time_ms": None, "flip_angle_deg": 120.0}  # fmt: skip


def scans(*kinds, start=0):
    """Rows of the scans table: (n, row) each."""
    rows = [row for n, row in kinds for _ in range(n)]
    return [{"scan_id": f"s{i:03d}", **row} for i, row in enumerate(rows, start)]


def partition(found: Protocols):
    """Groups of scan ids, by protocol."""
    return {p: frozenset(g) for p, g in found.scans.groupby("protocol")["scan_id"]}


def nearest(values):
    """Oracle: each value -> the level that takes it, by the definition, without any cleverness."""
    counts = Counter(values)
    level = {}
    for leader in sorted(counts, key=lambda v: (-counts[v], v)):
        if leader in level:
            continue
        for value in counts:
            if value not in level and abs(value - leader) <= TOLERANCE * abs(leader):
                level[value] = leader
    return level


def numbers():
    """Few, and many of them about one percent apart."""
    near = st.builds(
        lambda base, k: round(base * 1.004**k, 6),
        st.sampled_from([0.0, 5.0, 2000.0]),
        st.integers(-6, 6),
    )
    return st.one_of(near, st.none())


@given(
    st.lists(
        st.tuples(numbers(), numbers(), st.sampled_from(["MR", "CT", None])),
        min_size=1,
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_groups_are_those_of_the_definition_whatever_the_order(rows, random):
    records = [
        {"scan_id": f"s{i}", "repetition_time_ms": tr, "echo_time_ms": te, "modality": modality}
        for i, (tr, te, modality) in enumerate(rows)
    ]
    expected = {}
    for record in records:
        kind = [r for r in records if r["modality"] == record["modality"]]
        key = [record["modality"]]
        for name in ("repetition_time_ms", "echo_time_ms"):
            level = nearest([r[name] for r in kind if r[name] is not None])
            key.append(level.get(record[name]))
        expected.setdefault(tuple(key), set()).add(record["scan_id"])
    found = protocols(records)
    groups = partition(found)
    assert set(groups.values()) == set(map(frozenset, expected.values()))
    assert [len(groups[p]) for p in sorted(groups)] == sorted(
        map(len, groups.values()), reverse=True
    )
    assert found.classes["n"].tolist() == [len(groups[p]) for p in sorted(groups)]
    assert found.scans["scan_id"].tolist() == [r["scan_id"] for r in records]
    random.shuffle(records)
    again = protocols(records)
    assert partition(again) == groups
    pd.testing.assert_frame_equal(again.classes, found.classes)
    assert again.drifts == found.drifts
    table = protocols(pd.DataFrame(records))
    assert (partition(table), table.drifts) == (groups, found.drifts)


@given(st.lists(st.floats(-0.0099, 0.0099), min_size=3, max_size=30), st.sampled_from(NUMBERS))
def test_jitter_about_the_common_value_makes_no_second_group(jitter, name):
    rows = [T1 | {"slice_thickness_mm": 1.0}] * (len(jitter) + 2)
    rows += [rows[0] | {name: rows[0][name] * (1 + j)} for j in jitter]
    found = protocols(scans(*((1, row) for row in rows)))
    assert found.classes["n"].tolist() == [len(rows)]
    assert found.classes[name].iloc[0] == rows[0][name]
    assert found.drifts == []


def test_categories_are_exact_and_the_number_of_slices_is_none():
    base = T1 | {"echo_number": 1, "units": "1", "sequence_variant": "MP"}
    others = [
        base | {name: value}
        for name, value in (
            ("modality", "CT"), ("kind", "nifti"), ("manufacturer", "ge"), ("manufacturer_model", "skyra"),
            ("field_strength_t", 1.5), ("scanning_sequence", "SE"), ("sequence_variant", None),
            ("acquisition_type", "2D"), ("echo_number", 2), ("units", "HU"), ("shape_y", 240), ("n_time", 9),
        )
    ]  # fmt: skip
    same = [base | {"shape_x": 160}, base | {"field_strength_t": 2.98}, base | {"echo_number": 1.0}]
    found = protocols(scans((5, base), *((1, row) for row in same), *((1, row) for row in others)))
    assert found.classes["n"].tolist() == [8, *([1] * len(others))]
    assert set(found.classes.columns) <= {"protocol", "n", *CATEGORIES, *NUMBERS}
    first = found.classes.iloc[0]
    assert (first["matrix"], first["slices_along"], first["leading"]) == ("256 x 256", "x", "")


@pytest.mark.parametrize(
    ("sizes", "spacing", "along", "matrix"),
    [
        ((64, 64, 30), (3, 3, 4), "z", "64 x 64"),
        ((30, 64, 72), (4, 3, 3), "x", "64 x 72"),
        ((64, 30, 72), (3, 4, 3), "y", "64 x 72"),
        ((160, 256, 256), (1, 1, 1), "x", "256 x 256"),
        ((256, 256, 256), (1, 1, 1), "z", "256 x 256"),
        ((160, 240, 256), (1, 1, 1), "z", "160 x 240"),
        ((10, 11, 12), (1, 2, 3), "z", "10 x 11"),
    ],
)
def test_slices_lie_along_the_axis_that_differs(sizes, spacing, along, matrix):
    row = {f"shape_{d}": n for d, n in zip("xyz", sizes, strict=True)}
    row |= {f"spacing_{d}_mm": float(mm) for d, mm in zip("xyz", spacing, strict=True)}
    found = protocols(scans((1, row))).classes.iloc[0]
    assert (found["slices_along"], found["matrix"]) == (along, matrix)


def test_who_strays_in_a_few_parameters_is_named_with_its_own_numbers():
    odd = T1 | {"repetition_time_ms": 2500.0}
    more = T1 | {"echo_time_ms": None, "flip_angle_deg": 9.25, "manufacturer_model": "skyra"}
    found = protocols(scans((99, T1), (1, odd), (1, more), (40, T2)))
    one, several = found.drifts
    assert one == (
        "scan s099 drifts from protocol 1 (99 scans): repetition time 2500 ms, expected 2000 ms"
    )
    assert several == (
        "scan s100 drifts from protocol 1 (99 scans): manufacturer's model name skyra, expected prisma; "
        "echo time not stated, expected 2.26 ms; flip angle 9.25 degrees, expected 8 degrees"
    )


@pytest.mark.parametrize(
    ("kinds", "drifts"),
    [
        ([(4, T1), (1, T1 | {"flip_angle_deg": 9.0})], 0),  # too few to be the rule
        ([(5, T1), (1, T1 | {"flip_angle_deg": 9.0})], 1),
        ([(8, T1), (2, T1 | {"flip_angle_deg": 9.0})], 2),  # four fifths
        ([(79, T1), (21, T1 | {"flip_angle_deg": 9.0})], 0),  # not quite
        ([(50, T1), (50, T2), (1, T2 | {"echo_time_ms": 99.0})], 1),  # two kinds on purpose, one slip
        ([(50, T1), (5, T2)], 0),
        ([(50, T1), (1, T1 | {"modality": "PT"})], 0),
        ([(50, T1), (1, T1 | {"flip_angle_deg": 9.0, "repetition_time_ms": 1.0, "echo_time_ms": 1.0})], 1),
        ([(50, T1), (1, T1 | {"flip_angle_deg": 9.0, "repetition_time_ms": 1.0, "echo_time_ms": 1.0, "spacing_x_mm": 9.0})], 0),
    ],
)  # fmt: skip
def test_a_drift_is_a_slip_and_not_another_kind_of_scan(kinds, drifts):
    assert len(protocols(scans(*kinds)).drifts) == drifts


@given(st.permutations(range(3)))
def test_the_nearest_rule_is_named(order):
    near = T1 | {"echo_time_ms": 30.0}
    far = T1 | {
        "echo_time_ms": 60.0,
        "flip_angle_deg": 20.0,
        "repetition_time_ms": 700.0,
        "inversion_time_ms": 50.0,
    }
    odd = near | {"flip_angle_deg": 20.0}
    kinds = [(20, near), (30, far), (1, odd)]
    (sentence,) = protocols(scans(*(kinds[i] for i in order))).drifts
    assert sentence.endswith("(20 scans): flip angle 20 degrees, expected 8 degrees")


def test_records_of_the_store_and_rows_of_the_table_say_the_same():
    attrs = {k: v for k, v in T1.items() if not k.startswith(("shape", "spacing")) and k != "kind"}
    record = {
        "scan_id": "s", "kind": "dicom", "dims": ["time", "z", "y", "x"], "shape": [7, 256, 256, 176],
        "spacing_mm": {"x": 1.0, "y": 0.9375, "z": 0.9375}, "attrs": attrs | {"flags": "has_nan"},
    }  # fmt: skip
    row = {"scan_id": "s", **T1, "n_time": 7}
    pd.testing.assert_frame_equal(protocols([record]).classes, protocols([row]).classes)
    assert protocols([record]).classes["leading"].tolist() == ["time"]


def test_no_scans_make_no_protocols():
    for nothing in ([], pd.DataFrame(columns=["scan_id", "kind"])):
        found = protocols(nothing)
        assert (len(found.scans), len(found.classes), found.drifts) == (0, 0, [])
        assert mixed(nothing) == []


def test_what_makes_intensities_incomparable_is_told_for_each_modality():
    philips = {"modality": "MR", "units": "1", "manufacturer": "philips"}
    kinds = [
        (3, philips),
        (1, philips | {"philips_precise": True}),
        (2, philips | {"manufacturer": "siemens"}),
        (2, {"modality": "CT", "units": "HU", "photometric": "MONOCHROME2"}),
        (1, {"modality": "CT", "units": "1", "photometric": "MONOCHROME1"}),
        (1, {"modality": "PT", "units": "Bq/ml"}),
        (4, {"kind": "nifti"}),
    ]
    assert mixed(scans(*kinds)) == [
        "CT: unit of the voxels HU (2 scans), 1 (1 scan)",
        "CT: photometric interpretation MONOCHROME2 (2 scans), MONOCHROME1 (1 scan)",
        "MR: Philips scaling displayed values (3 scans), precise values (1 scan)",
    ]
    assert mixed(scans(*(kinds[i] for i in (0, 2, 3, 5, 6)))) == []


def test_brains_of_one_grid_are_one_protocol_and_crops_are_not(shared):
    def rows(folder):
        for path in sorted((shared / folder).glob("*.nii.gz")):
            volume = read_volume(path, notes=Notes(DEFAULT))
            steps = grid.steps_mm(volume.affine)
            yield {
                "scan_id": path.name,
                "kind": "nifti",
                **{f"shape_{d}": n for d, n in zip("zyx", volume.shape, strict=True)},
                **{f"spacing_{d}_mm": mm for d, mm in zip("xyz", steps, strict=True)},
            }

    brains = protocols(rows("oasis1-mni2mm/uint8"))
    assert (brains.classes["n"].tolist(), brains.drifts) == ([167], [])
    assert brains.classes["matrix"].tolist() == ["91 x 91"]
    crops = protocols(rows("hippocampus-msd/images"))
    assert crops.classes["n"].sum() == 128
    assert len(crops.classes) > 50


def test_a_hundred_thousand_scans_take_seconds():
    rng = np.random.default_rng(0)
    kinds = [
        T1 | {"echo_time_ms": 3.0 * k, "manufacturer_model": f"m{k % 7}"} for k in range(1, 400)
    ]
    records = []
    for i, k in enumerate(rng.zipf(1.4, 100_000) % len(kinds)):
        jitter = {"repetition_time_ms": 2000 * (1 + 0.004 * rng.random()), "shape_x": 150 + i % 40}
        records.append({"scan_id": f"s{i:06d}", **kinds[k], **jitter})
    started = time.perf_counter()
    found = protocols(records)
    assert time.perf_counter() - started < 60  # about 2 s on one idle core
    assert found.classes["n"].sum() == 100_000
    assert len(found.classes) < 400
    assert len(found.classes) <= len({tuple(sorted(k.items())) for k in kinds})


def test_as_many_protocols_as_scans_are_no_trouble():
    steps = itertools.product(range(100), range(100))
    records = [
        {
            "scan_id": f"s{i}",
            "modality": "MR",
            "repetition_time_ms": 100 * 1.03**a,
            "echo_time_ms": 1.03**b,
        }
        for i, (a, b) in enumerate(steps)
    ]
    found = protocols(records)
    assert (len(found.classes), found.drifts) == (10_000, [])
