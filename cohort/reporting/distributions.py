"""Distributions as a page draws them: shapes in which every scan can be picked, so that one look links them all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cohort.reporting import plots
from cohort.reporting.wording import number

WIDTH, HEIGHT = 346, 172
"""Of a drawing, CSS pixels."""

LEFT, RIGHT, TOP, FLOOR = 10, 336, 18, 124
"""Where bars stand."""

TICKS = 5
"""At most so many numbers under an axis."""


def drawing(
    values: np.ndarray, scans: Sequence[str], far: np.ndarray, anchors: Mapping[str, str]
) -> dict[str, Any]:
    """Geometry of the histogram of one measurement, with a mark a scan.

    Parameters
    ----------
    values : (n,) float array
        Those that are not finite are left out; at least one is finite.
    scans : sequence of n str
    far : (n,) bool array
        Which are outliers, drawn as triangles.
    anchors : mapping of scan -> anchor
        Only scans with a picture on the page, and outliers, have a mark of their own.

    Returns
    -------
    {width, height, bars: [{x, y, width, height}], median, ticks: [{x, shown}], marks: [{x, scan, anchor, far, shown}]}
        In CSS pixels; y grows downwards.
    """
    finite = np.isfinite(values)
    places = _Scale(values[finite])
    across = places(values[finite])
    counts, edges = np.histogram(across, bins=plots.bins_of(values[finite]), range=(LEFT, RIGHT))
    rise = (FLOOR - TOP) / counts.max()
    marks = [
        {
            "x": _pixel(places(values[i])),
            "scan": scans[i],
            "anchor": anchors.get(scans[i], ""),
            "far": bool(far[i]),
            "shown": number(float(values[i])).text,
        }
        for i in map(int, np.flatnonzero(finite))
        if far[i] or scans[i] in anchors
    ]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "floor": FLOOR,
        "bars": [
            {
                "x": _pixel(low),
                "y": _pixel(FLOOR - n * rise),
                "width": _pixel(max(0.5, high - low - 0.5)),
                "height": _pixel(n * rise),
            }
            for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
            if n
        ],
        "median": _pixel(places(np.median(values[finite]))),
        "ticks": [{"x": _pixel(places(at)), "shown": shown} for at, shown in places.ticks()],
        # What is far out is drawn last, over the others.
        "marks": sorted(marks, key=lambda mark: bool(mark["far"])),
    }


class _Scale:
    """Numbers -> pixels across, for any range that a float can hold."""

    def __init__(self, values: np.ndarray) -> None:
        # A power of ten, so that round numbers stay round; what is far from 1 is brought there before it is subtracted.
        largest = float(np.abs(values).max())
        self._unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
        self.low, self.high = float(values.min()), float(values.max())
        self._span = self.high / self._unit - self.low / self._unit

    def __call__(self, values: Any) -> Any:
        share = (np.asarray(values) / self._unit - self.low / self._unit) / (self._span or 1.0)
        return LEFT + (RIGHT - LEFT) * (share if self._span else share + 0.5)

    def ticks(self) -> list[tuple[float, str]]:
        """Round numbers inside the range; the only number there is, or both ends, where none fits."""
        step = _round_up(self._span / (TICKS - 1))
        low = self.low / self._unit
        first = np.ceil(low / step - 1e-9) * step if step else low
        places = [first + i * step for i in range(TICKS) if step]
        inside = [at * self._unit for at in places if at <= low + self._span + 1e-9 * step]
        if len(inside) < 2:
            inside = sorted({self.low, self.high})
        return [
            (at, number(0.0 if abs(at) < 1e-9 * self._unit * step else at).text) for at in inside
        ]


def _round_up(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if not step > 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(step))
    return float(next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= step * (1 - 1e-9)))


def _pixel(value: Any) -> str:
    return f"{float(value):.1f}".removesuffix(".0")
