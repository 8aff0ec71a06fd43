"""What the methods say: of what was done, to as many scans as it was done to, in a modality that somebody stated."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.reporting.facts import Facts
from cohort.reporting.methods import paragraphs

RECIPE = {"steps": {"head": {"call": "threshold", "image": "image", "above": 0}}}
RECIPE |= {"measure": {"head_ml": {"call": "volume_ml", "mask": "head"}}}


def facts(scans: pd.DataFrame, measured: list[tuple[str, float]], refused: int = 0) -> Facts:
    """Scans, and of each scan that a recipe was applied to the state and the value."""
    table = pd.DataFrame(measured, columns=["state", "head_ml"]).astype({"head_ml": float})
    table.insert(0, "scan_id", [f"s{i}" for i in range(len(table))])
    return Facts(
        scans=scans,
        protocols=pd.DataFrame(),
        participants=pd.DataFrame(),
        measured={"heads": table.assign(reason=None)},
        units={},
        models={},
        refused=[{"state": "quarantined"}] * refused,
        manifest={},
        ingest={},
    )


def scans(n: int, **columns) -> pd.DataFrame:
    ids = [f"s{i}" for i in range(n)]
    return pd.DataFrame({"scan_id": ids, "subject": ids, **columns})


NOUNS = "scan|subject|step|row|series|value"


@given(
    n=st.integers(0, 3),
    refused=st.integers(0, 2),
    states=st.lists(st.sampled_from(("done", "failed", "stale")), max_size=4),
)
def test_every_number_agrees_with_its_noun_and_nothing_is_said_of_no_scan(n, refused, states):
    measured = [(state, float(i)) for i, state in enumerate(states)]
    said = " ".join(paragraphs(facts(scans(n), measured, refused), {"heads": RECIPE}))
    for number, noun in re.findall(rf"\b(\d+) (?:further )?((?:{NOUNS})s?)\b", said):
        assert number != "0"
        assert noun == "series" or noun.endswith("s") == (number != "1"), said
    assert not re.search(r"\b1 (scan|series)[^.;]* were ", said)
    assert not re.search(r"\b[2-9] scans[^.;]*\) was ", said)
    assert ("heads" in said) == any(state != "stale" for state in states)
    done, failed = states.count("done"), states.count("failed")
    assert ("measured head_ml" in said) == bool(done)
    if failed:
        assert re.search(rf"failed on (the one|all {failed}|{failed})", said)
    assert ("further scan" in said) == bool("stale" in states and done)


@pytest.mark.parametrize(
    ("modality", "said"),
    [
        (["MR", "MR", "MR"], "3 scans of 3 subjects (MR) were brought"),
        (["MR", None, np.nan], "3 scans of 3 subjects (1 MR, 2 of no stated modality) were brought"),
        (["PT", "CT", "CT"], "3 scans of 3 subjects (2 CT, 1 PT) were brought"),
        (["", None, None], "3 scans of 3 subjects were brought"),
        (["MR"], "1 scan of 1 subject (MR) was brought"),
    ],
)  # fmt: skip
def test_a_modality_is_said_of_the_scans_whose_header_states_it(modality, said):
    table = scans(len(modality), modality=pd.Series(modality, dtype=object))
    assert paragraphs(facts(table, []), {})[0].startswith(said)
    assert paragraphs(facts(scans(3), []), {})[0].startswith("3 scans of 3 subjects were brought")


def test_scans_that_were_resampled_are_said_to_have_been():
    table = scans(3, resampled=["uniform: 9 slices 2.0 to 4.0 mm apart", None, None])
    (said,) = paragraphs(facts(table, []), {})
    assert "and 1 scan with uneven slices was resampled to even distances, no other;" in said
    assert "without resampling" not in said


def test_values_far_out_are_counted_and_none_is_claimed_where_there_is_none():
    several = [("done", float(v)) for v in range(9)]
    said = " ".join(paragraphs(facts(scans(10), [*several, ("done", 1e6)]), {}))
    assert "were flagged for inspection (1); none was removed." in said
    said = " ".join(paragraphs(facts(scans(9), several), {}))
    assert "No value was more than 4 robust standard deviations" in said
    for lonely in ([("done", 1.0)], [("done", np.nan)] * 3, [("failed", np.nan)]):
        assert "robust" not in " ".join(paragraphs(facts(scans(3), lonely), {}))
