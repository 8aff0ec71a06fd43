"""Synthetic noise and deformation, of stated size, in mm: the same bits for any chunking, grain and number of workers.

Random numbers belong to voxels: they follow from the seed and the voxel's place on the grid alone.
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import fields
from cohort.ops import graph, measure
from cohort.ops.layout import check_image, layout_of, unit_of
from cohort.ops.sampling import dtype_of, interpolable, order_of

_STREAMS = 1 << 31
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
    stream : int, 0 to 2**31 - 1
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
        data = graph.map_parts(
            fields.noise,
            array,
            chunks=_space_chunks(array),
            needed=_nothing,
            dtype=dtype,
            params={
                "std": float(std),
                "correlation": tuple(lengths.get(d, 0.0) for d in space),
                "seed": int(seed),
                "stream": int(stream) + 2 * _STREAMS * number,
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


def elastic(
    image: xr.DataArray,
    *,
    alpha_mm: float,
    sigma_mm: float,
    seed: int,
    order: int | None = None,
    fill: float = 0.0,
    min_jacobian: float = 0.2,
) -> xr.DataArray:
    """Deform an image smoothly and at random, for augmentation, or to try a registration on with known truth.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        Positions along leading dims are deformed alike.
    alpha_mm : float, >= 0
        Standard deviation of the displacement along each axis; none is beyond six times that.
    sigma_mm : float, > 0
        Standard deviation of the Gaussian by which the displacements are smooth: the larger, the smoother.
    seed : int, 0 to 2**64 - 1
    order, fill
        As in `space.affine`.
    min_jacobian : float, 0 to 1
        Where the deformation would leave less than this share of a voxel's volume, or fold, all of it is made smaller until it
        does not.

    Returns
    -------
    DataArray, shape of `image`
        ``image`` at ``voxel + displacement_mm(image, ...)``; order 0: its dtype, else float32 or float64 as `space.affine`. Coordinates,
        attributes and chunks of `image`; the same bits for every chunking. Lazy if the image is.

    Raises
    ------
    ValueError
        If a number is out of its range, or order and fill as in `space.affine`.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    After Simard et al. 2003, doi:10.1109/ICDAR.2003.1227801, whose displacements are uniform noise, smoothed, times a number
    without a unit.
    """
    check_image("image", image)
    order = order_of(image, order)
    bend, share = _bend(image, alpha_mm, sigma_mm, seed, min_jacobian)
    space = layout_of("image", image).space
    shape = tuple(image.sizes[d] for d in space)
    dtype = dtype_of(image, order, fill)
    data = graph.map_parts(
        fields.deformed,
        interpolable(image, order),
        chunks=_space_chunks(image),
        needed=partial(fields.needed, bend, shape, order),
        dtype=dtype,
        numbers={"share": share},
        params={"deformation": bend, "shape": shape, "order": order, "fill": fill, "dtype": dtype},
    )
    return image.copy(deep=False, data=data)


def displacement_mm(
    like: xr.DataArray,
    *,
    alpha_mm: float,
    sigma_mm: float,
    seed: int,
    min_jacobian: float = 0.2,
) -> xr.DataArray:
    """Where each voxel of what `elastic` gives comes from, less where it is.

    Returns
    -------
    DataArray, shape (axis, z, y, x), float64, mm
        Along ``axis``, the array's own spatial dims. Lazy if `like` is.

    Raises
    ------
    ValueError, GridError
        As `elastic`.
    """
    bend, share = _bend(like, alpha_mm, sigma_mm, seed, min_jacobian)
    space = layout_of("like", like).space
    plain = like.isel(dict.fromkeys(layout_of("like", like).lead, 0), drop=True)
    found = []
    for axis in range(len(space)):
        data = graph.map_parts(
            fields.displaced,
            plain,
            chunks=_space_chunks(plain),
            needed=_nothing,
            dtype=np.float64,
            numbers={"share": share},
            params={"deformation": bend, "axis": axis},
        )
        found.append(plain.copy(deep=False, data=data))
    whole = xr.concat(found, dim="axis").assign_coords(axis=list(space))
    whole.attrs = {"units": "mm"}
    return whole.rename("displacement")


def _bend(
    like: xr.DataArray, alpha_mm: float, sigma_mm: float, seed: int, min_jacobian: float
) -> tuple[fields.Deformation, xr.DataArray]:
    """The deformation, and how much of it is allowed."""
    layout = layout_of("like", like)
    _check_number("alpha_mm", alpha_mm)
    _check_whole("seed", seed, 1 << 64)
    if not 0 < sigma_mm < math.inf:
        raise ValueError(f"sigma_mm is {sigma_mm}, expected a positive number")
    if not 0 <= min_jacobian < 1:
        raise ValueError(f"min_jacobian is {min_jacobian}, expected 0 to less than 1")
    lengths = _lengths(like, "sigma_mm", sigma_mm, most=fields.LONGEST / math.sqrt(2))
    spacing = grid.spacing_mm(like, layout.space)
    bend = fields.Deformation(
        float(alpha_mm),
        tuple(lengths[d] for d in layout.space),
        tuple(spacing[d] for d in layout.space),
        int(seed),
    )
    plain = like.isel(dict.fromkeys(layout.lead, 0), drop=True)
    shares = graph.map_parts(
        fields.largest_share,
        plain,
        chunks=_space_chunks(plain),
        needed=_nothing,
        dtype=np.float64,
        params={"deformation": bend, "least": float(min_jacobian)},
    )
    return bend, measure.minimum_in(plain.copy(deep=False, data=shares))


def _space_chunks(array: xr.DataArray) -> tuple[tuple[int, ...], ...]:
    space = layout_of("array", array).space
    if array.chunks is None:
        return tuple((array.sizes[d],) for d in space)
    return tuple(tuple(array.chunksizes[d]) for d in space)


def _nothing(start: object, size: object) -> None:
    """Parts of the array that a block of noise needs."""


def _lengths(
    like: xr.DataArray,
    name: str,
    mm: float | Mapping[str, float] | None,
    *,
    most: float = fields.LONGEST,
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
            if found[dim] > most:
                raise ValueError(
                    f"{name} is {length} along {dim!r}, which is {found[dim]:.4g} voxels, expected at most {most:g}: "
                    "make it on a coarser grid, and bring that here with space.resample"
                )
    return found


def _check_number(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is {value}, expected a finite number of at least 0")


def _check_whole(name: str, value: int, above: int) -> None:
    if isinstance(value, bool) or value != int(value) or not 0 <= value < above:
        raise ValueError(f"{name} is {value!r}, expected a whole number from 0 to {above - 1}")
