"""What has to come of a case: scans with their voxels and affine, refusals with their code and files, or nothing, counted."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from cohort import grid
from hardcases import phantom

SAME_MM = 1e-3
"""No corner of a volume may lie farther than this from where the truth has it."""

ROUNDING = 2e-7
"""Of the largest value: half a unit in the last place of float32, and what scaling in float32 adds."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A scan that has to come out.

    Parameters
    ----------
    affine : (4, 4) array
        Indices of the last three axes of `values`, reversed, -> RAS mm. The order of axes is free, the place is not.
    values : (..., slice, row, column) array
        Real numbers, after the rescale.
    dtype : str, optional
        How the store must keep them.
    flags : frozenset of str, optional
        Exactly these; None for any.
    attrs : mapping
        Attributes of the scan, among others; a callable value is a check.
    time : tuple of (values, unit), optional
        Of the fourth axis.
    tolerance : float
        Values may be off by this much: a lossy source, an interpolation.
    any_grid : {"", "linear", "bumpy"}
        Interpolated: voxels may lie anywhere, fill the place of these, and hold this phantom where they lie.
    """

    affine: np.ndarray
    values: np.ndarray
    dtype: str | None = None
    flags: frozenset[str] | None = frozenset()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    time: tuple[Sequence[float], str] | None = None
    subject: str | None = None
    units: str | None = None
    tolerance: float = 0.0
    any_grid: Literal["", "linear", "bumpy"] = ""

    def differences(
        self, values: np.ndarray, affine: np.ndarray, *, mm: float = SAME_MM
    ) -> list[str]:
        """How a volume (..., z, y, x) with its RAS affine differs from this scan, axis order aside; [] if it does not."""
        try:
            yours, yours_affine = grid.canonical(np.asarray(values, float), affine)
        except (TypeError, ValueError) as error:
            return [str(error)]
        if self.any_grid:
            return self._interpolated(yours, yours_affine)
        mine, mine_affine = grid.canonical(np.asarray(self.values, float), self.affine)
        if mine.shape != yours.shape:
            return [f"shape {yours.shape}, expected {mine.shape}"]
        found = []
        apart = np.linalg.norm(
            grid.corners(mine_affine, mine.shape[-3:])
            - grid.corners(yours_affine, yours.shape[-3:]),
            axis=1,
        ).max()
        if not apart <= mm:
            found.append(f"a corner lies {apart:.4f} mm off")
        allowed = self.tolerance + ROUNDING * np.abs(mine).max(where=np.isfinite(mine), initial=0)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            apart_by = np.abs(mine - yours)
        wrong = ~((apart_by <= allowed) | (mine == yours) | (np.isnan(mine) & np.isnan(yours)))
        if wrong.any():
            off = apart_by.max(where=wrong & np.isfinite(apart_by), initial=0)
            found.append(f"{wrong.sum()} of {wrong.size} voxels differ, by up to {off:.4g}")
        return found

    def _interpolated(self, values: np.ndarray, affine: np.ndarray) -> list[str]:
        """As `differences`, wherever the voxels lie."""
        points = phantom.world(affine, values.shape)
        last = np.array(self.values.shape[::-1]) - 1
        places = nib.affines.apply_affine(np.linalg.inv(self.affine), points)
        inside = ((places > -1e-3) & (places < last + 1e-3)).all(axis=-1)
        share = inside.sum() * abs(np.linalg.det(affine[:3, :3]))
        share /= np.prod(last) * abs(np.linalg.det(self.affine[:3, :3]))
        truth = phantom.exact(points, bump=self.any_grid == "bumpy")
        off = np.abs(values - truth)[inside].max(initial=0)
        found = [] if share > 0.85 else [f"{share:.0%} of the volume is there"]
        if off > self.tolerance:
            found.append(f"voxels are off by up to {off:.4g}, tolerance {self.tolerance}")
        return found


@dataclass(frozen=True)
class Refusal:
    """A series that must not become a scan.

    Parameters
    ----------
    codes : tuple of str
        One of these.
    names : sequence
        Files that the message must name; of a tuple of files, one.
    state : str
        ``skipped`` if it is nothing to measure.
    says : str
        A regular expression that the message must match.
    """

    codes: tuple[str, ...]
    names: Sequence[Path | tuple[Path, ...]] = ()
    state: str = "quarantined"
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What has to come of one case: scans, refusals, skipped files (at least one of them), and nothing else.

    Parameters
    ----------
    skipped : int
        Files that are nothing to measure and counted as such.
    raises : str, optional
        The whole call ends with an error whose message matches.
    also : sequence of sequences of Scan
        What another tool might rightly make of a case that is refused here for want of a decision.
    shared : int
        Files that count twice, because two scans have slices in them.
    call : mapping
        Part of the manifest, such as ``{"unmatched": {...}}``.
    outside : sequence of Path
        Files that must not come into being.
    subjects : int, optional
        How many people the scans are of.
    participants : mapping of column -> list
        Of the participants table as it was read.
    fits : mapping of model -> str
        Models that are not fitted, for a reason that matches.
    """

    scans: Sequence[Scan] = ()
    refused: Sequence[Refusal] = ()
    skipped: int = 0
    raises: str | None = None
    also: Sequence[Sequence[Scan]] = ()
    shared: int = 0
    call: Mapping[str, Any] = field(default_factory=dict)
    outside: Sequence[Path] = ()
    subjects: int | None = None
    participants: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    fits: Mapping[str, str] = field(default_factory=dict)

    @property
    def word(self) -> str:
        """``accept``, ``refuse`` or ``skip``."""
        if self.raises or self.fits or any(r.state == "quarantined" for r in self.refused):
            return "refuse"
        return "accept" if self.scans else "skip"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of the catalogue.

    Parameters
    ----------
    row : str
        Of the list of hard cases: ``D4``.
    title : str
        What is hard about it; with the row, its name.
    make : callable
        Writes files below a folder, in well under a second, and gives the truth.
    catalog : mapping
        Keys of the catalog besides the usual ones: decisions that a researcher states.
    """

    row: str
    title: str
    make: Callable[[Path], Truth]
    catalog: Mapping[str, Any] = field(default_factory=dict)
    slow: bool = False

    @property
    def name(self) -> str:
        """Short, unique, fit for a folder."""
        return f"{self.row}-{re.sub(r'[^a-z0-9]+', '-', self.title.lower()).strip('-')}"


def case(row: str, title: str, *, slow: bool = False, **catalog: Any) -> Callable[..., Case]:
    """Make a case of a function that writes it; further keywords are keys of its catalog."""
    return lambda make: Case(row=row, title=title, make=make, catalog=catalog, slow=slow)


def cases_of(module: Any) -> list[Case]:
    """Every case that a module holds, alone or in a tuple, in order."""
    found: list[Case] = []
    for value in vars(module).values():
        if isinstance(value, Case):
            found.append(value)
        elif isinstance(value, tuple) and value and all(isinstance(v, Case) for v in value):
            found += value
    return found
