"""Take a subject out of a cohort for good, and prove it.

First a journal is written, private and outside the store, with everything that has to go; then the subject is kept out
(`register`); then file after file goes, and whatever names the subject is written again without it; last the store is
searched for all the subject's names, and the proof is written. Every step may be repeated, so a withdrawal that was
killed is carried on by the next call, whichever that is.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cohort.io import kept, private, thumbnail
from cohort.io.audit import Finding, search
from cohort.io.leaving.inventory import Inventory, places
from cohort.io.leaving.redact import WITHHELD, Subject
from cohort.io.leaving.register import Register
from cohort.io.storage import jsonfile, parquet
from cohort.io.storage.backend import StoreError
from cohort.io.storage.chunks import is_chunk
from cohort.io.storage.disk import sync
from cohort.io.storage.papers import PAGES
from cohort.io.store import Store

FORMAT = 1

CHANGES = "/changes.json"


@dataclass(frozen=True)
class Withdrawal:
    """One withdrawal that was begun."""

    inventory: Inventory
    began: str
    proof: Path
    voxels: bool
    """Whether the search afterwards looks among the voxels of the other scans, too."""
    run: str = ""
    """The run that began it, and counts it (`cohort diff`); empty in a journal of an earlier version."""


def journal_file(tokens: Path) -> Path:
    """Where the journal of a store lies, beside its token table."""
    return tokens.with_suffix(".withdrawal")


def begin(
    journal: Path, inventory: Inventory, *, proof: Path, voxels: bool, run: str
) -> Withdrawal:
    """Write the journal: from now on the withdrawal is carried out, whatever happens."""
    begun = Withdrawal(inventory, _now(), proof.absolute(), voxels, run)
    said = {
        "began": begun.began,
        "proof": str(begun.proof),
        "voxels": voxels,
        "run": run,
        "inventory": inventory.to_json(),
    }
    journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(journal, jsonfile.encode(said))
    return begun


def pending(journal: Path) -> Withdrawal | None:
    """The withdrawal that did not come to its end, if there is one. Raises `StoreError` if its journal is damaged."""
    if not journal.is_file():
        return None
    try:
        said = jsonfile.decode(journal.read_bytes())
    except ValueError as error:
        raise StoreError(
            f"the journal of a withdrawal, {journal}, is damaged ({error}); remove it and withdraw again"
        ) from error
    inventory = Inventory.from_json(said["inventory"])
    proof, run = Path(said["proof"]), said.get("run", "")
    return Withdrawal(inventory, said["began"], proof, said["voxels"], run)


def carry_out(
    store: Store,
    begun: Withdrawal,
    *,
    tokens: Path,
    cache: Path,
    sums: Callable[[Store, Subject], list[str]],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Do all that a withdrawal needs, from wherever it was left; call under the store's lock.

    Parameters
    ----------
    sums : callable
        Takes the subject out of sums of models while its scans are still there, and says of which models.

    Returns
    -------
    dict
        The proof, as written: every file that went with its SHA-256, what was written again without the subject, and
        what a search for all its names found afterwards (``check.found``, empty if nothing is left).
    """
    inventory = begun.inventory
    who = inventory.names()
    Register(store).add(inventory.subject, inventory.contents)
    _count(store, begun.run)
    stale = list(dict.fromkeys([*sums(store, who), *_models(store, who)]))
    store.files.remove("report/stamp.json")
    store.files.remove("report/index.html")
    # The pages of others, too: they say where a scan lies among all, and these were among them.
    store.files.remove_tree(PAGES)
    rewritten = {**_tables(store, who), **_runs(store, who)}
    for place in places(store, inventory):
        store.files.remove(f"{place}.json")
        store.files.remove(f"{place}{thumbnail.SUFFIX}")
        store.files.remove_tree(f"{place}.zarr")
    rewritten |= _refusals(store, who)
    forgotten = private.forget(tokens, inventory.rows)
    # Looked for by every call, and seldom found: only then is it worth the 30 MB of pydicom, to which this leads.
    from cohort.io.sources.filecache import FileCache

    with FileCache(cache if cache.is_file() else None) as known:
        cached = known.forget(map(Path, inventory.paths))
    left = [f"{f.kind} in {f.file}, {f.where}" for f in _left(store, who, begun, progress)]
    proof = {
        "format": FORMAT,
        "of": "the withdrawal of a subject from a cohort",
        "cohort": store.info().get("cohort"),
        "subject": inventory.subject,
        "scans": list(inventory.scans),
        "began": begun.began,
        "ended": _now(),
        "versions": _versions(),
        "removed": [
            {"file": name, "sha256": digest, "bytes": size}
            for name, (digest, size) in sorted(inventory.removed.items())
        ],
        "written_again": rewritten,
        "models_to_refit": stale,
        "private": {"rows_of_the_token_table": forgotten, "entries_of_the_cache": cached},
        "check": {"names": len(who), "voxels": begun.voxels, "found": left},
    }
    begun.proof.parent.mkdir(parents=True, exist_ok=True)
    _write(begun.proof, jsonfile.encode(proof))
    journal_file(tokens).unlink()
    return proof


def _count(store: Store, run: str) -> None:
    """Note in the run that began it that a subject withdrew: once, whichever call carries it out."""
    name = f"runs/{run}/changes.json"
    if not run or store.files.size(name) is not None:
        return
    if "files" in (manifest := store.manifest(run)):
        # It was interrupted and had time to list its files. `_runs` lists them again, this one too.
        del manifest["files"]
        store.write_json(f"runs/{run}/manifest.json", manifest)
    store.write_json(name, {"subjects_withdrawn": 1})


def _left(
    store: Store, who: Subject, begun: Withdrawal, progress: Callable[[int], None] | None
) -> list[Any]:
    """What may still hold the subject: all that names it, in names, texts, tables and voxels, and voxels of nobody knows whom."""
    found = list(search(store, who, voxels=begun.voxels, progress=progress))
    for name in store.files.names("models"):
        groups = kept.orphans(store, name)
        found += [Finding("unlisted", f"models/{name}/{group}", "whole", "") for group in groups]
    return found


def _models(store: Store, who: Subject) -> list[str]:
    """Remove the models whose rows name the subject, and voxels of nobody knows whom; the next call fits them again."""
    stale = []
    for name in store.files.names("models"):
        # What no record lists is of a call that was killed, or its record is damaged: it may hold the subject.
        orphans = kept.orphans(store, name)
        for group in orphans:
            store.files.remove_tree(f"models/{name}/{group}")
        for file, _ in store.files.listing(f"models/{name}"):
            if is_chunk(file):
                continue  # of a cube, of sums or a map: whose they are stands in the record that lists them
            if _may_mention(who, file, store.files.read(file)):
                store.remove_model(name)
                stale.append(name)
                break
        else:
            if orphans and name not in {*store.models(), *store.mapped()}:
                stale.append(name)
    return stale


def _may_mention(who: Subject, file: str, content: bytes) -> bool:
    """Whether a file of a model says something of the subject; of a damaged one nobody knows."""
    try:
        return _mentions(who, file, content)
    except (OSError, ValueError):
        return True


def _mentions(who: Subject, file: str, content: bytes) -> bool:
    if file.endswith(".parquet"):
        table = parquet.frame(content)
        return who.rows(table) is not table
    text = content.decode("utf-8", "replace")
    if file.endswith(".json"):
        return who.without(json.loads(text))[1] > 0
    if file.endswith(".jsonl"):
        return who.lines(text)[1] > 0
    return who.names(text)


def _tables(store: Store, who: Subject) -> dict[str, int]:
    """Rows that went from each table."""
    gone = {}
    for name in store.tables():
        table = store.table(name)
        assert table is not None
        rest = who.rows(table)
        if rest is not table:
            store.write_table(name, rest)
            gone[f"tables/{name}.parquet"] = len(table) - len(rest)
    for name in store.files.names("baseline"):
        columns = store.read_json(f"baseline/{name}") or {}
        if name == "models.json":
            if columns != WITHHELD:
                store.write_json(f"baseline/{name}", WITHHELD)
                gone[f"baseline/{name}"] = len(columns.get("model", ()))
            continue
        kept, n = _columns(who, columns)
        if n:
            store.write_json(f"baseline/{name}", kept)
            gone[f"baseline/{name}"] = n
    return {**gone, **_last_report(store, who)}


def _last_report(store: Store, who: Subject) -> dict[str, int]:
    """Rows and mentions that went from what the last report keeps for the next one to compare with.

    How many scans went stays there, without a name, for that report to say (``withdrawn``).
    """
    name = "report/previous.json"
    try:
        kept = store.read_json(name)
    except StoreError:
        kept = None
        store.files.remove(name)  # damaged: it is made again
    if kept is None:
        return {}
    states = {key: _columns(who, columns) for key, columns in kept["now"].items()}
    said, n = who.without(kept["said"])
    gone = n + sum(rows for _, rows in states.values())
    if not gone:
        return {}
    now = {key: columns for key, (columns, _) in states.items()}
    if "models" in now:
        now["models"] = WITHHELD
    if said is not None:
        said = _untold(said)[0]
    scans = kept.get("withdrawn", 0) + states.get("scans", ({}, 0))[1]
    store.write_json(name, {**kept, "now": now, "said": said, "withdrawn": scans})
    return {name: gone}


def _columns(who: Subject, columns: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A table that is kept as lists, without the subject's rows, and how many went."""
    mine = [who.names(scan_id) for scan_id in columns.get("scan_id", ())]
    if not any(mine):
        return columns, 0
    kept = {k: [x for x, m in zip(v, mine, strict=True) if not m] for k, v in columns.items()}
    return kept, sum(mine)


def _runs(store: Store, who: Subject) -> dict[str, int]:
    """Entries that went from the logs and manifests of each run."""
    gone: dict[str, int] = {}
    for run in store.files.names("runs"):
        place = f"runs/{run}"
        manifest, n = who.without(store.manifest(run))
        files = [f for f, _ in store.files.listing(place) if f != f"{place}/manifest.json"]
        naming = [
            f
            for f in files
            if who.names(f)
            or _mentions(who, f, content := store.files.read(f))
            or _tells(f, content)
        ]
        listed = manifest.pop("files", None)
        if not (naming or n or (manifest and listed is None)):
            continue
        if manifest:
            # Without the digests of its files while they change: a kill leaves a manifest that still holds.
            store.write_json(f"{place}/manifest.json", manifest)
        n += sum(_clean(store, who, file) for file in naming)
        if manifest:
            left = {f for f in files if store.files.size(f) is not None}
            digests = {f[len(place) + 1 :]: _digest(store.files.read(f)) for f in sorted(left)}
            store.write_json(f"{place}/manifest.json", {**manifest, "files": digests})
        gone[place] = n
    return gone


def _refusals(store: Store, who: Subject) -> dict[str, int]:
    """Refusals of others that name a file of the subject: said again without it."""
    gone = {}
    for entry in store.quarantine():
        cleaned, n = who.without(entry)
        if n:
            store.write_json(f"quarantine/{entry['series']}.json", cleaned)
            gone[f"quarantine/{entry['series']}.json"] = n
    return gone


def _clean(store: Store, who: Subject, file: str) -> int:
    """Write a file of a run again without what names the subject, or remove it; how many entries went."""
    if not who.names(file):
        content = store.files.read(file)
        if file.endswith(".jsonl"):
            cleaned, gone = who.lines(content.decode("utf-8", "surrogatepass"))
            store.files.write(file, cleaned.encode("utf-8", "surrogatepass"))
            return gone
        if file.endswith(".json"):
            value, gone = who.without(jsonfile.decode(content, required=False))
            if file.endswith(CHANGES):
                value, told = _untold(value)
                gone += told
            store.write_json(file, value)
            return gone
    store.files.remove(file)
    return 1


def _tells(file: str, content: bytes) -> bool:
    """Whether a file says of coefficients what they were before and after."""
    return file.endswith(CHANGES) and bool(json.loads(content).get("coefficients"))


def _untold(said: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What changed, without coefficients: those with somebody beside those without tell what it contributed; how many went."""
    if not said.get("coefficients"):
        return said, 0
    return {**said, "coefficients": [], "coefficients_withheld": True}, len(said["coefficients"])


def _digest(content: bytes) -> tuple[str, int]:
    return hashlib.sha256(content).hexdigest(), len(content)


def _write(path: Path, content: bytes) -> None:
    """A private file, whole or not there."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync(path.parent)


def _versions() -> dict[str, str]:
    from cohort import __version__

    return {"cohort": __version__, "python": platform.python_version()}


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
