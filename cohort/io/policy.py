"""What a researcher has decided about a series that would otherwise be refused: named exceptions, never a general leniency.

A catalog states them for every series or for those that a pattern finds; what was used of them stands in the scan's
record, so that a number can be traced to the decision behind it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cohort.io.fields import Part, did_you_mean
from cohort.io.refusal import Refused

ACCEPTABLE = {
    "DCM-LOCALIZER": "stacked like any other series",
    "DCM-CAPTURE": "a grey capture or derived image with a geometry is taken for a scan",
    "DCM-BURNED-IN": "taken although text may stand in the pixels",
    "DCM-NO-META": "a file without file meta information is read as implicit VR little endian",
    "DCM-MONOCHROME1": "stored values are measured as they stand, never inverted, whatever is shown white",
    "DCM-LUT": "values pass through the modality table",
    "IMG-TWICE": "the same voxels under several subjects stay in the cohort",
    "NII-NO-ORIENT": "axes are taken for right, anterior, superior, the origin for the middle of the volume",
    "NII-UNITS": "lengths are taken for millimetres",
}
"""Refusals that a catalog may turn into acceptance -> what is done then."""

INSTEAD = {
    "DCM-GAP": "resample: uniform",
    "DCM-UNEVEN": "resample: uniform",
    "DCM-TOO-FEW": "min_slices: 2",
    "DCM-MATRIX-MIX": "split: true",
    "DCM-SPACING-MIX": "split: true",
    "DCM-TORN": "split: true",
    "NII-FORMS": "prefer: sform or prefer: qform",
    "NII-SINGULAR": "prefer: sform or prefer: qform",
    "NII-5D": "fifth_axis: echo",
}
"""Refusals that ask for a decision of another kind -> how a catalog states it."""


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
        A DICOM series of fewer slices is no scan to measure.
    split : bool
        Matrices or pixel spacings that differ within one series make scans of their own, as do stacks that continue each other
        and differ in a tag.
    philips_precise : bool
        Philips' private scale factors (floating point) instead of the public rescale (display).
    fifth_axis : {"echo"}, optional
        What the fifth axis of a NIfTI image is.
    """

    accept: frozenset[str] = frozenset()
    resample: Literal["uniform"] | None = None
    prefer: Literal["sform", "qform"] | None = None
    min_slices: int = 3
    split: bool = False
    philips_precise: bool = False
    fifth_axis: Literal["echo"] | None = None

    def as_stamp(self) -> dict[str, Any]:
        """Decisions that differ from the default, as JSON holds them, in one order.

        Examples
        --------
        >>> Policy(accept=frozenset({"NII-UNITS", "DCM-LUT"}), prefer="sform").as_stamp()
        {'accept': ['DCM-LUT', 'NII-UNITS'], 'prefer': 'sform'}
        """
        stated = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in stated.items()
            if value != getattr(DEFAULT, name)
        }


DEFAULT = Policy()
"""No exception."""


@dataclass
class Notes:
    """What is worth knowing of one scan while it is read: flags, and what was used of its policy.

    Examples
    --------
    >>> notes = Notes(Policy(accept=frozenset({"NII-UNITS"})), flags={"units_unknown", "has_nan"})
    >>> notes.refuse(Refused("NII-UNITS", "no unit", fix="set it"))
    >>> notes.attrs()
    {'accepted': 'NII-UNITS', 'flags': 'has_nan units_unknown'}
    """

    policy: Policy
    flags: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)

    def refuse(self, refusal: Refused) -> None:
        """Raise a refusal, unless the policy accepts its code: then note that it did."""
        if refusal.code in self.policy.accept:
            self.accepted.add(refusal.code)
            return
        if refusal.code in ACCEPTABLE:
            refusal = Refused(
                refusal.code,
                refusal.what,
                fix=f"{refusal.fix.rstrip('.')}, or state accept: [{refusal.code}] in the catalog",
                files=refusal.files,
                state=refusal.state,
            )
        raise refusal

    def attrs(self) -> dict[str, str]:
        """Attributes of the scan: ``accepted`` and ``flags``, words joined by a space, those that hold any."""
        found = {"accepted": self.accepted, "flags": self.flags}
        return {name: " ".join(sorted(words)) for name, words in found.items() if words}


# -- as a catalog states them ---------------------------------------------------------------------------------------


def _codes(codes: list[str]) -> list[str]:
    wrong = [
        f"{code} cannot be accepted as it is; state {INSTEAD[code]} instead"
        for code in codes
        if code in INSTEAD
    ]
    unknown = [code for code in codes if code not in INSTEAD and code not in ACCEPTABLE]
    wrong += [f"unknown code {code!r}{did_you_mean(code, ACCEPTABLE)}" for code in unknown]
    if unknown:
        wrong.append(f"those that may be accepted are {', '.join(sorted(ACCEPTABLE))}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return sorted(set(codes))


def _slices(value: Any) -> Any:
    if type(value) is not int or value < 1:
        raise ValueError(f"expected a whole number of slices, at least 1, found {value!r}")
    return value


def _finder(text: str) -> str:
    try:
        empty = re.search(text, "") is not None
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    if empty:
        raise ValueError(
            f"{text!r} finds every series; state the decision at the top of the catalog, or say more"
        )
    return text


Codes = Annotated[list[str], AfterValidator(_codes)]
SliceCount = Annotated[int, BeforeValidator(_slices)]
Finder = Annotated[str, AfterValidator(_finder)]


class SeriesPolicy(Part):
    """Decisions for the series that a pattern finds; a key that is stated replaces the catalog's own."""

    match: Finder = Field(
        description="a regular expression on a series' path, scan id or name in quarantine"
    )
    accept: Codes = Field(default_factory=list)
    resample: Literal["uniform"] | None = None
    prefer: Literal["sform", "qform"] | None = None
    min_slices: SliceCount = DEFAULT.min_slices
    split: bool = False
    philips_precise: bool = False
    fifth_axis: Literal["echo"] | None = None

    @model_validator(mode="after")
    def _states_something(self) -> "SeriesPolicy":
        if self.model_fields_set == {"match"}:
            known = ", ".join(f.name for f in fields(Policy))
            raise ValueError(
                f"decides nothing for {self.match!r}; expected at least one of {known}"
            )
        return self

    def finds(self, names: Sequence[str]) -> bool:
        """Whether the pattern occurs in one of the names."""
        return any(re.search(self.match, name) for name in names)


def decide(general: Part, series: Sequence[SeriesPolicy], names: Sequence[str]) -> Policy:
    """Policy of one series.

    Parameters
    ----------
    general : Part
        Holds the decisions for every series, under the names of `Policy`.
    series : sequence of SeriesPolicy
        Those for some; where two that find the series state the same key, the later counts.
    names : sequence of str
        Names of the series.
    """
    stated = {f.name: getattr(general, f.name) for f in fields(Policy)}
    for part in series:
        if part.finds(names):
            stated |= {key: getattr(part, key) for key in part.model_fields_set if key != "match"}
    return Policy(**{**stated, "accept": frozenset(stated["accept"])})
