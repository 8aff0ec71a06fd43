"""The blocks of a catalog about people and models: where the covariates lie, and what is regressed on them."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cohort.io.fields import (
    ColumnExpression,
    Columns,
    Ends,
    LocalPath,
    Name,
    Part,
    Paths,
    Quotient,
    Seed,
    Terms,
    Text,
    Texts,
    VariableName,
    expect,
)

MIN_DRAWS = 20
"""Fewer draws of the missing cells leave too much to chance."""

MIN_ARRANGEMENTS = 100
"""With fewer arrangements no p can be below 1 %."""


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
    drop: Texts = Field(default_factory=list)
    """Columns that never come into the store, such as dates of birth and remarks; after everything else, so that others
    may be derived from them."""
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
    sds: Annotated[float, expect(lambda v: v > 0, "a number above 0")] | None = None
    """How many robust standard deviations are far."""
    tolerance: Annotated[float, expect(lambda v: v >= 0, "a number from 0")] | None = None
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

    seed: Seed
    draws: Annotated[int, expect(lambda n: n >= MIN_DRAWS, f"at least {MIN_DRAWS} draws")] = (
        MIN_DRAWS
    )


class Harmonize(Part):
    """What the site gives to each measurement is taken out before the model sees it (ComBat).

    The estimates are kept with the model: rows that arrive later are harmonised by them, so that the others do not move.
    """

    site: VariableName = Field(description="the column that names the site of each scan")
    columns: Columns | None = None
    """Measurements that are harmonised together, the outcomes among them; the outcomes without it."""
    keep: list[VariableName] | None = None
    """Columns whose effects are kept; without it every column of the formula."""
    parametric: bool = True
    """Normal and inverse-gamma priors, or the empirical distribution over the columns."""
    reference: Text | None = None
    """Site that the others are brought to; it is left as it is."""
    refit: bool = False
    """Estimate anew at every fit, from all rows."""


class Exchanging(Part):
    """Rows change places."""

    seed: Seed
    blocks: VariableName | None = None
    """Column whose rows go together."""
    exchange: Literal["within", "whole"] = "within"
    """Rows change places within their block only, or blocks of one size change places as a whole."""

    @model_validator(mode="after")
    def _whole_needs_blocks(self) -> Self:
        if self.exchange == "whole" and self.blocks is None:
            raise ValueError("exchange: whole needs blocks: the column whose rows go together")
        return self


class Permutation(Exchanging):
    """Terms are tested by exchanging rows (Freedman-Lane), all outcomes and terms corrected by the largest t."""

    n: Annotated[
        int, expect(lambda n: n >= MIN_ARRANGEMENTS, f"at least {MIN_ARRANGEMENTS} arrangements")
    ] = 10_000
    """Arrangements, the table as it is included."""
    terms: Terms | None = None
    """Terms that are tested; those of the group without it."""


class VoxelMask(Part):
    """Voxels of which maps are made."""

    image: LocalPath | None = None
    """A NIfTI file on the scans' grid; 0 is outside."""
    above: float | None = None
    """Value that the scans must exceed there, as they are modelled (smoothed)."""
    share: Annotated[float, expect(lambda v: 0 < v <= 1, "a share above 0, up to 1")] = 1.0
    """Of the scans that must exceed it."""

    @model_validator(mode="after")
    def _share_of_what(self) -> Self:
        if "share" in self.model_fields_set and self.above is None:
            raise ValueError(
                "share: expected above beside it, the value that this share of the scans exceeds, found none; state above"
            )
        return self


class VoxelPermutation(Exchanging):
    """Maps are tested by exchanging scans, corrected for all voxels by the most extreme of each arrangement."""

    n: Annotated[
        int, expect(lambda n: n >= MIN_ARRANGEMENTS, f"at least {MIN_ARRANGEMENTS} arrangements")
    ] = 1000
    scheme: Literal["freedman-lane", "huh-jhun", "sign-flip"] = "freedman-lane"
    tail: bool = False
    """Corrected p below 0.1 come from a generalised Pareto tail of the most extreme; n: 500 is enough for it."""


class Voxelwise(Part):
    """The outcome is a variable of the scans: the model is fitted in every voxel."""

    variable: VariableName = "image"
    """Of the scan, or kept by the model's recipe."""
    form: Literal["cube", "streaming"] = "cube"
    """All scans side by side, or sums of them: of a scan that comes or goes nothing else is read, and no cube is written."""
    smooth_fwhm_mm: (
        Annotated[float, expect(lambda v: 0 < v <= 100, "a width above 0, up to 100 mm")] | None
    ) = None
    mask: VoxelMask = VoxelMask()
    contrasts: Terms | None = None
    """Terms, and names of the model's contrasts; without it the group's terms, or all that are no confounds."""
    joint: dict[Name, Terms] = Field(default_factory=dict)
    """Name -> terms that are tested together (F)."""
    permutations: VoxelPermutation | None = None
    cluster_threshold: Annotated[float, expect(lambda v: v > 0, "a t above 0")] | None = None
    """Value of t above which voxels form clusters, whose extent and mass then get p of the permutations; without it clusters
    are listed above the t of p = 0.001, without p."""
    tfce: bool = False
    neighbours: Literal[6, 18, 26] = 6

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.form == "streaming" and (self.permutations is not None or self.tfce):
            asked = "tfce" if self.permutations is None else "permutations"
            raise ValueError(f"form: streaming keeps sums, and {asked} needs the scans: form: cube")
        if self.tfce and self.permutations is None:
            raise ValueError(
                "tfce: expected permutations, of which support has its p, found none; state permutations: {seed: 1}"
            )
        return self


_OF_LEAST_SQUARES = (
    *("outcomes", "equivalence", "cluster", "impute", "ratios", "head", "harmonize", "permutation"),
)
"""Keys that a model with random effects does not take."""

_OF_NUMBERS = (*_OF_LEAST_SQUARES, "random", "family", "site")
"""Keys that a model of maps does not take."""


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
    """Column whose rows go together (a family, a site): errors robust to that are what everything is judged by."""
    random: Random | None = None
    impute: Imputation | None = None
    harmonize: Harmonize | None = None
    permutation: Permutation | None = None
    voxelwise: Voxelwise | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        # A bare `voxelwise:` asks for maps of which nothing more is said.
        value = {k: {} if k == "voxelwise" and v is None else v for k, v in value.items()}
        several = value.get("outcomes")
        if "outcome" not in value and isinstance(several, list) and several:
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
        if self.voxelwise is not None:
            if taken := [k for k in _OF_NUMBERS if getattr(self, k)]:
                raise ValueError(
                    f"{taken[0]} belongs to models of numbers; expected it without voxelwise"
                )
            if self.one_scan_per == "mean":
                raise ValueError("voxelwise takes scans as they are; found one_scan_per: mean")
        if self.harmonize is not None:
            self._check_harmonize(self.harmonize)
        several = (self.family.outcomes if self.family is not None else None) or []
        if unknown := [o for o in several if o not in self.all_outcomes]:
            raise ValueError(
                f"family.outcomes: {unknown[0]!r} is no outcome of the model "
                f"({', '.join(self.all_outcomes)})"
            )
        return self

    def _check_harmonize(self, asked: Harmonize) -> None:
        if self.impute is not None:
            raise ValueError(
                "harmonize takes the covariates as known, impute draws them: state one"
            )
        if asked.site in (self.group, *self.all_outcomes):
            raise ValueError(
                f"harmonize.site: {asked.site!r} is what the model compares; harmonising by it would take that away"
            )
        together = asked.columns or self.all_outcomes
        if lacking := [o for o in self.all_outcomes if o not in together]:
            raise ValueError(
                f"harmonize.columns: the outcome {lacking[0]!r} is not among them"
                f" ({', '.join(together)})"
            )
        if len(together) < 2:
            raise ValueError(
                "harmonize: a site is learned from several measurements together, found only"
                f" {together[0]!r}; name more in harmonize.columns"
            )

    @property
    def all_outcomes(self) -> Sequence[str]:
        """Every outcome once, the one that figures show first."""
        return list(dict.fromkeys([self.outcome, *(self.outcomes or ())]))

    @property
    def columns_beside(self) -> dict[str, list[str]]:
        """Columns that are named beside outcomes and formula, by the key that names them."""
        random, made, moved = self.random, self.harmonize, self.permutation
        found: dict[str, list[str | None]] = {
            "head": [self.head],
            "site": [self.site],
            "cluster": [self.cluster],
            "ratios": [*self.ratios, *(name for pair in self.ratios.values() for name in pair)],
            "random": [] if random is None else [random.subject, random.slope],
            "harmonize": []
            if made is None
            else [made.site, *(made.columns or ()), *(made.keep or ())],
            "permutation": [] if moved is None else [moved.blocks],
            "voxelwise.permutations": []
            if self.voxelwise is None or self.voxelwise.permutations is None
            else [self.voxelwise.permutations.blocks],
        }
        return {key: [name for name in names if name] for key, names in found.items()}


def part_at(place: Sequence[str]) -> type[Part]:
    """Return what holds the key at a place within ``models.<model>``, such as ``("random", "slope")``."""
    match list(place):
        case ["family", _, *_]:
            return Family
        case ["random", _, *_]:
            return Random
        case ["impute", _, *_]:
            return Imputation
        case ["harmonize", _, *_]:
            return Harmonize
        case ["permutation", _, *_]:
            return Permutation
        case ["voxelwise", "mask", _, *_]:
            return VoxelMask
        case ["voxelwise", "permutations", _, *_]:
            return VoxelPermutation
        case ["voxelwise", _, *_]:
            return Voxelwise
        case ["equivalence", _, _, *_]:
            return Equivalence
        case _:
            return Model
