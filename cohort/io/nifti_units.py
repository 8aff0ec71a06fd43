"""What the lengths and times of a NIfTI header are in millimetres and seconds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from cohort.io.policy import Notes
from cohort.io.refusal import Refused

_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of the unit of length -> mm."""

_TO_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Code of the unit of time -> s."""

_PLAUSIBLE_MM = (0.1, 10.0)
"""Without a unit, voxel sizes in this range are taken as mm."""

_PLAUSIBLE_SECONDS = 1000.0
"""A longer step of time is more likely a thousandth of it, called seconds by mistake."""


@dataclass(frozen=True)
class Units:
    """Units of a header.

    Parameters
    ----------
    mm : float, optional
        Length of one unit; None if the header states none.
    step_seconds : float, optional
        Between two volumes; None if the header states no unit of time or no step.
    """

    mm: float | None
    step_seconds: float | None

    @classmethod
    def of(cls, header: Any) -> "Units":
        """Units of a nibabel header; those of Analyze 7.5 are text that nobody keeps to, so it has none."""
        code = int(header["xyzt_units"]) if "xyzt_units" in header.keys() else 0  # noqa: SIM118 - not a mapping
        # A float32 in its shortest form: 2.2, not 2.200000047683716.
        step = float(str(header["pixdim"][4]))
        known = code & 56 in _TO_SECONDS and math.isfinite(step) and step > 0
        return cls(_TO_MM.get(code & 7), step * _TO_SECONDS[code & 56] if known else None)

    def check_lengths(self, steps: np.ndarray, path: Path, notes: Notes) -> None:
        """Take lengths of no unit for mm if they may well be, and flag it (``units_unknown``).

        Raises
        ------
        Refused
            ``NII-UNITS`` if voxels of these steps, mm, are not plausible and the policy does not accept that.
        """
        if self.mm is not None:
            return
        notes.flags.add("units_unknown")
        low, high = _PLAUSIBLE_MM
        if not (low <= steps.min() and steps.max() <= high):
            notes.refuse(
                Refused(
                    "NII-UNITS",
                    f"no unit of length, and voxels of {' x '.join(f'{s:.4g}' for s in steps)} are not plausible in mm "
                    f"({low:g} to {high:g}), in {{0}}",
                    fix="set xyzt_units in the header",
                    files=[path],
                )
            )

    def time_axis(self, n: int, notes: Notes) -> xr.Variable:
        """Seconds if the header has a unit and a step, else frames, and marked so."""
        if self.step_seconds is None:
            return xr.Variable(
                "time", np.arange(n, dtype=float), {"units": "frame", "basis": "order"}
            )
        if self.step_seconds > _PLAUSIBLE_SECONDS:
            notes.flags.add("time_implausible")
        seconds = np.arange(n) * self.step_seconds
        return xr.Variable("time", seconds, {"units": "s", "basis": "pixdim[4]"})
