"""Filters against SciPy on a volume of the size of a head, one thread, results equal."""

from collections.abc import Callable, Iterator

import numpy as np
import xarray as xr
from run import Row, best
from scipy import ndimage as ndi

from cohort.ops import filters


def head() -> xr.DataArray:
    """128 x 256 x 256 int16: an ellipsoid of tissue in a brighter shell, air around it, noise everywhere."""
    shape, mm = (128, 256, 256), {"z": 1.5, "y": 1.0, "x": 1.0}
    radii = (
        (u / r) ** 2
        for u, r in zip(np.ogrid[-1:1:128j, -1:1:256j, -1:1:256j], (0.9, 0.85, 0.7), strict=True)
    )
    away = sum(radii)
    tissue = np.where(away < 0.8, 600.0, np.where(away < 1.0, 1100.0, 0.0))
    noisy = tissue + np.random.default_rng(0).normal(0.0, 40.0, shape)
    coords = {d: mm[d] * np.arange(n) for d, n in zip("zyx", shape, strict=True)}
    return xr.DataArray(noisy.round().astype(np.int16), dims=list("zyx"), coords=coords)


def compared(
    name: str,
    ours: Callable[[], xr.DataArray],
    rival: str,
    oracle: Callable[[], np.ndarray],
    target: float,
    tolerance: float = 0.0,
) -> Row:
    """One row; the first call compiles and is compared."""
    expected = oracle()
    np.testing.assert_allclose(ours(), expected, rtol=tolerance, atol=1e3 * tolerance)
    note = f"within {tolerance:g}" if tolerance else "equal"
    return Row(f"ops/{name}", best(ours), rival, best(oracle), target, note)


def bench_filters() -> Iterator[Row]:
    """The two rows that have a bound, and the others for comparison."""
    image = head()
    data, single = image.to_numpy(), image.to_numpy().astype(np.float32)
    weights = np.random.default_rng(0).normal(size=(3, 3, 3))
    yield compared(
        "median-size-3",
        lambda: filters.median(image, size=3),
        "scipy median_filter",
        lambda: ndi.median_filter(data, 3),
        3.0,
    )
    yield compared(
        "gaussian-sigma-1",
        lambda: filters.gaussian(image, sigma=1.0),
        "scipy gaussian_filter on the float32 cast",
        lambda: ndi.gaussian_filter(single, 1.0),
        1.8,
    )
    yield compared(
        "maximum-size-5",
        lambda: filters.maximum(image, size=5),
        "scipy maximum_filter",
        lambda: ndi.maximum_filter(data, 5),
        1.0,
    )
    yield compared(
        "uniform-size-5",
        lambda: filters.uniform(image, size=5),
        "scipy uniform_filter on the float32 cast",
        lambda: ndi.uniform_filter(single, 5),
        1.0,
        1e-5,
    )
    yield compared(
        "convolve-3x3x3",
        lambda: filters.convolve(image, weights=weights),
        "scipy convolve on the float32 cast",
        lambda: ndi.convolve(single, weights),
        1.0,
    )
    yield compared(
        "gradient_magnitude",
        lambda: filters.gradient_magnitude(image),
        "scipy generic_gradient_magnitude, sobel, on the float32 cast",
        lambda: ndi.generic_gradient_magnitude(single, ndi.sobel),
        1.0,
    )
