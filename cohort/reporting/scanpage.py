"""The page of one scan, written on request: all that is known of it, three planes, and a viewer that opens when it is asked for.

Like the report it is one file that opens offline and loads nothing. Its policy admits no script but the two that make the viewer,
each named by its SHA-256; a page without a viewer admits none.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from cohort import provenance
from cohort.io.storage import scanpages
from cohort.io.storage.backend import StoreError
from cohort.reporting import distributions, measured, origins, scanplanes, slices, viewer
from cohort.reporting.facts import Facts, Source, gather
from cohort.reporting.page import policy, templates
from cohort.reporting.wording import count, number
from cohort.stats.outlying import OUTLIER_Z, is_outlying, robust_z

if TYPE_CHECKING:
    from cohort.io.store import Store

MAX_PAGES = 50
"""Pages that one call writes: each has the viewer and the scan in it, up to 20 MB."""

MAX_ROWS = 100
"""Labels of a table of labels that are shown."""

TIMES = " \N{MULTIPLICATION SIGN} "


def chosen(store: "Store", wanted: Sequence[str], *, flagged: bool = False) -> list[str]:
    """Scans that are meant by names or parts of names, and those that are flagged.

    Parameters
    ----------
    store : Store
    wanted : sequence of str
        A scan_id, or a part of one or several.
    flagged : bool
        Also scans that failed, have an outlying value or none, or move a model: the first `MAX_PAGES` of them.

    Returns
    -------
    list of str
        Each once, in the order asked for, flagged ones last.

    Raises
    ------
    StoreError
        If a name means no scan, or the names mean more than `MAX_PAGES`.
    """
    table = store.table("scans")
    ids = [] if table is None else [str(s) for s in table["scan_id"]]
    found: dict[str, None] = {}
    for name in wanted:
        mine = [name] if name in ids else sorted(i for i in ids if name and name in i)
        if not mine:
            raise StoreError(
                f"no scan {name!r} among the {len(ids)} of {store.url}; expected a scan_id or a part of one, as `cohort status` and "
                "tables/scans.parquet list them"
            )
        found.update(dict.fromkeys(mine))
    if len(found) > MAX_PAGES:
        raise StoreError(
            f"{', '.join(map(repr, wanted))} means {len(found)} scans; expected at most {MAX_PAGES} pages a call; give longer parts of names"
        )
    if flagged:
        more = [s for s in flags(gather(store, store.recipes())) if s in set(ids) - found.keys()]
        found.update(dict.fromkeys(more[: MAX_PAGES - len(found)]))
    return list(found)


def flags(facts: Facts) -> dict[str, list[str]]:
    """Scans that somebody should look at -> why: those on which a recipe failed first, those that move a model last."""
    found: dict[str, list[str]] = {}
    for recipe in facts.measured:
        for row in facts.failed(recipe).to_dict("records"):
            why = f"{recipe} failed: {row.get('reason') or 'no reason given'}"
            found.setdefault(str(row.get("scan_id")), []).append(why)
    for scan_id, each in measured.flags(facts).items():
        found.setdefault(scan_id, []).extend(flag.text for flag in each)
    for name, model in facts.models.items():
        for scan_id in model.get("influence") or []:
            found.setdefault(str(scan_id), []).append(f"moves the model {name}")
    return found


def links(store: Source) -> dict[str, str]:
    """Scan -> address of its page as seen from ``report/index.html``, for scans that have one."""
    return {s: f"scans/{quote(s)}.html" for s in store.scan_pages()}


def write_pages(
    store: "Store",
    scan_ids: Sequence[str],
    *,
    title: str,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Path | str]:
    """Write ``report/scans/<scan_id>.html`` for each scan, atomically.

    Parameters
    ----------
    store : Store
    scan_ids : sequence of str
        As `chosen` gives them.
    title : str
        Name of the cohort.
    recipes : mapping of recipe -> its YAML
        Steps to list. Without any, what every recipe in the store measured is shown, and no step.

    Returns
    -------
    list of Path or str
        Where they lie. One scan is held at a time, of it what a page embeds and `viewer.TILE_BYTES` more.
    """
    facts = gather(store, recipes or store.recipes())
    flagged = flags(facts)
    return [
        scanpages.write_page(
            store,
            scan_id,
            render(store, scan_id, facts=facts, flagged=flagged, title=title, recipes=recipes),
            inputs=basis(store, scan_id),
        )
        for scan_id in scan_ids
    ]


def drop_stale(store: "Store") -> list[str]:
    """Remove the pages that would show what is no longer so: of scans that went, changed, or were measured again otherwise.

    What others measure moves a scan's place among them and leaves its page, which names the run it compares with.
    """
    gone = []
    for scan_id in store.scan_pages():
        record = scanpages.page_record(store, scan_id)
        if record is None or record.get("inputs") != basis(store, scan_id):
            scanpages.remove_page(store, scan_id)
            gone.append(scan_id)
    return gone


def basis(store: "Store", scan_id: str) -> str:
    """Digest of what a scan's page shows of the scan itself: its voxels, its header, what each recipe made of it."""
    record = store.record(scan_id) or {}
    made = {
        recipe: [
            found.get(key) for key in ("recipe_digest", "state", "reason", "measurements", "kept")
        ]
        for recipe in store.files.names("derivatives")
        if (found := store.derivative(recipe, scan_id)) is not None
    }
    return provenance.digest(
        {**{key: record.get(key) for key in ("stamp", "contents", "attrs")}, "made": made}
    )


def render(
    store: "Store",
    scan_id: str,
    *,
    facts: Facts,
    flagged: Mapping[str, Sequence[str]],
    title: str,
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The page as text; see `write_pages`."""
    recipes = dict(recipes or {})
    record = store.record(scan_id) or {}
    derivatives = {r: d for r in facts.measured if (d := store.derivative(r, scan_id)) is not None}
    look = scanplanes.look(store, scan_id, derivatives, recipes)
    environment = templates()
    scripts: list[str] = []
    if look.program is not None:
        scripts = [environment.get_template("viewer.js").render(), look.program.source]
    context = {
        "title": title,
        "scan_id": scan_id,
        "policy": policy(scripts),
        "program": _packed_program() if scripts else None,
        "identity": _identity(facts, scan_id, record),
        "geometry": _geometry(record),
        "acquisition": [(str(k), _text(v)) for k, v in sorted((record.get("attrs") or {}).items())],
        "flags": list(flagged.get(scan_id, [])),
        "states": _states(facts, scan_id),
        "look": look,
        "convention": slices.CONVENTION,
        "measured": [_measured(facts, r, scan_id) for r in facts.measured],
        "tables": [t for r, d in derivatives.items() for t in _tables(r, d)],
        "recipes": [origins.recipe_steps(facts, name, recipe) for name, recipe in recipes.items()],
        "provenance": _provenance(facts, record, derivatives),
        "get_it": viewer.GET_IT,
    }
    return environment.get_template("scan.html.j2").render(context)


@cache
def _packed_program() -> str:
    """Packing it takes half a second, and it is the same on every page."""
    return viewer.packed(viewer.program().source.encode("utf-8"))


# -- facts of one scan -------------------------------------------------------------------------------


def _identity(facts: Facts, scan_id: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names as the store has them: tokens, unless the catalog says that ids are kept."""
    row = _row(facts.scans, scan_id)
    keys = ("subject", "session", "participant", "series", "kind", "modality", "protocol")
    said = {key: row.get(key, record.get(key)) for key in keys}
    return [(key, _text(v)) for key, v in said.items() if _is_said(v)]


def _geometry(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not record:
        return []
    dims, shape = record["dims"], record["shape"]
    mm = record["spacing_mm"]
    sizes = dict(zip(dims, shape, strict=True))
    lines = [
        ("voxels", f"{TIMES.join(str(n) for n in shape)} ({TIMES.join(dims)})"),
        ("spacing", f"{TIMES.join(number(mm[d]).text for d in 'zyx')} mm (z{TIMES}y{TIMES}x)"),
        ("field of view", f"{TIMES.join(number(mm[d] * sizes[d]).text for d in 'zyx')} mm"),
        ("axes x, y, z grow towards", ", ".join(record["axcodes"])),
        (
            "stored as",
            f"{record['variables']['image']['dtype']}, in {record.get('units') or 'no unit'}",
        ),
    ]
    if record.get("affine"):
        rows = np.asarray(record["affine"], float).reshape(4, 4)[:3]
        said = "; ".join(", ".join(number(v).text for v in row) for row in rows)
        lines.append(("voxel (x, y, z) to world, mm, RAS+", said))
    return lines


def _states(facts: Facts, scan_id: str) -> list[dict[str, str]]:
    found = [{"stage": "ingest", "state": "done", "reason": ""}]
    for recipe, table in facts.measured.items():
        row = _row(table, scan_id)
        state = str(row.get("state") or "not measured yet")
        reason = row.get("reason")
        found.append(
            {"stage": recipe, "state": state, "reason": _text(reason) if _is_said(reason) else ""}
        )
    return found


def _measured(facts: Facts, recipe: str, scan_id: str) -> dict[str, Any]:
    """Each measurement of a scan, and where it lies among those of all scans that were measured."""
    done = facts.done(recipe)
    mine = done["scan_id"].astype(str) == scan_id if "scan_id" in done else np.zeros(0, bool)
    places = np.flatnonzero(mine)
    lines = []
    for column in measured.measurement_columns(done) if len(places) else []:
        values = done[column].to_numpy(np.float64, na_value=np.nan)
        lines.append(
            {"name": column, "unit": facts.unit(recipe, column), **standing(values, int(places[0]))}
        )
    return {"recipe": recipe, "lines": lines}


def standing(values: np.ndarray, place: int) -> dict[str, Any]:
    """Where one value lies among all.

    Parameters
    ----------
    values : (n,) float array
        Of all scans; NaN takes no part.
    place : int
        Index of the one.

    Returns
    -------
    dict
        ``value``, ``low``, ``q1``, ``median``, ``q3``, ``high`` as shown, ``words``, ``z`` (robust; NaN without a value), ``is_far``, and
        ``strip``: the same six places on a line from 0 to 100, what is far beyond the others at its end, None where there is no line to draw.
    """
    finite, value = values[np.isfinite(values)], float(values[place])
    show = measured.shower(finite)
    cuts = np.percentile(finite, (0, 25, 50, 75, 100)) if finite.size else np.full(5, np.nan)
    z = float(robust_z(values)[place])
    names = ("low", "q1", "median", "q3", "high")
    shown = {n: show(c) for n, c in zip(names, cuts, strict=True)}
    strip = None
    if np.isfinite(value) and cuts[4] > cuts[0]:
        # As on the report: a far value leaves the others room, and stands at the end of the line.
        first, last = distributions.ends(finite, is_outlying(finite))
        spots = (np.array([*cuts, value]).clip(first, last) - first) / (last - first) * 100
        strip = dict(zip((*names, "value"), (round(float(s), 2) for s in spots), strict=True))
    return {
        "value": show(value),
        **shown,
        "n": int(finite.size),
        "words": _rank(finite, value),
        "z": number(z, decimals=1),
        "is_far": bool(abs(z) > OUTLIER_Z),
        "strip": strip,
    }


def _rank(finite: np.ndarray, value: float) -> str:
    others = finite.size - 1
    if not np.isfinite(value):
        return "no value"
    if others < 1:
        return "the only value"
    less, same = int((finite < value).sum()), int((finite == value).sum()) - 1
    equal = f", equal to {same}" if same else ""
    return f"above {less} of {count(others, 'other scan')}{equal}"


def _tables(recipe: str, derivative: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a recipe measured of each label."""
    found = []
    for name, columns in (derivative.get("tables") or {}).items():
        units = [derivative.get("units", {}).get(f"{name}.{c}", "") for c in columns]
        rows = list(zip(*columns.values(), strict=True))
        found.append(
            {
                "name": f"{name} ({recipe})",
                "columns": list(zip(columns, units, strict=True)),
                "rows": [[_text(cell) for cell in row] for row in rows[:MAX_ROWS]],
                "more": max(0, len(rows) - MAX_ROWS),
            }
        )
    return found


def _provenance(
    facts: Facts, record: Mapping[str, Any], derivatives: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    lines = [
        ("Files of the source", record.get("n_files")),
        ("Digest of the source", record.get("source")),
        ("Stamp of the scan", record.get("stamp")),
        *((f"Digest of {name}", d) for name, d in sorted((record.get("contents") or {}).items())),
    ]
    for recipe, found in derivatives.items():
        lines.append((f"Recipe {recipe}", found.get("recipe_digest")))
        versions = sorted((found.get("versions") or {}).items())
        lines.append(
            (f"Measured by {recipe} with", ", ".join(f"{n} {v}" for n, v in versions) or None)
        )
    lines += [("Compared as of run", facts.manifest.get("run_id"))]
    return [(label, str(value)) for label, value in lines if value is not None]


def _row(table: Any, scan_id: str) -> dict[str, Any]:
    if "scan_id" not in table:
        return {}
    rows = table[table["scan_id"].astype(str) == scan_id].to_dict("records")
    return rows[0] if rows else {}


def _is_said(value: Any) -> bool:
    return value is not None and value == value and value != ""  # noqa: PLR0124 - NaN


def _text(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float | np.number):
        return number(value).text
    if isinstance(value, Sequence):
        return ", ".join(_text(v) for v in value)
    return str(value)
