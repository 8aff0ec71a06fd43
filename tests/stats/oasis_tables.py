"""The OASIS tables beside this checkout, as the catalogs read them: text, with scan, subject and session of the ID."""

import pandas as pd

from cohort import expression


def read(shared, name):
    table = pd.read_csv(shared / "oasis" / name, dtype=str)
    table[["subject", "session"]] = table["ID"].str.extract(r"^OAS1_(\d{4})_MR(\d)$")
    return table.assign(scan_id=table["ID"])


def volumes(shared):
    """The 425 rows, with dx, male and the ratio."""
    table = read(shared, "oasis_all_volumes.csv")
    return table.assign(
        dx=expression.column(table, "alzheimers == True"),
        male=expression.column(table, "sex == M"),
        ratio=expression.column(table, "brain_vol / skull_vol"),
    )


def cross_sectional(shared):
    """The 436 rows of OASIS-1, with dx and male."""
    table = read(shared, "oasis1_cross_sectional.csv")
    return table.assign(
        dx=expression.column(table, "CDR > 0, missing false"),
        male=(table["M/F"] == "M").astype(float),
    )


def reference(shared):
    """Reference numbers by key."""
    return pd.read_csv(shared / "oasis" / "reference_stats.csv").set_index("key")["statsmodels"]
