"""Files up to their pixels: as pydicom parses them, inflated no farther than anybody reads."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pydicom
import pytest
from fuzz.packing import bomb, deflated_meta, meta_end
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from series import phantom, write_series

from cohort.io.dicom import read_slices
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_file, elements
from cohort.io.slices.dicom_file import is_dicom, open_data, parse

SYNTAXES = (dicom_file.IMPLICIT, dicom_file.EXPLICIT, dicom_file.BIG_ENDIAN, dicom_file.DEFLATED)
WORDS = ("SOPInstanceUID", "PatientID", "Rows", "PixelSpacing", "ImageType", "RescaleSlope")


def one_file(folder, syntax=dicom_file.EXPLICIT, **tags):
    """Write a slice with a long private element before its pixels; its path and its pixels."""
    volume, affine = phantom((1, 6, 5))
    written = syntax if syntax != dicom_file.DEFLATED else dicom_file.EXPLICIT
    (path,) = write_series(folder, volume, affine, RescaleSlope="2.5", syntax=written, **tags)
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0009, "MAKER", create=True).add_new(1, "OB", bytes(range(256)) * 300)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)
    return path, volume.ravel()


def parsed(path, **options):
    with path.open("rb") as stream:
        return parse(stream, path, **options)


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("preamble", [True, False])
def test_elements_and_pixels_are_where_pydicom_finds_them(syntax, preamble, tmp_path):
    path, pixels = one_file(tmp_path, syntax)
    expected = pydicom.dcmread(path, stop_before_pixels=True)
    if not preamble:
        path.write_bytes(path.read_bytes()[132:])
    tags = [tag_for_keyword(word) for word in WORDS]
    found = parsed(path, tags=tags)
    assert set(found.elements) == set(tags)
    everything = parsed(path)
    assert sorted(everything.elements) == [int(tag) for tag in expected.keys()]  # noqa: SIM118
    assert pydicom.Dataset(everything.elements) == expected
    for one in (found, everything):
        assert (one.syntax, one.has_meta, one.pixel_bytes) == (syntax, True, pixels.nbytes)
    with open_data(path, syntax) as stream:
        stream.seek(found.pixel_offset)
        order = ">" if syntax == dicom_file.BIG_ENDIAN else "<"
        np.testing.assert_array_equal(
            np.frombuffer(stream.read(pixels.nbytes), f"{order}i2"), pixels
        )


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_a_file_without_meta_is_read_by_its_first_element(syntax, tmp_path):
    path, pixels = one_file(tmp_path, syntax)
    length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
    path.write_bytes(path.read_bytes()[132 + 12 + length :])
    found = parsed(path)
    assert (found.syntax, found.has_meta, found.pixel_bytes) == (syntax, False, pixels.nbytes)


@given(
    size=st.integers(0, 5_000_000),
    steps=st.lists(st.tuples(st.integers(0, 5_100_000), st.integers(0, 2_000_000)), max_size=8),
)
def test_an_inflated_file_reads_like_the_plain_one(size, steps):
    content = np.random.default_rng(size).integers(0, 4, size, np.uint8).tobytes()
    packer = zlib.compressobj(1, wbits=-15)
    deflated = io.BytesIO(b"meta" + packer.compress(content) + packer.flush())
    deflated.seek(4)
    plain, ours = io.BytesIO(content), dicom_file._Inflated(deflated, None)
    for place, n in steps:
        plain.seek(place)
        ours.seek(place)
        assert ours.read(n) == plain.read(n)
        assert ours.tell() == plain.tell()
        assert ours.seek(-min(3, place), os.SEEK_CUR) == plain.seek(-min(3, place), os.SEEK_CUR)


def swelling(folder, n):
    """Write a deflated file whose private element grows to `n` bytes."""
    path, _ = one_file(folder, dicom_file.DEFLATED)
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0009, "MAKER").add_new(2, "OB", bytes(n))
    dataset.save_as(path)
    return path


def test_a_bomb_is_left_where_it_is(tmp_path, monkeypatch):
    path = swelling(tmp_path, 30 << 20)
    size = path.stat().st_size
    assert size < 1 << 20
    assert parsed(path).pixel_bytes == 60
    monkeypatch.setattr(dicom_file, "INFLATED_BYTES", 8 << 20)
    with pytest.raises(Refused, match=rf"{size} deflated bytes .* than {8 << 20}") as caught:
        parsed(path)
    assert caught.value.code == "DCM-BOMB"
    with pytest.raises(Refused, match="DCM-BOMB"), path.open("rb") as stream:
        read_slices(stream, path)
    # Fifty times its own size is no bomb.
    monkeypatch.setattr(dicom_file, "INFLATED_TIMES", 31 * (1 << 20) // size + 1)
    assert parsed(path).pixel_bytes == 60


def test_zeros_are_no_header_without_end(tmp_path):
    path, _ = one_file(tmp_path)
    path.write_bytes(path.read_bytes()[:400] + bytes(3 << 20))
    with pytest.raises(Refused, match="cannot be read") as caught, path.open("rb") as stream:
        read_slices(stream, path)
    assert caught.value.code == "DCM-HEADER"


SEQUENCE = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
"""A sequence and an item in it, both without a length."""

FRAMES = b"\0\x52\x30\x92SQ\0\0"
"""The sequence that describes frames, its length to follow."""


@pytest.mark.parametrize("place", ["deflated", "plain", "told"])
def test_zeros_in_a_sequence_are_no_header_without_end_either(tmp_path, monkeypatch, place):
    (tmp_path / "slice").mkdir()
    path, _ = one_file(tmp_path / "slice", SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1")
    data = path.read_bytes()
    if place == "deflated":  # a megabyte that stands for a gigabyte
        path.write_bytes(deflated_meta(data) + bomb(SEQUENCE))
    elif place == "plain":
        path.write_bytes(data[: meta_end(data)] + SEQUENCE + bytes(8 << 20))
    else:
        monkeypatch.setattr(elements, "MOST_ELEMENTS", 20_000)
        item = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\x08\0\x60\0CS\0\0" * (1 << 20)
        pixels = data.index(b"\xe0\x7f\x10\0")
        frames = FRAMES + struct.pack("<I", len(item)) + item
        path.write_bytes(data[:pixels] + frames + data[pixels:])
    began = time.process_time()
    with pytest.raises(Refused, match=r"ValueError|DCM-HEADER") as caught, path.open("rb") as file:
        read_slices(file, path)
    assert caught.value.code == "DCM-HEADER"
    assert time.process_time() - began < 20  # minutes without a limit, a tenth of a second with one


@given(head=st.binary(max_size=300))
def test_few_bytes_are_dicom(head):
    marked = head[128:132] == b"DICM"
    assert is_dicom(head) == marked or head[:2] in (b"\x02\0", b"\x08\0", b"\0\x08")


@pytest.mark.parametrize(
    "text", [b"ORIGINAL" * 40, b"\x08\0" + bytes(300), b"", b"\x08\0\x05\0" * 80]
)
def test_what_is_no_dicom_is_none(text, tmp_path):
    (tmp_path / "a.dcm").write_bytes(text)
    with (tmp_path / "a.dcm").open("rb") as stream:
        assert read_slices(stream, tmp_path / "a.dcm") is None
