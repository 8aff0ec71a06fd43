"""NIfTI to scans: equal to nibabel to the bit, and every header that cannot be believed refused."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from series import SPACING, phantom

from cohort import grid, schema
from cohort.io.nifti import read_image, read_labels
from cohort.io.nifti_header import is_analyze, is_nifti, is_pair
from cohort.io.policy import Policy
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


def plain(folder, data=None, *, name="a.nii", **fields):
    """A file that nothing can be said against; then its header's fields as given."""
    volume, affine = phantom()
    path = save(folder / name, volume if data is None else data, affine)
    for field, value in ({"scl_slope": 1.0, "scl_inter": 0.0} | fields).items():
        patch(path, field, value)
    return path


def outcome(call, *args, **options):
    """What a reader gives, or its refusal; anything else is an error."""
    try:
        return call(*args, **options)
    except Refused as refusal:
        return refusal


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
def test_a_slope_of_zero_or_nan_means_as_stored_and_is_told(slope, tmp_path):
    scan = read_image(plain(tmp_path, scl_slope=slope, scl_inter=5.0))
    assert scan.image.attrs == {"units": "1"}
    assert scan.attrs["flags"] == "unscaled_slope"


def test_nothing_is_said_of_a_file_without_oddities(tmp_path):
    attrs = read_image(plain(tmp_path)).attrs
    assert attrs == {"orientation_from": "sform"}


SIZES = SPACING[::-1]


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"scl_slope": -2.0}, "negative_slope"),
        ({"sform_code": 99}, "odd_codes"),
        ({"sform_code": -3}, "odd_codes"),
        ({"qform_code": 6}, "odd_codes"),
        ({"pixdim": [7, *SIZES]}, "odd_codes"),
        ({"pixdim": [0, *SIZES]}, "odd_codes"),
        ({"pixdim": [1, -SIZES[0], *SIZES[1:]]}, "pixdim_wrong"),
        ({"pixdim": [1, *SIZES[:2], 1.02 * SIZES[2]], "qform_code": 0}, "pixdim_wrong"),
        ({"pixdim": [1, np.nan, 0, -1], "qform_code": 0}, "pixdim_wrong"),
        ({"xyzt_units": 8}, "units_unknown"),
        ({"xyzt_units": 7}, "units_unknown"),
        ({"bitpix": 8}, "bitpix_wrong"),
    ],
)
def test_oddities_that_change_nothing_are_flagged(fields, flag, tmp_path):
    expected = read_image(plain(tmp_path, name="plain.nii"))
    scan = read_image(plain(tmp_path, **fields))
    assert scan.attrs["flags"] == flag
    np.testing.assert_array_equal(scan.image, expected.image)
    np.testing.assert_allclose(grid.affine_of(scan), grid.affine_of(expected), atol=1e-5)
    assert "accepted" not in scan.attrs


def test_voxel_sizes_within_one_percent_of_the_affine_are_its_own(tmp_path):
    sizes = [1, *SIZES[:2], 1.009 * SIZES[2]]
    assert "flags" not in read_image(plain(tmp_path, pixdim=sizes, qform_code=0)).attrs


def test_without_an_sform_negative_voxel_sizes_are_a_riddle(tmp_path):
    path = plain(tmp_path, pixdim=[1, -SIZES[0], *SIZES[1:]], sform_code=0)
    refused(path, "NII-SINGULAR", "the qform spans no volume .voxels of -1.2 x 0.9 x 3 mm")


def test_a_scale_beyond_float32_is_refused(tmp_path):
    path = plain(tmp_path, scl_slope=3e34)
    refused(path, "NII-SLOPE", "voxels of up to 9.83e[+]38, limit 3.4e[+]38")
    huge = phantom()[0].astype(np.float32) * 1e30
    refused(plain(tmp_path, huge, scl_slope=1e8), "NII-SLOPE", "limit 3.4e[+]38")
    assert read_image(plain(tmp_path, huge, scl_slope=2.0)).attrs["n_nan"] == 0


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
    scan = read_image(plain(tmp_path, xyzt_units=8))
    assert scan.attrs["flags"] == "units_unknown"
    large = np.diag([5, 5, 5, 1]) @ affine
    path = save(tmp_path / "b.nii", volume, large, units=("unknown", "sec"))
    refusal = refused(path, "NII-UNITS", "6 x 4.5 x 15 are not plausible in mm .0.1 to 10")
    assert (
        refusal.fix == "set xyzt_units in the header, or state accept: [NII-UNITS] in the catalog"
    )
    taken = read_image(path, policy=Policy(accept=frozenset({"NII-UNITS", "NII-NO-ORIENT"})))
    np.testing.assert_allclose(grid.affine_of(taken), large, rtol=1e-6)
    assert taken.attrs["accepted"] == "NII-UNITS"
    assert (
        "accepted"
        not in read_image(plain(tmp_path), policy=Policy(accept=frozenset({"NII-UNITS"}))).attrs
    )


def test_a_step_of_time_called_seconds_by_mistake_is_flagged(tmp_path):
    volume = np.stack([phantom(seed=t)[0] for t in range(3)])
    for step, flags in ((2000.0, "time_implausible"), (900.0, None)):
        scan = read_image(plain(tmp_path, volume, pixdim=[1, *SIZES, step]))
        assert scan.attrs.get("flags") == flags


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
        scan = read_image(path, policy=Policy(prefer=form))
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
    refusal = refused(both, "NII-NO-ORIENT", "neither sform nor qform is coded")
    assert refusal.fix.endswith("or state accept: [NII-NO-ORIENT] in the catalog")


ASSUME = Policy(accept=frozenset({"NII-NO-ORIENT"}))


def centred(header):
    """Oracle: nibabel's own guess for a header that says nothing, without its flip of x."""
    return np.diag([-1.0, 1, 1, 1]) @ header.get_base_affine()


def test_without_orientation_axes_are_ras_about_the_middle_if_the_catalog_says_so(tmp_path):
    path = plain(tmp_path, sform_code=0, qform_code=0)
    scan = read_image(path, policy=ASSUME)
    np.testing.assert_array_equal(scan.image, phantom()[0])
    np.testing.assert_allclose(grid.affine_of(scan), centred(nib.load(path).header), atol=1e-6)
    assert scan.attrs == {"orientation_from": "none", "accepted": "NII-NO-ORIENT"}
    patch(path, "pixdim", [1, 0, 1, 1])
    refused(path, "NII-SINGULAR", "voxels of 0 x 1 x 1 mm span no volume", policy=ASSUME)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_analyze_has_no_orientation(kind, order, tmp_path):
    volume, _ = phantom()
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.int16)
    header.set_data_shape(volume.T.shape)
    header.set_zooms([1.2, 0.9, 3.0])
    nib.save(kind(volume.T, None, header), path := tmp_path / "a.hdr")
    path.with_suffix(".mat").unlink(missing_ok=True)
    head = path.read_bytes()
    assert (is_nifti(head), is_analyze(head), is_pair(head)) == (False, True, True)
    refused(path, "NII-NO-ORIENT", "an Analyze 7.5 header, so left and right are unknown")
    scan = read_image(path, policy=ASSUME)
    np.testing.assert_array_equal(scan.image, volume)
    np.testing.assert_allclose(grid.affine_of(scan), centred(nib.load(path).header), atol=1e-6)
    assert scan.attrs["flags"] == "units_unknown"
    assert scan.attrs["accepted"] == "NII-NO-ORIENT"


def test_the_order_of_bytes_follows_from_the_size_of_the_header(tmp_path):
    refused(plain(tmp_path, dim=[1024, 5, 6, 7]), "NII-DIMS", r"\[1024, 5, 6, 7")


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
    assert read_image(path, policy=Policy(prefer=other)).attrs["orientation_from"] == other


@pytest.mark.parametrize("end", [".nii", ".nii.gz"])
def test_a_truncated_file_says_how_much_is_missing(end, tmp_path):
    volume, affine = phantom()
    raw = save(tmp_path / "a.nii", volume, affine).read_bytes()[:-10]
    path = tmp_path / f"b{end}"
    path.write_bytes(gzip.compress(raw) if end == ".nii.gz" else raw)
    refused(path, "NII-TRUNCATED", "762 bytes, expected 772 for 5 x 6 x 7 voxels of int16")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_file_cut_anywhere_is_refused(kind, tmp_path):
    raw = save(tmp_path / "a.nii", *phantom(), kind=kind).read_bytes()
    (tmp_path / "a.nii").write_bytes(raw)
    for n in (*range(0, 560, 7), len(raw) - 1):
        (tmp_path / "a.nii").write_bytes(raw[:n])
        refusal = outcome(read_image, tmp_path / "a.nii")
        assert isinstance(refusal, Refused)
        assert refusal.code == ("NII-HEADER" if n < 4 else "NII-TRUNCATED")


def test_a_gzip_file_is_read_to_its_end(tmp_path):
    path = save(tmp_path / "a.nii.gz", *phantom())
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    refused(path, "NII-GZIP", "stops before its end")
    path.write_bytes(good[:-8] + bytes(8))
    refused(path, "NII-GZIP", "incorrect data check")


EMPTY_MEMBER = gzip.compress(b"", mtime=0)


@pytest.mark.parametrize(
    ("more", "gzipped", "alone"),
    [
        (b"", None, None),
        (EMPTY_MEMBER, None, "trailing_bytes"),
        (gzip.compress(b"more", mtime=0), "trailing_bytes", "trailing_bytes"),
        (b"junk", "trailing_bytes", "trailing_bytes"),
        (bytes(9), "trailing_bytes", "trailing_bytes"),
    ],
)
def test_what_follows_the_voxels_is_flagged_and_never_read_as_voxels(
    more, gzipped, alone, tmp_path
):
    raw = plain(tmp_path).read_bytes()
    members = gzip.compress(raw[:400]) + gzip.compress(raw[400:])
    for name, content, flags in (("b", members, gzipped), ("c", raw, alone)):
        path = tmp_path / name
        path.write_bytes(content + more)
        scan = read_image(path)
        np.testing.assert_array_equal(scan.image, phantom()[0])
        assert scan.attrs.get("flags") == flags


def test_a_file_of_more_than_twice_what_its_dimensions_say_is_refused(tmp_path):
    path = plain(tmp_path, np.zeros((300, 200, 200), np.int16), dim=[3, 200, 200, 8, 1, 1, 1, 1])
    refused(path, "NII-DIMS", "16777216 bytes or more follow the 640000 of 200 x 200 x 8 voxels")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [
        ((9, 6, 5), [3, 4, 6, 9]),  # one column too few
        ((9, 6, 5), [3, 5, 6, 8]),
        ((3, 9, 6, 5), [4, 5, 6, 9, 2]),
        ((2, 9, 6, 5), [3, 5, 6, 9]),  # four dimensions declared as three
    ],
)
def test_dimensions_too_small_for_the_file_are_refused(shape, dim, suffix, tmp_path):
    _, affine = phantom()
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    path = patch(save(tmp_path / "a.nii", values, affine), "dim", dim + [1] * (8 - len(dim)))
    if suffix == ".nii.gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    kept = 2 * int(np.prod(dim[1:]))
    refused(path, "NII-DIMS", f"{values.nbytes - kept} bytes follow the {kept} of ")


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, 0, 351, 352.5, -352])
def test_voxels_begin_behind_the_header(offset, tmp_path):
    refused(
        plain(tmp_path, vox_offset=offset), "NII-HEADER", "expected a whole number, at least 352"
    )


def test_voxels_of_a_pair_begin_where_the_header_says(tmp_path):
    volume, affine = phantom()
    path = save(tmp_path / "a.hdr", volume, affine, kind=nib.Nifti1Pair)
    image = path.with_suffix(".img")
    image.write_bytes(bytes(16) + image.read_bytes())
    patch(path, "vox_offset", 16)
    assert agrees(read_image(path), path)
    refused(patch(path, "vox_offset", -1), "NII-HEADER", "at byte -1, expected .* at least 0")


def test_extensions_are_passed_over_whatever_they_hold(tmp_path):
    volume, affine = phantom()
    image = nib.Nifti1Image(volume.T, affine)
    image.header.set_xyzt_units("mm")
    dicom = nib.nifti1.Nifti1Extension("dicom", b"PatientName CANARY7Q" * 60)
    image.header.extensions.append(dicom)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(scan.image, volume)
    assert "CANARY" not in repr(scan.to_dict())


def test_a_header_that_claims_too_much_allocates_nothing(tmp_path):
    path = save(tmp_path / "a.nii", *phantom())
    patch(path, "dim", [3, 2000, 2000, 1000, 1, 1, 1, 1])
    refused(path, "NII-TRUNCATED", "772 bytes, expected 8000000352")
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "NII-TRUNCATED", "expected 8000000352")
    patch(path, "dim", [3, 32767, 32767, 32767, 1, 1, 1, 1])
    refused(path, "NII-TOO-LARGE", "32767 x 32767 x 32767 voxels of 2 bytes take 65530.00 GiB")
    refused(save(tmp_path / "c.nii", *phantom()), "NII-TOO-LARGE", "at most 0.00", max_bytes=100)


@pytest.mark.parametrize("dim", [[0] * 8, [3, 5, 0, 7, 1, 1, 1, 1], [9] * 8, [3, -4, 6, 7] * 2])
def test_dimensions_that_make_no_image_are_refused(dim, tmp_path):
    refused(patch(save(tmp_path / "a.nii", *phantom()), "dim", dim), "NII-DIMS", "make no image")


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (32, "complex64"),
        (128, "RGB"),
        (2304, "RGB"),
        (1, "type bit .code 1"),
        (1536, "1536"),
        (77, "unknown .code 77"),
    ],
)
def test_voxels_that_are_no_real_numbers_are_refused(code, match, tmp_path):
    refused(patch(save(tmp_path / "a.nii", *phantom()), "datatype", code), "NII-DTYPE", match)


def test_five_dimensions_are_refused_and_axes_of_one_are_dropped(tmp_path):
    volume, affine = phantom()
    path = save(tmp_path / "a.nii", volume[None, None], affine)
    assert read_image(path).image.dims == ("z", "y", "x")
    vectors = save(tmp_path / "b.nii", np.stack([volume] * 3)[:, None], affine)
    refused(vectors, "NII-5D", "5 dimensions, 5 x 6 x 7 x 1 x 3.* state fifth_axis: echo")
    deeper = save(tmp_path / "c.nii", np.stack([volume] * 3)[:, None, None], affine)
    assert "fifth_axis" not in refused(deeper, "NII-5D", "6 dimensions").fix


@pytest.mark.parametrize("n_times", [1, 4])
def test_a_fifth_axis_is_taken_for_what_the_catalog_declares(n_times, tmp_path):
    _, affine = phantom()
    values = np.stack([[phantom(seed=9 * e + t)[0] for t in range(n_times)] for e in range(3)])
    path = save(tmp_path / "a.nii", values, affine)
    scan = read_image(path, policy=Policy(fifth_axis="echo"))
    schema.check(scan)
    assert scan.image.dims == ("echo", *(["time"] if n_times > 1 else []), "z", "y", "x")
    np.testing.assert_array_equal(scan.image, values.squeeze())
    assert scan.echo.values.tolist() == [1, 2, 3]
    assert agrees(scan, path)


def test_nan_is_counted_and_inf_refused(tmp_path):
    volume, affine = phantom()
    values = volume.astype(np.float32)
    values[1, 2, 3] = values[6, 5, 4] = np.nan
    scan = read_image(plain(tmp_path, values))
    assert (scan.attrs["n_nan"], scan.attrs["flags"]) == (2, "has_nan")
    values[0, 0, 0] = -np.inf
    refused(save(tmp_path / "b.nii", values, affine), "NII-INF", "1 of 210 voxels are infinite")


def test_half_a_pair_names_what_is_missing(tmp_path):
    path = save(tmp_path / "a.hdr", *phantom(), kind=nib.Nifti1Pair)
    assert agrees(read_image(path), path)
    upper = [
        (tmp_path / f"a.{end}").rename(tmp_path / f"B.{end.upper()}") for end in ("img", "hdr")
    ]
    np.testing.assert_array_equal(read_image(upper[1]).image, phantom()[0])
    upper[0].unlink()
    refusal = refused(upper[1], "NII-NO-PAIR", "file 1 is there, file 2 is not")
    assert refusal.files == (upper[1], tmp_path / "B.IMG")


@pytest.mark.parametrize("packed", ["hdr", "img", "hdr img"])
def test_a_pair_may_be_gzipped_in_part(packed, tmp_path):
    path = save(tmp_path / "a.hdr", *phantom(), kind=nib.Nifti1Pair)
    for end in packed.split():
        part = path.with_suffix(f".{end}")
        part.with_name(f"{part.name}.gz").write_bytes(gzip.compress(part.read_bytes()))
        part.unlink()
    head = path if path.exists() else path.with_name("a.hdr.gz")
    np.testing.assert_array_equal(read_image(head).image, phantom()[0])


def test_the_checksum_of_a_gzipped_header_counts_too(tmp_path):
    path = save(tmp_path / "a.hdr", *phantom(), kind=nib.Nifti1Pair)
    long = gzip.compress(path.read_bytes()[:348] + b"\1\0\0\0" + bytes(5000))
    packed = tmp_path / "a.hdr.gz"
    packed.write_bytes(long)
    np.testing.assert_array_equal(read_image(packed).image, phantom()[0])
    packed.write_bytes(long[:-8] + bytes(8))
    refused(packed, "NII-GZIP", "incorrect data check")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a"])
def test_content_decides_and_not_the_name(name, tmp_path):
    raw = plain(tmp_path, name="plain.nii").read_bytes()
    for content in (raw, gzip.compress(raw)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_image(tmp_path / name).image, phantom()[0])


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


HEADERS = {
    "nii": nib.Nifti1Image,
    "nii.gz": nib.Nifti2Image,
    "hdr": nib.Nifti1Pair,
    "analyze.hdr": nib.Spm2AnalyzeImage,
}
EDGES = (b"\0", b"\xff", b"\x7f\x80\0\0", b"\0\0\x80\x7f", b"\xff\x7f", b"\0\0\xc0\x7f", b"\x01")


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_header_gives_a_sound_scan_or_a_refusal_and_nothing_else(data, tmp_path_factory):
    end = data.draw(st.sampled_from(sorted(HEADERS)))
    path = (folder := tmp_path_factory.mktemp("n")) / f"a.{end}"
    values = phantom()[0].astype(data.draw(st.sampled_from(["i2", "f4"])))
    nib.save(HEADERS[end](values.T, phantom()[1]), path)
    raw = gzip.decompress(path.read_bytes()) if end == "nii.gz" else path.read_bytes()
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(40, min(len(raw), 560) - 1))
        bits = data.draw(st.one_of(st.sampled_from(EDGES), st.binary(min_size=1, max_size=8)))
        damaged[at : at + len(bits)] = bits[: len(raw) - at]
    path.write_bytes(gzip.compress(bytes(damaged)) if end == "nii.gz" else bytes(damaged))
    policy = data.draw(st.sampled_from([Policy(), EVERYTHING]))
    image = outcome(read_image, path, policy=policy, max_bytes=1 << 20)
    labels = outcome(read_labels, path, name="labels", policy=policy, max_bytes=1 << 20)
    if isinstance(image, Refused):
        assert str(folder / "a.") in image.text(str)
        assert str(folder) not in str(image)
    else:
        schema.check(image)
        with np.errstate(invalid="ignore"):  # damage makes NaN that signal
            n_finite = int(np.isfinite(schema.decode(image.image)).sum())
        assert n_finite + image.attrs.get("n_nan", 0) == image.image.size
    assert isinstance(labels, Refused) or labels.dtype.kind in "iu"


EVERYTHING = Policy(
    accept=frozenset({"NII-NO-ORIENT", "NII-UNITS"}), prefer="sform", fifth_axis="echo"
)


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


@pytest.mark.parametrize("value", [1e30, 2.0**53 + 2, 1e6 + 0.5])
def test_numbers_that_name_no_label_are_refused(value, tmp_path):
    values = np.where(phantom()[0] > 1000, value, 0.0)
    with pytest.raises(Refused, match="no whole numbers"):
        read_labels(plain(tmp_path, values), name="labels")


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

SCT = {  # code, or type, sizes as stored (x, y, z, time), flags
    "dmri/dmri": ("int16", (40, 42, 5, 7), ""),
    "fmri/fmri_r": ("float64", (34, 34, 6, 30), ""),
    "mt/mt0": ("int16", (40, 40, 5), ""),
    "mt/mt0_seg": ("uint8", (40, 40, 5), ""),
    "mt/mtr": "NII-INF",
    "mt/warp_template2mt": "NII-5D",
    "t1/t1w": ("int16", (42, 76, 77), ""),
    "t1/t1w_seg-manual": ("uint8", (42, 76, 77), "units_unknown"),
    "t2/t2": ("int16", (60, 55, 52), ""),
    "t2/t2_seg-manual": ("uint8", (60, 55, 52), "units_unknown"),
    "t2/t2_seg-manual_labeled": ("float64", (60, 55, 52), ""),
    "t2s/t2s": ("float32", (49, 54, 9), ""),
    "t2s/t2s_gmseg_manual": ("int16", (49, 54, 9), ""),
    "t2s/t2s_seg-deepseg": ("int64", (49, 54, 9), "units_unknown"),
}


def ends_as(path, expected):
    """Whether a file is refused with the code expected, or read as nibabel reads it, with the flags expected."""
    if isinstance(expected, str):
        refused(path, expected, "file 1")
        return
    scan = read_image(path)
    dtype, sizes, flags = expected
    assert agrees(scan, path)
    schema.check(scan)
    assert (str(scan.image.dtype), scan.attrs.get("flags", "")) == (dtype, flags)
    assert sorted(scan.image.shape) == sorted(sizes)


def test_every_odd_file_of_the_spinal_cord_ends_as_it_should(shared):
    folder = shared / "sct-nifti"
    files = {
        p.relative_to(folder).as_posix().removesuffix(".nii.gz"): p
        for p in folder.rglob("*.nii.gz")
    }
    assert files.keys() == SCT.keys()
    for name, path in files.items():
        ends_as(path, SCT[name])


BUNDLED = {
    "analyze.hdr": "NII-NO-ORIENT",
    "anatomical.nii": ("int16", (33, 41, 25), ""),
    "example4d.nii.gz": ("int16", (128, 96, 24, 2), "time_implausible"),
    "example_nifti2.nii.gz": ("int16", (32, 20, 12, 2), "time_implausible"),
    "functional.nii": ("int16", (17, 21, 3, 20), ""),
    "nifti1.hdr": "NII-NO-PAIR",
    "nifti2.hdr": "NII-NO-PAIR",
    "reoriented_anat_moved.nii": ("float32", (21, 26, 22), ""),
    "resampled_anat_moved.nii": ("float32", (17, 21, 3), "has_nan"),
    "row_major.dconn.nii": "NII-5D",
    "standard.nii.gz": ("uint8", (4, 5, 7), "units_unknown"),
}


def test_every_file_that_comes_with_nibabel_ends_as_it_should():
    folder = Path(nib.__file__).parent / "tests" / "data"
    files = [p for p in sorted(folder.glob("*")) if p.is_file()]
    if not files:
        pytest.skip("this nibabel came without its test files")
    known = [
        p for p in files if is_nifti(p.read_bytes()[:4096]) or is_analyze(p.read_bytes()[:4096])
    ]
    assert {p.name for p in known} >= BUNDLED.keys()
    for path in files:
        if path.name in BUNDLED:
            ends_as(path, BUNDLED[path.name])
            continue
        other = outcome(read_image, path)  # another format, or a file that a later nibabel brings
        assert isinstance(other, Refused) or other.image.size


def test_references_of_other_converters_are_read_as_nibabel_reads_them(shared):
    sets = ("dcm-qa", "dicom2nifti-samples", "dcmstack-multiecho")
    files = sorted(p for name in sets for p in (shared / name).rglob("*.nii.gz"))
    assert len(files) > 30
    codes = {"two_vector_vol.nii.gz": "NII-5D", "two_vector_vol_meta.nii.gz": "NII-5D"}
    for path in files:
        code = "NII-DTYPE" if "rgb" in path.parts else codes.get(path.name)
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
