"""DICOM to scans: against the volume that was sliced, and every refusal with its numbers."""

import itertools

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary
from series import SPACING, as_stored, decimal, phantom, write_series

from cohort import grid, schema
from cohort.io.dicom import group_key, read_series, read_slices
from cohort.io.policy import Policy
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_header

AXES = [
    codes
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]
"""All 48 ways in which columns, rows and slices can run."""


def headers_of(path):
    with path.open("rb") as stream:
        return read_slices(stream, path)


def read_header(path):
    """Of a file that is one slice."""
    headers = headers_of(path)
    return headers[0] if headers else None


def refused(files, code, match, **options):
    with pytest.raises(Refused, match=match) as caught:
        read_series(files, **options)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("codes", AXES, ids="".join)
def test_a_volume_sliced_along_any_axes_comes_back_whole(codes, tmp_path):
    canonical, affine = phantom()
    scan = read_series(write_series(tmp_path, *as_stored(canonical, affine, codes)))
    np.testing.assert_array_equal(scan.image, canonical)
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-9)
    assert scan.image.values.flags.c_contiguous
    assert scan.image.dtype == canonical.dtype
    assert tuple(grid.spacing_mm(scan).values()) == pytest.approx(SPACING)
    schema.check(scan)


@given(data=st.data())
def test_an_oblique_volume_lies_where_its_affine_says(data, tmp_path_factory):
    angles = data.draw(st.tuples(*[st.floats(-1.2, 1.2)] * 3))
    codes = data.draw(st.sampled_from(AXES))
    shape = (9, 8, 7)
    turned = nib.eulerangles.euler2mat(*angles) @ np.diag(SPACING[::-1])
    affine = nib.affines.from_matvec(turned, (4.0, -50.0, 31.0))

    def ramp(matrix, n):
        x, y, z = np.moveaxis(nib.affines.apply_affine(matrix, np.indices(n[::-1]).T), -1, 0)
        return 900 + 11 * x - 5 * y + 7 * z

    stored, stored_affine = as_stored(np.zeros(shape), affine, codes)
    volume = np.rint(ramp(stored_affine, stored.shape)).astype(np.int16)
    scan = read_series(write_series(tmp_path_factory.mktemp("s"), volume, stored_affine))
    expected = ramp(grid.affine_of(scan), scan.image.shape)
    assert np.abs(scan.image.values - expected).max() <= 0.5 + 1e-6
    assert nib.aff2axcodes(grid.affine_of(scan)) == ("R", "A", "S")


@given(seed=st.integers(0, 2**16), dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32]))
def test_names_and_numbers_of_files_change_nothing(seed, dtype, tmp_path_factory):
    rng = np.random.default_rng(seed)
    volume, affine = phantom((6, 5, 4), dtype=dtype, seed=seed)
    numbers = rng.permutation(6)
    files = write_series(
        tmp_path_factory.mktemp("s"), volume, affine, names=rng.permutation(6),
        per_slice=lambda i: {"InstanceNumber": int(numbers[i]) + 1},
    )  # fmt: skip
    rng.shuffle(files)
    np.testing.assert_array_equal(read_series(files).image, volume)


SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "big endian": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg 2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
UNSIGNED = ("jpeg lossless", "jpeg-ls")
"""These have no signed samples."""


@pytest.mark.parametrize(
    ("syntax", "dtype"),
    [
        (syntax, dtype)
        for syntax, dtype in itertools.product(SYNTAXES, (np.uint8, np.int16, np.uint16))
        if dtype != np.int16 or syntax not in UNSIGNED
    ],
)
def test_every_transfer_syntax_gives_the_same_voxels(syntax, dtype, tmp_path):
    volume, affine = phantom((4, 16, 12), dtype=dtype)
    scan = read_series(write_series(tmp_path, volume, affine, syntax=SYNTAXES[syntax]))
    np.testing.assert_array_equal(scan.image, volume)
    assert scan.image.dtype == dtype


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_dirt(signed, tmp_path):
    clean, affine = phantom(dtype=np.uint16)
    clean = clean.astype(np.int16) - 1000 if signed else clean
    dirt = np.random.default_rng(1).integers(0, 16, clean.shape).astype(np.uint16) << 12
    dirty = ((clean.view(np.uint16) & 0x0FFF) | dirt).view(clean.dtype)
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    np.testing.assert_array_equal(
        read_series(write_series(tmp_path, dirty, affine, **tags)).image, clean
    )


def moved(shift_mm):
    """Slice number -> the position that `shift_mm` adds to the even grid of the phantom, along z."""
    _, affine = phantom()
    lps = grid.to_ras(affine)

    def tags(number):
        position = np.add((lps @ [0, 0, number, 1])[:3], [0, 0, shift_mm(number)])
        return {"ImagePositionPatient": decimal(position)}

    return tags


def test_jitter_within_a_hundredth_of_the_gap_is_even(tmp_path):
    volume, affine = phantom()
    within = {1: 0.029, 4: -0.029}
    scan = read_series(
        write_series(tmp_path / "a", volume, affine, per_slice=moved(lambda i: within.get(i, 0)))
    )
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-9)
    beyond = {3: 0.031}
    files = write_series(
        tmp_path / "b", volume, affine, per_slice=moved(lambda i: beyond.get(i, 0))
    )
    caught = refused(files, "DCM-UNEVEN", r"step 3.031 mm, expected 3.000 \(tolerance 0.030\)")
    assert caught.files == (files[2], files[3])


def test_the_spacing_is_that_of_the_ends(tmp_path):
    volume, affine = phantom()
    scan = read_series(
        write_series(tmp_path, volume, affine, per_slice=moved(lambda i: 0.02 if i == 6 else 0))
    )
    assert grid.spacing_mm(scan)["z"] == pytest.approx(3 + 0.02 / 6)


def test_gaps_that_add_up_are_not_even(tmp_path):
    volume, affine = phantom((60, 2, 3))
    files = write_series(tmp_path, volume, affine, per_slice=moved(lambda i: 0.025 * min(i, 30)))
    refused(files, "DCM-UNEVEN", r"slice 30 lies 0.369 mm along the normal .* tolerance 0.30")


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine)
    caught = refused(
        [*files[:2], *files[3:]], "DCM-GAP",
        "gap 6.000 mm, expected 3.000, between file 1 and file 2. Fix: copy the 1 missing",
    )  # fmt: skip
    assert caught.files == (files[1], files[3])
    assert caught.state == "quarantined"
    refused([files[0], files[2], *files[4:]], "DCM-GAP", r"\(2 such places\). Fix: copy the 2")


def test_a_second_image_at_a_position_is_refused(tmp_path):
    volume, affine = phantom()
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files = write_series(tmp_path, volume, affine, **uids)
    other = write_series(tmp_path / "other", volume + 1, affine, **uids)[3]
    caught = refused([*files, other], "DCM-DUP-POS", r"2 slices .* at 29.250 mm")
    assert set(caught.files) == {files[3], other}


def test_the_same_file_twice_counts_once(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine)
    copy = tmp_path / "copy"
    copy.write_bytes(files[2].read_bytes())
    scan = read_series([*files, copy])
    np.testing.assert_array_equal(scan.image, volume)
    assert (scan.n_files, scan.n_duplicates) == (7, 1)
    raw = bytearray(copy.read_bytes())
    raw[-2] ^= 1
    copy.write_bytes(raw)
    assert set(refused([*files, copy], "DCM-UID-CONFLICT", "different images").files) == {
        files[2], copy
    }  # fmt: skip


def test_one_uid_at_two_positions_is_a_conflict_even_for_equal_pixels(tmp_path):
    volume, affine = phantom()
    files = write_series(
        tmp_path, volume * 0, affine, per_slice=lambda i: {"SOPInstanceUID": f"1.2.{max(i, 1)}"}
    )
    assert refused(files, "DCM-UID-CONFLICT", "different images").files == (files[0], files[1])


def test_a_truncated_file_is_named_with_its_bytes(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path, volume, affine)
    files[4].write_bytes(files[4].read_bytes()[:-11])
    caught = refused(files, "DCM-TRUNCATED", "49 bytes of pixels, expected 60 for 6 x 5 pixels")
    assert caught.files == (files[4],)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_a_truncated_compressed_file_is_refused(syntax, tmp_path):
    volume, affine = phantom((4, 40, 30))
    files = write_series(tmp_path, volume, affine, syntax=syntax)
    files[1].write_bytes(files[1].read_bytes()[:-900])
    with pytest.raises(Refused) as caught:
        read_series(files)
    assert caught.value.files == (files[1],)


def test_a_tilted_stack_keeps_its_shear(tmp_path):
    volume, affine = phantom()
    tilted = affine.copy()
    tilted[1, 2] = 0.7
    files = write_series(tmp_path, volume, tilted)
    scan = read_series(files)
    np.testing.assert_array_equal(scan.image, volume)
    np.testing.assert_allclose(grid.affine_of(scan), tilted, atol=1e-9)
    assert grid.voxel_volume_mm3(scan) == pytest.approx(abs(np.linalg.det(tilted)))
    refused([*files[:2], *files[3:]], "DCM-GAP", "gap 6.000 mm, expected 3.000")


def test_a_crooked_stack_is_refused(tmp_path):
    volume, affine = phantom()
    lps = grid.to_ras(affine)

    def tags(number):
        position = np.add((lps @ [0, 0, number, 1])[:3], [0.2 * (number == 3), 0, 0])
        return {"ImagePositionPatient": decimal(position)}

    refused(
        write_series(tmp_path, volume, affine, per_slice=tags),
        "DCM-UNEVEN", "slice 3 lies 0.200 mm in its plane .* tolerance 0.090",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "tags", "match"),
    [
        ("DCM-NO-GEOMETRY", {"ImagePositionPatient": None}, "7 of 7 slices have no position"),
        ("DCM-NO-GEOMETRY", {"ImageOrientationPatient": None}, "7 of 7 slices"),
        ("DCM-NO-GEOMETRY", {"ImageOrientationPatient": [1, 0, 0, 0, 2, 0]}, "1.0000 and 2.0000"),
        ("DCM-NO-GEOMETRY", {"ImageOrientationPatient": [1, 0, 0, 0.6, 0.8, 0]}, "53.13 degrees"),
        ("DCM-SPACING-MISSING", {"PixelSpacing": None, "ImagerPixelSpacing": [1, 1]}, "7 of 7"),
        ("DCM-SPACING-MISSING", {"PixelSpacing": [0, 1]}, "7 of 7 slices"),
        ("DCM-BITS", {"BitsStored": 12, "HighBit": 15}, "HighBit 15, BitsStored 12"),
        ("DCM-BITS", {"BitsStored": 17, "HighBit": 16}, "BitsStored 17 and BitsAllocated 16"),
        ("DCM-BURNED-IN", {"BurnedInAnnotation": "YES"}, "BurnedInAnnotation"),
        ("DCM-SLOPE", {"RescaleSlope": "0", "RescaleIntercept": "0"}, "RescaleSlope is 0"),
        ("DCM-MULTIFRAME", {"NumberOfFrames": 3}, "3 frames"),
        ("DCM-MOSAIC", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
        ("DCM-HEADER", {"Rows": None}, "Rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_or_read_is_refused(code, tags, match, tmp_path):
    assert refused(write_series(tmp_path, *phantom(), **tags), code, match).state == "quarantined"


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("DCM-LOCALIZER", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("DCM-CAPTURE", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("DCM-CAPTURE", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("DCM-NOT-IMAGE", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("DCM-NOT-IMAGE", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    ],
)
def test_what_is_no_scan_is_skipped(code, tags, tmp_path):
    assert refused(write_series(tmp_path, *phantom(), **tags), code, code).state == "skipped"


def test_few_slices_are_skipped_unless_asked_for(tmp_path):
    volume, affine = phantom((2, 4, 5))
    files = write_series(tmp_path, volume, affine, SliceThickness="3")
    assert refused(files, "DCM-TOO-FEW", "2 slice positions").state == "skipped"
    np.testing.assert_array_equal(read_series(files, policy=Policy(min_slices=2)).image, volume)
    one = read_series(files[1:], policy=Policy(min_slices=1))
    assert grid.spacing_mm(one) == pytest.approx(dict(zip("zyx", SPACING, strict=True)))
    assert one.z.item() == pytest.approx(affine[2, 3] + 3)


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("DCM-SPACING-MIX", {"PixelSpacing": [1.3, 1.3]}),
        ("DCM-MATRIX-MIX", {"Rows": 5, "Columns": 6}),
        ("DCM-UID-COLLISION", {"PatientID": "P2"}),
        ("DCM-MIXED", {"EchoTime": "30"}),
    ],
)
def test_two_kinds_of_slices_are_no_scan(code, tags, tmp_path):
    files = write_series(tmp_path, *phantom(), per_slice=lambda i: tags if i > 3 else {})
    caught = refused(files, code, "in one series")
    assert len(caught.files) == 2
    assert "P2" not in str(caught)
    groups = dicom_header.group([group_key(read_header(f)) for f in files])
    assert groups == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_slice_without_orientation_is_not_left_aside(tmp_path):
    volume, affine = phantom()
    tags = [
        {"ImageOrientationPatient": None},
        *[{}] * 3,
        *[{"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}] * 3,
    ]
    files = write_series(tmp_path, volume, affine, per_slice=lambda i: tags[i])
    groups = dicom_header.group([group_key(read_header(f)) for f in files])
    assert len(groups) == 2
    (with_it,) = [g for g in groups if 0 in g]
    assert len(with_it) == 4
    caught = refused(
        [files[i] for i in with_it],
        "DCM-NO-GEOMETRY",
        "1 of 4 slices have no position or orientation",
    )
    assert caught.files == (files[0],)


def test_rounding_of_direction_cosines_splits_no_series(tmp_path):
    noise = {1: 0.00049, 2: 0.00051, 5: -0.0004}
    files = write_series(
        tmp_path, *phantom(),
        per_slice=lambda i: {"ImageOrientationPatient": decimal([1, 0, 0, noise.get(i, 0), 1, 0])},
    )  # fmt: skip
    assert dicom_header.group([group_key(read_header(f)) for f in files]) == [list(range(7))]
    assert read_series(files).image.shape == (7, 6, 5)


def movie(folder, tags, *, n=4, drop=()):
    """A series of `n` volumes: `tags(time, slice)` tell when; the frames, the files."""
    _, affine = phantom()
    frames = np.array([phantom(seed=t)[0] for t in range(n)])
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    files = []
    for t in range(n):
        written = write_series(
            folder / str(n - t), frames[t], affine, per_slice=lambda z, t=t: tags(t, z), **uids
        )
        files += [f for z, f in enumerate(written) if (t, z) not in drop]
    return frames, files


def heart(t, z):
    """Heart rate differs between slices, and the files are numbered slice by slice."""
    return {"TriggerTime": str(40 * t * (1 + 0.05 * z)), "InstanceNumber": 1 + t + 4 * z}


@pytest.mark.parametrize(
    ("tags", "times", "attrs"),
    [
        (heart, [0, 0.046, 0.092, 0.138], {"units": "s", "basis": "TriggerTime"}),
        (
            lambda t, z: {"TemporalPositionIdentifier": t + 1, "TemporalResolution": "1500"},
            [0, 1.5, 3, 4.5], {"units": "s", "basis": "TemporalPositionIdentifier"},
        ),
        (
            lambda t, z: {"TemporalPositionIdentifier": t + 1},
            [0, 1, 2, 3], {"units": "frame", "basis": "TemporalPositionIdentifier"},
        ),
        (
            lambda t, z: {"AcquisitionTime": f"0905{10 + 2 * t:02d}.{z}"},
            [0, 2, 4, 6], {"units": "s", "basis": "AcquisitionTime"},
        ),
        (
            lambda t, z: {"InstanceNumber": 1 + z + 7 * t, "TriggerTime": "0"},
            [0, 1, 2, 3], {"units": "frame", "basis": "InstanceNumber"},
        ),
    ],
    ids=["trigger", "temporal", "temporal in frames", "acquisition", "instance"],
)  # fmt: skip
def test_volumes_at_the_same_positions_are_frames_of_one_scan(tags, times, attrs, tmp_path):
    frames, files = movie(tmp_path, tags)
    scan = read_series(files)
    np.testing.assert_array_equal(scan.image, frames)
    np.testing.assert_allclose(scan.time, times)
    assert scan.time.attrs == attrs
    schema.check(scan)


def test_an_incomplete_movie_says_what_lacks(tmp_path):
    def tags(t, z):
        return {"TemporalPositionIdentifier": t + 1}

    _, files = movie(tmp_path / "a", tags, drop={(2, 1)})
    caught = refused(
        files, "DCM-4D-INCOMPLETE",
        "1 of 7 positions lack slices of the 4 volumes: 23.250 mm holds 3 of 4, without volume 3",
    )  # fmt: skip
    assert len(caught.files) == 3
    _, files = movie(tmp_path / "b", heart, drop={(0, 0), (1, 4)})
    refused(files, "DCM-4D-INCOMPLETE", "2 of 7 positions lack .* 20.250 mm .* 32.250 mm")
    _, files = movie(tmp_path / "c", tags, n=2, drop={(1, z) for z in range(1, 7)})
    refused(files, "DCM-4D-INCOMPLETE", "6 of 7 positions")


def test_volumes_that_nothing_tells_apart_are_refused(tmp_path):
    _, files = movie(tmp_path, lambda t, z: {"InstanceNumber": None})
    refused(files, "DCM-DUP-POS", "every position holds 4 slices")


def test_a_hole_in_the_numbers_is_flagged(tmp_path):
    volume, affine = phantom()
    files = write_series(tmp_path / "a", volume, affine)
    assert "flags" not in read_series(files).attrs
    for name, tags in {
        "b": lambda i: {"ImagesInAcquisition": 9},
        "c": lambda i: {"InstanceNumber": i + 1 + (i > 3)},
    }.items():
        files = write_series(tmp_path / name, volume, affine, per_slice=tags)
        assert read_series(files).flags == "possible_truncation"


def test_a_text_file_is_not_dicom(tmp_path):
    (tmp_path / "a.dcm").write_text("ORIGINAL" * 100)
    assert read_header(tmp_path / "a.dcm") is None


def test_nothing_that_names_anybody_passes(tmp_path):
    secret, uid = "CANARY7Q", "1.9.87654321.1"
    text = {"LO", "SH", "ST", "LT", "UT", "PN", "CS", "UC", "AE", "UR"}
    keep = {"ImageType", "PhotometricInterpretation", "BurnedInAnnotation", "SpecificCharacterSet"}
    tags = {}
    for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
        if tag < 0x00080005 or retired or not keyword or tag >= 0x60000000 or keyword in keep:
            continue
        if vr in text:
            tags[keyword] = secret
        elif vr == "UI" and keyword not in ("SOPClassUID", "SOPInstanceUID"):
            tags[keyword] = uid
        elif vr == "DA":
            tags[keyword] = "19870605"
    files = write_series(tmp_path / secret, *phantom(), **tags)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.private_block(0x0029, secret, create=True).add_new(1, "LO", secret)
        dataset.RequestAttributesSequence = [pydicom.Dataset()]
        dataset.RequestAttributesSequence[0].ScheduledProcedureStepDescription = secret
        dataset.save_as(file)
    scan = read_series(files)
    shown = repr(scan.to_dict()) + repr(scan)
    for word in (secret, secret.lower(), "87654321", "1987", "0605"):
        assert word not in shown
    assert scan.attrs["manufacturer"] == "other"
