"""Agreement of measurements with an expert's values, as a catalog declares it: which scans, which unit, which tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.store import Store
from cohort.stats import columns as cells
from cohort.stats.agreement import bland_altman
from cohort.stats.asked.modeltable import ModelError, model_table
from cohort.stats.columns import DesignError
from cohort.stats.reliability import intraclass

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("agreement", "agreement_pairs")
"""What is written, as ``tables/scans.<name>.parquet``."""


def agree(
    store: Store, catalog: Catalog, recipes: Sequence[str]
) -> tuple[dict[str, "pd.DataFrame"], tuple[str, ...]]:
    """Compare each measurement that the catalog names with the expert's values, over the first scan of each subject that has both.

    Returns
    -------
    tables : dict of DataFrame
        ``agreement``: measurement, expert, unit, term (those of `bland_altman`, then ``icc``, ICC(2,1) of absolute agreement), estimate, se,
        ci_low, ci_high, n. ``agreement_pairs``: measurement, scan_id, measured, expert_value, mean, difference, a row a scan.
    told : tuple of str
        One line for each pair of columns that could not be compared, and why.
    """
    import pandas as pd

    found, pairs, told = [], [], []
    for measured, expert in catalog.agreement.items():
        try:
            asked = Model(outcome=measured, formula=expert)
            table, units = model_table(store, catalog, asked, recipes, accept_versions=True)
            unit = _unit(units, measured, expert)
            both = _first_of_each(table, measured, expert)
            lines = bland_altman(both["measured"], both["expert_value"]).reset_index()
        except (DesignError, ModelError) as error:
            told.append(f"agreement of {measured} with {expert}: {error}")
            continue
        values = both[["measured", "expert_value"]].to_numpy(np.float64)
        icc, low, high = intraclass(values, "agreement")
        last = {"term": "icc", "estimate": icc, "ci_low": low, "ci_high": high, "n": len(both)}
        lines = pd.concat([lines, pd.DataFrame([last])], ignore_index=True)
        lines.insert(0, "unit", unit)
        lines.insert(0, "expert", expert)
        lines.insert(0, "measurement", measured)
        found.append(lines)
        both.insert(0, "measurement", measured)
        pairs.append(both)
    if not found:
        return {}, tuple(told)
    made = (pd.concat(found, ignore_index=True), pd.concat(pairs, ignore_index=True))
    return dict(zip(TABLES, made, strict=True)), tuple(told)


def _unit(units: dict[str, str], measured: str, expert: str) -> str:
    """The one unit of both. Raises DesignError."""
    ours, theirs = (units.get(name, "") for name in (measured, expert))
    if ours != theirs:
        raise DesignError(
            f"{measured} is in {ours or 'no unit'} but {expert} in {theirs or 'no unit'}; derive a column in the measurement's unit, "
            f"and state it under participants.units"
        )
    return ours


def _first_of_each(table: "pd.DataFrame", measured: str, expert: str) -> "pd.DataFrame":
    """Rows with both numbers, of each subject the first session's. Raises DesignError where a column holds no numbers."""
    import pandas as pd

    values = [cells.numbers(cells.take(table, name, "agreement")) for name in (measured, expert)]
    usable = table["unusable"].isna().to_numpy() & ~np.isnan(values).any(axis=0)
    both = pd.DataFrame(
        {"scan_id": table["scan_id"], "measured": values[0], "expert_value": values[1]}
    )
    both["mean"] = (both["measured"] + both["expert_value"]) / 2
    both["difference"] = both["measured"] - both["expert_value"]
    order = table.loc[usable].sort_values(
        ["session", "scan_id"], key=lambda column: column.map(cells.natural_key)
    )
    known = order["subject"].isna() | ~order["subject"].duplicated()
    return both.loc[sorted(order.index[known])].reset_index(drop=True)
