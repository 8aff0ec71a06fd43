"""Refusals of series that may lack a part, because of what lies beside them: an end that is missing is missed by nobody."""

from collections.abc import Sequence
from pathlib import Path

from cohort.io.refusal import Refused
from cohort.pipeline.intake.units import Unit


def unreadable(path: Path) -> Refused:
    """What cannot be looked into."""
    return Refused(
        "SRC-UNREADABLE",
        "{0} cannot be read; scans beside it stay as they are",
        fix="allow reading it, look after the disk, or move it out of the sources",
        files=[path],
    )


def doubtful(unit: Unit, unknown: Sequence[Path]) -> Refused:
    """A series that may have a part among what cannot be looked into."""
    folders = {f.parent for f in unit.series.files}
    path = next((p for p in unknown if p.parent in folders), unknown[0])
    return Refused(
        "SRC-UNREADABLE",
        "{0} may lack a part: {1} cannot be read",
        fix="allow reading it, look after the disk, or move it out of the sources",
        files=[unit.series.files[0], path],
    )


def beside_damage(unit: Unit, damaged: Path) -> Refused:
    """A series that may have a slice in a damaged file of its folder."""
    return Refused(
        "DCM-BESIDE-DAMAGE",
        "{0} may lack a slice: {1} in its folder is damaged, so that nobody knows what series it belongs to",
        fix="copy the damaged file again from its source, or move it out of the sources",
        files=[unit.series.files[0], damaged],
    )
