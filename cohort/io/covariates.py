"""The blocks of a catalog about people and models: where the covariates lie, and what is regressed on them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cohort.io.fields import ColumnExpression, LocalPath, Name, Part, Paths, Texts, VariableName

MIN_DRAWS = 20
"""Fewer draws of the missing cells leave too much to chance."""


def _some(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("expected at least one, found an empty list")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{twice[0]!r} is listed twice")
    return names


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("expected text, found none")
    return text


def _quotient(names: list[str]) -> list[str]:
    if len(names) != 2:
        raise ValueError(f"expected [numerator, denominator], found {len(names)} names")
    return names


def _both_sides(value: Any) -> Any:
    """``2`` means from -2 to 2."""
    return [-value, value] if type(value) in (int, float) else value


def _around_zero(ends: list[float]) -> list[float]:
    if len(ends) != 2 or not ends[0] < 0 < ends[1]:
        raise ValueError(
            f"expected a number above 0, or [low, high] with 0 between them; found {ends}"
        )
    return ends


def _seed(value: int) -> int:
    if value < 0:
        raise ValueError(f"expected a whole number from 0, found {value}")
    return value


def _draws(value: int) -> int:
    if value < MIN_DRAWS:
        raise ValueError(f"expected at least {MIN_DRAWS} draws, found {value}")
    return value


def _above_zero(value: float) -> float:
    if value <= 0:
        raise ValueError(f"expected a number above 0, found {value:g}")
    return value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"expected a number from 0, found {value:g}")
    return value


Columns = Annotated[list[VariableName], AfterValidator(_some)]
Text = Annotated[str, AfterValidator(_filled)]
Terms = Annotated[list[Text], AfterValidator(_some)]
Quotient = Annotated[list[VariableName], AfterValidator(_quotient)]
Ends = Annotated[list[float], BeforeValidator(_both_sides), AfterValidator(_around_zero)]


class IdMap(Part):
    """Which participant each subject of the scans is, where the two are named differently."""

    table: LocalPath = Field(description="the path of a .csv or .tsv file")
    subject: str = Field(description="the column that holds the subjects as the scans name them")
    id: str = Field(description="the column that holds the ids of the participants table")


class ParticipantsTable(Part):
    """Where the covariates are, and how to read them."""

    table: Paths = Field(
        min_length=1, description="the path of a .csv or .tsv file, or a list of them"
    )
    id: str = Field(description="the column that holds the ids")
    rename: dict[VariableName, str] = Field(default_factory=dict)
    """New name -> the name in the table; before anything else."""
    derive: dict[VariableName, ColumnExpression] = Field(default_factory=dict)
    """New column -> expression over the others, in order."""
    units: dict[str, str] = Field(default_factory=dict)
    """Column, renamed or derived ones too -> unit, as figures and tables show it."""
    missing: Texts = Field(default_factory=list)
    """Cells that mean "not known", besides empty ones, n/a and N/A."""
    cap_ages: bool = False
    """Ages over 89 become 90 and the column `age_capped` says which."""
    map: IdMap | None = None
    """From the subjects of the scans (a DICOM PatientID, or what the pattern finds) to the ids of the table."""


class Check(Part):
    """What must be the same, or must hold, in every row of the table."""

    constant: ColumnExpression | None = None
    """Rows far from the median of all are named."""
    holds: ColumnExpression | None = None
    """Rows in which it is false are named."""
    sds: Annotated[float, AfterValidator(_above_zero)] | None = None
    """How many robust standard deviations are far."""
    tolerance: Annotated[float, AfterValidator(_not_negative)] | None = None
    """A difference in the expression's unit that is always allowed."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.constant is None) == (self.holds is None):
            raise ValueError("expected one of constant and holds, each an expression")
        if self.holds is not None and (self.sds is not None or self.tolerance is not None):
            raise ValueError("sds and tolerance belong to constant; what holds is true or false")
        return self

    def declared(self) -> dict[str, Any]:
        """As `cohort.stats.consistency.check` takes it."""
        return self.model_dump(exclude_none=True)


class Family(Part):
    """Tests that are corrected together."""

    terms: Terms = Field(description="a list of terms or contrasts")
    outcomes: Columns | None = None
    """Those of the model's outcomes that belong to it; all without it."""


class Equivalence(Part):
    """How large an effect may be and still not matter, declared before it is seen."""

    bound: Ends = Field(description="the largest effect that would not matter")
    scale: Literal["outcome", "sd"] = "outcome"
    """Whether the bound has the unit of the estimate or counts residual standard deviations."""


class Random(Part):
    """All scans of each subject, with an intercept (and a slope) of the subject's own."""

    subject: VariableName = "subject"
    slope: VariableName | None = None
    """A term along which subjects may differ in their change, usually time."""
    method: Literal["reml", "ml"] = "reml"


class Imputation(Part):
    """Missing covariates are drawn many times, and the fits pooled, beside the fit of the complete rows."""

    seed: Annotated[int, AfterValidator(_seed)] = Field(description="a whole number from 0")
    draws: Annotated[int, AfterValidator(_draws)] = MIN_DRAWS


_OF_LEAST_SQUARES = ("outcomes", "contrasts", "equivalence", "cluster", "impute", "ratios", "head")
"""Keys that a model with random effects does not take."""


class Model(Part):
    """One regression."""

    outcome: VariableName = Field(description="a measurement or a column of the participants table")
    formula: str = Field(description="the right-hand side, such as 'group + age + skull_ml'")
    confounds: list[VariableName] = Field(default_factory=list)
    one_scan_per: Literal["first", "last", "mean", "error", "all"] = "first"
    where: ColumnExpression | None = None
    recipe: Name | None = None
    """Whose measurement the outcome is, when two recipes measure the same name."""
    group: VariableName | None = None
    """The term that the figures compare."""
    truth: dict[str, float] = Field(default_factory=dict)
    """Term -> its true value, where it is known (synthetic cohorts)."""
    outcomes: Columns | None = None
    """Several outcomes on the same terms. `outcome` is the one that figures show: without it the first of them."""
    head: VariableName | None = None
    """Head size: the group's effect is also estimated with it as a ratio, a residual and a power."""
    site: VariableName | None = None
    """Where each scan was made: a fit of each site is written beside, and groups that sites do not share are told."""
    ratios: dict[VariableName, Quotient] = Field(default_factory=dict)
    """Column -> the two columns it is the quotient of."""
    contrasts: dict[Name, Text] = Field(default_factory=dict)
    """Name -> sum of terms with weights, such as ``dx + 70 * dx:age``."""
    family: Family | None = None
    """What is corrected for multiplicity; without it the group's terms (and contrasts) over all outcomes."""
    equivalence: dict[Text, Equivalence] = Field(default_factory=dict)
    """Term -> bound."""
    cluster: VariableName | None = None
    """Column whose rows go together (a family, a site): errors robust to that stand beside."""
    random: Random | None = None
    impute: Imputation | None = None

    @model_validator(mode="before")
    @classmethod
    def _first_of_several(cls, value: Any) -> Any:
        if isinstance(value, dict) and "outcome" not in value:
            several = value.get("outcomes")
            if isinstance(several, list) and several:
                return {"outcome": several[0], **value}
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.random is not None:
            if taken := [k for k in _OF_LEAST_SQUARES if getattr(self, k)]:
                raise ValueError(f"{taken[0]} belongs to least squares; expected it without random")
            if "one_scan_per" in self.model_fields_set and self.one_scan_per != "all":
                raise ValueError(
                    f"random takes all scans of each subject; found one_scan_per: {self.one_scan_per}"
                )
        several = (self.family.outcomes if self.family is not None else None) or []
        if unknown := [o for o in several if o not in self.all_outcomes]:
            raise ValueError(
                f"family.outcomes: {unknown[0]!r} is no outcome of the model "
                f"({', '.join(self.all_outcomes)})"
            )
        return self

    @property
    def all_outcomes(self) -> Sequence[str]:
        """Every outcome once, the one that figures show first."""
        return list(dict.fromkeys([self.outcome, *(self.outcomes or ())]))


def part_at(place: Sequence[str]) -> type[Part]:
    """Return what holds the key at a place within ``models.<model>``, such as ``("random", "slope")``."""
    match list(place):
        case ["family", _, *_]:
            return Family
        case ["random", _, *_]:
            return Random
        case ["impute", _, *_]:
            return Imputation
        case ["equivalence", _, _, *_]:
            return Equivalence
        case _:
            return Model
