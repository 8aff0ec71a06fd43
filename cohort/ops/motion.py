"""The beating heart: volumes over time and what follows from them."""

import numpy as np
import xarray as xr

from cohort.ops import labels as objects
from cohort.ops import masks, measure
from cohort.ops.layout import check_labels, check_mask, layout_of

__all__ = ["PLAUSIBLE", "ejection_fraction", "volume_curve_ml"]

PLAUSIBLE = (0.1, 0.85)
"""Ejection fractions outside of this are not believed."""


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
        Frames over which the curve is averaged first, around the cycle: the frame after the last one is the first.
        1 takes it as it is. End-diastole is a plateau of several frames, among which noise would choose.
    heart_rate_bpm : float, > 0, optional
        Beats a minute, for the cardiac output.

    Returns
    -------
    Dataset of float64 numbers and of int64 frames, counted from 0
        - ``edv_ml``, ``esv_ml``: maximum (end-diastole) and minimum (end-systole) of the smoothed curve;
        - ``stroke_volume_ml``: their difference; ``ejection_fraction``: its share of the maximum;
        - ``end_diastole_frame``, ``end_systole_frame``: where they are, the first of equals;
        - ``cardiac_output_l_min``: stroke volume times heart rate; NaN without one;
        - ``implausible``: 1 if the ejection fraction lies outside `PLAUSIBLE`, otherwise 0.

    Raises
    ------
    ValueError
        If the curve has other dims than time, fewer than two frames, a volume that is negative, NaN or infinite, or
        is zero throughout; if `smooth` is even, less than one or more than there are frames; if the heart rate is
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
    mean = sum(np.roll(volumes, k) for k in range(-reach, reach + 1)) / smooth
    largest, smallest = int(mean.argmax()), int(mean.argmin())
    edv, esv = mean[largest], mean[smallest]
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


def _volumes(curve: xr.DataArray) -> np.ndarray:
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
