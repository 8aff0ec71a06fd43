"""What property tests draw: shapes, chunkings, images, masks and labels. And how they look for a computation."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import numpy as np
import xarray as xr
from hypothesis import strategies as st

SPACING = {"z": 3.0, "y": 1.0, "x": 1.5}
"""Never isotropic, so that mixed-up axes show."""
DTYPES = (np.uint8, np.int16, np.uint16, np.float32, np.float64)


def scan(data: np.ndarray, *, lead: tuple[str, ...] = (), **attrs: object) -> xr.DataArray:
    """Array on an anisotropic grid that does not start at 0."""
    dims = (*lead, *"zyx"[3 - (data.ndim - len(lead)) :])
    coords = {
        d: (
            (d,),
            SPACING[d] * np.arange(n) - 7.0 * (i + 1),
            {"units": "mm", "spacing_mm": SPACING[d]},
        )
        for i, (d, n) in enumerate(zip(dims, data.shape, strict=True))
        if d in SPACING
    }
    return xr.DataArray(
        data, dims=dims, coords=coords, attrs={"units": "HU", **attrs}, name="image"
    )


@st.composite
def shapes(draw: st.DrawFn, *, low: int = 1, high: int = 12, ndim: int = 3) -> tuple[int, ...]:
    """Odd, small and unequal sizes."""
    return tuple(draw(st.integers(low, high)) for _ in range(ndim))


@st.composite
def chunk_sizes(draw: st.DrawFn, n: int, *, thin: bool = False) -> tuple[int, ...]:
    """Any chunks along one axis: whole, uneven, or one voxel thick."""
    if thin:
        return (1,) * n
    cuts = draw(st.sets(st.integers(1, n - 1), max_size=3)) if n > 1 else set()
    edges = [0, *sorted(cuts), n]
    return tuple(b - a for a, b in itertools.pairwise(edges))


@st.composite
def chunkings(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Any chunks of a shape; sometimes one voxel thick along one axis."""
    thin = draw(st.sampled_from([None, *range(len(shape))]))
    return tuple(draw(chunk_sizes(n, thin=i == thin)) for i, n in enumerate(shape))


@st.composite
def chunked(draw: st.DrawFn, *arrays: xr.DataArray) -> list[xr.DataArray]:
    """The arrays, each in chunks of its own."""
    return [a.chunk(dict(zip(a.dims, draw(chunkings(a.shape)), strict=True))) for a in arrays]


@st.composite
def images(draw: st.DrawFn, *, dtype: type | None = None, **sizes: int) -> xr.DataArray:
    """Image of random numbers, few of them different, so that ties happen."""
    shape, seed = draw(shapes(**sizes)), draw(st.integers(0, 2**32 - 1))
    dtype = np.dtype(dtype or draw(st.sampled_from(DTYPES)))
    values = np.random.default_rng(seed).normal(90.0, 60.0, shape)
    values = np.round(values * draw(st.sampled_from([1, 1 / 16]))) * draw(st.sampled_from([1, 16]))
    if dtype.kind in "iu":
        values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    return scan(values.astype(dtype))


@st.composite
def masks(draw: st.DrawFn, *, shape: tuple[int, ...] | None = None, **sizes: int) -> xr.DataArray:
    """Mask of noise or of blobs, from empty to full."""
    shape = draw(shapes(**sizes)) if shape is None else shape
    seed, share = (
        draw(st.integers(0, 2**32 - 1)),
        draw(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8, 0.97, 1.0])),
    )
    noise = np.random.default_rng(seed).random(shape)
    if draw(st.booleans()):
        for axis in range(len(shape)):
            noise = (noise + np.roll(noise, 1, axis)) / 2
        share = share if share in (0.0, 1.0) else 0.5 + (share - 0.5) / 4
    return scan(noise < share)


@contextmanager
def nothing_computed() -> Iterator[None]:
    """Whatever asks Dask for a result in here fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def assert_kept(result: xr.DataArray, source: xr.DataArray) -> None:
    """Dims, coordinates, attributes and chunks are those of `source`."""
    assert result.dims == source.dims
    assert result.chunks == source.chunks
    assert result.attrs == source.attrs
    assert set(result.coords) == set(source.coords)
    for name, coordinate in source.coords.items():
        xr.testing.assert_identical(result.coords[name], coordinate)


def tasks_per_block(result: xr.DataArray, source: xr.DataArray) -> float:
    """Tasks that lead from `source` to `result`, for each block of `source`."""
    return (len(dict(result.data.dask)) - len(dict(source.data.dask))) / source.data.npartitions
