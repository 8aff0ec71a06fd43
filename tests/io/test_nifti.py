"""NIfTI to scans: equal to nibabel to the bit, and every header that cannot be believed refused."""

import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from series import SPACING, phantom

from cohort import grid, schema
from cohort.io.nifti import is_nifti, read_image, read_labels
from cohort.io.refusal import Refused

AXES = [
    codes
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]
KINDS = (nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair, nib.Nifti2Pair)


def save(path, data, affine, *, kind=nib.Nifti1Image, units=("mm", "sec"), **fields):
    """Write (z, y, x) `data` with nibabel, then set header fields as they are given."""
    xyz = np.moveaxis(data, range(data.ndim), range(data.ndim)[::-1])
    image = kind(xyz, affine, dtype=data.dtype)
    image.header.set_xyzt_units(*units)
    image.set_sform(affine, code=2)
    image.set_qform(affine, code=1)
    for name, value in fields.items():
        image.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def patch(path, name, value):
    """Overwrite one field of a plain file's header, past nibabel's own checks."""
    raw = bytearray(path.read_bytes())
    dtype = nib.Nifti1Header().structarr.dtype
    field, offset = dtype.fields[name]
    data = np.asarray(value).astype(field.base).tobytes()
    raw[offset : offset + len(data)] = data
    path.write_bytes(raw)
    return path


def refused(path, code, match, **options):
    with pytest.raises(Refused, match=match) as caught:
        read_image(path, **options)
    assert caught.value.code == code
    assert caught.value.files
    return caught.value


def oracle(path):
    """Canonical voxels, stored and scaled, and affine, as nibabel has them; arrays (..., z, y, x)."""
    image = nib.as_closest_canonical(nib.load(path))
    data = image.get_fdata(dtype=np.float64)
    return np.moveaxis(data, range(data.ndim), range(data.ndim)[::-1]), image.affine


def agrees(scan, path):
    values, affine = oracle(path)
    ours = schema.decode(scan.image.astype(np.float64)).values
    np.testing.assert_array_equal(ours, values.reshape(ours.shape))
    np.testing.assert_allclose(grid.affine_of(scan), affine, atol=1e-9)
    assert scan.image.values.flags.c_contiguous
    assert scan.image.dtype.isnative
    return True


def turned(codes, tilt=0.3):
    turn = nib.eulerangles.euler2mat(tilt, -tilt / 2, tilt / 3)
    axes = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (5, 6, 7))
    affine = nib.affines.from_matvec(turn, (3.0, -40.0, 9.0)) @ axes
    return affine @ np.diag([*SPACING[::-1], 1.0])


@given(data=st.data())
def test_any_file_equals_nibabel(data, tmp_path_factory):
    dtype = np.dtype(
        data.draw(st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"]))
    )
    order = data.draw(st.sampled_from("<>"))
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=4)))
    slope = data.draw(st.sampled_from([None, (0.5, -3.0), (-2.0, 0.0)]))
    kind = data.draw(st.sampled_from(KINDS))
    end = ".hdr" if kind in KINDS[2:] else data.draw(st.sampled_from([".nii", ".nii.gz"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.integers(0, 120, shape).astype(dtype)
    xyz = np.moveaxis(values, range(len(shape)), range(len(shape))[::-1])
    header_type = nib.Nifti2Header if kind in (KINDS[1], KINDS[3]) else nib.Nifti1Header
    header = header_type(endianness=order)
    header.set_data_dtype(dtype.newbyteorder(order))
    image = kind(xyz, turned(data.draw(st.sampled_from(AXES))), header)
    image.header.set_xyzt_units("mm", "sec")
    if slope:
        image.header.set_slope_inter(*slope)
    path = tmp_path_factory.mktemp("n") / f"image{end}"
    nib.save(image, path)
    scan = read_image(path)
    assert agrees(scan, path)
    assert scan.image.dtype == dtype
    schema.check(scan)


def test_stored_integers_keep_their_scale(tmp_path):
    volume, affine = phantom()
    path = patch(patch(save(tmp_path / "a.nii", volume, affine), "scl_slope", 0.25), "scl_inter", 7)
    scan = read_image(path)
    np.testing.assert_array_equal(scan.image, volume)
    assert scan.image.attrs == {"units": "1", "scale_factor": 0.25, "add_offset": 7.0}


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_zero_or_nan_means_as_stored(slope, tmp_path):
    volume, affine = phantom()
    scan = read_image(patch(save(tmp_path / "a.nii", volume, affine), "scl_slope", slope))
    assert scan.image.attrs == {"units": "1"}


@pytest.mark.parametrize(("slope", "inter"), [(np.inf, 0.0), (1.0, np.nan), (2.0, -np.inf)])
def test_a_scale_that_gives_no_numbers_is_refused(slope, inter, tmp_path):
    path = save(tmp_path / "a.nii", *phantom())
    refused(patch(patch(path, "scl_slope", slope), "scl_inter", inter), "NII-SLOPE", "no numbers")


def test_the_fourth_axis_is_time_in_seconds_if_the_header_says_so(tmp_path):
    volume = np.stack([phantom(seed=t)[0] for t in range(3)])
    _, affine = phantom()
    for units, step, seconds in (
        ("sec", 2.2, 2.2), ("msec", 1500, 1.5), ("usec", 40000, 0.04)
    ):  # fmt: skip
        path = patch(
            save(tmp_path / "a.nii", volume, affine, units=("mm", units)),
            "pixdim",
            [1, 1.2, 0.9, 3, step],
        )
        scan = read_image(path)
        assert scan.image.dims == ("time", "z", "y", "x")
        np.testing.assert_allclose(scan.time, np.arange(3) * seconds, rtol=1e-12)
        assert scan.time.attrs == {"units": "s", "basis": "pixdim[4]"}
        assert scan.attrs["repetition_time_ms"] == pytest.approx(1000 * seconds, rel=1e-12)
    for units, step in (("hz", 2.0), ("unknown", 2.0), ("sec", 0.0)):
        path = save(tmp_path / "b.nii", volume, affine, units=("mm", units))
        scan = read_image(patch(path, "pixdim", [1, 1.2, 0.9, 3, step]))
        assert scan.time.values.tolist() == [0, 1, 2]
        assert scan.time.attrs == {"units": "frame", "basis": "order"}
        assert "repetition_time_ms" not in scan.attrs


@pytest.mark.parametrize(("unit", "per_mm"), [("micron", 1000.0), ("meter", 0.001)])
def test_lengths_become_millimetres(unit, per_mm, tmp_path):
    volume, affine = phantom()
    path = save(
        tmp_path / "a.nii", volume, np.diag([per_mm] * 3 + [1]) @ affine, units=(unit, "sec")
    )
    np.testing.assert_allclose(grid.affine_of(read_image(path)), affine, rtol=1e-5)


def test_without_a_unit_only_plausible_voxels_are_taken(tmp_path):
    volume, affine = phantom()
    scan = read_image(save(tmp_path / "a.nii", volume, affine, units=("unknown", "sec")))
    assert scan.attrs["space_units"] == "unknown, taken as mm"
    large = np.diag([5, 5, 5, 1]) @ affine
    path = save(tmp_path / "b.nii", volume, large, units=("unknown", "sec"))
    refused(path, "NII-UNITS", "6 x 4.5 x 15 are not plausible in mm")


def test_forms_that_disagree_are_refused_unless_one_is_preferred(tmp_path):
    volume, affine = phantom()
    moved = affine + np.array([[0, 0, 0, 1.5], [0] * 4, [0] * 4, [0] * 4])
    image = nib.Nifti1Image(volume.T, affine)
    image.set_sform(affine, code=1)
    image.set_qform(moved, code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path := tmp_path / "a.nii")
    refused(path, "NII-FORMS", r"1.50 mm apart \(tolerance 1 mm\), in file 1")
    for form, expected in (("sform", affine), ("qform", moved)):
        scan = read_image(path, prefer=form)
        np.testing.assert_allclose(grid.affine_of(scan), expected, atol=1e-5)
        assert scan.attrs["orientation_from"] == form
    image.set_qform(affine + 0.9 * (moved - affine) / 1.5, code=1)
    nib.save(image, path)
    np.testing.assert_allclose(grid.affine_of(read_image(path)), affine)


def test_a_mirrored_form_is_a_conflict_even_in_place(tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    image = nib.Nifti1Image(np.zeros((1, 4, 4), np.int16), affine)
    image.set_sform(affine, code=1)
    image.set_qform(np.diag([-2.0, 2.0, 2.0, 1.0]), code=1)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "NII-FORMS", "0.00 mm apart .*one mirrored")


def test_one_form_is_enough_and_none_is_not(tmp_path):
    volume, _ = phantom()
    path = save(tmp_path / "a.nii", volume, turned("LPS"))
    for missing in ("sform_code", "qform_code"):
        scan = read_image(patch(save(tmp_path / "b.nii", volume, turned("LPS")), missing, 0))
        np.testing.assert_allclose(
            grid.affine_of(scan), grid.affine_of(read_image(path)), atol=1e-4
        )
    both = patch(patch(path, "sform_code", 0), "qform_code", 0)
    refused(both, "NII-NO-ORIENT", "neither sform nor qform is coded")


def test_only_a_qfac_of_minus_one_mirrors(tmp_path):
    volume, affine = phantom()
    path = patch(save(tmp_path / "a.nii", volume, affine), "sform_code", 0)
    expected = grid.affine_of(read_image(path))
    for qfac in (0, 7):
        patch(path, "pixdim", [qfac, *SPACING[::-1]])
        np.testing.assert_array_equal(grid.affine_of(read_image(path)), expected)
    patch(path, "pixdim", [-1, *SPACING[::-1]])
    np.testing.assert_array_equal(read_image(path).image, volume[::-1])


@pytest.mark.parametrize(
    ("field", "value", "forms"),
    [("srow_x", [0, 0, 0, 5], "sform"), ("srow_y", [np.nan] * 4, "sform"),
     ("quatern_b", 3.0, "qform"), ("pixdim", [1, 0, 1, 1], "qform")],
)  # fmt: skip
def test_a_form_that_spans_no_volume_is_refused(field, value, forms, tmp_path):
    path = patch(save(tmp_path / "a.nii", *phantom()), field, value)
    refused(path, "NII-SINGULAR", f"the {forms} spans no volume")
    other = {"sform": "qform", "qform": "sform"}[forms]
    assert read_image(path, prefer=other).attrs["orientation_from"] == other


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_a_truncated_file_says_how_much_is_missing(end, tmp_path):
    volume, affine = phantom()
    raw = save(tmp_path / "a.nii", volume, affine).read_bytes()[:-10]
    path = tmp_path / f"b{end}"
    path.write_bytes(gzip.compress(raw) if end == ".nii.gz" else raw)
    refused(path, "NII-TRUNCATED", "762 bytes, expected 772 for 5 x 6 x 7 voxels of int16")


def test_a_gzip_file_is_read_to_its_end(tmp_path):
    path = save(tmp_path / "a.nii.gz", *phantom())
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    refused(path, "NII-GZIP", "stops before its end")
    path.write_bytes(good[:-8] + bytes(8))
    refused(path, "NII-GZIP", "incorrect data check")
    path.write_bytes(good + gzip.compress(b"more"))
    assert read_image(path).attrs["n_trailing_bytes"] == 4


def test_a_header_that_claims_too_much_allocates_nothing(tmp_path):
    path = save(tmp_path / "a.nii", *phantom())
    patch(path, "dim", [3, 2000, 2000, 1000, 1, 1, 1, 1])
    refused(path, "NII-TRUNCATED", "772 bytes, expected 8000000352")
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "NII-TRUNCATED", "expected 8000000352")
    patch(path, "dim", [3, 32767, 32767, 32767, 1, 1, 1, 1])
    refused(path, "NII-TOO-LARGE", "32767 x 32767 x 32767 voxels of 2 bytes")
    refused(save(tmp_path / "c.nii", *phantom()), "NII-TOO-LARGE", "limit 100", max_bytes=100)


@pytest.mark.parametrize("dim", [[0] * 8, [3, 5, 0, 7, 1, 1, 1, 1], [9] * 8, [3, -4, 6, 7] * 2])
def test_dimensions_that_make_no_image_are_refused(dim, tmp_path):
    refused(patch(save(tmp_path / "a.nii", *phantom()), "dim", dim), "NII-DIMS", "make no image")


@pytest.mark.parametrize(
    ("code", "match"), [(32, "complex"), (128, "RGB"), (1, "code 1"), (1536, "1536"), (77, "77")]
)
def test_voxels_that_are_no_real_numbers_are_refused(code, match, tmp_path):
    refused(patch(save(tmp_path / "a.nii", *phantom()), "datatype", code), "NII-DTYPE", match)


def test_five_dimensions_are_refused_and_axes_of_one_are_dropped(tmp_path):
    volume, affine = phantom()
    path = save(tmp_path / "a.nii", volume[None, None], affine)
    assert read_image(path).image.dims == ("z", "y", "x")
    vectors = save(tmp_path / "b.nii", np.stack([volume] * 3)[:, None], affine)
    refused(vectors, "NII-5D", "5 dimensions, 5 x 6 x 7 x 1 x 3")


def test_nan_is_counted_and_inf_refused(tmp_path):
    volume, affine = phantom()
    values = volume.astype(np.float32)
    values[1, 2, 3] = values[6, 5, 4] = np.nan
    assert read_image(save(tmp_path / "a.nii", values, affine)).attrs["n_nan"] == 2
    values[0, 0, 0] = -np.inf
    refused(save(tmp_path / "b.nii", values, affine), "NII-INF", "1 of 210 voxels are infinite")


def test_half_a_pair_names_what_is_missing(tmp_path):
    path = save(tmp_path / "a.hdr", *phantom(), kind=nib.Nifti1Pair)
    assert agrees(read_image(path), path)
    (tmp_path / "a.img").unlink()
    refused(path, "NII-NO-PAIR", "no .img beside")


@pytest.mark.parametrize("content", [b"", b"x" * 400, b"\x5c\x01\0\0" + bytes(400)])
def test_what_is_no_nifti_is_refused(content, tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(content)
    assert not is_nifti(content)
    refused(path, "NII-HEADER", "no NIfTI header")


def test_nothing_that_names_anybody_passes(tmp_path):
    secret = "CANARY7Q"
    image = nib.Nifti1Image(phantom()[0].T, phantom()[1])
    image.header.set_xyzt_units("mm")
    for name in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[name] = secret
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", secret.encode()))
    path = tmp_path / secret / "a.nii.gz"
    path.parent.mkdir()
    nib.save(image, path)
    assert secret.encode() in gzip.decompress(path.read_bytes())
    scan, labels = read_image(path), read_labels(path, name="labels")
    np.testing.assert_array_equal(scan.image, phantom()[0])
    assert secret not in repr(scan.to_dict()) + repr(labels.to_dict())


# --- labels --------------------------------------------------------------------------------------------------------


STORED = (np.uint8, np.int16, np.int32, np.int64, np.uint64, np.float32, np.float64)
RANGES = ((0, 2), (0, 255), (0, 256), (0, 70000), (-1, 100), (-1, 200), (-40000, 0))


@pytest.mark.parametrize(
    ("stored", "low", "high"),
    [
        (stored, low, high)
        for stored, (low, high) in itertools.product(STORED, RANGES)
        if np.dtype(stored).kind == "f"
        or np.iinfo(stored).min <= low <= high <= np.iinfo(stored).max
    ],
)
def test_labels_take_the_smallest_type_that_holds_them(stored, low, high, tmp_path):
    values, affine = phantom()
    values = np.where(values > 1000, high, low).astype(stored)
    path = save(tmp_path / "a.nii.gz", values, affine)
    labels = read_labels(path, name="labels")
    np.testing.assert_array_equal(labels, values)
    assert labels.dtype.itemsize == min(
        np.dtype(t).itemsize
        for t in (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32)
        if np.iinfo(t).min <= low and high <= np.iinfo(t).max
    )
    assert labels.name == "labels"
    np.testing.assert_array_equal(grid.affine_of(labels), grid.affine_of(read_image(path)))


def test_a_scaled_label_image_is_unscaled(tmp_path):
    values, affine = phantom()
    path = save(tmp_path / "a.nii", (values % 4).astype(np.uint8), affine)
    labels = read_labels(patch(path, "scl_slope", 2), name="labels")
    np.testing.assert_array_equal(labels, 2 * (values % 4))


def test_values_between_labels_are_refused(tmp_path):
    values, affine = phantom()
    values = (values % 3).astype(np.float32)
    values[1, 1, 1:3] = 0.5, np.nan
    path = save(tmp_path / "a.nii", values, affine)
    with pytest.raises(Refused, match="2 of 210 values are no whole numbers") as caught:
        read_labels(path, name="labels")
    assert caught.value.code == "NII-LABELS"


def test_a_mask_is_true_and_false(tmp_path):
    values, affine = phantom()
    path = save(tmp_path / "a.nii", (values % 2).astype(np.float64), turned("PSL"))
    mask = read_labels(path, name="mask")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, read_image(path).image)
    path = save(tmp_path / "b.nii", (values % 3).astype(np.uint8), affine)
    with pytest.raises(Refused, match="this one 0 to 2"):
        read_labels(path, name="mask")


# --- real files ----------------------------------------------------------------------------------------------------

REFUSED = {
    "mt/mtr.nii.gz": "NII-INF",
    "mt/warp_template2mt.nii.gz": "NII-5D",
}


def test_every_odd_file_agrees_with_nibabel_or_is_refused_for_a_reason(shared):
    files = sorted((shared / "sct-nifti").rglob("*.nii.gz"))
    assert len(files) > 10
    for path in files:
        code = REFUSED.get(path.relative_to(shared / "sct-nifti").as_posix())
        if code:
            refused(path, code, "file 1")
        else:
            assert agrees(read_image(path), path), path


def test_a_labelled_cord_in_float64_is_labels(shared):
    labels = read_labels(shared / "sct-nifti/t2/t2_seg-manual_labeled.nii.gz", name="labels")
    assert labels.dtype == np.uint8


@pytest.mark.parametrize("number", ["001", "003", "243"])
def test_hippocampi_and_their_labels_share_a_grid(number, shared):
    folder = shared / "hippocampus-msd"
    path = folder / f"images/hippocampus_{number}.nii.gz"
    scan = read_image(path)
    assert agrees(scan, path)
    labels = read_labels(folder / f"labels/hippocampus_{number}.nii.gz", name="labels")
    grid.check_same_grid(image=scan.image, labels=labels)
    assert labels.dtype == np.uint8
    assert np.unique(labels).tolist() == [0, 1, 2]


def test_brains_of_oasis_agree_with_nibabel(shared):
    for path in (
        shared / "oasis1-mni2mm/uint8/OAS1_0001_MR1.nii.gz",
        min((shared / "oasis1-mni2mm/float32-original").glob("*.nii.gz")),
    ):
        scan = read_image(path)
        assert agrees(scan, path)
        assert scan.image.shape == (91, 109, 91)
