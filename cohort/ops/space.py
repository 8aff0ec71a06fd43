"""Space: shifts, turns, affine maps and other grids. Everything is composed first and interpolated once.

A transform is a 4x4 matrix in world RAS+ mm that says where a point goes: scale 1.5 enlarges. (SciPy's functions take the
inverse, in voxels.) Compose with ``@``, the first to happen on the right: ``rotation(image, ...) @ translation(image, ...)``.

Orders are those of splines: 0 nearest, 1 linear, 2 to 5 B-splines. Masks and labels are order 0, which makes no new
value. A place within 1e-6 voxel of a voxel is that voxel, so the identity, shifts by whole voxels and turns by 90 degrees
of a cubic grid are exact.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import points
from cohort.ops import filters, graph
from cohort.ops.layout import check_image, layout_of
from cohort.ops.regions import regions
from cohort.ops.sampling import coordinates, on_grid, order_of, sampled, sizes_at
from cohort.ops.transforms import affine_of, centre_of, check_dim, rotation, translation
from cohort.ops.windows import FWHM_PER_SIGMA


def shift(
    image: xr.DataArray, *, mm: Mapping[str, float], order: int | None = None, fill: float = 0.0
) -> xr.DataArray:
    """Move an image on its grid, towards higher coordinates; see `translation` and `affine`.

    Raises ValueError and GridError as they do.

    Notes
    -----
    Equals ``scipy.ndimage.shift(image, voxels, order=order)`` within 1e-10, where a place is not within 1e-6 of a voxel.
    """
    return affine(image, translation(image, mm=mm), order=order, fill=fill)


def rotate(
    image: xr.DataArray,
    *,
    degrees: float,
    plane: Sequence[str],
    order: int | None = None,
    fill: float = 0.0,
) -> xr.DataArray:
    """Turn an image about the centre of its grid, from the first axis of `plane` towards the second; see `rotation` and `affine`.

    Raises ValueError and GridError as they do.

    Notes
    -----
    On a grid with equal steps along both axes it equals ``scipy.ndimage.rotate(image, degrees, axes, reshape=False)`` with the
    axes of ``plane=("y", "x")``, within 1e-10.
    """
    return affine(image, rotation(image, degrees=degrees, plane=plane), order=order, fill=fill)


def affine(
    image: xr.DataArray,
    matrix: xr.DataArray | np.ndarray | Sequence[Sequence[float]],
    *,
    like: xr.DataArray | None = None,
    order: int | None = None,
    fill: float = 0.0,
) -> xr.DataArray:
    """Move an image by a transform.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        Leading dims are looped over.
    matrix : (4, 4) array or DataArray
        World -> world, mm: where each point of the image goes.
    like : DataArray, shape (..., z, y, x), optional
        Whose grid (and chunks, if it is lazy) the result has; the image's own by default.
    order : 0 to 5, optional
        0 nearest, 1 linear, 3 cubic... By default 1; 0 for masks (bool) and for labels: integers of 32 bits and more, as
        `labels.label` gives them, or an array called ``labels``.
    fill : float
        Value outside the image, which ends at the centres of its outermost voxels.

    Returns
    -------
    DataArray, shape (..., z, y, x) of the grid
        Order 0: dtype of `image`; else float32 (float64 for float64 and integers of over 16 bits). Attributes of `image`.
        Nothing is computed if it is lazy; an output block reads only the part of the image that it needs, at orders 2 to 5 of
        its spline coefficients, which take one more pass along whole lines.

    Raises
    ------
    ValueError
        If the matrix is no invertible (4, 4) affine, takes a plane out of itself, the order is none of 0 to 5, or above 0
        for a mask.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    Equals ``scipy.ndimage.affine_transform(image, M[:3, :3], M[:3, 3], order=order, mode="constant", cval=fill)``, M being
    voxels of the result -> voxels of the image, within 1e-10 of the largest value, for every chunking; but places within
    1e-6 voxel of a voxel are that voxel. A NaN stays where it is at orders 0 and 1, and reaches all of its lines above.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> image = xr.DataArray([[1.0, 2.0, 3.0]], coords={"y": ("y", [0.0]), "x": [0.0, 1.0, 2.0]}, dims=["y", "x"])
    >>> image.y.attrs["spacing_mm"] = 1.0
    >>> affine(image, translation(image, mm={"x": 1})).values.tolist()
    [[0.0, 1.0, 2.0]]
    """
    check_image("image", image)
    order = order_of(image, order)
    world = np.asarray(matrix, float)
    if world.shape != (4, 4) or not np.isfinite(world).all() or (world[3] != (0, 0, 0, 1)).any():
        raise ValueError(
            f"matrix is {np.shape(matrix)}, expected a (4, 4) affine of finite numbers, mm -> mm"
        )
    if abs(np.linalg.det(world[:3, :3])) < 1e-12:
        raise ValueError(f"matrix squashes space: its determinant is {np.linalg.det(world):.3g}")
    target = image if like is None else like
    space, others = layout_of("image", image).space, layout_of("like", target).space
    if set(space) != set(others):
        raise ValueError(
            f"image has the spatial dims {space}, the grid {others}: expected the same"
        )
    voxels = np.linalg.solve(world @ affine_of(image), affine_of(target))
    sizes = {d: target.sizes[d] for d in space}
    data = sampled(image, voxels, sizes, target, order=order, fill=fill, to_edge=False)
    if like is None:
        return image.copy(deep=False, data=data)
    return on_grid(image, data, {d: like.coords[d] for d in (*sizes, "grid") if d in like.coords})


def resample(
    image: xr.DataArray,
    *,
    spacing_mm: float | Mapping[str, float] | None = None,
    like: xr.DataArray | None = None,
    order: int | None = None,
    antialias: bool = True,
    fill: float = 0.0,
) -> xr.DataArray:
    """Bring an image to another spacing, or onto the grid of another array.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    spacing_mm : float or {dim: float}, > 0
        New spacing; dims that are not named keep theirs. The new grid has the centre of the old one and its field of view, to
        half a new voxel.
    like : DataArray
        Instead: whose grid the result has.
    order, fill
        As in `affine`.
    antialias : bool
        Whether an image (order 1 and above) that becomes coarser is smoothed first, along the axes where it does, by a Gaussian of
        full width at half maximum ``sqrt(new**2 - old**2)`` mm: as if the scanner had measured larger voxels [Cardoso et al.
        2015, doi:10.1007/978-3-319-24571-3_81].

    Returns
    -------
    DataArray, shape (..., z, y, x) of the grid
        As `affine` gives it. With `spacing_mm` the half voxel around the outermost centres belongs to the image and has their values;
        with `like` the image ends at these centres.

    Raises
    ------
    ValueError
        If not exactly one of `spacing_mm` and `like` is given, or as in `affine`.
    GridError
        If a coordinate is missing or irregular.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> image = xr.DataArray(np.arange(8.0), coords={"x": np.arange(8.0)}, dims="x").expand_dims(y=[0.0], z=[0.0])
    >>> image = grid.with_affine(image.transpose("z", "y", "x"), np.eye(4))
    >>> resample(image, spacing_mm={"x": 2}, antialias=False).values.tolist()
    [[[0.5, 2.5, 4.5, 6.5]]]
    """
    check_image("image", image)
    if (spacing_mm is None) == (like is None):
        raise ValueError("resample() takes exactly one of spacing_mm and like")
    order = order_of(image, order)
    smooth = antialias and order > 0
    space = layout_of("image", image).space
    old = {str(d): mm for d, mm in grid.spacing_mm(image, space).items()}
    if like is not None:
        layout_of("like", like)
        if smooth:
            image = _smoothed(image, old, _seen_by(image, affine_of(like)))
        return affine(image, np.eye(4), like=like, order=order, fill=fill)
    wanted = spacing_mm if isinstance(spacing_mm, Mapping) else dict.fromkeys(space, spacing_mm)
    new = dict(old)
    for dim, mm in wanted.items():
        check_dim(image, "spacing_mm", dim)
        if not 0 < float(mm) < math.inf:  # type: ignore[arg-type]
            raise ValueError(f"spacing_mm is {mm} along {dim!r}, expected a positive number")
        new[dim] = float(mm)  # type: ignore[arg-type]
    sizes = sizes_at({d: image.sizes[d] for d in space}, old, new)
    voxels = np.eye(4)
    for dim in space:
        i, ratio = "xyz".index(dim), new[dim] / old[dim]
        voxels[i, i] = ratio
        voxels[i, 3] = ((image.sizes[dim] - 1) - (sizes[dim] - 1) * ratio) / 2
    coords = coordinates(image, voxels, sizes, new)
    if smooth:
        image = _smoothed(image, old, new)
    data = sampled(image, voxels, sizes, image, order=order, fill=fill, to_edge=True)
    return on_grid(image, data, coords)


def reorient(image: xr.DataArray, *, axcodes: str | Sequence[str] = "RAS") -> xr.DataArray:
    """Flip and swap axes so that they point elsewhere. Every voxel stays where it is in the world, with its value.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x)
    axcodes : three letters
        Where x, y and z point to: one each of L or R, P or A, I or S, such as ``"RAS"`` or ``"LPS"``.

    Returns
    -------
    DataArray, shape (..., z, y, x), same dtype
        A view of the image, or lazy as it is. Reorienting back gives the image again.

    Raises
    ------
    ValueError
        If the letters are no such codes, or the image has not the three dims z, y, x.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    As `nibabel.orientations`.
    """
    from nibabel import orientations

    layout = layout_of("image", image)
    if layout.space != grid.SPACE:
        raise ValueError(f"image has dims {image.dims}, expected (..., 'z', 'y', 'x')")
    codes = tuple(str(c).upper() for c in axcodes)
    if sorted("LPI".find(c) % 3 if c in "LPI" else "RAS".find(c) for c in codes) != [0, 1, 2]:
        raise ValueError(
            f"axcodes is {axcodes!r}, expected one each of L or R, P or A, I or S, such as 'RAS'"
        )
    before = grid.affine_of(image)
    turn = orientations.ornt_transform(
        orientations.io_orientation(before), orientations.axcodes2ornt(codes)
    )
    shape = [image.sizes[d] for d in "xyz"]
    after = before @ orientations.inv_ornt_aff(turn, shape)
    variable = image.variable
    variable = variable[
        {d: slice(None, None, -1) for d, (_, way) in zip("xyz", turn, strict=True) if way < 0}
    ]
    # Axis i (x, y, z) becomes axis turn[i, 0].
    comes_from = {"xyz"[int(to)]: "xyz"[i] for i, (to, _) in enumerate(turn)}
    data = variable.transpose(*layout.lead, *(comes_from[d] for d in grid.SPACE)).data
    return on_grid(image, data, grid.coordinates(after, data.shape[-3:]))


def center(image: xr.DataArray, *, order: int | None = None, fill: float = 0.0) -> xr.DataArray:
    """Move an image on its grid so that its centre of mass lies at the centre of the grid.

    Where the centre of mass lies has to be known before it is known what a block needs, so it is computed at once, even if the
    image is lazy; the result is then lazy as in `affine`.

    Raises
    ------
    ValueError
        If the image has leading dims, its values add up to nothing, or as in `affine`.
    """
    check_image("image", image)
    if lead := layout_of("image", image).lead:
        raise ValueError(f"image has dims {image.dims}; center one position along {lead[0]!r}")
    everywhere = xr.ones_like(image, dtype=np.uint8)
    found = regions(image, everywhere, index=[1], quantities=["center_of_mass_mm"])
    mass = np.asarray(found["center_of_mass_mm"].values, float).ravel()
    if not np.isfinite(mass).all():
        raise ValueError("image has no centre of mass: its values add up to 0 or hold NaN")
    matrix = np.eye(4)
    matrix[:3, 3] = centre_of(image) - mass
    return affine(image, matrix, order=order, fill=fill)


def stack(
    images: Iterable[xr.DataArray],
    *,
    shifts_mm: Iterable[Mapping[str, float]] | None = None,
    weights: Iterable[float] | None = None,
    order: int = 1,
) -> xr.Dataset:
    """Average images on one grid, each moved first: a template of many scans, or of many takes of one.

    Parameters
    ----------
    images : iterable of DataArray, shape (..., z, y, x), any real dtype
        Taken one after the other, so that a generator of a thousand scans holds one at a time. A voxel that is NaN does not
        count.
    shifts_mm : iterable of {dim: float}, optional
        How far each image is moved, as in `shift`: such as `register.phase_shift_mm` finds. Interpolated once; what
        is moved in from outside does not count.
    weights : iterable of float, optional
        Each finite and at least 0; all alike by default.
    order : 0 to 5
        Of the interpolation.

    Returns
    -------
    Dataset
        ``mean`` (float64, the unit, coordinates and chunks of the first image; NaN where no image counts) and ``weight`` (float64,
        sum of the weights that count there). Lazy if the images are.

    Raises
    ------
    ValueError
        If there is no image, there are more or less shifts or weights than images, or a weight is negative or not finite.
    GridError
        If the grids differ.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> one = xr.DataArray([1.0, 2.0, 3.0], coords={"x": [0.0, 1.0, 2.0]}, dims="x")
    >>> found = stack([one, one + 2], shifts_mm=[{"x": 0.0}, {"x": 1.0}], weights=[1, 3])
    >>> found["mean"].values.tolist(), found["weight"].values.tolist()
    ([1.0, 2.75, 3.75], [1.0, 4.0, 4.0])
    """
    moves, shares = (None if v is None else iter(v) for v in (shifts_mm, weights))
    found: tuple[xr.DataArray, xr.DataArray] | None = None
    for n, image in enumerate(images):
        check_image(f"image {n}", image)
        share = float(_next(shares, "weights", n, 1.0))
        if not 0 <= share < math.inf:
            raise ValueError(f"weight {n} is {share}, expected a finite number of at least 0")
        mean, weight = found or (xr.zeros_like(image, dtype=np.float64),) * 2
        grid.check_same_grid(**{"image 0": mean, f"image {n}": image})
        move = _next(moves, "shifts_mm", n, None)
        if move is not None:
            # What is moved in is NaN, which does not count; a float64 holds all that an image may.
            image = shift(image.astype(np.float64), mm=move, order=order, fill=math.nan)
        numbers = {"share": share}
        arrays = {"weight": weight, "image": image}
        found = (
            graph.map_points(
                points.averaged, {"mean": mean, **arrays}, dtype=np.float64, numbers=numbers
            ),
            graph.map_points(points.weighed, arrays, dtype=np.float64, numbers=numbers),
        )
    if found is None:
        raise ValueError("there is no image to stack")
    for name, values in (("shifts_mm", moves), ("weights", shares)):
        if values is not None and next(values, None) is not None:
            raise ValueError(f"{name} holds more than the {n + 1} images")
    mean, weight = found
    weight.attrs = {"units": "1"}
    return xr.Dataset({"mean": mean.rename("mean"), "weight": weight.rename("weight")})


def _next(values: Iterator[Any] | None, name: str, n: int, default: Any) -> Any:
    if values is None:
        return default
    try:
        return next(values)
    except StopIteration:
        raise ValueError(f"{name} holds {n}, expected one for each image") from None


def _seen_by(image: xr.DataArray, other: np.ndarray) -> dict[str, float]:
    """How far apart, in mm along each axis of the image, neighbours on another grid are."""
    steps = np.linalg.solve(affine_of(image), other)[:3, :3]
    reach = np.sqrt((steps**2).sum(axis=1))
    spacing = grid.spacing_mm(image, layout_of("image", image).space)
    return {str(d): mm * float(reach["xyz".index(str(d))]) for d, mm in spacing.items()}


def _smoothed(
    image: xr.DataArray, old: Mapping[str, float], new: Mapping[str, float]
) -> xr.DataArray:
    coarser = {
        d: math.sqrt(new[d] ** 2 - old[d] ** 2) / FWHM_PER_SIGMA
        for d in old
        if new[d] > old[d] * (1 + 1e-6)
    }
    return filters.gaussian(image, sigma_mm=coarser, mode="nearest") if coarser else image
