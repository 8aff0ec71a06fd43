"""The beating heart: the left ventricle in a cine series, its volumes over time, and what follows from them."""

from typing import Any, Literal

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import ventricle
from cohort.kernels.ventricle import NoVentricleError, Rules
from cohort.ops import graph, masks, measure
from cohort.ops import labels as objects
from cohort.ops.labels import Point
from cohort.ops.layout import check_image, check_labels, check_mask, layout_of

__all__ = [
    "CHECKS",
    "HEART",
    "PLAUSIBLE",
    "NoVentricleError",
    "ejection_fraction",
    "heart_rate_bpm",
    "left_ventricle",
    "ventricle_checks",
    "volume_curve_ml",
]

PLAUSIBLE = (0.1, 0.85)
"""Ejection fractions outside of this are not believed."""

HEART = (
    "edv_ml",
    "esv_ml",
    "stroke_volume_ml",
    "ejection_fraction",
    "end_diastole_frame",
    "end_systole_frame",
    "cardiac_output_l_min",
    "implausible",
)
"""What `ejection_fraction` gives."""
CHECKS = (
    *("n_slices", "end_slices", "border_voxels", "touches_border"),
    *("largest_area_jump", "area_jumps"),
)
"""What `ventricle_checks` gives."""

JUMP = 0.3
"""A change of area from one frame to the next that no ventricle makes in a beat of 15 frames or more."""

RATES_BPM = (20.0, 300.0)
"""Heart rates outside of this are none."""

MIN_FRAMES = 3
"""Frames without which there is no beat."""


def left_ventricle(
    cine: xr.DataArray,
    *,
    seed_mm: Point | None = None,
    through: Literal["z", "y", "x"] | None = None,
    region_mm: float = Rules.region_mm,
    blur_mm: float = Rules.blur_mm,
    neck: float = Rules.neck,
    drift_mm: float = Rules.drift_mm,
    level: float = Rules.level,
    apex_cm2: float = Rules.apex_cm2,
    contraction: float = Rules.contraction,
    base: float = Rules.base,
) -> xr.DataArray:
    """Find the cavity of the left ventricle in a cine series of short-axis slices.

    The ventricle is the round pool of blood that moves. It is found by rule, followed from frame to frame and from slice
    to slice, and ends at the apex and at the base where it no longer contracts or changes its size at once. Papillary
    muscles and trabeculae belong to it as far as its convex outline holds them.

    Parameters
    ----------
    cine : DataArray, shape (time, z, y, x), any real dtype
        Bright blood; one heart beat, so that the frame after the last one is the first. Times need not be regular.
    seed_mm : (x, y, z) or mapping of x, y and z, world RAS+ mm, optional
        A point inside the ventricle. None: it is found.
    through : "z", "y" or "x", optional
        The axis through the slices. None: that of the largest spacing; z where others have the same.
    region_mm : float, > 0
        Radius of the disc around the ventricle that is looked at.
    blur_mm : float, >= 0
        Width of the in-plane Gaussian before thresholds.
    neck : float, 0 to 1
        Two pools are two where the passage between them is narrower than this share of the smaller one.
    drift_mm : float, > 0
        How far the ventricle reaches beyond its outline in the neighbouring slice.
    level : float, 0 to 1
        Its edge, between the muscle around it (0) and its blood (1). 0.25 is half way to trabeculae that are half blood; for
        walls without any take 0.5.
    apex_cm2 : float, >= 0
        Area at end-diastole that its last slice towards the apex has at least.
    contraction : float, 0 to 1
        Share of its area that a slice loses in systole at least, relative to what the seed's slice loses.
    base : float, 0 to 1
        Area at end-diastole of the last slice towards the base at least, relative to the slice before.

    Returns
    -------
    DataArray, shape of `cine`, bool
        Coordinates, chunks and attributes of `cine`. Nothing is computed if it is lazy; computing any of it takes one
        task with the whole series in memory.

    Raises
    ------
    ValueError
        If `cine` has other dims, fewer than three frames, holds NaN or infinity, or a parameter is out of its range.
    NoVentricleError
        When computed, if nothing in the cine looks and moves like a left ventricle.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    The same voxels after a flip or a transpose of the plane, a reversal of the slices, a roll of the frames, and a linear change
    of the intensities. Otsu's threshold a slice; watershed on the distance to the border; convex hulls [scikit-image]. Made
    for balanced steady-state cines; on one that was outlined by an expert it found the expert's slices but for the
    smallest, and 12 % less volume at end-diastole, 23 % less at end-systole, where papillary muscles lie against the wall.
    """
    check_image("cine", cine)
    layout = layout_of("cine", cine)
    if layout.lead != ("time",) or len(layout.space) != 3:
        raise ValueError(f"cine has dims {cine.dims}, expected ('time', 'z', 'y', 'x')")
    if cine.sizes["time"] < MIN_FRAMES:
        raise ValueError(
            f"cine has {cine.sizes['time']} frames, expected at least {MIN_FRAMES} of one heart beat"
        )
    lengths = {"region_mm": region_mm, "drift_mm": drift_mm}
    shares = {"neck": neck, "level": level, "contraction": contraction, "base": base}
    for name, value in (lengths | {"blur_mm": blur_mm, "apex_cm2": apex_cm2}).items():
        if not (value > 0 if name in lengths else value >= 0) or not value < np.inf:
            least = "over 0" if name in lengths else "of at least 0"
            raise ValueError(f"{name} is {value}, expected a finite number {least}")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, expected a share from 0 to 1")
    spacing = {str(d): mm for d, mm in grid.spacing_mm(cine, layout.space).items()}
    through = through or grid.slice_dim(cine)
    slices = layout.space.index(through)
    order = [through, *(d for d in layout.space if d != through)]
    index = None if seed_mm is None else objects.voxel_at(cine, seed_mm=seed_mm)
    rules = Rules(region_mm, blur_mm, neck, drift_mm, level, apex_cm2, contraction, base)
    return graph.map_series(
        _on_slices,
        {"cine": cine},
        dtype=bool,
        params={
            "slices": slices,
            "spacing": [spacing[d] for d in order],
            "seed": None if index is None else [index[d] for d in order],
            "rules": rules,
        },
    )


def _on_slices(cine: np.ndarray, *, slices: int, **params: Any) -> np.ndarray:
    """The kernel, with spatial axis number `slices` as the one through the slices."""
    if cine.dtype.kind == "f" and not np.isfinite(cine).all():
        bad = int(cine.size - np.isfinite(cine).sum())
        raise ValueError(f"cine has {bad} voxels that are NaN or infinite, expected none")
    found = ventricle.left_ventricle(np.moveaxis(cine, 1 + slices, 1), **params)
    return np.moveaxis(found, 1, 1 + slices)


def volume_curve_ml(labels: xr.DataArray, *, label: int | None = None) -> xr.DataArray:
    """Volume in every frame: labelled voxels times the volume of one.

    Parameters
    ----------
    labels : DataArray, shape (time, ..., z, y, x), bool or integer
        A mask, or labels with 0 for background.
    label : int, optional
        The object to measure. None: all that is labelled.

    Returns
    -------
    DataArray, shape (time, ...), float64, ml
        With the coordinate `time` of `labels`. Lazy if they are.

    Raises
    ------
    ValueError
        If there is no dim `time`, or the labels are neither bool nor integers.
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    Equals ``(labels != 0).sum(("z", "y", "x")) * voxel volume``.
    """
    layout = layout_of("labels", labels)
    if "time" not in layout.lead:
        raise ValueError(
            f"labels have dims {labels.dims}, expected ('time', 'z', 'y', 'x'): a curve needs frames"
        )
    if labels.dtype == np.bool_:
        if label is not None:
            raise ValueError(f"label is {label}, but labels are a mask, which has one object")
        mask = labels
    else:
        check_labels("labels", labels)
        mask = (
            masks.threshold(labels, above=0)
            if label is None
            else objects.select(labels, label=label)
        )
    check_mask("labels", mask)
    return measure.volume_ml(mask)


def ejection_fraction(
    curve: xr.DataArray, *, smooth: int = 1, heart_rate_bpm: float | None = None
) -> xr.Dataset:
    """Volumes of a ventricle at its largest and smallest, and the share that it ejects.

    Parameters
    ----------
    curve : DataArray, shape (time,), ml
        Volume in every frame of one heart beat, as `volume_curve_ml` gives it. It is computed.
    smooth : int, odd, >= 1
        Frames over which the curve is averaged to choose the two frames, around the cycle: the frame after the last one is
        the first. 1 takes it as it is. End-diastole is a plateau, among whose frames noise would choose the largest.
    heart_rate_bpm : float, > 0, optional
        Beats a minute, for the cardiac output.

    Returns
    -------
    Dataset of float64 numbers and of int64 frames, counted from 0
        - ``end_diastole_frame``, ``end_systole_frame``: maximum and minimum of the smoothed curve, the first of equals;
        - ``edv_ml``, ``esv_ml``: volumes in these frames, not averaged, which would take the peaks off;
        - ``stroke_volume_ml``: their difference; ``ejection_fraction``: its share of the first;
        - ``cardiac_output_l_min``: stroke volume times heart rate; NaN without one;
        - ``implausible``: 1 if the ejection fraction lies outside `PLAUSIBLE`, otherwise 0.

    Raises
    ------
    ValueError
        If the curve has other dims than time, fewer than two frames, a volume that is negative, NaN or infinite, or
        is zero throughout, or is no larger where its smoothed curve is largest than where that is smallest; if `smooth` is even, less than one or more than there are frames; if the heart rate is
        not positive.

    Notes
    -----
    Rolling the frames rolls the two frames found and changes nothing else.

    Examples
    --------
    >>> curve = xr.DataArray([130.0, 150.0, 100.0, 90.0], dims="time", attrs={"units": "ml"})
    >>> found = ejection_fraction(curve)
    >>> float(found.ejection_fraction), int(found.end_diastole_frame), int(found.end_systole_frame)
    (0.4, 1, 3)
    """
    volumes = _volumes(curve)
    n = volumes.size
    if isinstance(smooth, bool) or int(smooth) != smooth or smooth % 2 == 0 or not 1 <= smooth <= n:
        raise ValueError(
            f"smooth is {smooth!r}, expected an odd number of frames from 1 to {n}, as many as the curve has"
        )
    if heart_rate_bpm is not None and not 0 < heart_rate_bpm < np.inf:
        raise ValueError(f"heart_rate_bpm is {heart_rate_bpm}, expected beats a minute, over 0")
    reach = int(smooth) // 2
    mean = np.add.reduce([np.roll(volumes, k) for k in range(-reach, reach + 1)])
    largest, smallest = int(mean.argmax()), int(mean.argmin())
    edv, esv = volumes[largest], volumes[smallest]
    if edv < esv or edv == 0:
        raise ValueError(
            f"the volume is {edv:g} ml in frame {largest}, where its mean over {smooth} frames is largest, and {esv:g} ml in frame "
            f"{smallest}, where that is smallest: the curve jumps; look at the mask"
        )
    share = (edv - esv) / edv
    output = np.nan if heart_rate_bpm is None else (edv - esv) * heart_rate_bpm / 1000
    return xr.Dataset(
        {
            "edv_ml": _quantity(edv, "ml"),
            "esv_ml": _quantity(esv, "ml"),
            "stroke_volume_ml": _quantity(edv - esv, "ml"),
            "ejection_fraction": _quantity(share, "1"),
            "end_diastole_frame": _quantity(largest, "1"),
            "end_systole_frame": _quantity(smallest, "1"),
            "cardiac_output_l_min": _quantity(output, "l/min"),
            "implausible": _quantity(int(not PLAUSIBLE[0] <= share <= PLAUSIBLE[1]), "1"),
        }
    )


def heart_rate_bpm(curve: xr.DataArray) -> xr.DataArray:
    """Beats a minute, from the times of the frames of a series that covers one beat.

    Parameters
    ----------
    curve : DataArray, shape (time, ...)
        As `volume_curve_ml` gives it, or the series itself. Only the coordinate `time` is looked at: seconds since the beat began, as ingest takes them from trigger times.

    Returns
    -------
    DataArray, float64, 1/min
        ``60 / (n * step)``, the step being that from the first to the last frame over n - 1. NaN where it is not known: times are no
        seconds, are those of acquisition (which say when, not where in the beat), or give a rate outside of `RATES_BPM`.

    Raises
    ------
    ValueError
        If there is no dim `time`.

    Notes
    -----
    Of series gated in retrospect, which cover the whole beat. A triggered one leaves out the end of diastole, some 10 % of the beat,
    and the rate comes out as much too high.
    """
    if "time" not in curve.dims:
        raise ValueError(f"curve has dims {curve.dims}, expected 'time' among them")
    n, rate = curve.sizes["time"], np.nan
    if n >= MIN_FRAMES and "time" in curve.coords:
        time = curve.coords["time"]
        step = float(time[-1] - time[0]) / (n - 1)
        timed = time.attrs.get("units") == "s" and time.attrs.get("basis") != "AcquisitionTime"
        if timed and RATES_BPM[0] <= 60 / (n * max(step, 1e-9)) <= RATES_BPM[1]:
            rate = 60 / (n * step)
    return xr.DataArray(rate, attrs={"units": "1/min"})


def ventricle_checks(mask: xr.DataArray) -> xr.Dataset:
    """Numbers that are small for a ventricle that was found well, and large for one that leaks, jumps or is cut off.

    Parameters
    ----------
    mask : DataArray, shape (time, z, y, x), bool
        A ventricle in each frame, as `left_ventricle` gives it. It is computed.

    Returns
    -------
    Dataset of numbers
        - ``n_slices``: slices that it lies in at its largest, int64;
        - ``end_slices``: how many of the first and the last slice of the stack are among them: beyond them it is not seen;
        - ``border_voxels``: its voxels at the border of the plane, over all frames; ``touches_border``: 1 if there is one, else 0;
        - ``largest_area_jump``: largest change of its area in a slice from one frame to the next (the first follows the last),
          relative to its largest area; float64, NaN of an empty mask; ``area_jumps``: 1 if that is over `JUMP`, else 0.

    Raises
    ------
    ValueError
        If the mask is not bool, or has other dims.
    GridError
        If a coordinate is missing or irregular.
    """
    check_mask("mask", mask)
    layout = layout_of("mask", mask)
    if layout.lead != ("time",) or len(layout.space) != 3:
        raise ValueError(f"mask has dims {mask.dims}, expected ('time', 'z', 'y', 'x')")
    through = layout.space.index(grid.slice_dim(mask))
    values = np.moveaxis(mask.values, 1 + through, 1)
    area = np.count_nonzero(values, axis=(2, 3))
    there = area[area.sum(axis=1).argmax()] > 0
    inner = np.count_nonzero(values[:, :, 1:-1, 1:-1])
    at_border = int(area.sum() - inner)
    most = np.abs(area - np.roll(area, 1, axis=0)).max()
    jump = most / area.max() if area.any() else np.nan
    return xr.Dataset(
        {
            "n_slices": _quantity(int(there.sum()), "1"),
            "end_slices": _quantity(int(there[0]) + int(there[-1]), "1"),
            "border_voxels": _quantity(at_border, measure.VOXELS),
            "touches_border": _quantity(int(at_border > 0), "1"),
            "largest_area_jump": _quantity(jump, "1"),
            "area_jumps": _quantity(int(jump > JUMP), "1"),
        }
    )


def _volumes(curve: object) -> np.ndarray:
    """Values of a curve, (time,) float64, checked."""
    if not isinstance(curve, xr.DataArray) or curve.dims != ("time",):
        found = curve.dims if isinstance(curve, xr.DataArray) else type(curve).__name__
        raise ValueError(f"curve is {found}, expected a DataArray with dims ('time',)")
    volumes = np.asarray(curve.values, np.float64)
    if volumes.size < 2:
        raise ValueError(f"the curve has {volumes.size} frame, expected at least 2 of one beat")
    wrong = ~(np.isfinite(volumes) & (volumes >= 0))
    if wrong.any():
        frame = int(wrong.argmax())
        raise ValueError(f"the volume in frame {frame} is {volumes[frame]} ml, expected 0 or more")
    if not volumes.any():
        raise ValueError(f"the volume is 0 ml in all {volumes.size} frames: there is no ventricle")
    return volumes


def _quantity(value: float, units: str) -> xr.Variable:
    return xr.Variable((), np.asarray(value), {"units": units})
