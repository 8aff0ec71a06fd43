"""Distributions as a page draws them: shapes in which every scan can be picked, so that one look links them all."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cohort.reporting import plots
from cohort.reporting.wording import number

WIDTH, HEIGHT = 346, 172
"""Of a drawing, CSS pixels."""

LEFT, RIGHT, TOP, FLOOR = 10, 336, 18, 124
"""Where bars and marks stand."""

MARGIN = 0.5
"""Of the span of what is not far: so much further the axis may reach, on either side."""

BESIDE, MOST_BESIDE = 12, 72
"""Pixels beside the axis for a value that lies beyond it, and for all that do."""

NOTE = 16
"""Pixels of the line that tells what lies beyond the axis."""

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
        Which are outliers, drawn as triangles. Those that are further from all others than `MARGIN` stand beside the axis, in their
        order, so that one of them leaves the others room.
    anchors : mapping of scan -> anchor
        Only scans with a picture on the page, and outliers, have a mark of their own.

    Returns
    -------
    {width, height, start, stop, bars: [{x, y, width, height}], median, ticks: [{x, shown}], beyond: [{x, side, shown}],
    marks: [{x, scan, anchor, far, shown}]}
        In CSS pixels; y grows downwards. The axis reaches from ``start`` to ``stop``, and what lies ``beyond`` is told in words.
    """
    finite = np.isfinite(values)
    low, high = ends(values[finite], far[finite])
    below, above = finite & (values < low), finite & (values > high)
    start = LEFT + min(MOST_BESIDE, BESIDE * int(below.sum()))
    stop = RIGHT - min(MOST_BESIDE, BESIDE * int(above.sum()))
    places = _Scale(low, high, start, stop)
    inside = values[finite & ~below & ~above]
    across = np.full(values.shape, np.nan)
    across[finite] = places(values[finite].clip(low, high))
    across[below] = _beside(values[below], LEFT, start)
    across[above] = _beside(values[above], stop, RIGHT)
    counts, edges = np.histogram(places(inside), bins=plots.bins_of(inside), range=(start, stop))
    rise = (FLOOR - TOP) / counts.max()
    marks = [
        {
            "x": _pixel(across[i]),
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
        "height": HEIGHT + (NOTE if below.any() or above.any() else 0),
        "start": start,
        "stop": stop,
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
        "median": _pixel(places(np.median(values[finite]).clip(low, high))),
        "ticks": [{"x": _pixel(places(at)), "shown": shown} for at, shown in places.ticks()],
        "beyond": [
            {"side": side, "x": x, "shown": _told(values[those], furthest)}
            for side, x, those, furthest in (
                ("start", LEFT, below, np.min),
                ("end", RIGHT, above, np.max),
            )
            if those.any()
        ],
        # What is far out is drawn last, over the others.
        "marks": sorted(marks, key=lambda mark: bool(mark["far"])),
    }


def ends(values: np.ndarray, far: np.ndarray) -> tuple[float, float]:
    """Where the axis ends: at the outermost values, but no further from those that are not far than `MARGIN`."""
    near = values[~far] if (~far).any() else values
    low, high = float(near.min()), float(near.max())
    # Of values that are all alike, a tenth.
    margin = MARGIN * (high - low) or 0.1 * abs(low) or 1.0
    return max(float(values.min()), low - margin), min(float(values.max()), high + margin)


def _beside(values: np.ndarray, first: float, last: float) -> np.ndarray:
    """Places for values between two pixels, in their order, as far from each other as it goes."""
    order = np.argsort(np.argsort(values, kind="stable"))
    return first + (order + 0.5) * (last - first) / max(1, values.size)


def _told(values: np.ndarray, furthest: Callable[[np.ndarray], Any]) -> str:
    shown = number(float(furthest(values))).text
    return f"beyond: {shown}" if values.size == 1 else f"{values.size} beyond, to {shown}"


class _Scale:
    """Numbers -> pixels across, for any range that a float can hold."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        # A power of ten, so that round numbers stay round; what is far from 1 is brought there before it is subtracted.
        largest = max(abs(low), abs(high))
        self._unit = 10.0 ** math.floor(math.log10(largest)) if largest else 1.0
        self.low, self.high, self._start, self._width = low, high, start, stop - start
        self._span = self.high / self._unit - self.low / self._unit

    def __call__(self, values: Any) -> Any:
        share = (np.asarray(values) / self._unit - self.low / self._unit) / (self._span or 1.0)
        return self._start + self._width * (share if self._span else share + 0.5)

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
