"""What is done to a store by hand: somebody withdraws, rubbish goes, a call that is at work is stopped."""

import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cohort import overview
from cohort.checking import read_recipes
from cohort.io.catalog import Catalog
from cohort.io.leaving import inventory, rubbish
from cohort.io.leaving import withdraw as leaving
from cohort.io.leaving.register import Register
from cohort.io.private import inside
from cohort.io.storage.backend import StoreError
from cohort.io.store import Store
from cohort.pipeline.intake.arrivals import subject_in
from cohort.pipeline.intake.units import Names
from cohort.pipeline.ledger import Ledger, Listener, silent
from cohort.userfiles import cache_file, finish_withdrawal, tokens_file

if TYPE_CHECKING:
    from cohort.io.participants import Participants


class Opened(Protocol):
    """A cohort as `api.open` gives it."""

    @property
    def store(self) -> Store: ...  # noqa: D102
    @property
    def catalog(self) -> Catalog | None: ...  # noqa: D102


@dataclass(frozen=True)
class Cancelled:
    """What `cancel` asked to stop."""

    run_id: str = ""
    """Empty: no call was at work."""
    by: str = ""
    """Process, host and since when."""
    was_signalled: bool = False
    """Whether it runs on this machine, and was sent SIGTERM."""
    jobs: int = 0
    """Jobs of a cluster's queue that were taken back."""


def withdraw(
    cohort: Opened,
    subject: str,
    *,
    proof: Path,
    voxels: bool = False,
    listen: Listener = silent,
) -> tuple[dict[str, Any], Path]:
    """Take a subject out of a cohort for good, and keep it out.

    Parameters
    ----------
    subject : str
        Its public name, with or without ``sub-``, its participant, or the id that the sources have.
    proof : Path
        File to write, outside the store: what went, with SHA-256, and what a search afterwards found.
    voxels : bool
        Whether that search reads the voxels of all other scans, too.

    Returns
    -------
    proof : dict
    path : Path
        Where it was written: of a withdrawal that had been killed, where that call wanted it.

    Raises
    ------
    Locked
        If somebody is writing to the store.
    StoreError
        If nothing is known of the subject, or `proof` cannot be written.
    """
    from cohort.stats.voxels.streaming import take_out

    catalog, store = _catalog_of(cohort), cohort.store
    _check_proof(store, proof)
    tokens, cache = tokens_file(store), cache_file(store)
    journal = leaving.journal_file(tokens)
    with store.lock():
        store.sweep()
        participants = _participants(catalog)
        names = Names(catalog, participants)
        begun = leaving.pending(journal)
        readings = _readings(subject, names, participants)
        is_ours = begun is not None and (
            begun.proof == proof.absolute() or begun.inventory.subject in readings
        )
        if not is_ours:
            finish_withdrawal(store)  # somebody else's, which was killed
            begun = None
        if begun is None:
            who = _resolved(store, subject, readings)
            if proof.exists():
                raise StoreError(
                    f"{proof} is there already, and may be another proof; give another name"
                )
            found = inventory.take(
                store, who, tokens=tokens, owns=lambda path: _owns(catalog, names, path, who)
            )
        with Ledger(store, "withdraw", listen=listen) as ledger:
            if begun is None:
                begun = leaving.begin(journal, found, proof=proof, voxels=voxels, run=ledger.run_id)
            said = leaving.carry_out(
                *(store, begun),
                tokens=tokens,
                cache=cache,
                sums=take_out,
                progress=_telling(store, listen),
            )
            ledger.stages["withdraw"] = {
                "scans": len(begun.inventory.scans),
                "files": len(begun.inventory.removed),
                "bytes": sum(size for _, size in begun.inventory.removed.values()),
                "found_afterwards": len(said["check"]["found"]),
            }
            if stale := said["models_to_refit"]:
                ledger.stages["fit"] = dict.fromkeys(stale, "stale")
    return said, begun.proof


def readmit(cohort: Opened, subject: str) -> None:
    """Let a subject that withdrew in again: the next ingest takes its scans, if the sources still have them.

    Raises
    ------
    Locked
        If somebody is writing to the store.
    StoreError
        If nobody of that name withdrew.
    """
    catalog, store = _catalog_of(cohort), cohort.store
    with store.lock():
        finish_withdrawal(store)
        participants = _participants(catalog)
        register = Register(store)
        names = _readings(subject, Names(catalog, participants), participants)
        if not any(register.readmit(name) for name in names):
            raise StoreError(f"nobody called {subject!r} withdrew from {store.url}")
        # Members of archives were forgotten one by one: what an archive holds is found out anew.
        cache_file(store).unlink(missing_ok=True)


def collect(
    cohort: Opened, *, keep_runs: int | None = None, dry_run: bool = False
) -> list[rubbish.Rubbish]:
    """Remove what no record needs, and say what it was; with `dry_run`, only say it.

    Parameters
    ----------
    keep_runs : int, optional
        Newest run folders to keep; all by default.

    Raises
    ------
    Locked
        If somebody is writing to the store.
    """
    catalog, store = _catalog_of(cohort), cohort.store
    recipes, cache = read_recipes(catalog), cache_file(store)
    with store.still() if dry_run else store.lock():
        found = list(
            rubbish.rubbish(
                store,
                recipes={r.name for r in recipes},
                frozen={r.digest for r in recipes},
                models=set(catalog.models),
                keep_runs=keep_runs,
                cache=cache,
            )
        )
        if not dry_run:
            rubbish.remove(store, found, cache=cache)
    return found


def cancel(cohort: Opened) -> Cancelled:
    """Ask the call that is at work on a store to stop, wherever it runs, and take its jobs back.

    It finishes or drops what is under way, writes its tables and its manifest, and exits 75.
    """
    from cohort.pipeline.clusters import submit

    store = cohort.store
    jobs = submit.cancel_jobs(store)
    now = overview.running(store)
    if now is None:
        return Cancelled(jobs=jobs)
    if now.run_id:
        store.files.write(f"runs/{now.run_id}/cancel", b"")
        if store.files.size(f"runs/{now.run_id}/manifest.json") is not None:
            # It came to its end meanwhile, and does not list this file.
            if "cancel" not in store.manifest(now.run_id).get("files", {}):
                store.files.remove(f"runs/{now.run_id}/cancel")
            return Cancelled(jobs=jobs)
    process, signalled = now.process, False
    # A driver that was submitted has its signal already; a second one would interrupt it at once.
    if not jobs and process is not None and process[1] == socket.gethostname():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process[0], signal.SIGTERM)
            signalled = True
    return Cancelled(now.run_id, now.by, signalled, jobs)


def _catalog_of(cohort: Opened) -> Catalog:
    if cohort.catalog is None:
        raise StoreError(f"{cohort.store.url} is a store: expected the cohort's catalog (.yaml)")
    return cohort.catalog


def _check_proof(store: Store, proof: Path) -> None:
    if store.is_local and inside(store.root, proof):
        raise StoreError(
            f"the proof {proof} would lie in the store {store.url}, and names who withdrew; give a path outside"
        )
    if not os.access(proof.absolute().parent, os.W_OK):
        raise StoreError(f"the proof {proof} cannot be written: no such folder, or no right to")


def _participants(catalog: Catalog) -> "Participants | None":
    if catalog.participants is None:
        return None
    from cohort.io.participants import read_participants

    return read_participants(catalog.participants, catalog.folder, subject_pattern=catalog.subject)


def _readings(subject: str, names: Names, participants: "Participants | None") -> list[str]:
    """Public names for which what somebody typed may stand."""
    typed = subject.strip()
    plain = re.sub(r"_ses-.*$", "", typed).removeprefix("sub-")
    found = [plain, names.of("subject", typed)]
    if participants is not None:
        key = participants.key_of(typed, None)
        rows = participants.table.loc[participants.table["participant"] == typed, "subject"]
        found += [names.of("subject", who) for who in (*rows, *([key[0]] if key else []))]
    return list(dict.fromkeys(found))


def _resolved(store: Store, subject: str, readings: Sequence[str]) -> str:
    """Public name of a subject of the store."""
    there = inventory.subjects(store)
    for each in readings:
        if each in there:
            return each
    register = Register(store)
    if any(register.has_subject(each) for each in readings):
        raise StoreError(
            f"{subject!r} has withdrawn already, and nothing of it is left; `cohort readmit` would let it in again"
        )
    raise StoreError(
        f"no subject {subject!r} in {store.url}; expected the name after sub- in a scan's id, or its id in the sources"
    )


def _owns(catalog: Catalog, names: Names, path: str, subject: str) -> bool:
    found = subject_in(catalog, Path(path))
    return found is not None and names.of("subject", found) == subject


def _telling(store: Store, listen: Listener) -> Callable[[int], None]:
    """Tell who listens how many of the store's bytes were searched."""
    total = sum(size for _, size in store.files.listing())
    done = 0

    def tell(n: int) -> None:
        nonlocal done
        done += n
        listen({"event": "found", "stage": "search", "done": done, "total": total})

    return tell
