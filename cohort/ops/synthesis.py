"""Synthetic noise and deformation, of stated size, in mm: the same bits for any chunking, grain and number of workers.

Random numbers belong to voxels: they follow from the seed and the voxel's place on the grid alone.
"""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import fields
from cohort.ops import graph
from cohort.ops.layout import check_image, layout_of, unit_of

_STREAMS = 1 << 32
"""Of one seed that a caller may ask for; positions along leading dims come on top."""


def noise(
    like: xr.DataArray,
    *,
    std: float,
    correlation_mm: float | Mapping[str, float] | None = None,
    seed: int,
    stream: int = 0,
) -> xr.DataArray:
    """Make Gaussian noise on the grid of an array.

    Parameters
    ----------
    like : DataArray, shape (..., z, y, x)
        Its values do not matter, and are not looked at.
    std : float, >= 0
        Standard deviation, in the unit of `like`.
    correlation_mm : float or {dim: float}, >= 0, optional
        Length L: voxels that are d mm apart correlate by ``exp(-d**2 / (2 L**2))``. None or 0: not at all.
    seed : int, 0 to 2**64 - 1
        The same seed and grid give the same numbers.
    stream : int, 0 to 2**32 - 1
        Noise of another stream has nothing to do with this.

    Returns
    -------
    DataArray, shape of `like`, float32 (float64 if `like` is)
        Unit, coordinates and chunks of `like`; positions along leading dims are independent. Lazy if `like` is.

    Raises
    ------
    ValueError
        If a number is negative, not finite or too large, or a length names a dim that the array lacks.
    GridError
        If a length is given and a coordinate is missing or irregular.

    Notes
    -----
    The variance and, at whole steps along an axis, the correlations are those asked for, as far as a finite sample shows them; a
    kernel that is the correlation itself would be too wide by the square root of two.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> like = xr.DataArray(np.zeros((64, 64, 64), np.float32), coords={d: 2.0 * np.arange(64) for d in "zyx"}, dims=list("zyx"))
    >>> found = noise(like, std=3.0, correlation_mm=4.0, seed=1)
    >>> bool(abs(float(found.std()) - 3) < 0.1), bool((found == noise(like.chunk({"z": 20}), std=3.0, correlation_mm=4.0, seed=1)).all())
    (True, True)
    """
    layout = layout_of("like", like)
    _check_number("std", std)
    _check_whole("seed", seed, 1 << 64)
    _check_whole("stream", stream, _STREAMS)
    lengths = _lengths(like, "correlation_mm", correlation_mm)
    dtype = np.dtype(np.float64 if like.dtype == np.float64 else np.float32)

    def made(array: xr.DataArray, number: int) -> xr.DataArray:
        if layout.lead and array.ndim > len(layout.space):
            dim = array.dims[0]
            parts = [
                made(array.isel({dim: i}), number * array.sizes[dim] + i)
                for i in range(array.sizes[dim])
            ]
            return xr.concat(parts, dim=dim)
        space = tuple(str(d) for d in array.dims)
        chunks = array.chunks or tuple((n,) for n in array.shape)
        data = graph.map_parts(
            fields.noise,
            array,
            chunks=chunks,
            needed=_nothing,
            dtype=dtype,
            params={
                "std": float(std),
                "correlation": tuple(lengths.get(d, 0.0) for d in space),
                "seed": int(seed),
                "stream": int(stream) + _STREAMS * number,
                "dtype": dtype,
            },
        )
        return array.copy(deep=False, data=data)

    found = made(like, 0)
    found.attrs = {"units": unit_of(like)}
    return found.assign_coords(like.coords).transpose(*like.dims)


def rician(image: xr.DataArray, *, std: float, seed: int) -> xr.DataArray:
    """Add the noise of a magnitude image: that of the real and of the imaginary part, each Gaussian of `std`.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        Without noise.
    std : float, >= 0
        In the unit of the image.
    seed : int, 0 to 2**64 - 1

    Returns
    -------
    DataArray, shape of `image`, float32 (float64 if `image` is)
        ``|image + n1 + i n2|``: never negative, Rayleigh distributed where the image is 0. Lazy if the image is.

    Raises
    ------
    ValueError
        If `std` is negative or not finite, or the seed too large.
    """
    check_image("image", image)
    real, imaginary = (noise(image, std=std, seed=seed, stream=stream) for stream in (0, 1))
    return graph.map_points(
        fields.rician, {"image": image, "real": real, "imaginary": imaginary}, dtype=real.dtype
    )


def _nothing(start: object, size: object) -> None:
    """Parts of the array that a block of noise needs."""


def _lengths(
    like: xr.DataArray, name: str, mm: float | Mapping[str, float] | None
) -> dict[str, float]:
    """Lengths in voxels, of the dims along which they are not 0."""
    space = layout_of("like", like).space
    by_dim = mm if isinstance(mm, Mapping) else dict.fromkeys(space, 0.0 if mm is None else mm)
    found = {}
    for dim, length in by_dim.items():
        if dim not in space:
            raise ValueError(f"{name} names {dim!r}, but the array has the spatial dims {space}")
        _check_number(f"{name} along {dim!r}", length)
        if length:
            found[dim] = float(length) / grid.spacing_mm(like, (dim,))[dim]
            if found[dim] > fields.LONGEST:
                raise ValueError(
                    f"{name} is {length} along {dim!r}, which is {found[dim]:.4g} voxels, expected at most {fields.LONGEST:g}: "
                    "make it on a coarser grid, and bring that here with space.resample"
                )
    return found


def _check_number(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, expected a finite number of at least 0")


def _check_whole(name: str, value: int, above: int) -> None:
    if isinstance(value, bool) or value != int(value) or not 0 <= value < above:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 0 to {above - 1}")
