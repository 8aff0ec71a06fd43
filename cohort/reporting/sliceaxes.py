"""One slice on axes: greys, labels in their colours, outlines, directions, and what is no number."""

from typing import TYPE_CHECKING

import numpy as np

from cohort.reporting import slices
from cohort.reporting.plots import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

LABEL_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Of labels 1, 2, ...; from 8 on they begin again. Told apart by the colour-blind [Okabe and Ito 2008]."""

NOTHING = "#" + bytes(slices.NOTHING_RGB).hex()
"""Of pixels without a finite number, hatched in white: no tissue looks so, in black and white neither."""


def colour_of(label: int) -> str:
    """Colour in which a label is drawn, the same in every figure."""
    return LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)]


def draw_slice(
    axes: "Axes",
    cut: slices.Slice,
    low_high: tuple[float, float],
    *,
    cmap: str = "gray",
    alpha: float = 0.4,
) -> "AxesImage":
    """Draw a slice on axes, with its mask and labels, and the letters of the directions on its four sides.

    What is no finite number is hatched; where nothing is finite, words say so.
    """
    low, high = low_high
    # imshow leaves what is not finite out, so that the axes themselves are seen there.
    axes.patch.set(facecolor=NOTHING, edgecolor="white", hatch="////", linewidth=0)
    picture = axes.imshow(
        cut.pixels, cmap=cmap, vmin=low, vmax=high, aspect=cut.aspect, interpolation="nearest"
    )
    if cut.labels is not None and alpha > 0:
        axes.imshow(_coloured(cut.labels, alpha), aspect=cut.aspect, interpolation="nearest")
    if cut.mask is not None and cut.mask.any():
        outlined(axes, cut.mask, "#" + bytes(slices.OUTLINE_RGB).hex())
    axes.set(xticks=[], yticks=[])
    for x, y, letter in (
        (0.02, 0.5, cut.left),
        (0.98, 0.5, cut.right),
        (0.5, 0.98, cut.top),
        (0.5, 0.02, cut.bottom),
    ):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            fontsize=7,
            ha={0.02: "left", 0.98: "right"}.get(x, "center"),
            va={0.98: "top", 0.02: "bottom"}.get(y, "center"),
            bbox={"facecolor": "black", "alpha": 0.5, "pad": 0.8, "linewidth": 0},
        )
    if not np.isfinite(cut.pixels).any():
        axes.text(
            0.5,
            0.5,
            "no finite voxel",
            transform=axes.transAxes,
            color=INK,
            fontsize=8,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "pad": 1.5, "linewidth": 0},
        )
    return picture


def _coloured(labels: np.ndarray, alpha: float) -> np.ndarray:
    """Labels, (rows, columns), as (rows, columns, 4) colours; background is not there."""
    from matplotlib.colors import to_rgba

    picture = np.zeros((*labels.shape, 4))
    for label in np.unique(labels[labels != 0]):
        picture[labels == label] = to_rgba(colour_of(int(label)), alpha)
    return picture


def outlined(axes: "Axes", mask: np.ndarray, colour: str) -> None:
    """Draw the outline of a mask, (rows, columns)."""
    # A border of background closes outlines that reach the edge of the picture.
    rows, columns = mask.shape
    at = (np.arange(-1, columns + 1), np.arange(-1, rows + 1))
    axes.contour(*at, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour], linewidths=1.2)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
