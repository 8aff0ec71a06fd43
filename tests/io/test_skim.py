"""Plain headers, read from memory: what the general parser makes of them, or nothing."""

import io
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from fuzz.mutants import mutant
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from cohort.io.slices import dicom_file, dicom_header
from cohort.io.slices.dicom_file import Parsed, is_dicom
from cohort.io.slices.skim import NotPlainError, skim

BUNDLED = sorted(p for p in Path(pydicom.data.__file__).parent.rglob("*.dcm") if p.is_file())
TO_PIXELS = range(0x7FE00008, 0x7FE00011)
TAGS = [None, dicom_header._TAGS]


def plain(content: bytes, tags) -> Parsed | None:
    """What the fast reader gives."""
    try:
        return dicom_file._plain(content[: 1 << 16], tags)
    except NotPlainError:
        return None


def general(content: bytes, tags) -> Parsed | None:
    """What the general parser gives; None where it raises."""
    try:
        return dicom_file._parse(io.BytesIO(content), Path("a"), tags)
    except Exception:  # noqa: BLE001 - pydicom raises whatever a damaged header leads it to
        return None


def differences(contents, *, tags) -> tuple[int, list[str]]:
    """How many were plain, and those of them of which the general parser says something else."""
    n, found = 0, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in contents:
            if is_dicom(content) and (fast := plain(content, tags)) is not None:
                n += 1
                slow = general(content, tags)
                found += [name] if slow is not None and slow != fast else []
    return n, found


@pytest.mark.parametrize("tags", TAGS, ids=["all", "wanted"])
def test_files_that_come_with_pydicom_are_as_the_general_parser_reads_them(tags):
    n, found = differences(((path.name, path.read_bytes()) for path in BUNDLED), tags=tags)
    assert found == []
    assert n > len(BUNDLED) / 2


@pytest.mark.parametrize("folder", ["sunnybrook-cine", "tcia-chest-ct", "dcm-qa"])
def test_real_series_are_as_the_general_parser_reads_them(shared, folder):
    files = [p for p in sorted((shared / folder).rglob("*")) if p.is_file()][::7]
    assert files
    n, found = differences(((p.name, p.read_bytes()) for p in files), tags=dicom_header._TAGS)
    assert found == []
    assert n > 0


@pytest.mark.parametrize(
    "numbers", [range(600), pytest.param(range(600, 12_000), marks=pytest.mark.slow)]
)
def test_whatever_is_read_of_a_damaged_file_is_what_the_general_parser_reads(numbers):
    made = (mutant(number) for number in numbers)
    contents = ((one.label, next(iter(one.files.values()))) for one in made)
    n, found = differences(contents, tags=dicom_header._TAGS)
    assert found == []
    assert n > len(numbers) / 10


def nested(depth: int, *, marked: bool) -> Dataset:
    """Sequences in sequences, their ends marked or their lengths told, in front of pixels."""
    below = Dataset()
    below.PatientID = f"{depth}"
    below.add_new(0x7FE00010, "OW", b"in an icon ")  # no pixels of the image
    if depth:
        below.IconImageSequence = Sequence([nested(depth - 1, marked=marked)] * 2)
        below["IconImageSequence"].is_undefined_length = marked
    below.is_undefined_length_sequence_item = marked
    return below


@given(
    depth=st.integers(0, 4), marked=st.booleans(), implicit=st.booleans(), rows=st.integers(2, 9)
)
def test_a_sequence_that_nobody_wants_is_passed_over_with_all_in_it(depth, marked, implicit, rows):
    root = nested(depth, marked=marked)
    root.Rows = rows
    root[0x7FE00010].value = bytes(2 * rows)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, True
    write_dataset(stream, root)
    data = stream.getvalue()
    found = skim(data, 0, implicit=implicit, stop=TO_PIXELS, tags={0x00280010})
    assert list(found.elements) == [0x00280010]
    assert int(np.frombuffer(found.elements[0x00280010].value, "<u2")[0]) == rows
    assert data[found.value_at : found.value_at + found.length] == bytes(2 * rows)


def test_a_wanted_sequence_without_a_length_and_a_header_that_is_cut_are_left_to_others():
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, nested(1, marked=True))
    data = stream.getvalue()
    with pytest.raises(NotPlainError):
        skim(data, 0, implicit=False, stop=TO_PIXELS)
    whole = skim(data, 0, implicit=False, stop=TO_PIXELS, tags={0x00100020})
    for end in range(whole.place):
        with pytest.raises(NotPlainError):
            skim(data[:end], 0, implicit=False, stop=TO_PIXELS, tags={0x00100020})
