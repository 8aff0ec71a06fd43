"""Series that are refused unless a researcher decides otherwise, and what is flagged of those that are taken."""

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from series import CT, decimal, phantom, write_series

from cohort import grid, schema
from cohort.io.dicom import read_series
from cohort.io.discover import discover
from cohort.io.policy import ACCEPTABLE, Policy
from cohort.io.refusal import Refused

UNIFORM = Policy(resample="uniform")
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def flags(files, **options):
    return read_series(files, **options).attrs.get("flags", "")


def raw(files):
    """Take preamble and meta information off files in implicit VR."""
    for path in files:
        length = pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
        path.write_bytes(path.read_bytes()[132 + 12 + length :])


@pytest.mark.parametrize(
    ("code", "state", "tags"),
    [
        ("DCM-LOCALIZER", "skipped", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("DCM-CAPTURE", "skipped", {"SOPClassUID": CAPTURE, "Modality": "OT"}),
        ("DCM-CAPTURE", "skipped", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("DCM-BURNED-IN", "quarantined", {"BurnedInAnnotation": "YES"}),
        ("DCM-MONOCHROME1", "quarantined", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("DCM-NO-META", "quarantined", {"syntax": "1.2.840.10008.1.2"}),
    ],
)
def test_a_code_in_the_catalog_is_accepted_and_recorded(code, state, tags, tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine, **tags)
    if code == "DCM-NO-META":
        raw(files)
    with pytest.raises(Refused, match=rf"or state accept: \[{code}\] in the catalog") as caught:
        read_series(files)
    assert (caught.value.code, caught.value.state) == (code, state)
    others = frozenset(ACCEPTABLE) - {code}
    with pytest.raises(Refused, match=code):
        read_series(files, policy=Policy(accept=others))
    scan = read_series(files, policy=Policy(accept=frozenset(ACCEPTABLE)))
    np.testing.assert_array_equal(scan.image, volume)
    assert scan.accepted == code


def test_nothing_is_accepted_where_nothing_was_asked(tmp_path):
    scan = read_series(write_series(tmp_path, *phantom()), policy=Policy(frozenset(ACCEPTABLE)))
    assert not {"accepted", "flags", "resampled"} & set(scan.attrs)


def test_what_is_derived_from_one_image_is_measured(tmp_path):
    for number, words in enumerate((["DERIVED", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "MPR"])):
        files = write_series(tmp_path / str(number), *phantom(), ImageType=words)
        assert read_series(files).image.shape == (7, 6, 5)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"SpacingBetweenSlices": "3.04", "SliceThickness": "3"}, "slice_spacing_tag_wrong"),
        ({"SpacingBetweenSlices": "3.02", "SliceThickness": "5"}, ""),
        ({"SpacingBetweenSlices": "-3"}, ""),
        ({"SliceThickness": "3.75"}, "slice_spacing_tag_wrong"),
        ({"SliceThickness": "3"}, ""),
        ({"LossyImageCompression": "01"}, "lossy_source"),
        ({"LossyImageCompression": "00"}, ""),
    ],
)
def test_what_a_tag_says_wrong_is_flagged(tags, expected, tmp_path):
    assert flags(write_series(tmp_path, *phantom(), **tags)) == expected


def test_a_lossy_syntax_is_flagged_whatever_the_header_says(tmp_path):
    volume, affine = phantom((3, 16, 12), dtype=np.uint8)
    files = write_series(tmp_path, volume // 8, affine, syntax="1.2.840.10008.1.2.4.80")
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.81"
        dataset.save_as(path)
    assert flags(files) == "lossy_source"


def test_a_tilt_is_flagged(tmp_path):
    volume, affine = phantom()
    affine[1, 2] = 0.7
    files = write_series(
        tmp_path, volume, affine, SOPClassUID=CT, Modality="CT", SliceThickness="3"
    )
    assert flags(files) == "sheared"


def uneven(folder, depth, *, tilt=0.0, **options):
    """Write slices at these depths, mm, of a volume that is linear along them: affine of a regular one, files."""
    _, affine = phantom((len(depth), 6, 5))
    affine[:3, 2] = (0, tilt, 1)
    values = 100 + 20 * np.reshape(depth, (-1, 1, 1)) + np.arange(30).reshape(6, 5)
    lps = grid.to_ras(affine)
    files = write_series(
        folder, np.rint(values).astype(np.int16), affine,
        per_slice=lambda n: {"ImagePositionPatient": decimal((lps @ [0, 0, depth[n], 1])[:3])}, **options,
    )  # fmt: skip
    return affine, files


@given(
    steps=st.lists(st.sampled_from([2.0, 2.0, 2.0, 3.1, 4.0, 6.5]), min_size=3, max_size=9),
    tilt=st.sampled_from([0.0, 0.2]),
)
def test_uneven_slices_are_interpolated_along_their_normal(steps, tilt, tmp_path_factory):
    depth = np.concatenate([[0.0], np.cumsum(steps)])
    step = sorted(steps)[(len(steps) - 1) // 2]
    affine, files = uneven(tmp_path_factory.mktemp("s"), depth, tilt=tilt)
    scan = read_series(files, policy=UNIFORM)
    if len(set(steps)) == 1:
        assert scan.image.dtype == np.int16
        return
    affine[:3, 2] *= step
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-6)
    wanted = step * np.arange(int((depth[-1] + 1e-6) // step) + 1)
    expected = 100 + 20 * wanted[:, None, None] + np.arange(30).reshape(6, 5)
    # The values of the slices are whole numbers.
    np.testing.assert_allclose(scan.image, expected, atol=0.5)
    assert scan.image.dtype == np.float32
    assert scan.resampled == (
        f"uniform: {len(depth)} slices {min(steps):.3f} to {max(steps):.3f} mm apart, interpolated linearly onto "
        f"{len(wanted)} every {step:.3f} mm"
    )
    schema.check(scan)


def test_without_a_decision_the_remedy_says_which(tmp_path):
    _, files = uneven(tmp_path, [0.0, 2, 4, 8, 10])
    with pytest.raises(Refused, match="or state resample: uniform in the catalog") as caught:
        read_series(files)
    assert caught.value.code == "DCM-GAP"


def test_interpolated_values_are_rescaled_first(tmp_path):
    volume, affine = phantom((5, 6, 5))
    files = write_series(
        tmp_path, volume, affine,
        per_slice=lambda n: {"RescaleSlope": str(1 + n), "RescaleIntercept": "-7"},
    )  # fmt: skip
    scan = read_series(files[:2] + files[3:], policy=UNIFORM)
    real = volume * np.reshape(np.arange(1.0, 6), (-1, 1, 1)) - 7
    real[2] = (real[1] + real[3]) / 2
    np.testing.assert_allclose(scan.image, real, rtol=1e-6)
    assert "possible_truncation" not in scan.attrs.get("flags", "")


def test_a_movie_is_interpolated_frame_by_frame(tmp_path):
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files, frames = [], []
    for t in range(3):
        volume, affine = phantom((6, 6, 5), seed=t)
        made = write_series(tmp_path / str(t), volume, affine, TriggerTime=str(40 * t), **uids)
        files += made[:4] + made[5:]
        frames.append(volume.astype(float))
    scan = read_series(files, policy=UNIFORM)
    for volume in frames:
        volume[4] = (volume[3] + volume[5]) / 2
    np.testing.assert_allclose(scan.image, frames, rtol=1e-6)
    assert scan.time.units == "s"


def test_a_bent_stack_is_no_matter_of_interpolation(tmp_path):
    _, affine = phantom()
    lps = grid.to_ras(affine)

    def tags(n):
        place = (lps @ [0, 0, n + (n > 3), 1])[:3]
        return {"ImagePositionPatient": decimal(np.add(place, [0.2 * (n == 3), 0, 0]))}

    files = write_series(tmp_path, phantom()[0], affine, per_slice=tags)
    with pytest.raises(Refused, match=r"slice 3 lies 0.200 mm in its plane") as caught:
        read_series(files, policy=UNIFORM)
    assert caught.value.code == "DCM-UNEVEN"


def test_a_series_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path / "a", volume, affine)
    assert read_series(files, max_bytes=volume.nbytes).image.shape == (7, 6, 5)
    with pytest.raises(Refused, match=r"7 x 6 x 5 voxels takes 0.0 MiB") as caught:
        read_series(files, max_bytes=volume.nbytes - 1)
    assert caught.value.code == "DCM-TOO-LARGE"
    # What is compressed cannot be measured by the file: the claim alone is enough to refuse it.
    files = write_series(tmp_path / "b", volume, affine, syntax="1.2.840.10008.1.2.5")
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.Rows = dataset.Columns = 60000
        dataset.save_as(path)
    with pytest.raises(
        Refused, match=r"a slice of 60000 x 60000 pixels takes 6866.5 MiB, at most 4096.0"
    ):
        read_series(files)


@pytest.mark.parametrize(
    ("tags", "code"),
    [({"Columns": 4}, "DCM-PIXELS"), ({"Rows": 5}, "DCM-PIXELS"), ({"Rows": 7}, "DCM-TRUNCATED")],
)
def test_pixels_that_are_not_those_claimed_are_refused(tags, code, tmp_path):
    files = write_series(tmp_path, *phantom(), **tags)
    with pytest.raises(Refused, match="60 bytes of pixels, expected") as caught:
        read_series(files)
    assert (caught.value.code, caught.value.files) == (code, (files[0],))


def test_padding_that_is_no_row_is_left_alone(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PixelData += b"\1\2\3\4"
        dataset.save_as(path)
    np.testing.assert_array_equal(read_series(files).image, volume)


def test_compressed_pixels_under_a_plain_syntax_are_refused(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine, syntax="1.2.840.10008.1.2.5")
    for path in files:
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    with pytest.raises(Refused, match="compressed pixels in file 1, whose header says") as caught:
        read_series(files)
    assert caught.value.code == "DCM-PIXELS"


@pytest.mark.parametrize(
    ("syntax", "named"), [("1.2.840.10008.1.2.4.100", True), ("1.2.3.4.5", False)]
)
def test_a_syntax_that_nobody_decodes_is_refused_with_a_remedy(syntax, named, tmp_path):
    files = write_series(tmp_path, *phantom(), syntax="1.2.840.10008.1.2.5")
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        save_as_is(dataset, path)
    with pytest.raises(Refused, match=r"no decoder .*dcmconv") as caught:
        read_series(files)
    assert caught.value.code == "DCM-SYNTAX"
    # A UID of the standard names nobody; another one might.
    assert (syntax in str(caught.value)) == named


def save_as_is(dataset, path):
    dataset.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)


def test_the_same_pixels_under_a_new_uid_count_once(tmp_path):
    volume, affine = phantom()
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files = write_series(tmp_path / "a", volume, affine, **uids)
    again = write_series(tmp_path / "b", volume, affine, **uids)
    scan = read_series([*files, *again[2:4]])
    np.testing.assert_array_equal(scan.image, volume)
    assert (scan.n_files, scan.n_duplicates) == (7, 2)
    # Unless something else tells them apart.
    other = write_series(
        tmp_path / "c", volume, affine, per_slice=lambda i: {"InstanceNumber": 90 + i}, **uids
    )
    with pytest.raises(Refused, match=r"2 slices .* at 29.250 mm") as caught:
        read_series([*files, other[3]])
    assert caught.value.code == "DCM-DUP-POS"


@pytest.mark.parametrize("dates", [("20200229", "20200301", "20200301"), (None,) * 3])
def test_volumes_taken_across_midnight_follow_each_other(dates, tmp_path):
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    frames, files = [], []
    for t, clock in enumerate(("235958.25", "000000.75", "000003.25")):
        volume, affine = phantom(seed=t)
        frames.append(volume)
        files += write_series(
            tmp_path / str(t),
            volume,
            affine,
            AcquisitionTime=clock,
            AcquisitionDate=dates[t],
            **uids,
        )
    scan = read_series(files)
    np.testing.assert_array_equal(scan.image, frames)
    np.testing.assert_allclose(scan.time, [0, 2.5, 5])


def test_volumes_by_number_alone_are_marked(tmp_path):
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files = []
    for t in range(2):
        volume, affine = phantom(seed=t)
        files += write_series(
            tmp_path / str(t),
            volume,
            affine,
            per_slice=lambda n, t=t: {"InstanceNumber": 7 * t + n},
            **uids,
        )
    scan = read_series(files)
    assert (scan.flags, scan.time.basis) == ("time_inferred", "InstanceNumber")


def test_a_slice_in_a_movie_may_be_one_of_two(tmp_path):
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files = []
    for t in range(3):
        volume, affine = phantom((2, 6, 5), seed=t)
        files += write_series(tmp_path / str(t), volume, affine, TriggerTime=str(t), **uids)
    assert read_series(files).image.shape == (3, 2, 6, 5)
    with pytest.raises(Refused, match="1 slice position") as caught:
        read_series(files[::2])
    assert (caught.value.code, caught.value.state) == ("DCM-TOO-FEW", "skipped")


def test_deflated_files_are_read_like_any_other(tmp_path):
    volume, affine = phantom((3, 300, 200))
    files = write_series(tmp_path, volume, affine)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        dataset.save_as(path)
    scan = read_series(files)
    np.testing.assert_array_equal(scan.image, volume)
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-9)
    files[1].write_bytes(files[1].read_bytes()[:-90_000])
    with pytest.raises(Refused, match="bytes of an image, expected 120000") as caught:
        read_series(files)
    assert (caught.value.code, caught.value.files) == ("DCM-TRUNCATED", (files[1],))


@pytest.mark.parametrize("word", ["FloatPixelData", "DoubleFloatPixelData"])
def test_pixels_that_are_no_integers_are_refused_by_name(word, tmp_path):
    files = write_series(tmp_path, *phantom((3, 6, 5)))
    for path in files:
        dataset = pydicom.dcmread(path)
        del dataset.PixelData, dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit
        dataset.BitsAllocated = 32 if word == "FloatPixelData" else 64
        setattr(dataset, word, bytes(6 * 5 * dataset.BitsAllocated // 8))
        dataset.save_as(path)
    with pytest.raises(Refused, match=r"are FloatPixelData or Double.*expected integers") as caught:
        read_series(files)
    assert caught.value.code == "DCM-FLOAT"
    assert list(caught.value.files) == files[:1]
    (series,) = discover([tmp_path]).series  # one series, refused once, not three files
    assert len(series.files) == 3
