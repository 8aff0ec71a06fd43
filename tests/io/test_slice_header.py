"""What is remembered of the last headers changes no answer: each is what its own elements say."""

from dataclasses import replace
from pathlib import Path

import pydicom.data
import pytest
from hypothesis import given
from hypothesis import strategies as st
from series import phantom, write_series

from cohort.io.slices import dicom_header, slice_header
from cohort.io.slices.dicom_file import parse

BUNDLED = sorted(p for p in Path(pydicom.data.__file__).parent.rglob("*.dcm") if p.is_file())


def read(path):
    with path.open("rb") as stream:
        return parse(stream, path, tags=dicom_header._TAGS)


def afresh(parsed):
    """Header of a slice, nothing remembered."""
    shared = slice_header._read_shared(parsed.elements, parsed.sop_class)
    return {**shared, **slice_header._own(parsed.elements, parsed)}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    paths = write_series(folder, *phantom(), Manufacturer="Philips", PatientName="Müller")
    return [read(path) for path in paths]


def test_slices_of_a_series_are_read_as_if_each_were_the_first(series):
    for parsed in [*series, *reversed(series)]:
        assert slice_header.header(parsed.elements, parsed) == afresh(parsed)
    positions = [slice_header.header(p.elements, p)["position"] for p in series]
    assert len(set(map(tuple, positions))) == len(series)


@given(data=st.data())
def test_whatever_one_slice_says_otherwise_is_in_its_header_and_in_no_other(series, data):
    first, other = data.draw(st.permutations(series))[:2]
    tag = data.draw(st.sampled_from(sorted(other.elements)))
    value = data.draw(
        st.sampled_from(
            [b"", b"1", b"7.5 ", b"ISO_IR 100", b"\\", b"\xe9", b"1\\2\\3", b"20200101"]
        )
    )
    changed = other.elements[tag]._replace(value=value, length=len(value))
    other = replace(other, elements={**other.elements, tag: changed})
    expected = [_outcome(afresh, one) for one in (first, other, first)]
    found = [
        _outcome(lambda p: slice_header.header(p.elements, p), one) for one in (first, other, first)
    ]
    assert found == expected


def _outcome(function, parsed):
    """A header, or the type of the error that a damaged one is."""
    try:
        return function(parsed)
    except Exception as error:  # noqa: BLE001 - a damaged header makes anything raise
        return type(error)


def test_every_kind_of_file_is_read_as_if_it_were_the_first():
    n = 0
    for path in BUNDLED:
        try:
            parsed = read(path)
        except Exception:  # noqa: BLE001, S112 - others test what is no header
            continue
        if parsed is not None:
            n += 1
            for _ in range(2):
                assert _outcome(lambda p: slice_header.header(p.elements, p), parsed) == _outcome(
                    afresh, parsed
                )
    assert n > 50


def test_nobody_can_change_what_is_remembered_by_setting_a_field(series):
    parsed = series[0]
    slice_header.header(parsed.elements, parsed)["rows"] = -1
    assert slice_header.header(parsed.elements, parsed) == afresh(parsed)
