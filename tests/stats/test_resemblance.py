"""Resemblance: what was planted in drawn cohorts is found, and nothing in cohorts of strangers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort.kernels import traits
from cohort.stats.resemblance import COLUMNS, COPY, beyond_chance, resemblances

SIDE = 16
Z, Y, X = np.mgrid[:SIDE, :SIDE, :SIDE] - (SIDE - 1) / 2
BODY = 1 / (1 + np.exp(np.sqrt((Z / 0.9) ** 2 + Y**2 + (X / 0.8) ** 2) - 6))


def people(n, seed):
    """Anatomies: one body, in which each person has smooth differences of 10 %, a little of them shared by many."""
    rng = np.random.default_rng(seed)
    fields = ndi.gaussian_filter(rng.normal(size=(n, SIDE, SIDE, SIDE)), (0, 1.2, 1.2, 1.2))
    common = ndi.gaussian_filter(rng.normal(size=(2, SIDE, SIDE, SIDE)), (0, 2, 2, 2))
    fields = fields / fields.std() + np.tensordot(rng.normal(size=(n, 2)), common / common.std(), 1)
    return BODY * (1 + 0.1 * fields + 0.25 * np.tanh(X))


def seen(anatomies, seed):
    """Scans of them: noise of 3 %, a third of what sets persons apart, then of norm 1 as `ops.likeness` gives them."""
    rng = np.random.default_rng(seed)
    scans = anatomies + rng.normal(0, 0.03, anatomies.shape) * BODY
    return (scans / np.sqrt((scans**2).sum(axis=(1, 2, 3), keepdims=True))).astype(np.float32)


def names(n):
    return [f"sub-{i:03d}_ses-1" for i in range(n)], [f"{i:03d}" for i in range(n)]


def kinds(table):
    return [(row.kind, {row.scan_id, row.other}) for row in table.itertuples()]


@pytest.mark.parametrize("n", [10, 12, 25, 60, 150])
@pytest.mark.parametrize("seed", range(4))
def test_strangers_do_not_resemble_each_other(n, seed):
    assert resemblances(seen(people(n, [n, seed]), seed), *names(n)).empty


def planted(n, seed):
    """A cohort with a copy, a flip, labels exchanged and one person under two names; and what should be told of it."""
    rng = np.random.default_rng([seed, 1])
    anatomies = people(n, seed)
    volumes, (ids, who) = seen(anatomies, seed), names(n)
    a, b, c, d, e, f = rng.choice(n, 6, replace=False)
    mine = [volumes, volumes[[a]], volumes[[b], ..., ::-1], seen(anatomies[[c, d, e, f]], seed + 1)]
    # The second visits of c and d carry each other's label; that of e does not; f came back as somebody else.
    more = ["copy", "mirrored", "again-c", "again-d", "again-e", "again-f"]
    labels = [*who, "new-1", "new-2", who[d], who[c], who[e], "new-3"]
    told = {
        "duplicate": [{ids[a], "copy"}],
        "flipped": [{ids[b], "mirrored"}],
        "swapped": [{ids[c], "again-c"}, {ids[d], "again-d"}],
        "one_person": [{ids[f], "again-f"}],
    }
    return (np.concatenate(mine), [*ids, *more], labels), told


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(30, 60))
@settings(max_examples=10, deadline=None)
def test_copies_and_flips_are_found_in_any_cohort_and_nobody_is_told_wrongly(seed, n):
    cohort, expected = planted(n, seed)
    told = kinds(resemblances(*cohort))
    assert all(pair in expected[kind] for kind, pair in told)
    assert {"duplicate", "flipped"} <= {kind for kind, _ in told}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exchanged_labels_are_one_finding_and_one_person_under_two_names_another(seed):
    cohort, expected = planted(100, seed)
    found = resemblances(*cohort)
    told = kinds(found)
    assert [kind for kind, _ in told] == ["flipped", "duplicate", "swapped", "one_person"]
    assert all(pair in expected[kind] for kind, pair in told)
    assert tuple(found.columns) == COLUMNS
    assert "labels seem to be exchanged" in found["reason"][2]
    assert (found["r"] > found["expected"] + 0.5).all()


def test_the_flipped_one_is_the_one_that_lies_otherwise_than_the_cohort():
    volumes, (ids, who) = seen(people(40, 3), 3), names(40)
    for k in range(5):
        planted = np.concatenate([volumes, volumes[[k], ..., ::-1]])
        [row] = resemblances(planted, [*ids, "mirrored"], [*who, who[k]]).to_dict("records")
        assert (row["kind"], row["scan_id"], row["other"]) == ("flipped", "mirrored", ids[k])
        assert row["r"] > 0.99


def test_scans_of_one_subject_may_resemble_each_other_but_not_be_copies():
    anatomies = people(30, 4)
    volumes, (ids, who) = np.concatenate([seen(anatomies, 4), seen(anatomies, 5)]), names(30)
    both = [*ids, *(f"{i}-again" for i in ids)], who * 2
    assert resemblances(volumes, *both).empty
    copied = np.concatenate([volumes, volumes[[7]]])
    [row] = resemblances(copied, [*both[0], "copy"], [*both[1], who[7]]).to_dict("records")
    assert (row["kind"], row["other"]) == ("duplicate", "copy")
    assert "scans of one subject" in row["reason"]


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_of_a_few_scans_nothing_is_told(n):
    volumes, (ids, who) = np.repeat(seen(people(1, 1), 1), n, axis=0), names(n)
    found = resemblances(volumes, ids, who)
    assert found.empty
    assert tuple(found.columns) == COLUMNS
    assert "at least 10 scans are needed" in found.attrs["reason"]


def test_two_scans_of_one_symmetric_person_are_no_flip():
    for seed in range(6):
        anatomies, (ids, who) = people(20, seed), names(20)
        anatomies[0] = (anatomies[0] + anatomies[0][..., ::-1]) / 2
        volumes = np.concatenate([seen(anatomies, seed), seen(anatomies[:1], seed + 1)])
        found = resemblances(volumes, [*ids, "again"], [*who, "new"])
        assert "flipped" not in set(found["kind"])


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_a_cohort_of_mostly_empty_scans_is_no_crowd_of_one_person(blank):
    volumes, (ids, who) = seen(people(12, 3), 3), names(12)
    volumes[:7] = blank
    assert resemblances(volumes, ids, who).empty
    assert resemblances(volumes * 0, ids, who).empty
    assert "; 5 of 12 show anything" in resemblances(volumes, ids, who).attrs["reason"]


def test_empty_scans_resemble_nothing():
    volumes, (ids, who) = seen(people(20, 2), 2), names(20)
    volumes[[3, 9]] = 0
    assert not {ids[3], ids[9]} & {
        i for _, pair in kinds(resemblances(volumes, ids, who)) for i in pair
    }


def test_blocks_and_arrays_in_files_change_nothing(monkeypatch):
    volumes, (ids, who) = seen(people(50, 8), 8), names(50)
    volumes[49] = volumes[2]
    whole = resemblances(volumes, ids, who)
    monkeypatch.setattr(traits, "BLOCK", 7)
    monkeypatch.setattr(traits, "IN_MEMORY", 0)
    parts = resemblances(volumes, ids, who)
    assert kinds(parts) == kinds(whole) == [("duplicate", {ids[2], ids[49]})]
    np.testing.assert_allclose(parts["r"], whole["r"], rtol=1e-5)
    assert isinstance(traits.room((2, 3), np.float32), np.memmap)


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4])
def test_the_largest_of_chance_stays_below_the_level(spread):
    """Normal z, whose tail falls faster than an exponential: at most 1 of 100 cohorts passes a level meant for 1 of 1000."""
    rng = np.random.default_rng(int(100 * spread))
    passed = 0
    for _ in range(100):
        r = np.tanh(rng.normal(0, spread, 5000))
        level = beyond_chance(r, 5000)
        assert level <= COPY
        passed += r.max() >= level
    assert passed <= 1
