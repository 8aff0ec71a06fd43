"""What a recipe left of a cohort, laid out as a derivative dataset of BIDS."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cohort
from cohort.io.exports import tables
from cohort.io.exports.bids_names import camel, label, labels
from cohort.io.exports.nifti import write_nifti
from cohort.io.exports.place import ExportError
from cohort.io.store import Store, StoreError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

VERSION = "1.10.0"
"""Of BIDS."""

MARKER = "dataset_description.json"

RESERVED = {"age": r"\d+(\.\d*)?|89\+", "handedness": "[lLrRaA]|left|right|ambidextrous"}
"""Columns of participants.tsv whose values BIDS prescribes; with others they are written under another name."""

IGNORED = "desc-*_measurements.*"

_README = """\
# {cohort}: results of the recipe {recipe}

Written by cohort {version}. Each mask or label image lies on the grid of the scan it was made from, which is not part of
this dataset. `desc-{label}_measurements.tsv` has one row a scan; `{label}` in a file's name stands for the recipe,
what follows for the variable that it kept. `.bidsignore` names the tables that BIDS has no place for.

{acknowledgement}
"""


@dataclass
class Layout:
    """What was written."""

    subjects: int = 0
    images: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Kept variables that are neither masks nor labels -> how many: BIDS wants to know more of them than a recipe says."""


def write_bids(
    store: Store,
    recipe: str,
    folder: Path,
    *,
    acknowledgement: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Layout:
    """Write the results of a recipe into a folder that is there.

    Parameters
    ----------
    progress : callable, optional
        Told scans done and their total.

    Returns
    -------
    Layout

    Raises
    ------
    StoreError
        If there is no such recipe, or something it kept is damaged.
    ExportError
        If two names would become one in BIDS.
    """
    measured = store.table(recipe) if recipe in store.recipes() else None
    if measured is None:
        there = ", ".join(store.recipes()) or "none"
        raise StoreError(f"no measurements of {recipe!r} in {store.url}; there are {there}")
    if measured.empty:
        raise ExportError(f"{recipe} has measured no scan yet; call `cohort run` first")
    scans = _scans(store, measured)
    subjects = labels(dict.fromkeys(scans["subject"]), what="subject")
    sessions = {
        str(subject): labels(dict.fromkeys(rows["session"].dropna()), what=f"session of {subject}")
        for subject, rows in scans.groupby("subject")
    }
    prefixes = _prefixes(scans, subjects, sessions)
    _describe(store, recipe, folder, acknowledgement)
    layout = Layout(subjects=len(subjects))
    for done, (scan_id, prefix) in enumerate(prefixes.items(), 1):
        folder.joinpath(prefix.partition("/")[0]).mkdir(exist_ok=True)
        _images(store, recipe, scan_id, folder / prefix, layout)
        if progress is not None:
            progress(done, len(prefixes))
    names = {s: f"sub-{short}" for s, short in subjects.items()}
    visits = {(s, v): f"ses-{short}" for s, found in sessions.items() for v, short in found.items()}
    _measurements(store, recipe, measured, folder, names, visits)
    _participants(store, folder, names, visits)
    return layout


def _scans(store: Store, measured: "pd.DataFrame") -> "pd.DataFrame":
    """Subject, session and series of each scan that was measured."""
    scans = store.table("scans")
    if scans is None or "subject" not in measured:
        raise ExportError("a table without scans has no place in BIDS; use `cohort export tables`")
    return measured[["scan_id"]].merge(
        scans[["scan_id", "subject", "session", "series"]], how="left", on="scan_id"
    )


def _prefixes(
    scans: "pd.DataFrame", subjects: dict[str, str], sessions: dict[str, dict[str, str]]
) -> dict[str, str]:
    """Scan -> folder and beginning of the names of its images."""
    found: dict[str, str] = {}
    for (subject, session), rows in scans.groupby(["subject", "session"], dropna=False):
        short = sessions[str(subject)].get(str(session))
        parts = [f"sub-{subjects[str(subject)]}", *([] if short is None else [f"ses-{short}"])]
        # What is left of a scan's name when it begins with subject and session tells scans of one visit apart.
        before = f"sub-{subject}_ses-{session}_"
        rest = {str(s): str(s).removeprefix(before) for s in rows["scan_id"]}
        series = labels(rest.values(), what=f"series of {'/'.join(parts)}")
        for scan_id, name in rest.items():
            stem = "_".join([*parts, f"acq-{series[name]}"])
            found[scan_id] = "/".join([*parts, "anat", stem])
    return found


def _images(store: Store, recipe: str, scan_id: str, prefix: Path, layout: Layout) -> None:
    record = store.derivative(recipe, scan_id)
    if record is None or record["state"] == "failed" or not record.get("kept"):
        return
    said = store.recipe(record["recipe_digest"]).get("steps", {})
    kept = labels(record["kept"], what=f"variable of {recipe}")
    for name in kept:
        image = store.open_derivative(recipe, scan_id, variable=name)[name]
        if image.dtype.kind == "f":
            layout.left_out[name] = layout.left_out.get(name, 0) + 1
            continue
        suffix = "mask" if image.dtype.kind == "b" else "dseg"
        stem = f"{prefix.name}_desc-{label(recipe)}{camel(name)}_{suffix}"
        prefix.parent.mkdir(parents=True, exist_ok=True)
        written = write_nifti(image, prefix.parent / f"{stem}.nii.gz")
        layout.images += 1
        sidecar = _sidecar(image, name, said.get(name, {}), written.timing)
        tables.write_json(prefix.parent / f"{stem}.json", sidecar)


def _sidecar(
    image: "xr.DataArray", name: str, step: dict[str, Any], timing: list[float] | None
) -> dict[str, Any]:
    what = tables.call_text(step) if step else name
    found: dict[str, Any] = {
        "Description": f"{name}: {what}",
        "SpatialReference": "orig",
    }
    if image.dtype.kind == "b":
        found["Type"] = "ROI"
    if timing is not None:
        found["VolumeTiming"] = timing
    return found


def _describe(store: Store, recipe: str, folder: Path, acknowledgement: str | None) -> None:
    name = str(store.info().get("cohort", "cohort"))
    by = {
        "Name": "cohort",
        "Version": cohort.__version__,
        "Description": f"Recipe {recipe}; see desc-{label(recipe)}_measurements.json",
    }
    said = {
        "Name": f"{name}: {recipe}",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [by],
    }
    if acknowledgement:
        said["HowToAcknowledge"] = acknowledgement
    tables.write_json(folder / MARKER, said)
    (folder / ".bidsignore").write_text(f"{IGNORED}\n", encoding="utf-8")
    text = _README.format(
        cohort=name,
        recipe=recipe,
        version=cohort.__version__,
        label=label(recipe),
        acknowledgement=acknowledgement or "",
    )
    (folder / "README.md").write_text(text.rstrip() + "\n", encoding="utf-8")


def _placed(
    table: "pd.DataFrame", names: dict[str, str], visits: dict[tuple[str, str], str]
) -> "pd.DataFrame":
    """A table whose first columns are BIDS's own names of its people and visits; people without a scan are left out."""
    known = table[table["subject"].isin(names)].copy()
    sessions = [
        visits.get((str(subject), session))
        for subject, session in zip(known["subject"], known["session"], strict=True)
    ]
    known.insert(0, "participant_id", known["subject"].map(names))
    known.insert(1, "session_id", sessions)
    return known.drop(columns=["subject", "session"])


_IDS = {
    "participant_id": {"Description": "Person, as in the names of folders and files"},
    "session_id": {"Description": "Visit, as in the names of folders and files"},
}


def _measurements(
    store: Store,
    recipe: str,
    measured: "pd.DataFrame",
    folder: Path,
    names: dict[str, str],
    visits: dict[tuple[str, str], str],
) -> None:
    path = folder / f"desc-{label(recipe)}_measurements.tsv"
    described = {**_IDS, **tables.columns(store, recipe)}
    tables.write_tsv(_placed(measured, names, visits), path, described)


def _participants(
    store: Store, folder: Path, names: dict[str, str], visits: dict[tuple[str, str], str]
) -> None:
    """``participants.tsv``: what is the same at all visits of each person; ``desc-visits_measurements.tsv``: what is not."""
    import pandas as pd

    found = store.table("participants")
    described: dict[str, Any] = dict(_IDS)
    people = pd.DataFrame({"participant_id": list(names.values())})
    if found is not None and "subject" in found:
        placed = _placed(found, names, visits)
        described |= tables.columns(store, "participants")
        each = placed.groupby("participant_id").nunique(dropna=False)
        lasting = [c for c in each if c != "session_id" and (each[c] <= 1).all()]
        first = placed.groupby("participant_id", as_index=False)[lasting].first()
        people = people.merge(first, how="left", on="participant_id")
        if len(placed) > len(first):
            rest = placed.drop(columns=lasting)
            tables.write_tsv(rest, folder / "desc-visits_measurements.tsv", described)
    renamed = {c: f"{c}_given" for c, form in RESERVED.items() if _is_odd(people, c, form)}
    described |= {new: described[old] for old, new in renamed.items()}
    tables.write_tsv(people.rename(columns=renamed), folder / "participants.tsv", described)


def _is_odd(people: "pd.DataFrame", column: str, form: str) -> bool:
    """Whether a column has values that are not of the form that BIDS prescribes."""
    if column not in people:
        return False
    known = people[column].dropna().astype(str)
    return not known.str.fullmatch(form).all()
