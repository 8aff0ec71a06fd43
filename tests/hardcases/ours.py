"""A case through `cohort.api.ingest`, and how what came of it differs from the truth."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from cohort import api, grid
from cohort.io.deidentify import ATTRIBUTES
from hardcases.truth import Case, Refusal, Scan, Truth

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class Found:
    """A scan as the store holds it."""

    scan_id: str
    subject: str
    values: np.ndarray
    affine: np.ndarray
    dtype: str
    attrs: dict[str, Any]
    units: str
    time: tuple[list[float], str] | None


def write(case: Case, root: Path) -> tuple[Truth, Path]:
    """Write the files of a case and its catalog below `root`."""
    truth = case.make(root / "scans")
    content = {"cohort": "hard", "sources": ["scans"], "store": "store", "ids": "keep"}
    catalog = root / "catalog.yaml"
    catalog.write_text(yaml.safe_dump(content | dict(case.catalog)), encoding="utf-8")
    return truth, catalog


def ingest(catalog: Path) -> api.Result:
    """One call, in this process."""
    return api.ingest(catalog, options=api.Options(workers=0))


def problems(case: Case, root: Path) -> list[str]:
    """Write a case, ingest it and say what is not as it has to be; [] if all is."""
    truth, catalog = write(case, root)
    try:
        result = ingest(catalog)
    except ValueError as error:
        said = f"{type(error).__name__}: {error}"
        if truth.raises and re.search(truth.raises, said):
            return []
        return [f"the call raised {said}"]
    if truth.raises:
        return [f"the call went through, expected an error that says {truth.raises!r}"]
    return compare(truth, result, root / "scans") + _fits(truth, catalog)


def compare(truth: Truth, result: api.Result, folder: Path) -> list[str]:
    """How the result of one call differs from the truth."""
    scans = cohort_of(result)
    wrong = [*_scans(truth.scans, scans), *_refusals(truth.refused, result.problems)]
    wrong += _accounts(truth, result, folder)
    unlisted = {name for scan in scans for name in scan.attrs} - ATTRIBUTES
    wrong += [f"attribute {name} is not of the allow-list" for name in sorted(unlisted)]
    wrong += [f"{path} came into being" for path in truth.outside if path.exists()]
    if truth.subjects is not None and truth.subjects != len({s.subject for s in scans}):
        wrong.append(f"subjects {sorted({s.subject for s in scans})}, expected {truth.subjects}")
    wrong += _lacking(truth.call, result.manifest, "manifest") + _participants(truth, result)
    bad = any(r.state == "quarantined" for r in truth.refused)
    if result.newly_bad != bad:
        wrong.append(f"the call says {'something' if result.newly_bad else 'nothing'} is wrong")
    return wrong


def cohort_of(result: api.Result) -> list[Found]:
    """The scans that make the cohort, as the table of scans lists them."""
    table = result.store.table("scans")
    if table is None:
        return []
    flags = table["flags"] if "flags" in table else [""] * len(table)
    return [_found(result, *row) for row in zip(table["scan_id"], flags, strict=True)]


def _found(result: api.Result, scan_id: str, flags: str) -> Found:
    scan, record = result.store.open_scan(scan_id), result.store.record(scan_id)
    assert record is not None
    time = None
    if "time" in scan.dims:
        time = (scan["time"].values.tolist(), scan["time"].attrs["units"])
    image = scan["image"]
    return Found(
        scan_id,
        record["subject"],
        image.values,
        grid.affine_of(scan),
        record["variables"]["image"]["dtype"],
        dict(scan.attrs) | {"flags": flags},
        image.attrs.get("units", ""),
        time,
    )


def _scans(expected: Sequence[Scan], found: Sequence[Found]) -> list[str]:
    """Pair each scan of the truth with one of the store."""
    wrong, left = [], list(found)
    for scan in expected:
        tried = [(differences(scan, one), one) for one in left]
        if not tried:
            wrong.append(f"no scan of shape {scan.values.shape}")
            continue
        least, best = min(tried, key=lambda pair: len(pair[0]))
        if least:
            wrong.append(f"{best.scan_id}: {'; '.join(least)}")
        left.remove(best)
    return wrong + [f"{one.scan_id}, shape {one.values.shape}: nobody expected it" for one in left]


def differences(scan: Scan, found: Found) -> list[str]:
    """How one scan of the store differs from the truth."""
    wrong = scan.differences(found.values, found.affine)
    flags = frozenset(str(found.attrs.get("flags", "")).split())
    for name, mine, yours in (
        ("flags", scan.flags, flags),
        ("dtype", scan.dtype, found.dtype),
        ("subject", scan.subject, found.subject),
        ("units", scan.units, found.units),
    ):
        if mine is not None and mine != yours:
            mine, yours = (sorted(v) if isinstance(v, frozenset) else v for v in (mine, yours))
            wrong.append(f"{name} {yours}, expected {mine}")
    if scan.time is not None:
        wrong += _time(scan.time, found.time)
    return wrong + _lacking(scan.attrs, found.attrs, "attribute")


def _time(
    expected: tuple[Sequence[float], str], found: tuple[list[float], str] | None
) -> list[str]:
    if found is None:
        return ["no time axis"]
    (values, unit), (ours, our_unit) = expected, found
    off = [o - ours[0] for o in ours]
    if unit != our_unit or not np.allclose(off, [v - values[0] for v in values], atol=1e-6):
        return [f"time {ours} {our_unit}, expected {list(values)} {unit}"]
    return []


def _lacking(expected: Any, found: Any, what: str) -> list[str]:
    """Keys of a mapping whose value is not as expected; nested mappings are compared in turn."""
    wrong: list[str] = []
    for key, value in expected.items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            wrong += _lacking(value, there, f"{what} {key}")
        elif not (value(there) if callable(value) else value == there):
            wrong.append(
                f"{what} {key} is {there!r}, expected {getattr(value, '__name__', value)!r}"
            )
    return wrong


def _participants(truth: Truth, result: api.Result) -> list[str]:
    table = result.store.table("participants")
    wrong = []
    for column, expected in truth.participants.items():
        cells = [] if table is None or column not in table else table[column].tolist()
        there = [None if pd.isna(cell) else cell for cell in cells]
        if there != list(expected):
            wrong.append(f"participants: {column} is {there}, expected {list(expected)}")
    return wrong


def _fits(truth: Truth, catalog: Path) -> list[str]:
    """Models of the truth that were fitted, or not fitted for another reason."""
    if not truth.fits:
        return []
    fits = api.fit(catalog, options=api.Options(workers=0)).fits
    return [
        f"model {name}: {fits[name]}, expected {says!r}"
        for name, says in truth.fits.items()
        if not (isinstance(fits[name], str) and re.search(says, fits[name]))
    ]


def _refusals(expected: Sequence[Refusal], found: Iterable[Any]) -> list[str]:
    wrong, found = [], list(found)
    for refusal in expected:
        fit = [p for p in found if p.code in refusal.codes and p.state == refusal.state]
        text = "\n".join(p.text for p in fit)
        if not fit:
            wrong.append(f"nothing {refusal.state} as {' or '.join(refusal.codes)}")
            continue
        for name in refusal.names:
            files = name if isinstance(name, tuple) else (name,)
            if not any(str(file) in text for file in files):
                wrong.append(f"{fit[0].code} does not name {files[0].name}: {text}")
        if refusal.says and not re.search(refusal.says, text):
            wrong.append(f"{text!r} does not say {refusal.says!r}")
    known = {code for refusal in expected for code in refusal.codes}
    wrong += [
        f"refused, which nobody expected: {p.text}"
        for p in found
        if p.state == "quarantined" and p.code not in known
    ]
    return wrong + [f"no remedy: {p.text}" for p in found if "Fix: " not in p.text]


def _accounts(truth: Truth, result: api.Result, folder: Path) -> list[str]:
    """Every file is in a scan, skipped or refused, and the sums agree."""
    files = result.manifest["found"]["files"]
    held = -truth.shared
    table = result.store.table("scans")
    for scan_id in [] if table is None else table["scan_id"]:
        record = result.store.record(scan_id)
        held += record["n_files"] if record else 0
    entries = result.store.quarantine()
    in_state = {
        state: sum(e["n_files"] or 1 for e in entries if e["state"] == state)
        for state in ("quarantined", "skipped")
    }
    skipped = sum(result.manifest["found"]["skipped"].values()) + in_state["skipped"]
    wrong = []
    if files != held + skipped + in_state["quarantined"]:
        wrong.append(
            f"{files} files found, {held} in scans + {skipped} skipped + {in_state['quarantined']} refused"
        )
    if skipped != truth.skipped:
        wrong.append(f"{skipped} files skipped, expected {truth.skipped}")
    there = [p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()]
    if not any(p.name.endswith(ARCHIVES) for p in there) and len(there) != files:
        wrong.append(f"{files} files found, there are {len(there)}")
    return wrong
