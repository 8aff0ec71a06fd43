"""What stored numbers stand for: one rescale, one a slice, a table, Philips' own factors; nothing inverted."""

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from series import CT, NATIVE, decimal, phantom, write_series

from cohort import schema
from cohort.io.dicom import read_series
from cohort.io.policy import Policy
from cohort.io.refusal import Refused

PHILIPS = {
    "Manufacturer": "Philips Medical Systems",
    "RescaleSlope": "1.8",
    "RescaleIntercept": "-36",
}
PRECISE = Policy(philips_precise=True)


def rewrite(files, change):
    """Apply ``change(dataset, number)`` to each file."""
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        change(dataset, number)
        dataset.save_as(path, enforce_file_format=True)


def philips(folder, *, scale=lambda n: 0.0064, syntax=None, **tags):
    """A series with public and private factors: stored values, files."""
    volume, affine = phantom(dtype=np.uint16)
    files = write_series(folder, volume, affine, syntax=syntax, **{**PHILIPS, **tags})

    def change(dataset, number):
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0D, "FL", -20.0)
        if (value := scale(number)) is not None:
            block.add_new(0x0E, "FL", value)

    rewrite(files, change)
    return volume, files


@given(
    slope=st.floats(1e-3, 1e3),
    offset=st.floats(-2000, 2000),
    dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32]),
)
def test_one_rescale_keeps_the_integers(slope, offset, dtype, tmp_path_factory):
    volume, affine = phantom((4, 6, 5), dtype=dtype)
    tags = dict(zip(("RescaleSlope", "RescaleIntercept"), decimal([slope, offset]), strict=True))
    scan = read_series(write_series(tmp_path_factory.mktemp("s"), volume, affine, **tags))
    np.testing.assert_array_equal(scan.image, volume)
    assert scan.image.dtype == dtype
    expected = volume.astype(float) * float(tags["RescaleSlope"]) + float(tags["RescaleIntercept"])
    np.testing.assert_array_equal(schema.decode(scan.image), expected.astype(np.float32))


def test_many_rescales_give_float32(tmp_path):
    volume, affine = phantom(dtype=np.uint16)
    files = write_series(
        tmp_path, volume, affine,
        per_slice=lambda i: {"RescaleSlope": decimal([0.1 + i])[0], "RescaleIntercept": str(i)},
    )  # fmt: skip
    scan = read_series(files)
    expected = [v * np.float64(0.1 + i) + i for i, v in enumerate(volume)]
    assert (scan.image.dtype, scan.image.attrs) == (np.float32, {"units": "1"})
    np.testing.assert_array_equal(scan.image, np.array(expected).astype(np.float32))


def test_hounsfield_units_are_named(tmp_path):
    volume, affine = phantom()
    tags = {"SOPClassUID": CT, "Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    assert read_series(write_series(tmp_path / "ct", volume, affine, **tags)).image.units == "HU"
    tags |= {"RescaleSlope": None, "RescaleIntercept": None}
    assert read_series(write_series(tmp_path / "raw", volume, affine, **tags)).image.units == "1"


def test_a_negative_slope_is_flagged_and_a_zero_refused(tmp_path):
    volume, affine = phantom()
    scan = read_series(
        write_series(tmp_path / "a", volume, affine, RescaleSlope="-2", RescaleIntercept="0")
    )
    assert (scan.flags, scan.image.scale_factor) == ("negative_slope", -2)
    files = write_series(tmp_path / "b", volume, affine, RescaleSlope="0", RescaleIntercept="5")
    with pytest.raises(Refused, match="RescaleSlope is 0") as caught:
        read_series(files)
    assert caught.value.code == "DCM-SLOPE"


def test_white_that_is_low_is_flagged_and_never_inverted(tmp_path):
    volume, affine = phantom(dtype=np.uint16)
    tags = {
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": "2",
        "RescaleIntercept": "-5",
    }
    taken = Policy(accept=frozenset({"DCM-MONOCHROME1"}))
    scan = read_series(write_series(tmp_path, volume, affine, **tags), policy=taken)
    np.testing.assert_array_equal(scan.image, volume)
    assert (scan.flags, scan.photometric, scan.image.scale_factor) == (
        "monochrome1",
        "MONOCHROME1",
        2,
    )


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_philips_factors_are_recorded_and_used_where_asked_for(syntax, tmp_path):
    volume, files = philips(tmp_path, syntax=syntax)
    public, precise = read_series(files), read_series(files, policy=PRECISE)
    for scan in (public, precise):
        np.testing.assert_array_equal(scan.image, volume)
        assert scan.philips_scale_slope == pytest.approx(0.0064)
        assert scan.philips_scale_intercept == -20
    assert (public.image.scale_factor, public.image.add_offset) == (1.8, -36)
    assert "philips_precise" not in public.attrs
    assert precise.philips_precise
    # Chenevert 2014: (PV * RS + RI) / (RS * SS).
    expected = (volume * 1.8 - 36) / (1.8 * np.float32(0.0064))
    np.testing.assert_allclose(schema.decode(precise.image), expected, rtol=1e-6)


def test_philips_factors_that_differ_are_used_slice_by_slice(tmp_path):
    volume, files = philips(tmp_path, scale=lambda n: 0.5 + n / 8)
    scan = read_series(files, policy=PRECISE)
    factors = np.reshape([0.5 + n / 8 for n in range(7)], (-1, 1, 1))
    np.testing.assert_allclose(scan.image, (volume * 1.8 - 36) / (1.8 * factors), rtol=1e-6)
    assert scan.flags == "philips_scale_varies"
    assert "philips_scale_slope" not in scan.attrs


def test_precise_values_are_not_made_up(tmp_path):
    _, files = philips(tmp_path / "a", scale=lambda n: None if n == 3 else 0.0064)
    with pytest.raises(Refused, match="2005,100E") as caught:
        read_series(files, policy=PRECISE)
    assert (caught.value.code, caught.value.files) == ("DCM-PHILIPS-SCALE", (files[3],))
    _, files = philips(tmp_path / "b", Manufacturer="Somebody")
    scan = read_series(files, policy=PRECISE)
    assert scan.image.scale_factor == 1.8
    assert not {"philips_precise", "philips_scale_slope"} & set(scan.attrs)


@pytest.mark.parametrize("syntax", NATIVE)
def test_values_pass_through_a_table_where_a_researcher_says_so(syntax, tmp_path):
    volume, affine = phantom(dtype=np.uint16)
    tables = [np.arange(2000, dtype=np.uint16)[::-1] * 2 + n for n in range(7)]
    files = write_series(tmp_path, volume, affine, syntax=syntax)
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"

    def change(dataset, number):
        table = Dataset()
        table.add_new(0x00283002, "US", [2000, 100, 16])
        table.add_new(0x00283004, "LO", "US")
        table.add_new(0x00283006, "OW", tables[number].astype(f"{order}u2").tobytes())
        dataset.ModalityLUTSequence = [table]

    rewrite(files, change)
    with pytest.raises(
        Refused, match=r"modality table .* or state accept: .DCM-LUT. in the catalog"
    ):
        read_series(files)
    scan = read_series(files, policy=Policy(accept=frozenset({"DCM-LUT"})))
    # Values below the first entry take it, those beyond the last take that.
    expected = [
        t[np.clip(v.astype(int) - 100, 0, 1999)] for t, v in zip(tables, volume, strict=True)
    ]
    np.testing.assert_array_equal(scan.image, np.array(expected))
    assert (scan.image.dtype, scan.accepted) == (np.float32, "DCM-LUT")


def spoiled(files, tag, text):
    """Put a text that pydicom would not write in the place of a number, in the second file."""
    filler = "7" * (len(text) + len(text) % 2)
    rewrite(files[1:2], lambda d, _: setattr(d, tag, filler))
    data = files[1].read_bytes()
    assert data.count(filler.encode()) == 1
    files[1].write_bytes(data.replace(filler.encode(), text.encode().ljust(len(filler))))


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize(
    "text", ["1,50000", "abcdefg", "NaN    ", "-1 0240", "1.5\\2.5", "0x10000"]
)
def test_a_rescale_that_is_no_number_is_refused_and_its_text_kept_back(tag, text, tmp_path):
    files = write_series(tmp_path, *phantom(), RescaleSlope="2", RescaleIntercept="1")
    spoiled(files, tag, text)
    with pytest.raises(Refused, match=rf"^DCM-RESCALE  {tag} is not one number") as caught:
        read_series(files)
    assert caught.value.files == (files[1],)
    assert text.strip() not in str(caught.value)


@pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
def test_slices_with_a_rescale_and_slices_without_are_never_mixed(tag, tmp_path):
    files = write_series(
        tmp_path, *phantom(), RescaleSlope="2", RescaleIntercept="-1024",
        per_slice=lambda n: {tag: None} if n == 3 else {},
    )  # fmt: skip
    with pytest.raises(Refused, match=rf"^DCM-RESCALE  1 of 7 slices have no {tag}") as caught:
        read_series(files)
    assert caught.value.files == (files[3],)


@pytest.mark.parametrize("slope", ["1e300", "-1e37", "1e-300"])
@pytest.mark.parametrize("one", [True, False])
def test_a_slope_that_leads_out_of_float32_is_refused(slope, one, tmp_path):
    per_slice = (lambda n: {"RescaleSlope": slope} if n == 2 or not one else {})  # fmt: skip
    files = write_series(
        tmp_path, *phantom(), RescaleSlope="1", RescaleIntercept="0", per_slice=per_slice
    )
    with pytest.raises(Refused, match=r"^DCM-SLOPE  a slope of"):
        read_series(files)
