"""Decisions: stated by name, in force where they are stated, written down where they were used."""

import dataclasses
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cohort.io.catalog import Catalog
from cohort.io.policy import ACCEPTABLE, DEFAULT, INSTEAD, Notes, Policy, SeriesPolicy, decide
from cohort.io.refusal import Refused
from cohort.provenance import canonical_json

FIELDS = [f.name for f in dataclasses.fields(Policy)]
DECISIONS = {
    "accept": st.lists(st.sampled_from(sorted(ACCEPTABLE)), unique=True, max_size=3),
    "resample": st.sampled_from([None, "uniform"]),
    "prefer": st.sampled_from([None, "sform", "qform"]),
    "min_slices": st.integers(1, 9),
    "split": st.booleans(),
    "philips_precise": st.booleans(),
    "fifth_axis": st.sampled_from([None, "echo"]),
}
STATED = st.fixed_dictionaries({}, optional=DECISIONS)


class General(SeriesPolicy):
    """Stands for a catalog: the same keys, all of them stated or not."""

    match: str = "x"


def test_a_catalog_and_a_part_of_it_can_state_every_decision():
    assert list(DECISIONS) == FIELDS
    assert [name for name in SeriesPolicy.model_fields if name != "match"] == FIELDS
    for name in FIELDS:
        for part in (Catalog, SeriesPolicy):
            default = part.model_fields[name].get_default(call_default_factory=True)
            expected = getattr(DEFAULT, name)
            assert default == (list(expected) if name == "accept" else expected)


@given(
    general=STATED,
    parts=st.lists(st.tuples(st.sampled_from("abc"), STATED.filter(bool)), max_size=4),
)
def test_the_last_that_finds_a_series_decides_key_by_key(general, parts):
    catalog = General(**{"split": False, **general})
    series = [SeriesPolicy(match=letter, **stated) for letter, stated in parts]
    for name in ("a", "b", "ab", "-"):
        expected = {f: getattr(DEFAULT, f) for f in FIELDS} | general
        for letter, stated in parts:
            expected |= stated if letter in name else {}
        expected["accept"] = frozenset(expected["accept"])
        assert decide(catalog, series, [name, "z"]) == Policy(**expected)


@given(one=STATED, other=STATED)
def test_stamps_are_equal_exactly_where_decisions_are(one, other):
    policies = [Policy(**{**s, "accept": frozenset(s.get("accept", ()))}) for s in (one, other)]
    stamps = [policy.as_stamp() for policy in policies]
    texts = [canonical_json(stamp) for stamp in stamps]
    assert (texts[0] == texts[1]) == (policies[0] == policies[1])
    assert all(getattr(DEFAULT, key) != stamps[0][key] for key in stamps[0])
    assert pickle.loads(pickle.dumps(policies[0])) == policies[0]


def test_a_stamp_holds_nothing_but_what_differs_from_the_default():
    assert DEFAULT.as_stamp() == {}
    assert Policy(prefer="qform").as_stamp() == {"prefer": "qform"}
    assert Policy(min_slices=2, split=True).as_stamp() == {"min_slices": 2, "split": True}


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"accept": ["NII-UNIT"]}, "unknown code 'NII-UNIT'; did you mean 'NII-UNITS'"),
        ({"accept": ["nii-units"]}, "unknown code 'nii-units'; did you mean 'NII-UNITS'"),
        ({"accept": ["ALL"]}, "those that may be accepted are DCM-BURNED-IN, .*, NII-UNITS"),
        (
            {"accept": ["DCM-GAP"]},
            "DCM-GAP cannot be accepted as it is; state resample: uniform instead",
        ),
        ({"accept": ["NII-FORMS"]}, "state prefer: sform or prefer: qform instead"),
        ({"min_slices": 0}, "expected a whole number of slices, at least 1, found 0"),
        ({"min_slices": True}, "expected a whole number of slices"),
        ({"min_slices": 2.0}, "expected a whole number of slices"),
        ({}, "decides nothing for 'abc'; expected at least one of accept, resample, prefer"),
        ({"match": "(", "split": True}, "is not a regular expression"),
        ({"match": ".*", "split": True}, "finds every series; state the decision at the top"),
        ({"match": "", "split": True}, "finds every series"),
    ],
)
def test_what_decides_nothing_or_too_much_is_refused(stated, message):
    with pytest.raises(ValidationError, match=message):
        SeriesPolicy(**{"match": "abc", **stated})


def test_codes_are_sorted_and_every_code_has_one_way_to_be_stated():
    codes = SeriesPolicy(match="a", accept=["NII-UNITS", "DCM-LUT", "NII-UNITS"]).accept
    assert codes == ["DCM-LUT", "NII-UNITS"]
    assert SeriesPolicy(match="a", accept=[]).accept == []
    assert not ACCEPTABLE.keys() & INSTEAD.keys()


def refusal(code):
    return Refused(
        code, "what is wrong in {0}", fix="repair it.", files=[Path("a")], state="skipped"
    )


@given(st.sets(st.sampled_from(sorted(ACCEPTABLE))), st.sampled_from(sorted(ACCEPTABLE)))
def test_a_refusal_is_raised_unless_its_code_is_accepted_and_then_it_is_noted(accept, code):
    notes = Notes(Policy(accept=frozenset(accept)))
    if code in accept:
        notes.refuse(refusal(code))
        assert notes.attrs() == {"accepted": code}
        return
    with pytest.raises(Refused) as caught:
        notes.refuse(refusal(code))
    assert caught.value.fix == f"repair it, or state accept: [{code}] in the catalog"
    assert (caught.value.code, caught.value.files, caught.value.state) == (
        code,
        (Path("a"),),
        "skipped",
    )
    assert notes.attrs() == {}


def test_other_refusals_are_raised_as_they_are():
    with pytest.raises(Refused) as caught:
        Notes(Policy(accept=frozenset(ACCEPTABLE))).refuse(refusal("DCM-GAP"))
    assert caught.value.fix == "repair it."


def test_notes_are_sorted_words():
    notes = Notes(DEFAULT)
    notes.flags |= {"lossy_source", "has_nan"}
    notes.accepted |= {"NII-UNITS", "DCM-LUT"}
    assert notes.attrs() == {"accepted": "DCM-LUT NII-UNITS", "flags": "has_nan lossy_source"}
