"""What a researcher has decided about a series that would otherwise be refused: named exceptions, never a general leniency.

A catalog states them for every series or for those that a pattern finds; what was used of them stands in the scan's
record, so that a number can be traced to the decision behind it.
"""

from dataclasses import dataclass
from typing import Literal

ACCEPTABLE = {
    "DCM-LOCALIZER": "stacked like any other series",
    "DCM-CAPTURE": "a grey capture or derived image with a geometry is taken for a scan",
    "DCM-BURNED-IN": "taken although text may stand in the pixels",
    "DCM-NO-META": "a file without file meta information is read as implicit VR little endian",
    "DCM-LUT": "values pass through the modality table",
    "IMG-TWICE": "the same voxels under several subjects stay in the cohort",
    "NII-NO-ORIENT": "axes are taken for right, anterior, superior, the origin for the middle of the volume",
    "NII-UNITS": "lengths are taken for millimetres",
}
"""Refusals that a catalog may turn into acceptance -> what is done then."""


@dataclass(frozen=True)
class Policy:
    """Decisions for one series.

    Parameters
    ----------
    accept : frozenset of str
        Codes of `ACCEPTABLE`.
    resample : {"uniform"}, optional
        Slices at uneven distances (``DCM-UNEVEN``, ``DCM-GAP``) are interpolated linearly onto an even grid.
    prefer : {"sform", "qform"}, optional
        Which affine of a NIfTI header counts where the two disagree.
    min_slices : int
        Fewer slices are no scan to measure.
    split : bool
        Matrices or pixel spacings that differ within one series make scans of their own.
    philips_precise : bool
        Philips' private scale factors (floating point) instead of the public rescale (display).
    """

    accept: frozenset[str] = frozenset()
    resample: Literal["uniform"] | None = None
    prefer: Literal["sform", "qform"] | None = None
    min_slices: int = 3
    split: bool = False
    philips_precise: bool = False


DEFAULT = Policy()
"""No exception."""
