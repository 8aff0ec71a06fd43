"""The blocks of a catalog about people and models: where the covariates lie, and what is regressed on them."""

from typing import Literal

from pydantic import Field

from cohort.io.fields import ColumnExpression, LocalPath, Name, Part, Paths, Texts, VariableName


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
