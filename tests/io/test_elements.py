"""Values of elements as they stand in a file: never converted so that it warns, never an exception."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

from cohort.io.slices import elements


def written(syntax="1.2.840.10008.1.2.1", **tags):
    """A Dataset that went through a file, so that its values are raw bytes."""
    dataset = made(**tags)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(stream := io.BytesIO(), enforce_file_format=True)
    stream.seek(0)
    return pydicom.dcmread(stream)


def made(**tags):
    dataset = Dataset()
    for keyword, value in {"SOPClassUID": "1.2.3", "SOPInstanceUID": "1.2.4", **tags}.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    "dataset",
    [made, written, lambda **t: written("1.2.840.10008.1.2", **t), lambda **t: written("1.2.840.10008.1.2.2", **t)],
    ids=["made", "explicit", "implicit", "big endian"],
)  # fmt: skip
def test_values_are_the_same_in_memory_and_in_every_file(dataset):
    filled = dataset(
        Rows=517, PixelSpacing=["0.5", "1.25"], ImageType=["ORIGINAL", "PRIMARY", "M"],
        PatientID=" A-1 ", DiffusionBValue=1000.5, SmallestImagePixelValue=7, EchoTime="",
    )  # fmt: skip
    assert elements.integer(filled, "Rows") == 517
    assert elements.numbers(filled, "PixelSpacing", 2) == [0.5, 1.25]
    assert elements.texts(filled, "ImageType") == ["ORIGINAL", "PRIMARY", "M"]
    assert elements.text(filled, "PatientID") == "A-1"
    assert elements.number(filled, "DiffusionBValue") == 1000.5
    for missing in ("EchoTime", "FlipAngle"):
        assert elements.number(filled, missing) is None
        assert elements.text(filled, missing) == ""
        assert not elements.has(filled, missing)
    assert elements.has(filled, "Rows")


def test_text_outside_ascii_is_read_in_its_character_set():
    for charset, name in (("ISO_IR 100", "Müller"), ("ISO_IR 192", "山田"), ("ISO_IR 144", "Иван")):
        assert (
            elements.text(written(SpecificCharacterSet=charset, PatientID=name), "PatientID")
            == name
        )


@pytest.mark.parametrize("raw", [b"abc", b"nan ", b"1\\2\\3\\4", b"inf\\1", b"\\", b""])
def test_malformed_numbers_are_no_numbers(raw):
    dataset = written(PixelSpacing=["1", "1"])
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    spoiled = stream.getvalue().replace(b"1\\1 ", raw.ljust(4)[:4] if len(raw) < 4 else raw[:4])
    assert elements.numbers(pydicom.dcmread(io.BytesIO(spoiled)), "PixelSpacing", 2) is None


def test_an_integer_is_whole():
    assert elements.integer(made(InstanceNumber="7"), "InstanceNumber") == 7
    assert elements.integer(made(EchoTime="7.5"), "EchoTime") is None
    assert np.isclose(elements.number(made(EchoTime="7.5"), "EchoTime"), 7.5)


def test_an_element_cut_off_by_the_end_of_the_file_is_missing_whatever_its_vr_says():
    cut = Dataset()
    for vr in ("\x44\x00", "DA"):
        cut[0x00080022] = RawDataElement(
            Tag(0x00080022), vr, 8, None, 0, is_implicit_VR=False, is_little_endian=True
        )
        assert elements.text(cut, "AcquisitionDate") == ""
        assert not elements.has(cut, "AcquisitionDate")


def raw_text(text, charset=None):
    """A PatientID of these bytes, as it stands in a file."""
    dataset = made(**({"SpecificCharacterSet": charset} if charset else {}))
    dataset[0x00100020] = RawDataElement(
        Tag(0x00100020), "LO", len(text), text, 0, is_implicit_VR=False, is_little_endian=True
    )
    return dataset


@pytest.mark.parametrize(
    "charset", [None, "ISO_IR 6", "ISO_IR 192", "ISO_IR 100", "ISO 2022 IR 87", "NO SUCH SET"]
)
def test_bytes_that_cannot_be_decoded_stay_apart_and_warn_of_nothing(charset):
    names = [b"M\xfcller", b"M\xf6ller", b"M\x1b(B\xfc", b"M\x1b(B\xf6"]
    found = [elements.text(raw_text(name, charset), "PatientID") for name in names]
    assert len(set(found)) == len(names)
    assert not any("\ufffd" in text for text in found)


@pytest.mark.parametrize("text", ["S1\\001", "S1\\002", "\\00111", "S1", "\\"])
def test_a_backslash_in_a_single_value_is_part_of_it(text):
    for dataset in (raw_text(text.encode()), made(PatientID=text)):
        assert elements.whole(dataset, "PatientID") == text


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1,5", "decimal comma"), ("abc", "no decimal"), ("NaN", "not finite"), ("-inf", "not finite"), ("1\\2", "2 values"),
        ("0x10", "no decimal"), ("1_000", "no decimal"), ("-1 024", "blank"), ("1e999", "not finite"), ("\\1", "2 values"),
    ],
)  # fmt: skip
def test_what_should_be_one_number_says_of_what_kind_it_is_instead(text, kind):
    with pytest.raises(elements.MalformedError, match=kind) as caught:
        elements.decimal(raw_text(text.encode()), "PatientID")
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("", None), ("  ", None), (" -1.5e2 ", -150.0), ("+.5", 0.5), ("7.", 7.0)]
)
def test_one_number_or_none_is_read(text, value):
    assert elements.decimal(raw_text(text.encode()), "PatientID") == value
