"""What the viewer is given of a scan: the right voxels in the right place, few enough, and no more read than that takes."""

import base64
import gzip

import dask.array as da
import nibabel as nib
import numpy as np
import pytest
import skimage.measure
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort import grid, schema
from cohort.reporting import scanplanes, viewer

STEPS = st.sampled_from([0.5, 1.0, 1.25, 3.0])
SIZES = st.integers(1, 40)


def scan(voxels: np.ndarray, affine: np.ndarray) -> xr.DataArray:
    return schema.make_scan(voxels, affine)["image"]


def placed(spacing) -> np.ndarray:
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-11.0, 7.5, 3.25]
    return affine


@given(st.tuples(SIZES, SIZES, SIZES), st.tuples(STEPS, STEPS, STEPS), st.integers(1, 5000))
def test_a_sampling_never_has_more_voxels_than_asked_and_the_finest_axis_goes_first(
    shape, mm, most
):
    sizes, steps = dict(zip("zyx", shape, strict=True)), dict(zip("zyx", mm, strict=True))
    sample = viewer.sampling(sizes, steps, 2, most=most)
    assert np.prod(list(sample.shape.values())) <= most
    assert not sample.is_crop
    for d, f in sample.factor.items():
        # Whoever was averaged last had the finest steps of those that had voxels left.
        others = [e for e in "zyx" if sample.factor[e] < sizes[e] and e != d]
        assert f == 1 or all(steps[d] * (f - 1) <= steps[e] * sample.factor[e] for e in others)


@given(
    st.tuples(*[st.integers(1, 9)] * 3),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.integers(0, 2**32 - 1),
)
def test_a_mean_is_skimages_and_lies_in_the_middle_of_its_voxels(blocks, factors, seed):
    shape = tuple(b * f for b, f in zip(blocks, factors, strict=True))
    voxels = np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)
    image = scan(voxels, placed((1.0, 2.0, 3.0)))
    whole = dict(zip("zyx", shape, strict=True))
    sample = viewer.Sampling(
        whole, dict.fromkeys("zyx", 0), whole, dict(zip("zyx", factors, strict=True))
    )
    expected = skimage.measure.block_reduce(voxels.astype(np.float64), factors, np.mean)
    np.testing.assert_allclose(viewer.block_mean(image, sample), expected, rtol=1e-6, atol=1e-4)
    # The world position of each block is the mean of those of its voxels.
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., ::-1]
    world = nib.affines.apply_affine(grid.affine_of(image), index)
    middles = skimage.measure.block_reduce(world, (*factors, 1), np.mean)
    small = np.stack(np.meshgrid(*map(np.arange, blocks), indexing="ij"), -1)[..., ::-1]
    found = nib.affines.apply_affine(sample.affine(grid.affine_of(image)), small)
    np.testing.assert_allclose(found, middles, atol=1e-9)


def test_tiles_change_nothing_and_a_block_at_the_edge_is_the_mean_of_what_there_is(monkeypatch):
    voxels = np.random.default_rng(0).normal(size=(23, 31, 17)).astype(np.float32)
    voxels[4, 5, 6] = np.nan
    voxels[:3, :3, :2] = np.nan
    image = scan(voxels, np.eye(4))
    whole = dict(image.sizes)
    sample = viewer.Sampling(whole, dict.fromkeys("zyx", 0), whole, {"z": 3, "y": 3, "x": 2})
    once = viewer.block_mean(image, sample)
    monkeypatch.setattr(viewer, "TILE_BYTES", 1)
    np.testing.assert_array_equal(viewer.block_mean(image, sample), once)
    assert once.shape == (8, 11, 9)
    assert np.isnan(once[0, 0, 0])
    assert once[7, 10, 8] == pytest.approx(voxels[21:, 30:, 16:].mean())
    assert once[1, 1, 3] == pytest.approx(np.nanmean(voxels[3:6, 3:6, 6:8]))


def test_labels_are_picked_never_mixed():
    labels = scan(np.random.default_rng(1).choice([0, 7, 9], (9, 8, 7)).astype(np.int16), np.eye(4))
    whole = dict(labels.sizes)
    sample = viewer.Sampling(whole, dict.fromkeys("zyx", 0), whole, {"z": 3, "y": 1, "x": 2})
    found = viewer.picked(labels, sample)
    np.testing.assert_array_equal(found, labels.to_numpy()[1::3, :, ::2])
    assert found.shape == tuple(sample.shape[d] for d in "zyx")


def test_smaller_masks_lie_over_larger_ones_and_labels_take_their_numbers_in_turn():
    large, small = np.zeros((2, 1, 6, 6), bool)
    large[:, :5, :5], small[:, 1, 1] = True, True
    labels = np.zeros((1, 6, 6), np.int16)
    labels[0, 5] = [0, 1, 2, 3, 4, 5]
    painted = viewer.painted([small, large, labels], [(1,), (2,), (3, 4)])
    assert painted.dtype == np.uint8
    assert painted[0, 1, 1] == 1
    assert painted[0, 0, 0] == 2
    assert painted[0, 5].tolist() == [0, 3, 4, 3, 4, 3]


@given(
    st.sampled_from([np.float32, np.float64]),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.integers(0, 99),
)
def test_a_nifti_has_the_numbers_to_a_part_of_their_range_and_the_place(dtype, low, span, seed):
    values = (low + span * np.random.default_rng(seed).random((3, 4, 5))).astype(dtype)
    affine = placed((1.5, 2.0, 0.7))
    read = nib.Nifti1Image.from_bytes(viewer.nifti(values, affine))
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    reach = float(values.max()) - float(values.min())
    # Half a step of 65534, and what the header's float32 slope and intercept cost.
    allowed = reach / 131068 + 1e-6 * float(np.abs(values).max())
    assert np.abs(read.get_fdata().T - values).max() <= 1.01 * allowed


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 5.0])
def test_an_image_of_one_value_or_none_is_a_nifti(value):
    read = nib.Nifti1Image.from_bytes(
        viewer.nifti(np.full((2, 2, 2), value, np.float32), np.eye(4))
    )
    assert np.all(read.get_fdata() == (value if np.isfinite(value) else 0.0))


def test_integers_are_exact():
    values = np.arange(-30000, 30000, 7, dtype=np.float32)[:8000].reshape(20, 20, 20)
    read = nib.Nifti1Image.from_bytes(viewer.nifti(values, np.eye(4)))
    np.testing.assert_array_equal(read.get_fdata().T, values)
    assert read.get_data_dtype() == np.int16


def test_the_program_is_the_wheels_module_with_its_export_made_an_event():
    program = viewer.program()
    assert "export{" not in program.source[-200:]
    assert program.source.rstrip().endswith("}));")
    assert "Redistribution" in program.licence
    packed = viewer.packed(program.source.encode())
    kind, _, text = packed.partition(",")
    assert kind == "data:application/gzip;base64"
    assert gzip.decompress(base64.b64decode(text)).decode() == program.source


def test_without_the_wheel_there_is_a_sentence_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(viewer, "WHEEL", "no-such-distribution")
    with pytest.raises(viewer.ViewerError, match=r"pip install \"cohort\[notebook\]\""):
        viewer.program()


def test_a_wheel_of_another_form_is_refused(monkeypatch):
    monkeypatch.setattr(viewer, "WHEEL", "numpy")
    with pytest.raises(viewer.ViewerError, match=r"numpy \S+ has no widget.js"):
        viewer.program()


def test_no_page_can_be_larger_than_20_mb():
    noise = np.random.default_rng(0).bytes(1 << 20)
    grown = len(viewer.packed(noise)) / len(noise)  # noise does not shrink
    program = len(viewer.packed(viewer.program().source.encode()))
    assert 3 * viewer.MAX_VOXELS * grown + program + 1e6 < 20e6


class Vast:
    """A volume of 1300 voxels a side in chunks of 64 that lies nowhere, and counts the chunks that are read of it."""

    shape, dtype, ndim = (1300, 1300, 1300), np.dtype(np.int16), 3

    def __init__(self) -> None:
        self.chunks = 0

    def image(self) -> xr.DataArray:
        voxels = da.from_array(self, chunks=64, inline_array=True, asarray=False)
        at = {d: (d, np.arange(1300.0), {"spacing_mm": 1.0, "units": "mm"}) for d in "zyx"}
        return xr.DataArray(voxels, dims=tuple("zyx"), coords=at)

    def __getitem__(self, key):
        places = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        self.chunks += np.prod([np.unique(p // 64).size for p in places])
        return np.broadcast_to(
            places[0].reshape(places[0].shape + (1,) * sum(p.ndim for p in places[1:])),
            [n for p in places for n in p.shape],
        ).astype(np.int16)


def test_of_a_volume_of_4_gb_a_few_chunks_are_read():
    vast = Vast()
    image = vast.image()
    sample = viewer.sampling(image.sizes, grid.spacing_mm(image), 2)
    found = viewer.block_mean(image, sample)
    assert found.size == 161**3
    assert (found[:, 0, 0] == np.arange(569, 730)).all()
    assert vast.chunks < 2 * 4**3  # 161 voxels lie in 4 chunks an axis; some are read twice
    assert "its middle, 161 \N{MULTIPLICATION SIGN} 161" in scanplanes.shown(image, sample)


def test_planes_of_a_volume_of_4_gb_read_the_chunks_that_they_cut():
    vast = Vast()
    image = vast.image()
    for plane in ("axial", "coronal", "sagittal"):
        scanplanes.drawn(image, [], plane)
    assert vast.chunks <= 3 * 21**2
