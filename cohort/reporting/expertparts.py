"""Agreement with an expert on a page: a table of bias and limits, and a figure a measurement."""

from typing import Any

import pandas as pd

from cohort.reporting import agreementplots, plots
from cohort.reporting.facts import Source
from cohort.reporting.tableparts import figure, part, text
from cohort.reporting.wording import count

TERMS = {
    "bias": "bias (measured - expert)",
    "lower_limit": "lower limit of agreement",
    "upper_limit": "upper limit of agreement",
    "slope": "bias for each unit of the mean",
    "icc": "ICC(2,1), absolute agreement",
}
UNITLESS = ("slope", "icc")


def of_cohort(store: Source) -> dict[str, Any] | None:
    """Table and figures; None where the catalog names no expert or nothing could be compared.

    Returns
    -------
    {table: Part, pictures: [{uri, width, height, alt}]} or None
    """
    found, pairs = store.table("scans.agreement"), store.table("scans.agreement_pairs")
    if found is None or pairs is None:
        return None
    return {"table": _table(found), "pictures": [*map(_picture, _each(found), _each(pairs))]}


def _each(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of one measurement, by and by, as the catalog lists them."""
    return [rows for _, rows in table.groupby("measurement", sort=False)]


def _table(found: pd.DataFrame) -> dict[str, Any]:
    unit = found["unit"].mask(found["term"].isin(UNITLESS), "")
    return part(
        "Bias and limits of agreement",
        "Bland and Altman: the mean difference, and the limits between which 95 % of the differences lie. A bias for each unit of the"
        " mean away from 0 says that small and large are measured differently.",
        found.assign(says=found["term"].map(TERMS), of=unit.replace("1", "")),
        [
            text("Measurement", "measurement"),
            text("Expert", "expert"),
            text("Quantity", "says"),
            figure("Estimate", "estimate"),
            figure("95% interval", "ci_low", "ci_high"),
            text("Unit", "of"),
            figure("Scans", "n"),
        ],
    )


def _picture(found: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    name, expert, unit = (str(found[c].iloc[0]) for c in ("measurement", "expert", "unit"))
    drawn = agreementplots.agreement(
        pairs["measured"],
        pairs["expert_value"],
        label=name,
        unit="" if unit == "1" else unit,
        names=("measured", "expert"),
    )
    alt = f"Differences of {name} from {expert} against the mean of both, {count(len(pairs), 'scan')}, with bias and limits of agreement."
    return {"alt": alt, **plots.embedded(drawn)}
