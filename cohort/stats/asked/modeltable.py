"""The table of a model: measurements side by side with the participants' columns, one row a scan."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cohort.io.catalog import Catalog
from cohort.io.covariates import Model
from cohort.io.store import Store

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("scan_id", "participant", "subject", "session")

_OTHER_LIBRARY = "library: "
"""How the reason of a stale row begins whose numbers are whole and of other versions of the libraries."""


class ModelError(ValueError):
    """A model that cannot be fitted to this cohort."""


def model_table(
    store: Store,
    catalog: Catalog,
    model: Model,
    recipes: Sequence[str],
    *,
    accept_versions: bool = False,
) -> "tuple[pd.DataFrame, dict[str, str]]":
    """Table of a model: one row a scan (or, in a cohort that is only a table, a participant).

    Measurements side by side with the participants' columns. A measurement whose name two recipes share is taken from
    the model's ``recipe``.

    Parameters
    ----------
    accept_versions : bool
        Numbers that several versions of a library made may stand side by side.

    Returns
    -------
    table : DataFrame
        Columns scan_id, participant, subject, session, ``unusable`` (a reason, or missing), then numbers and text.
    units : dict
        Column -> unit.

    Raises
    ------
    ModelError
        If there are no scans, two recipes measure the outcome and the model does not say which, or its numbers were
        made by several versions of a library and nobody accepts that; if it names a column that the catalog derives or
        renames and that the store's table has not yet.
    """
    import pandas as pd

    people = None if catalog.participants is None else store.table("participants")
    units = {} if people is None else store.units("participants")
    if not catalog.sources:
        if people is None:
            raise ModelError("no participants table yet: run `cohort ingest` first")
        _check_ingested(catalog, model, people.columns)
        nothing = pd.array([None] * len(people), dtype="str")
        return people.assign(scan_id=people["participant"], unusable=nothing), units
    scans = store.table("scans")
    if scans is None or scans.empty:
        raise ModelError(
            "no scans in the store, so nothing to model; `cohort status` says what became of them"
        )
    table = scans[list(KEYS)].copy()
    words = _words(model)
    reasons: dict[str, str] = {}
    makings: Counter[str] = Counter()
    for recipe in recipes:
        measured = store.table(recipe)
        if measured is None:
            continue
        columns = [c for c in measured.columns if c not in (*KEYS, "state", "reason")]
        if clash := sorted(set(columns) & set(table.columns)):
            if (ours := [o for o in model.all_outcomes if o in clash]) and model.recipe is None:
                raise ModelError(
                    f"two recipes measure {ours[0]!r}; name one in the model (recipe: {recipe})"
                )
            if model.recipe == recipe:
                table = table.drop(columns=clash)
            else:
                columns = [c for c in columns if c not in clash]
        table = table.merge(measured[["scan_id", *columns]], on="scan_id", how="left")
        units |= {c: u for c, u in store.units(recipe).items() if c in columns}
        if used := sorted(words & set(columns)):
            bad, made = standing(recipe, measured, used)
            reasons |= bad
            makings.update(made)
    if not accept_versions:
        check_makings(makings)
    unusable = [reasons.get(s) for s in table["scan_id"]]
    if people is not None:
        covariates = people.drop(columns=["subject", "session"])
        taken = sorted((set(covariates.columns) - {"participant"}) & set(table.columns))
        if taken:
            raise ModelError(
                f"{taken[0]!r} is a measurement and a column of the participants table; rename one"
            )
        lonely = table["participant"].isna()
        table = table.merge(covariates, on="participant", how="left")
        if not catalog.allow_unmatched:
            unusable = [
                r or ("no row in the participants table" if alone else None)
                for r, alone in zip(unusable, lonely, strict=True)
            ]
    _check_ingested(catalog, model, table.columns)
    return table.assign(unusable=pd.array(unusable, dtype="str")), units


def _check_ingested(catalog: Catalog, model: Model, columns: Iterable[str]) -> None:
    """Raise `ModelError` if a model names a column that the next ingest makes."""
    spec = catalog.participants
    if spec is None:
        return
    # The column of the ids is renamed too, and then is no covariate.
    made = {*spec.rename, *spec.derive} - {*columns, *spec.drop, spec.id}
    if waiting := sorted(made & _words(model)):
        how = "derives it" if waiting[0] in spec.derive else "renames one to it"
        raise ModelError(
            f"no column {waiting[0]!r} in the store's table of participants yet, though the catalog {how}; run"
            " `cohort ingest` first"
        )


def standing(
    recipe: str, measured: "pd.DataFrame", used: Sequence[str]
) -> tuple[dict[str, str], dict[str, int]]:
    """Which rows of a recipe no model can take, and of which libraries the others are.

    Parameters
    ----------
    measured : DataFrame
        Columns scan_id, state, reason, and those of `used`.
    used : sequence of str
        What the model takes of the recipe; a stale row that holds all of it is only of other versions of the libraries.

    Returns
    -------
    dict of scan_id -> reason
    dict of libraries -> rows
    """
    failed = measured.loc[measured["state"] == "failed", "scan_id"]
    reasons = dict.fromkeys(failed, f"{recipe} failed on it")
    outdated = (measured["state"] == "stale") & measured[list(used)].isna().any(axis=1)
    reasons |= dict.fromkeys(measured.loc[outdated, "scan_id"], f"{recipe} is stale on it")
    return reasons, _makings(measured[~outdated])


def check_makings(makings: Mapping[str, int]) -> None:
    """Raise `ModelError` if rows are of more than one of the libraries that `standing` tells apart."""
    if len(makings) > 1:
        told = ", ".join(f"{n} of {making}" for making, n in Counter(makings).most_common())
        raise ModelError(
            f"the numbers were made by several versions of a library ({told}); bring them up to date with `cohort run`,"
            f" or mix them knowingly with --accept-versions"
        )


def _makings(measured: "pd.DataFrame") -> dict[str, int]:
    """How many rows with numbers are of the libraries that are here, and of which others, as their reasons say."""
    rows = measured[measured["state"] != "failed"]
    others = rows["state"].eq("stale") & rows["reason"].fillna("").str.startswith(_OTHER_LIBRARY)
    found = {str(reason): int(n) for reason, n in rows.loc[others, "reason"].value_counts().items()}
    if n_here := int((~others).sum()):
        found["the versions here"] = n_here
    return found


def _words(model: Model) -> set[str]:
    """Every word of a model that may name a column."""
    named = [name for names in model.columns_beside.values() for name in names]
    text = [*model.all_outcomes, model.formula, *model.confounds, model.where or ""]
    return set(re.findall(r"\w+", " ".join([*text, *named])))
