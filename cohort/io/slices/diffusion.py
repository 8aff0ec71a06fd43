"""b-values, and where scanners put them that do not write DiffusionBValue.

Sources: the DICOM conformance statements of the makers; the private dictionaries of dcm2niix and pydicom.
"""

from cohort.io.slices import elements
from cohort.io.slices.elements import Elements

_PRIVATE = {"siemens": 0x0019100C, "ge": 0x00431039, "philips": 0x20011003}
"""Beginning of a maker's name, in lower case -> element in which it puts a slice's b-value first."""

TAGS = tuple(_PRIVATE.values())
"""Private elements to read."""

_GE_FLAG = 100_000
"""GE adds a multiple of this (1e9 since 2014) to some b-values; none that a scanner can reach is as large."""


def b_value(slice_: Elements) -> float | None:
    """Diffusion weighting of a slice, s/mm2: DiffusionBValue, without it what its maker wrote instead; None if nobody says.

    Examples
    --------
    >>> from pydicom.dataset import Dataset
    >>> header = Dataset()
    >>> header.Manufacturer = "GE MEDICAL SYSTEMS"
    >>> _ = header.add_new(0x00431039, "IS", [1000000750, 8, 0, 0])
    >>> b_value(header)
    750.0
    """
    public = elements.number(slice_, "DiffusionBValue")
    if public is not None:
        return public
    maker = elements.text(slice_, "Manufacturer").casefold()
    for name, tag in _PRIVATE.items():
        if maker.startswith(name):
            value = elements.number(slice_, tag)
            if value is None or value < 0:
                return None
            return value % _GE_FLAG if name == "ge" else value
    return None
