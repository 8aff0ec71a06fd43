"""What the slices of one scan must have in common besides their place, and what is said of them all only if it is so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_header import Header

SAME_SHARE = 1e-3
"""Numbers that differ by no more than this share are written by one protocol."""

_ONE: dict[str, str] = {
    "SeriesNumber": "series_number",
    "units (Units or RescaleType)": "units",
    "PhotometricInterpretation": "photometric",
}
"""What two slices of a scan may not say differently, by a name for messages -> field; one may say nothing."""

_ATTRS: dict[str, str] = {
    "repetition_time_ms": "repetition_time",
    "inversion_time_ms": "inversion_time",
    "flip_angle_deg": "flip_angle",
    "slice_thickness_mm": "slice_thickness",
}
"""Attributes of a scan that one header tells -> field."""


def check_agreement(headers: Sequence[Header], files: Sequence[Path]) -> None:
    """Raise `Refused`, ``DCM-MIXED``, where slices say that they are not of one scan."""
    for name, field in _ONE.items():
        said: dict[Any, Path] = {}
        for header, path in zip(headers, files, strict=True):
            value = header[field]  # type: ignore[literal-required]
            if value not in (None, ""):
                said.setdefault(value, path)
        if len(said) > 1:
            raise Refused(
                "DCM-MIXED",
                f"{len(said)} values of {name} in one scan, for example those of {{0}} and {{1}}",
                fix="separate them into series of their own.",
                files=list(said.values())[:2],
            )


def varying(headers: Sequence[Header]) -> set[str]:
    """Names of the attributes that the header of one slice would tell, and others tell otherwise."""
    return {name for name, field in _ATTRS.items() if _varies([h[field] for h in headers])}  # type: ignore[literal-required]


def _varies(values: Sequence[float | None]) -> bool:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return bool(known)
    return max(known) - min(known) > SAME_SHARE * max(map(abs, known))
