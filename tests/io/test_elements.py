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
