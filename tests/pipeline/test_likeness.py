"""One scan under two names, and one stack in several series: found, and nothing else with them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort import schema
from cohort.io.policy import Notes, Policy
from cohort.io.refusal import Refused
from cohort.io.store import Store
from cohort.pipeline.intake.likeness import image_twice, looks_like_one_series, twins


def record(name, shape, affine, *, subject="a", session="1", **attrs):
    return {
        "scan_id": name,
        "subject": subject,
        "session": session,
        "shape": list(shape),
        "affine": np.asarray(affine, float).ravel().tolist(),
        "attrs": attrs,
    }


def cut(shape, affine, axis, at):
    """Two parts of a grid (shape z, y, x), cut before voxel `at` of axis x, y or z."""
    dim, other = 2 - axis, list(shape)
    first, other[dim] = list(shape), shape[dim] - at
    first[dim] = at
    moved = np.array(affine)
    moved[:3, 3] += at * moved[:3, axis]
    return (first, affine), (other, moved)


@st.composite
def grids(draw):
    """A canonical, oblique and possibly sheared grid."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = tuple(draw(st.integers(4, 30)) for _ in range(3))
    linear = np.diag(rng.uniform(0.5, 5, 3)) + rng.uniform(-0.1, 0.1, (3, 3))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, rng.uniform(-300, 300, 3)
    return shape, affine


@given(grids(), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_parts_of_a_stack_are_found_in_the_order_in_which_they_continue(whole, axis, at, turn):
    one, other = cut(*whole, axis, at)
    parts = [record("lower", *one, modality="MR"), record("upper", *other, modality="MR")]
    assert looks_like_one_series(parts[::-1] if turn else parts) == [("lower", "upper")]
    between = record("lower", *one, subject="b"), record("upper", *other, subject="c")
    assert looks_like_one_series(between) == []
    visits = record("lower", *one), record("upper", *other, session="2")
    assert looks_like_one_series(visits) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, 1),
        ({"shift": 0.04}, 1),
        ({"shift": 0.06}, 0),
        ({"shift": 1.0}, 0),
        ({"shift": -1.0}, 0),
        ({"aside": 0.2}, 0),
        ({"step": 1.002}, 0),
        ({"plane": (20, 31, 30)}, 0),
        ({"echo_time_ms": 30.2}, 1),
        ({"echo_time_ms": 31.0}, 0),
        ({"echo_time_ms": None}, 0),
        ({"modality": "CT"}, 0),
        ({"echo_number": 2}, 0),
    ],
)
def test_what_does_not_continue_or_was_acquired_otherwise_is_another_scan(change, found):
    attrs = {"modality": "MR", "echo_time_ms": 30.0}
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    moved = np.diag([1.0, 1.0, 3.0 * change.get("step", 1.0), 1.0])
    moved[2, 3] = 3.0 * (20 + change.get("shift", 0.0))
    moved[0, 3] = change.get("aside", 0.0)
    others = {k: v for k, v in change.items() if k in ("echo_time_ms", "modality", "echo_number")}
    pair = [
        record("a", (20, 30, 30), affine, **attrs),
        record("b", change.get("plane", (15, 30, 30)), moved, **attrs | others),
    ]
    assert len(looks_like_one_series(pair)) == found


def test_many_parts_and_visits_are_found_as_a_plain_search_finds_them():
    rng = np.random.default_rng(1)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    records, expected = [], []
    for visit in range(60):
        ends = np.cumsum([0, *rng.integers(3, 9, 4)])
        for part, (start, stop) in enumerate(itertools.pairwise(ends.tolist())):
            moved = affine.copy()
            moved[2, 3] = 2.0 * start
            records.append(
                record(f"{visit:02d}{part}", (stop - start, 8, 9), moved, subject=str(visit))
            )
            if part:
                expected.append((f"{visit:02d}{part - 1}", f"{visit:02d}{part}"))
    rng.shuffle(records)
    assert looks_like_one_series(records) == expected
    assert looks_like_one_series([{**r, "affine": None} for r in records]) == []
    assert looks_like_one_series([]) == []


def scan(seed, scale=1.0):
    image = np.random.default_rng(seed).integers(0, 99, (3, 4, 5)).astype(np.int16)
    affine = np.diag([scale, 2.0, 3.0, 1.0])
    return schema.make_scan(image, affine, image_attrs={"units": "1"}, attrs={"seed": seed})


def test_the_same_image_under_several_subjects_is_found_in_a_store(tmp_path):
    store = Store(tmp_path / "store")
    held = [("a1", "a", 0), ("a2", "a", 1), ("b1", "b", 1), ("b2", "b", 2), ("b3", "b", 2), ("c1", "c", 3), ("c2", "c", 1)]  # fmt: skip
    records = [store.write_scan(name, scan(seed), {"subject": who}) for name, who, seed in held]
    records.append(store.write_scan("d1", scan(3, scale=1.5), {"subject": "d"}))
    assert twins(records) == [["a2", "b1", "c2"]]
    assert twins(records[::-1]) == twins(records)


def test_twins_are_refused_by_name_unless_the_catalog_accepts_them(tmp_path):
    files = [tmp_path / "a.nii", tmp_path / "b.nii"]
    refusal = image_twice(files, subjects=2)
    with pytest.raises(
        Refused, match=r"IMG-TWICE .*file 1 holds the same voxels as file 2.* 2 subjects"
    ) as caught:
        Notes(Policy()).refuse(refusal)
    assert caught.value.files == tuple(files)
    assert caught.value.fix.endswith("or state accept: [IMG-TWICE] in the catalog")
    notes = Notes(Policy(accept=frozenset({"IMG-TWICE"})))
    notes.refuse(refusal)
    assert notes.attrs() == {"accepted": "IMG-TWICE"}
