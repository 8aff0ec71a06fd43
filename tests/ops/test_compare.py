"""Comparisons equal NumPy, SciPy, scikit-learn and scikit-image, the same bits for every chunking."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy.spatial.distance import cdist
from skimage.metrics import structural_similarity
from sklearn.metrics import mutual_info_score

from cohort.grid import GridError
from cohort.ops import compare

IMAGES = (compare.mae, compare.mse, compare.ncc, compare.mutual_information)
MASKS = (compare.iou, compare.dice, compare.hausdorff_mm, compare.surface_distance_mm)


@st.composite
def two(draw: st.DrawFn) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None]:
    """Images of different dtypes, somewhat alike, and a mask or none."""
    a = draw(strategies.images())
    noise = draw(strategies.images())
    dtype = np.dtype(draw(st.sampled_from(strategies.DTYPES)))
    values = np.resize(noise.values, a.shape).astype(float) * draw(st.sampled_from([0, 0.2, 1]))
    values += a.values
    if dtype.kind in "iu":
        values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    mask = draw(st.none() | strategies.masks(shape=a.shape))
    return a, strategies.scan(values.astype(dtype)), mask


def inside(a, b, mask):
    """Values of both in the mask, as float64."""
    where = np.ones(a.shape, bool) if mask is None else mask.values
    return a.values[where].astype(float), b.values[where].astype(float)


def same_bits_lazily(data, function, *arrays, **more):
    """What a function gives for arrays in memory; it has to be the same for any chunks, and lazy."""
    found = function(*arrays, **more)
    lazy = data.draw(strategies.chunked(*arrays, *more.values()))
    with strategies.nothing_computed():
        later = function(*lazy[: len(arrays)], **dict(zip(more, lazy[len(arrays) :], strict=True)))
    np.testing.assert_array_equal(later.values, found.values)
    assert found.attrs.keys() == later.attrs.keys() == {"units"}
    return found


@given(st.data(), two())
@settings(max_examples=25)
def test_errors_and_correlation_equal_numpy(data, given_):
    a, b, mask = given_
    more = {} if mask is None else {"mask": mask}
    x, y = inside(a, b, mask)
    if not x.size:
        assert np.isnan(compare.mae(a, b, mask=mask))
        assert np.isnan(compare.ncc(a, b, mask=mask))
        return
    off = np.abs(x - y)
    mae, mse, ncc = (same_bits_lazily(data, f, a, b, **more) for f in IMAGES[:3])
    np.testing.assert_allclose(mae, off.mean(), rtol=1e-12)
    np.testing.assert_allclose(mse, (off**2).mean(), rtol=1e-12)
    assert (mae.attrs["units"], mse.attrs["units"]) == ("HU", "HU^2")
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(ncc) or abs(ncc) <= 1
    else:
        np.testing.assert_allclose(ncc, np.corrcoef(x, y)[0, 1], rtol=0, atol=1e-11)


@given(st.data(), two(), st.integers(1, 9))
@settings(max_examples=20)
def test_mutual_information_equals_scikit_learn(data, given_, bins):
    a, b, mask = given_
    more = {} if mask is None else {"mask": mask}
    x, y = inside(a, b, mask)
    if not x.size:
        assert np.isnan(compare.mutual_information(a, b, mask=mask))
        return
    counts, _, _ = np.histogram2d(x, y, bins)
    found = same_bits_lazily(
        data,
        lambda *arrays, **mask: compare.mutual_information(*arrays, bins=bins, **mask),
        a,
        b,
        **more,
    )
    np.testing.assert_allclose(found, mutual_info_score(None, None, contingency=counts), atol=1e-12)


@given(st.data(), st.sampled_from([3, 5, 7]), st.booleans())
@settings(max_examples=20)
def test_structural_similarity_equals_scikit_image(data, size, is_given):
    shape = data.draw(strategies.shapes(low=7, high=9))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a = strategies.scan(
        rng.normal(100, 30, shape).astype(data.draw(st.sampled_from(strategies.DTYPES)))
    )
    b = strategies.scan(np.abs(a.values + rng.normal(0, 9, shape)).astype(np.float32))
    x, y = a.values.astype(float), b.values.astype(float)
    span = 255.0 if is_given else max(x.max(), y.max()) - min(x.min(), y.min())
    found = same_bits_lazily(
        data,
        lambda *arrays: compare.ssim(*arrays, size=size, data_range=255.0 if is_given else None),
        a,
        b,
    )
    expected = structural_similarity(x, y, win_size=size, data_range=span)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert float(compare.ssim(a, a, size=size)) == pytest.approx(1.0, abs=1e-12)


@given(st.data(), strategies.masks(), st.booleans())
@settings(max_examples=20)
def test_overlap_and_surfaces_equal_their_definitions(data, a, shifted):
    b = data.draw(strategies.masks(shape=a.shape))
    if shifted:
        b = a.copy(data=np.roll(a.values, 1, -1))
    both, either = (a & b).values.sum(), (a | b).values.sum()
    iou, dice, far, mean = (same_bits_lazily(data, f, a, b) for f in MASKS)
    if not either:
        assert all(np.isnan(f) for f in (iou, dice, far, mean))
        return
    np.testing.assert_allclose(iou, both / either)
    np.testing.assert_allclose(dice, 2 * both / (a.values.sum() + b.values.sum()))
    if not a.any() or not b.any():
        assert np.isnan(far)
        assert np.isnan(mean)
        return
    step = [strategies.SPACING[d] for d in a.dims]
    points = [np.argwhere(m.values & ~ndi.binary_erosion(m.values)) * step for m in (a, b)]
    apart = cdist(*points)
    there, back = apart.min(axis=1), apart.min(axis=0)
    np.testing.assert_allclose(far, max(there.max(), back.max()), atol=1e-9)
    np.testing.assert_allclose(mean, np.concatenate([there, back]).mean(), atol=1e-9)
    assert far.attrs == mean.attrs == {"units": "mm"}


def test_rows_32_and_33_of_the_tutorials_as_ratios():
    """The published numbers, from arrays with these counts: 12892 / 17977, 7309 / 8200 and 606920 / 65536."""
    for both, either, published in (
        (12892, 17977, 0.7171385659453746),
        (7309, 8200, 0.8913414634146342),
    ):
        flat = np.arange(256 * 256).reshape(256, 256)
        a, b = (xr.DataArray(flat < n, dims=["y", "x"]) for n in (either, both))
        assert float(compare.iou(a, b)) == published
    total = np.zeros(65536, np.uint8)
    total[: 606920 // 200] = 200
    total[606920 // 200] = 606920 % 200
    image = xr.DataArray(total.reshape(256, 256), dims=["y", "x"])
    assert float(compare.mae(image * 0, image)) == 9.2608642578125


def test_unsigned_differences_do_not_wrap():
    a = strategies.scan(np.full((3, 3, 3), 10, np.uint8))
    b = strategies.scan(np.full((3, 3, 3), 250, np.uint8))
    assert float(compare.mae(a, b)) == float(compare.mae(b, a)) == 240.0
    assert float(compare.mse(a, b)) == 57600.0


@pytest.mark.parametrize("function", [*IMAGES, compare.ssim, *MASKS])
def test_unequal_grids_are_refused(function):
    a = strategies.scan(np.ones((7, 7, 8)) > 0)
    if function not in MASKS:
        a = a.astype(float)
    with pytest.raises(GridError, match="resample one onto the other"):
        function(a, a[..., 1:])
    moved = a.assign_coords(x=a.x + 0.5)
    with pytest.raises(GridError, match=r"mm apart"):
        function(a, moved)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"size": 4}, "size is 4, expected an odd number from 3 to the 7 voxels"),
        ({"size": 9}, "size is 9, expected an odd number from 3 to the 7 voxels"),
        ({"data_range": 0}, "data_range is 0, expected a positive number"),
    ],
)
def test_windows_that_do_not_fit_are_refused(more, says):
    a = strategies.scan(np.ones((7, 8, 8)))
    with pytest.raises(ValueError, match=says):
        compare.ssim(a, a, **more)


@given(two())
def test_an_image_is_like_itself(given_):
    a, _, mask = given_
    assume(mask is None or mask.any())
    assert float(compare.mae(a, a, mask=mask)) == 0.0
    found = float(compare.ncc(a, a, mask=mask))
    assert np.isnan(found) or found == pytest.approx(1.0, abs=1e-12)
