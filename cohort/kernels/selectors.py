"""Thresholds from how often each value occurs. All work on the values that occur, in rising order, and their counts.

Arithmetic and dtypes are those of scikit-image, so that thresholds agree to the last bit.
"""

from typing import Any

import numpy as np

from cohort.kernels.histograms import edges_between
from cohort.kernels.levels import level_values


def otsu(values: np.ndarray, often: np.ndarray) -> float:
    """Value that parts the counts into two classes with the largest variance between them; float32 counts."""
    weights = often.astype(np.float32)
    below, above = np.cumsum(weights), np.cumsum(weights[::-1])[::-1]
    mean_below = np.cumsum(weights * values) / below
    mean_above = (np.cumsum((weights * values)[::-1]) / above[::-1])[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(values[np.argmax(between)])


def li(
    values: np.ndarray, often: np.ndarray, *, low: float, tolerance: float, slack: float = 0.0
) -> float:
    """Value with the least cross entropy between image and classes (Li and Tam 1998), from the mean on.

    `low` is the smallest value. Stops when the threshold moves by no more than `tolerance`. A value that is
    above the threshold by no more than `slack` equals it.
    """
    # Logarithms need values above 0, which all but the smallest then are.
    shifted = values - low
    weights: Any = often.astype(np.float32 if shifted.dtype.kind == "i" else np.float64)
    before, now = -np.inf, float((shifted * often).sum() / often.sum())
    while abs(now - before) > tolerance:
        before = now
        over = shifted > before + slack
        above = np.average(shifted[over], weights=weights[over])
        below = np.average(shifted[~over], weights=weights[~over])
        if below == 0:
            break
        now = float((below - above) / (np.log(below) - np.log(above)))
    return now + float(low)


def triangle(at: np.ndarray, often: np.ndarray) -> int:
    """Position on the longer flank of the highest bin that is farthest from the line between that and the end.

    `at` are the positions of the bins that are not empty, rising.
    """
    peak = int(np.argmax(often))
    flip = at[peak] - at[0] < at[-1] - at[peak]
    steps = at[-1] - at[::-1] if flip else at - at[0]
    heights = often[::-1] if flip else often
    top = often[peak]
    width = (at[-1] - at[peak]) if flip else (at[peak] - at[0])
    flank = steps < width
    steps, heights = steps[flank], heights[flank]
    # Of the empty bins only the last can be farthest.
    run = np.flatnonzero(np.append(steps[::-1] != width - 1 - np.arange(steps.size), True))[0]
    last_empty = width - 1 - run
    if last_empty >= 0:
        steps, heights = np.append(steps, last_empty), np.append(heights, 0)
    norm = np.sqrt(top**2 + width**2)
    lengths = (top / norm) * steps - (width / norm) * heights
    step = int(steps[lengths == lengths.max()].min())
    return int(at[-1]) - step if flip else int(at[0]) + step


def of_values(rows: np.ndarray, *, method: str) -> np.ndarray:
    """Threshold of an integer image from its `histograms.value_counts`: () float64, NaN for no values."""
    if not len(rows):
        return np.asarray(np.nan)
    values, often = rows.T
    if len(rows) == 1:
        return np.asarray(values[0], np.float64)
    if method == "triangle":
        return np.asarray(triangle(values, often), np.float64)
    if method == "li":
        return np.asarray(li(values, often, low=values[0], tolerance=0.5))
    return np.asarray(otsu(values, often))


def of_bins(total: np.ndarray, *, method: str, dtype: np.dtype) -> np.ndarray:
    """Threshold of a floating-point image from its `levels.binned`, otsu or triangle: () float64, NaN for no values."""
    low, high = total[:2]
    if not low < high:
        return np.asarray(low if low == high else np.nan)
    often = total[2:].astype(np.int64)
    edges = edges_between(low, high, often.size, dtype)
    centres = (edges[:-1] + edges[1:]) / edges.dtype.type(2)
    if method == "triangle":
        there = np.flatnonzero(often)
        return np.asarray(centres[triangle(there, often[there])], np.float64)
    return np.asarray(otsu(centres, often))


def li_of_levels(total: np.ndarray) -> np.ndarray:
    """Threshold `li` of a floating-point image from its `levels.leveled`: () float64, NaN for no values."""
    low, high = total[:2]
    if not low < high:
        return np.asarray(low if low == high else np.nan)
    _, values, often = level_values(total)
    tolerance, slack = float(np.diff(values).min()) / 2, (high - low) * 2.0**-30
    return np.asarray(li(values, often, low=low, tolerance=tolerance, slack=slack))
