"""Landmarks of intensity: one scale for the scans of many scanners, learnt from a cohort and applied to whoever arrives later.

An MR scanner's numbers mean nothing by themselves. Here the percentiles of each image are moved to those that the cohort has on
average, on a line between one and the next [Nyul, Udupa & Zhang 2000, doi:10.1109/42.836373]. What was learnt is a few numbers:
they stand in a recipe, and a scan that comes later moves none of the earlier results.
"""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import transfer
from cohort.kernels.histograms import is_small
from cohort.ops import graph
from cohort.ops.layout import image_and_mask, unit_of
from cohort.ops.levels import count_levels, count_values

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
"""Extremes are left out: they are noise, and vessels."""


@dataclass(frozen=True)
class Landmarks:
    """A scale of intensity: which percentile of an image lies where on it."""

    percentiles: tuple[float, ...]
    values: tuple[float, ...]
    """On the scale, rising."""
    n_scans: int
    """From which it was learnt."""
    left_out: tuple[str, ...] = ()
    """Scans that had no image, no voxel in the mask, or one value at the first and the last percentile."""

    def parameters(self) -> dict[str, list[float]]:
        """What `normalize` takes, in Python and in a recipe."""
        return {"percentiles": list(self.percentiles), "values": list(self.values)}

    def to_json(self) -> str:
        """Text that `from_json` reads back to the bit."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Landmarks":
        """What `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not JSON, its fields are not those of landmarks, or they do not rise.
        """
        plain = json.loads(text)
        expected = [f.name for f in fields(cls)]
        if not isinstance(plain, dict) or set(plain) != set(expected):
            found = ", ".join(map(repr, plain)) if isinstance(plain, dict) else type(plain).__name__
            raise ValueError(f"no landmarks: it holds {found}; expected {', '.join(expected)}")
        at, values = _checked(plain["percentiles"], plain["values"])
        return cls(at, values, int(plain["n_scans"]), tuple(plain["left_out"]))


def percentiles(
    image: xr.DataArray, *, at: Sequence[float] = PERCENTILES, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Values below which a share of the voxels lies.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    at : floats, 0 to 100, rising
    mask : DataArray, bool, optional
        On the grid of `image`. None: everywhere.

    Returns
    -------
    DataArray, shape (..., percentile), float64, the image's unit
        NaN if nothing counts; NaN and infinite voxels do not. Lazy if image or mask are.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, or `at` does not rise from 0 to 100.

    Notes
    -----
    Equals ``numpy.percentile(image[mask], at)`` for integers of up to 16 bits. Other values are told apart in 65,536 levels between the
    extremes, each with a mean of its own: within 2**-16 of the range, for any chunking the same.

    Examples
    --------
    >>> image = xr.DataArray([[0, 1, 2, 3, 14]], dims=("y", "x"))
    >>> percentiles(image, at=[0, 50, 75]).round(6).values.tolist()
    [0.0, 2.0, 3.0]
    """
    places = _rising("at", at, least=1)
    _check_percentiles("at", places)
    found = _percentiles(image, mask, places, np.float64, {"percentile": len(places)})
    return found.assign_coords(percentile=list(places))


def fit_landmarks(
    rows: Iterable[Sequence[float] | np.ndarray],
    *,
    at: Sequence[float] = PERCENTILES,
    scale: tuple[float, float] = (0.0, 100.0),
) -> Landmarks:
    """Learn a scale from the percentiles of some images.

    Parameters
    ----------
    rows : iterable of (k,) floats
        The `percentiles` of each image, none NaN, the last above the first.
    at : k floats, rising
        Which they are.
    scale : (low, high)
        Where the first and the last percentile lie on the scale.

    Returns
    -------
    Landmarks
        Each the mean over the images, of which each was stretched from its own first and last percentile to `scale`.

    Raises
    ------
    ValueError
        If there is no image, one has another number of percentiles, NaN, or one value at the first and the last; or if
        neighbouring landmarks fall together in all of them.

    Examples
    --------
    >>> fit_landmarks([[0, 1, 4], [10, 30, 50]], at=[1, 50, 99]).values
    (0.0, 37.5, 100.0)
    """
    places = _rising("at", at, least=2)
    _check_percentiles("at", places)
    ends = _rising("scale", scale, least=2)
    found = [np.asarray(row, np.float64) for row in rows]
    for number, row in enumerate(found):
        if row.shape != (len(places),) or not np.isfinite(row).all() or not row[0] < row[-1]:
            raise ValueError(
                f"row {number} is {row.tolist()}, expected {len(places)} finite numbers, the last above the first"
            )
    if not found:
        raise ValueError("there is no image to learn landmarks from")
    table = np.stack(found)
    shares = (table - table[:, :1]) / (table[:, -1:] - table[:, :1])
    values = ends[0] + shares.mean(axis=0) * (ends[-1] - ends[0])
    if (alike := np.flatnonzero(np.diff(values) <= 0)).size:
        i = int(alike[0])
        raise ValueError(
            f"percentiles {places[i]:g} and {places[i + 1]:g} are one value in all of {len(found)} images: give a mask that leaves "
            "out the background, or fewer percentiles"
        )
    return Landmarks(places, tuple(values.tolist()), n_scans=len(found))


def normalize(
    image: xr.DataArray,
    *,
    percentiles: Sequence[float],
    values: Sequence[float],
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Bring an image onto a scale of intensity that was learnt before (`Cohort.landmarks`).

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
    percentiles : floats, 0 to 100, rising, at least two
        Of the image (in the mask).
    values : floats, rising, as many
        Where on the scale each of them lies.
    mask : DataArray, bool, optional
        On the grid of `image`. Only what is inside counts and changes. None: everywhere.

    Returns
    -------
    DataArray, shape of `image`, float32 or float64, unit 1
        On straight lines from one percentile to the next, of which the first and the last go on: larger stays larger. Outside the mask, and
        where it is NaN, are the old values. Coordinates, chunks and attributes (but the unit) of `image`. Nothing is
        computed if image or mask are lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the mask is not bool, percentiles or values do not rise or are not as many; and, when computed, if the image has one
        value at all these percentiles.

    Notes
    -----
    Nyul, Udupa & Zhang 2000, doi:10.1109/42.836373. An image that is brighter by a factor and an offset gives the same result.
    Equals ``numpy.interp(image, numpy.percentile(image[mask], percentiles), values)`` between the ends.

    Examples
    --------
    >>> image = xr.DataArray([[0, 10, 20, 40]], dims=("y", "x"))
    >>> normalize(image, percentiles=[0, 100], values=[0, 1]).values.tolist()
    [[0.0, 0.25, 0.5, 1.0]]
    """
    at, becomes = _checked(percentiles, values)
    arrays = image_and_mask(image, mask)
    wide = image.dtype.itemsize > 2 and image.dtype != np.float32
    dtype = np.dtype(np.float64 if wide else np.float32)
    result = graph.map_points(
        transfer.onto_landmarks,
        arrays,
        dtype=dtype,
        numbers={"own": _percentiles(image, mask, at, object, {})},
        params={"values": becomes, "dtype": dtype},
    )
    return result.assign_attrs(units="1")


def _percentiles(
    image: xr.DataArray,
    mask: xr.DataArray | None,
    at: tuple[float, ...],
    dtype: Any,
    sizes: dict[str, int],
) -> xr.DataArray:
    """Along a dim of their own, or, as objects, all of them boxed."""
    arrays = image_and_mask(image, mask)
    small = is_small(image.dtype)
    finish = transfer.percentiles_of_values if small else transfer.percentiles_of_levels
    count = count_values if small else count_levels
    return count(
        arrays,
        finish=transfer.boxing if dtype is object else finish,
        finish_params={"at": at} | ({"finish": finish} if dtype is object else {}),
        units=unit_of(image),
        dtype=dtype,
        sizes=sizes,
    )


def _rising(name: str, numbers: Sequence[float], *, least: int) -> tuple[float, ...]:
    found = tuple(float(n) for n in numbers)
    rises = all(a < b for a, b in itertools.pairwise(found))
    if len(found) < least or not rises or not all(map(math.isfinite, found)):
        raise ValueError(
            f"{name} is {list(found)}, expected at least {least} rising, finite numbers"
        )
    return found


def _check_percentiles(name: str, numbers: tuple[float, ...]) -> None:
    if not 0 <= numbers[0] <= numbers[-1] <= 100:
        raise ValueError(f"{name} is {list(numbers)}, expected percentiles from 0 to 100")


def _checked(
    at: Sequence[float], values: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    places, becomes = _rising("percentiles", at, least=2), _rising("values", values, least=2)
    _check_percentiles("percentiles", places)
    if len(places) != len(becomes):
        raise ValueError(f"there are {len(places)} percentiles but {len(becomes)} values")
    return places, becomes
