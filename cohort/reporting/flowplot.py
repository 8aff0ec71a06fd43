"""The flow of scans as a figure: what went on from stage to stage, and beside it what did not, with the reason."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cohort.reporting.plots import FAINT, INK, MARK, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WRAP = 64
"""Letters of a line of a reason."""


def flow(stages: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the stages from files to models.

    Parameters
    ----------
    stages : sequence of mappings
        As `sections.flow` gives them: ``title``, ``n``, ``noun``, ``joins``, and ``losses`` of ``n``, ``kind``, ``reason``.

    Returns
    -------
    Figure
    """
    import textwrap

    losses = [
        [
            textwrap.wrap(f"{loss['n']:,} {loss['kind']}: {loss['reason']}", WRAP)
            for loss in stage["losses"]
        ]
        for stage in stages
    ]
    lines = [max(2, sum(map(len, those))) for those in losses]
    figure = blank(8.0, 0.4 + 0.2 * sum(lines) + 0.45 * len(stages))
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(-(sum(lines) + 2.2 * len(stages)), 0.4))
    axes.set_axis_off()
    top = 0.0
    for place, (stage, those, height) in enumerate(zip(stages, losses, lines, strict=True)):
        if place:
            sign = "+" if stage.get("joins") else "\N{DOWNWARDS ARROW}"
            axes.text(1.7, top + 0.95, sign, ha="center", va="center", color=FAINT)
        middle = top - height / 2
        said = f"{stage['title']}\n{stage['n']:,} {stage['noun']}"
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": INK}
        axes.text(
            1.7, middle, said, ha="center", va="center", fontsize=9, color=INK, bbox=box,
            parse_math=False,
        )  # fmt: skip
        text = "\n".join(line for loss in those for line in loss)
        axes.text(
            4.0, middle, text or "none lost", va="center", fontsize=8, parse_math=False,
            color=MARK if text else FAINT,
        )  # fmt: skip
        top -= height + 2.2
    return figure
