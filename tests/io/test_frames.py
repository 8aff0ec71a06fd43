"""Enhanced multi-frame files: every frame as the slice it is, wherever it stands in its file."""

from itertools import product

import numpy as np
import pydicom
import pytest
from hardcases import phantom
from hardcases.dicom_frames import ENHANCED_CT, enhanced, place
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from cohort import grid, schema
from cohort.io.dicom import read_series, read_slices
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_header
from cohort.io.slices.pixels import decode_frame, read_frames

SHAPE = (5, 4, 6)
AFFINE = phantom.grid("LPS", shape=SHAPE, turn=(0.1, 0.05, -0.1))


def volumes(times=1):
    return np.stack([phantom.fill(AFFINE, SHAPE, time=t) for t in range(times)])


def slices_of(path):
    with path.open("rb") as stream:
        return read_slices(stream, path)


def same_as(scan, values):
    expected, affine = grid.canonical(values, AFFINE)
    np.testing.assert_array_equal(schema.decode(scan.image), expected)
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-6)
    schema.check(scan)


@given(order=st.permutations(range(5)), dtype=st.sampled_from([np.uint8, np.int16, np.uint16]))
def test_frames_lie_where_they_say_in_any_order(order, dtype, tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "a.dcm"
    values = volumes() % 251
    enhanced(path, AFFINE, values, order=[(0, n) for n in order], dtype=dtype)
    same_as(read_series([path]), values[0])
    assert [h["frame"] for h in slices_of(path)] == list(range(5))


@pytest.mark.parametrize("tag", ["TemporalPositionIndex", "DateTime", "Trigger", "Dimension"])
def test_time_is_told_by_any_tag_of_a_frame(tag, tmp_path):
    values = volumes(3)
    rng = np.random.default_rng(0)
    order = rng.permutation(list(product(range(3), range(5)))).tolist()

    def frame(t, n):
        content = {"TemporalPositionIndex": 1, "DimensionIndexValues": [1, n + 1, 1]}
        groups = {"FrameContentSequence": content}
        if tag == "TemporalPositionIndex":
            content["TemporalPositionIndex"] = t + 1
        elif tag == "DateTime":
            content["FrameAcquisitionDateTime"] = (
                f"2020010123595{8 + t}.5" if t < 2 else "20200102000000.5"
            )
        elif tag == "Trigger":
            groups["CardiacSynchronizationSequence"] = {"NominalCardiacTriggerDelayTime": 40.0 * t}
        else:
            content["DimensionIndexValues"] = [1, n + 1, t + 1]
        return groups

    path = enhanced(tmp_path / "a.dcm", AFFINE, values, order=order, frame=frame)
    scan = read_series([path])
    same_as(scan, values)
    times, attrs, flags = {
        "TemporalPositionIndex": ([0, 1, 2], ("frame", "TemporalPositionIdentifier"), None),
        "DateTime": ([0, 1, 2], ("s", "AcquisitionTime"), None),
        "Trigger": ([0, 0.04, 0.08], ("s", "TriggerTime"), None),
        "Dimension": ([0, 1, 2], ("frame", "DimensionIndexValues"), "time_inferred"),
    }[tag]
    np.testing.assert_allclose(scan.time, times)
    assert (scan.time.units, scan.time.basis) == attrs
    assert scan.attrs.get("flags") == flags


def test_files_of_one_time_each_are_one_scan(tmp_path):
    values = volumes(3)
    common = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid()}
    files = [
        enhanced(
            tmp_path / f"{2 - t}.dcm", AFFINE, values[t : t + 1], InstanceNumber=t + 1,
            frame=lambda _, n: {"FrameContentSequence": {"TemporalPositionIndex": 1}}, **common,
        )
        for t in range(3)
    ]  # fmt: skip
    scan = read_series(files)
    same_as(scan, values)
    assert (scan.n_files, scan.flags, scan.time.units) == (3, "time_inferred", "frame")


def test_echoes_in_one_file_are_scans_of_their_own(tmp_path):
    values = volumes(2)

    def frame(t, n):
        return {
            "MREchoSequence": {"EffectiveEchoTime": (4.92, 7.38)[t]},
            "FrameContentSequence": {"TemporalPositionIndex": 1},
        }

    path = enhanced(tmp_path / "a.dcm", AFFINE, values, frame=frame)
    groups = dicom_header.group([dicom_header.group_key(h) for h in slices_of(path)])
    assert groups == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    for t, numbers in enumerate(groups):
        scan = read_series([path], frames=[tuple(numbers)])
        same_as(scan, values[t])
        assert scan.echo_time_ms == (4.92, 7.38)[t]
    with pytest.raises(Refused, match="10 slices in file 1, expected at least 12"):
        read_series([path], frames=[(5, 11)])
    with pytest.raises(Refused, match="two values of EchoTime") as caught:
        read_series([path])
    assert caught.value.code == "DCM-MIXED"


def test_each_frame_has_its_own_rescale(tmp_path):
    values = volumes()

    def frame(t, n):
        return {
            "PixelValueTransformationSequence": {
                "RescaleSlope": f"{1 + n / 8}", "RescaleIntercept": "-1024", "RescaleType": "HU"
            }
        }  # fmt: skip

    path = enhanced(
        tmp_path / "a.dcm", AFFINE, values, sop=ENHANCED_CT, frame=frame, dtype=np.uint16
    )
    scan = read_series([path])
    same_as(scan, values[0] * np.reshape([1 + n / 8 for n in range(5)], (-1, 1, 1)) - 1024)
    assert (scan.image.dtype, scan.image.units) == (np.float32, "HU")


def test_geometry_at_the_top_of_a_file_places_no_frame(tmp_path):
    path = enhanced(
        tmp_path / "a.dcm",
        AFFINE,
        volumes(),
        positions=False,
        ImagePositionPatient=place(AFFINE, 0),
    )
    with pytest.raises(Refused, match="5 of 5 slices have no position") as caught:
        read_series([path])
    assert caught.value.code == "DCM-NO-GEOMETRY"


def test_a_frame_that_is_missing_is_named_by_its_neighbours(tmp_path):
    order = [(0, n) for n in (4, 0, 3, 1)]
    path = enhanced(tmp_path / "a.dcm", AFFINE, volumes(), order=order)
    with pytest.raises(
        Refused,
        match=r"gap 6.000 mm, expected 3.000, between frame 4 of file 1 and frame 3 of file 1\.",
    ):
        read_series([path])


@pytest.mark.parametrize(
    ("tags", "code", "match"),
    [
        ({"NumberOfFrames": 7}, "DCM-HEADER", "7 frames, but the functional groups"),
        ({"NumberOfFrames": 4}, "DCM-HEADER", "4 frames"),
        ({"Rows": 5}, "DCM-TRUNCATED", "240 bytes of pixels, expected 300 for 5 images of 5 x 6 pixels of 16 bits"),
    ],
)  # fmt: skip
def test_claims_are_checked_against_what_is_there(tags, code, match, tmp_path):
    path = enhanced(tmp_path / "a.dcm", AFFINE, volumes())
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    with pytest.raises(Refused, match=match) as caught:
        read_series([path])
    assert (caught.value.code, caught.value.files) == (code, (path,))


def test_classic_files_of_many_frames_are_refused_as_series(tmp_path):
    path = enhanced(tmp_path / "a.dcm", AFFINE, volumes())
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    del dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(path)
    (header,) = slices_of(path)
    assert header["problem"][0] == "DCM-MULTIFRAME"
    with pytest.raises(Refused, match="5 frames in one file without the position of each"):
        read_series([path])


@pytest.mark.parametrize("extended", [False, True], ids=["table", "extended table"])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_a_compressed_frame_is_decoded_without_the_header_before_it(
    syntax, extended, tmp_path, monkeypatch
):
    path = tmp_path / "a.dcm"
    values = volumes(3)
    enhanced(path, AFFINE, values)
    dataset = pydicom.dcmread(path)
    expected = dataset.pixel_array
    dataset.compress(syntax, generate_instance_uid=False, encapsulate_ext=extended)
    assert ("ExtendedOffsetTable" in dataset) == extended
    dataset.save_as(path)
    headers = slices_of(path)
    assert len(headers) == 15
    read = pydicom.filereader.read_partial
    monkeypatch.setattr(pydicom.filereader, "read_partial", None)  # a header that nobody parses
    for number in (14, 0, 7):
        np.testing.assert_array_equal(
            decode_frame(path, headers[number]), expected[number].astype(np.uint16)
        )
    monkeypatch.setattr(pydicom.filereader, "read_partial", read)
    np.testing.assert_array_equal(
        np.stack(list(read_frames(path, headers))).view(expected.dtype), expected
    )
