"""A scan that leaves as NIfTI: the same voxels, numbers and places when it is read again, to the bit."""

import gzip

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.io.exports.nifti import write_nifti
from cohort.io.exports.place import ExportError
from cohort.io.nifti import read_image, read_labels
from cohort.io.policy import Policy
from cohort.io.store import Store

DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def affines():
    """Of headers: float32 rows, turned by any angle, axes in any order and direction."""

    def made(angles, spacing, origin, order, signs):
        turn = nib.eulerangles.euler2mat(*angles)
        linear = (turn @ np.diag(np.array(spacing) * signs))[:, list(order)]
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = linear, origin
        return affine.astype(np.float32).astype(np.float64)

    angle = st.sampled_from([0.0, 0.0, 0.2, -0.31, 0.7])
    return st.builds(
        made,
        st.tuples(angle, angle, angle),
        st.tuples(*[st.sampled_from([0.5, 0.9375, 1.1, 2.0, 3.27])] * 3),
        st.tuples(*[st.floats(-200, 200, width=32)] * 3),
        st.permutations(range(3)),
        st.tuples(*[st.sampled_from([-1, 1])] * 3),
    )


@given(
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    affine=affines(),
    frames=st.sampled_from([None, 2, 5]),
    scale=st.sampled_from([(1.0, 0.0), (0.5, -1024.0), (np.float32(0.1).item(), 3.0), (-2.0, 0.0)]),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_a_nifti_scan_comes_back_with_the_same_content(
    tmp_path_factory, data, dtype, affine, frames, scale, ending
):
    folder = tmp_path_factory.mktemp("there")
    shape = (5, 7, 4) if frames is None else (5, 7, 4, frames)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    kind = np.dtype(dtype)
    voxels = (
        rng.normal(size=shape).astype(kind)
        if kind.kind == "f"
        else rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    )
    header = nib.Nifti1Header()
    header.set_data_dtype(kind)
    header.set_data_shape(shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = 2.2
    header["scl_slope"], header["scl_inter"] = scale
    header["vox_offset"] = 352
    source = folder / "source.nii"
    source.write_bytes(header.binaryblock + bytes(4) + voxels.tobytes(order="F"))

    scan, out = read_image(source), folder / f"out{ending}"
    written = write_nifti(scan["image"], out)

    xr.testing.assert_identical(read_image(out)[["image", "affine"]], scan[["image", "affine"]])
    closest = nib.as_closest_canonical(nib.load(source))
    again = nib.as_closest_canonical(nib.load(out))
    assert nib.load(out).get_data_dtype() == kind
    np.testing.assert_array_equal(again.affine, closest.affine)
    raw, there = (np.asarray(i.dataobj.get_unscaled()) for i in (nib.load(source), nib.load(out)))
    np.testing.assert_array_equal(np.sort(raw, axis=None), np.sort(there, axis=None))
    np.testing.assert_array_equal(np.asarray(again.dataobj), np.asarray(closest.dataobj))
    assert written.timing is None


def test_what_a_header_said_in_float32_stays_nifti_1(tmp_path):
    """Flips of ingest make an affine that float32 does not hold; undone, it does."""
    affine = np.diag([-0.9371, 0.9371, 1.1, 1]).astype(np.float32).astype(float)
    affine[:3, 3] = np.float32([125.5061, -109.38977, -86.742615])
    image = nib.Nifti1Image(np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), affine)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "las.nii")
    store = Store(tmp_path / "store")
    before = store.write_scan("s", read_image(tmp_path / "las.nii"), {"stamp": "x"})
    scan = store.open_scan("s", decoded=False)["image"]
    assert (grid.affine_of(scan).astype(np.float32) != grid.affine_of(scan)).any()
    assert write_nifti(scan, tmp_path / "out.nii").version == "1"
    out = nib.load(tmp_path / "out.nii")
    np.testing.assert_array_equal(out.affine, affine)
    np.testing.assert_array_equal(out.get_fdata(), image.get_fdata())
    after = store.write_scan("again", read_image(tmp_path / "out.nii"), {"stamp": "x"})
    assert after["contents"] == before["contents"]


def oblique(dtype=np.int16, **coords):
    """A DICOM-like scan: directions and slope are no float32."""
    turn = nib.eulerangles.euler2mat(0.1, 0.2, -0.3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = (
        turn @ np.diag([0.976562, 0.976562, 3.27]),
        [-250, -250, -180.62],
    )
    leading = {name: xr.Variable(name, *value) for name, value in coords.items()}
    shape = (*(v.size for v in leading.values()), 4, 5, 6)
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    attrs = {"units": "HU", "scale_factor": 0.1, "add_offset": -1024.0}
    return schema.make_scan(values, affine, leading=leading, image_attrs=attrs)["image"]


def test_an_oblique_affine_and_a_slope_of_a_dicom_header_are_exact(tmp_path):
    image = oblique()
    written = write_nifti(image, tmp_path / "out.nii.gz")
    assert (written.version, written.off_mm) == ("2", 0.0)
    again = read_image(tmp_path / "out.nii.gz")["image"]
    np.testing.assert_array_equal(grid.affine_of(again), grid.affine_of(image))
    np.testing.assert_array_equal(again.values, image.values)
    assert (again.attrs["scale_factor"], again.attrs["add_offset"]) == (0.1, -1024.0)
    assert nib.load(tmp_path / "out.nii.gz").header["descrip"] == b"unit: HU"


def test_nifti_1_on_request_says_what_it_rounds(tmp_path):
    image = oblique()
    written = write_nifti(image, tmp_path / "out.nii", version="1")
    again = nib.load(tmp_path / "out.nii")
    assert isinstance(again.header, nib.Nifti1Header)
    moved = np.abs(again.affine - grid.affine_of(image)).max()
    assert 0 < moved <= written.off_mm < 1e-3


def test_even_times_are_a_repetition_time_and_uneven_ones_are_told(tmp_path):
    even = oblique(time=(0.5 + 0.04 * np.arange(3), {"units": "s"}))
    assert write_nifti(even, tmp_path / "even.nii").timing is None
    header = nib.load(tmp_path / "even.nii").header
    assert header["pixdim"][4] == pytest.approx(0.04)
    assert header["toffset"] == pytest.approx(0.5)
    assert header.get_xyzt_units() == ("mm", "sec")
    uneven = oblique(time=([0.0, 0.04, 0.09], {"units": "s"}))
    assert write_nifti(uneven, tmp_path / "uneven.nii").timing == [0.0, 0.04, 0.09]
    assert nib.load(tmp_path / "uneven.nii").header.get_xyzt_units() == ("mm", "unknown")
    frames = oblique(time=(np.arange(3.0), {"units": "frame"}))
    assert write_nifti(frames, tmp_path / "frames.nii").timing is None
    assert read_image(tmp_path / "frames.nii")["time"].attrs["units"] == "frame"


def test_echoes_are_a_fifth_axis(tmp_path):
    image = oblique(echo=(np.arange(1, 4), {"units": "1"}))
    write_nifti(image, tmp_path / "out.nii")
    assert nib.load(tmp_path / "out.nii").shape == (6, 5, 4, 1, 3)
    again = read_image(tmp_path / "out.nii", policy=Policy(fifth_axis="echo"))["image"]
    assert again.dims == ("echo", "z", "y", "x")
    np.testing.assert_array_equal(again.values, image.values)


@pytest.mark.parametrize(
    ("highest", "lowest", "becomes"),
    [
        (1, 0, "uint8"),
        (255, 0, "uint8"),
        (256, 0, "uint16"),
        (70_000, 0, "uint32"),
        (9, -1, "int8"),
    ],
)
def test_labels_become_the_smallest_integers(tmp_path, highest, lowest, becomes):
    values = np.zeros((3, 4, 5), np.int64)
    values[1, 2, 3], values[2, 2, 2] = highest, lowest
    image = oblique().isel(z=slice(3), y=slice(4), x=slice(5))
    labels = image.copy(data=values).rename("parts")
    labels.attrs.clear()
    assert write_nifti(labels, tmp_path / "out.nii").dtype == becomes
    assert nib.load(tmp_path / "out.nii").get_data_dtype() == becomes
    again = read_labels(tmp_path / "out.nii", name="labels")
    np.testing.assert_array_equal(again.values, values)
    mask = labels.copy(data=values > 0)
    assert write_nifti(mask, tmp_path / "mask.nii").dtype == "uint8"


def test_the_same_voxels_give_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(oblique(), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 544 + 2 * 4 * 5 * 6


def test_a_slab_at_a_time_is_the_whole(tmp_path, monkeypatch):
    image = oblique(time=(np.arange(3.0), {"units": "s"}))
    write_nifti(image, tmp_path / "whole.nii")
    monkeypatch.setattr("cohort.io.exports.nifti.SLAB_BYTES", 100)
    seen = []
    write_nifti(image, tmp_path / "slabs.nii", progress=seen.append)
    assert len(seen) == 12
    assert sum(seen) == image.nbytes
    assert (tmp_path / "whole.nii").read_bytes() == (tmp_path / "slabs.nii").read_bytes()


def test_what_has_no_nifti_form_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"out\.img: expected a name that ends in \.nii"):
        write_nifti(oblique(), tmp_path / "out.img")
    with pytest.raises(ExportError, match="image is complex64: NIfTI holds integers"):
        write_nifti(oblique(np.complex64), tmp_path / "out.nii")
    with pytest.raises(ExportError, match="dimension 'coil'"):
        write_nifti(oblique(coil=([1, 2], {})), tmp_path / "out.nii")
