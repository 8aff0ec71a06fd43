"""The same maps from running sums: each scan is read once, and of scans that come or go nothing else is read.

Where all scans of a voxel stand side by side (the cube) everything can be asked of them, and every scan is stored twice. Sums need
no second copy, and no cube that is written anew for every scan that comes: they suit cohorts that grow, and models of which
permutations are not asked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cohort import provenance
from cohort.io import kept
from cohort.io import maps as stored
from cohort.io import sums as running
from cohort.io.cube import in_order
from cohort.io.leaving.redact import Subject
from cohort.io.storage.backend import StoreError
from cohort.io.store import Store
from cohort.kernels import glm
from cohort.kernels.sums import Sums, fits
from cohort.stats import voxelwise
from cohort.stats.columns import DesignError
from cohort.stats.voxels.asked import Asked, Source
from cohort.stats.voxels.pieces import Piece, Question, needed, one_blas_thread, taken

GROUP = 32
"""Scans that are summed before their sum is added to the whole: groups of fixed scans, so that bits do not depend on workers."""

SUMMED = 1
"""Raised when scans enter sums otherwise than before: sums are made anew."""

SOME = "some scan has no number there, and sums are of all scans"
"""What is said of voxels that are left out for it."""

Row = tuple[str, list[float]]
"""Digest of a scan's voxels, and its row of the design."""


@dataclass
class State:
    """Sums, and what is in them.

    Attributes
    ----------
    key : dict
        How scans are prepared and counted: sums of another key are of no use.
    scans : dict of scan_id -> (digest, row)
    empty : dict of scan_id -> digest
        Scans without any number, which are in no sum.
    origin : str
        The scan from which values are counted, or nothing.
    """

    sums: Sums
    key: dict[str, Any]
    scans: dict[str, Row]
    empty: dict[str, str] = field(default_factory=dict)
    origin: str = ""

    @property
    def X(self) -> np.ndarray:
        """Rows of the scans that are in, (n, p)."""
        return np.array([row for _, row in self.scans.values()], np.float64)


def fit_sums(
    store: Store,
    name: str,
    asked: Asked,
    mask: np.ndarray | None,
    *,
    workers: int,
    progress: Callable[[str, int, int], None],
) -> tuple[voxelwise.Maps, dict[str, Any]]:
    """Bring the sums of a model up to date, and make maps of them.

    Returns
    -------
    Maps
        Without HC3.
    dict
        ``read``, scans that were read; ``anew``, why all were, or nothing.

    Raises
    ------
    DesignError
        If the columns depend on each other, or no voxel is left.
    """
    wanted = asked.model.voxelwise
    assert wanted is not None
    shape, affine, _ = asked.grid()
    key = _key(asked, shape, affine)
    rows: dict[str, Row] = {
        scan: (digest, row)
        for (scan, digest), row in zip(asked.scans.items(), asked.X.tolist(), strict=True)
    }
    was, before = running.record(store, name), _stored(store, name)
    count = _Count(progress)
    made: State | None = None
    if before is not None:
        made, anew = _updated(before, key, rows, asked, count)
    else:
        anew = "first fit" if was is None else "a file of the sums is missing or damaged"
    if made is None:
        made = _summed(key, rows, asked, workers, count)
    # Sums of a model that cannot be fitted do not take the place of those that are kept.
    found = _maps(made, asked, mask, shape)
    said = _record(made, shape, affine)
    if anew or was is None or any(was.get(name) != said[name] for name in said):
        running.write(store, name, made.sums, said)
    else:
        kept.sweep(store, name, running.STEM)  # of a call that was killed
    return found, {"read": count.read, "anew": anew}


class _Count:
    """Scans that were read."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self.read, self._progress = 0, progress

    def one(self, total: int) -> None:
        self.read += 1
        self._progress("scans", self.read, total)


def _key(asked: Asked, shape: tuple[int, ...], affine: np.ndarray) -> dict[str, Any]:
    wanted = asked.model.voxelwise
    assert wanted is not None
    ones = np.ones(len(asked.X))
    rest = ones - asked.X @ np.linalg.lstsq(asked.X, ones, rcond=None)[0]
    return {
        "recipe": asked.model.recipe,
        "variable": wanted.variable,
        "smooth_fwhm_mm": wanted.smooth_fwhm_mm,
        "above": wanted.mask.above,
        "columns": [str(c) for c in asked.design.X.columns],
        # Values may be counted from an origin only if the constant is among what the columns span.
        "shifted": bool(np.abs(rest).max() < 1e-10),
        # Of one grid a scan may say another last digit.
        "grid": provenance.digest([list(shape), (np.round(affine, 4) + 0.0).tolist()]),
        "revision": SUMMED,
    }


def _updated(
    state: State, key: dict[str, Any], rows: Mapping[str, Row], asked: Asked, count: _Count
) -> tuple[State | None, str]:
    """The sums with what came and without what went, or why all scans have to be read."""
    if changed := [name for name in key if state.key.get(name) != key[name]]:
        return None, f"{', '.join(changed)} changed"
    known = {scan: digest for scan, (digest, _) in state.scans.items()} | state.empty
    new = [scan for scan, (digest, _) in rows.items() if known.get(scan) != digest]
    gone = [scan for scan, digest in known.items() if scan not in rows or digest != rows[scan][0]]
    state.empty = {scan: digest for scan, digest in state.empty.items() if scan not in gone}
    gone = [scan for scan in gone if scan in state.scans]
    moved = [s for s in rows if s in state.scans and s not in gone and state.scans[s] != rows[s]]
    if not (new or gone or moved):
        return state, ""
    if len({*new, *gone, *moved}) >= len(rows):
        return None, "more scans came, went or have other rows than stay"
    now = asked.source.contents(gone)
    if lost := [scan for scan in gone if now.get(scan) != state.scans[scan][0]]:
        return (
            None,
            f"what {len(lost)} scans were that went, or were replaced, is not there any more",
        )
    total = len(new) + len(gone) + len(moved)
    for scan in new:
        _enter(state, state.sums, scan, rows[scan], asked.load(scan))
        count.one(total)
    for scan in moved:
        row = rows[scan]
        state.sums.move(np.array(state.scans[scan][1]), np.array(row[1]), asked.load(scan))
        state.scans[scan] = row
        count.one(total)
    if not _leave(state, gone, asked.load, lambda: count.one(total)):
        return (
            None,
            "what is left of a voxel's squares without the scans that went is mostly rounding",
        )
    return state, ""


def _enter(state: State, sums: Sums, scan: str, row: Row, values: np.ndarray) -> None:
    """Note a scan as one that is in, and add it to the sums, or to a part of them."""
    if not np.isfinite(values).any():
        state.empty[scan] = row[0]
        return
    sums.add(np.array(row[1]), values, above=state.key["above"])
    state.scans[scan] = row


def _leave(
    state: State, gone: Sequence[str], load: Callable[[str], np.ndarray], one: Callable[[], None]
) -> bool:
    """Take scans out; whether what is left is more than rounding."""
    if not gone:
        return True
    sums, above = state.sums, state.key["above"]
    most = sums.yy.copy()
    for scan in gone:
        sums.remove(np.array(state.scans.pop(scan)[1]), load(scan), above=above)
        one()
    shifted = bool(state.key["shifted"])
    return not sums.lost(len(state.scans), most, above=above, shifted=shifted)


def _summed(
    key: dict[str, Any], rows: Mapping[str, Row], asked: Asked, workers: int, count: _Count
) -> State:
    """Sums over all scans, group by group; scans are read by some threads and added in their order."""
    state: State | None = None
    part: Sums | None = None
    count.read = 0
    loaded = in_order(asked.load, rows, workers=workers)
    for number, (scan, values) in enumerate(zip(rows, loaded, strict=True), 1):
        count.one(len(rows))
        if state is None or part is None:
            start = values if key["shifted"] else np.zeros(values.shape)
            p = len(key["columns"])
            state = State(Sums.empty(start, p), key, {}, origin=scan if key["shifted"] else "")
            part = Sums.empty(start, p)
        _enter(state, part, scan, rows[scan], values)
        if number % GROUP == 0 or number == len(rows):
            state.sums.merge(part)
            part.clear()
    assert state is not None
    return state


def _maps(
    state: State, asked: Asked, mask: np.ndarray | None, shape: tuple[int, ...]
) -> voxelwise.Maps:
    wanted = asked.model.voxelwise
    assert wanted is not None
    order = [scan for scan in asked.scans if scan in state.scans]
    X, sums, n = np.array([state.scans[s][1] for s in order]), state.sums, len(order)
    inside = np.ones(sums.yy.size, bool) if mask is None else mask.reshape(-1).copy()
    if wanted.mask.above is not None:
        inside &= sums.above >= needed(wanted.mask.share, n)
    some = inside & (sums.lacking > 0) & (sums.lacking < n)
    here = np.flatnonzero(inside & ~some)
    contrasts = np.stack(list(asked.contrasts.values()))
    joint = tuple(asked.joint.values())
    question = Question(X, np.arange(n), contrasts, joint, wanted.mask.above, wanted.mask.share)
    if len(here) == 0 and some.any():
        raise DesignError(
            f"none of the {inside.sum()} voxels of the mask can be fitted: {some.sum()}: {SOME}; form: cube fits them to the"
            " scans that have them"
        )
    try:
        with one_blas_thread():
            found = fits(sums, X, contrasts, joint, here)
    except glm.DependentColumns as error:
        raise DesignError(f"the design of the maps: {error}") from error
    found.state[sums.lacking[here] == n] = glm.NO_SCAN
    good = found.state == glm.FITTED
    counts = np.bincount(found.state, minlength=6)
    none = np.zeros(n, np.int64)
    piece = Piece(int(inside.sum()), counts, here[good], taken(found, good), none, none)
    empty = tuple(i for i, scan in enumerate(asked.scans) if scan in state.empty)
    made = voxelwise.as_maps(
        (shape[0], shape[1], shape[2]),
        *(question, [piece], tuple(asked.contrasts), tuple(asked.joint), empty),
    )
    threshold = wanted.cluster_threshold or voxelwise.forming(n - X.shape[1])
    left_out = made.left_out | ({SOME: int(some.sum())} if some.any() else {})
    told = {key: rows for key, rows in made.by_contrast.items() if not key.startswith("hc3")}
    return replace(
        made,
        by_contrast=told,
        left_out=left_out,
        threshold=threshold,
        neighbours=wanted.neighbours,
    )


# -- in the store ------------------------------------------------------------------------------------


def _record(state: State, shape: tuple[int, ...], affine: np.ndarray) -> dict[str, Any]:
    return {
        "key": state.key,
        "scans": {scan: [digest, row] for scan, (digest, row) in state.scans.items()},
        "empty": state.empty,
        "origin": state.origin,
        "shape": list(shape),
        "affine": np.asarray(affine).ravel().tolist(),
    }


def _stored(store: Store, name: str) -> State | None:
    said = running.record(store, name)
    if said is None:
        return None
    sums = running.read(store, name, said)
    if sums is None:
        return None
    scans = {scan: (digest, row) for scan, (digest, row) in said["scans"].items()}
    return State(sums, said["key"], scans, said["empty"], said["origin"])


def take_out(store: Store, who: Subject) -> list[str]:
    """Take somebody who withdraws out of the sums of all models, while the scans are still there; call under the store's lock.

    The maps go with what names the subject; the next fit makes them of the sums, without reading a scan. May be repeated: the
    record says who is in. What cannot be taken out to the last digit (a scan that changed, or whose voxels are the origin of a
    voxel that others lack) takes the sums along, and the next fit reads the others.

    Returns
    -------
    list of str
        Models whose maps have to be made again.
    """
    stale = []
    for name in store.files.names("models"):
        said = running.record(store, name)
        if said is None:
            continue
        mine = [scan for scan in (*said["scans"], *said["empty"]) if who.names(scan)]
        if mine or who.names(said["origin"]):
            state = _stored(store, name)
            if state is None or not _without(store, state, mine, who):
                kept.forget(store, name, running.STEM)
            else:
                again = _record(state, tuple(said["shape"]), np.array(said["affine"]))
                running.write(store, name, state.sums, again)
        elif not _named(store, name, who):
            continue
        stored.forget(store, name)
        stale.append(name)
    return stale


def _named(store: Store, name: str, who: Subject) -> bool:
    """Whether the maps of a model say something of the subject; of damaged ones, and of remains, nobody knows."""
    try:
        said = stored.record(store, name)
    except StoreError:
        return True
    return said is None or who.without(said)[1] > 0


def _without(store: Store, state: State, mine: list[str], who: Subject) -> bool:
    """Take scans out, and let the values count from nobody's; False if that cannot be done."""
    key = state.key
    source = Source(store, key["recipe"], key["variable"], key["smooth_fwhm_mm"])
    gone = [scan for scan in mine if scan in state.scans]
    if len(gone) == len(state.scans):
        return False
    try:
        now = source.contents(gone)
        if any(now.get(scan) != state.scans[scan][0] for scan in gone):
            return False
        if any(source.image(scan).size != state.sums.yy.size for scan in gone):
            return False
        if not _leave(state, gone, source.load, lambda: None):
            return False
    except (OSError, RuntimeError, ValueError):
        return False
    state.empty = {scan: digest for scan, digest in state.empty.items() if scan not in mine}
    if state.key["shifted"] and who.names(state.origin):
        state.origin = ""
        return state.sums.recentred(state.X, above=key["above"])
    return True
