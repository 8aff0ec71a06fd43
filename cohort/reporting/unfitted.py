"""Models that are declared and have no fit: each is named on the page, with the reason."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from cohort.io.traces import without_paths

if TYPE_CHECKING:
    from cohort.io.store import Store

NOT_YET = "not fitted yet; run `cohort fit CATALOG`"
GONE = "the fit is no longer there, as after a withdrawal; run `cohort fit CATALOG`"

_FAILED = "failed: "
"""How the state of a model that could not be fitted begins, in the manifest of a run."""


class Unfitted(NamedTuple):
    """A model without a fit."""

    name: str
    reason: str
    """In words, without any path."""
    failed: bool
    """The last call that tried could not fit it."""


def unfitted(store: "Store", declared: Iterable[str]) -> list[Unfitted]:
    """Name the models that have no fit now, tables of effects and maps alike.

    Parameters
    ----------
    store : Store
    declared : iterable of str
        Models of the catalog, in its order.

    Returns
    -------
    list of Unfitted
        The reason is what the newest run that fitted a model says of it.
    """
    there = {*store.models(), *store.mapped()}
    missing = [name for name in declared if name not in there]
    states = _last_states(store, missing) if missing else {}
    return [_unfitted(store, name, states.get(name)) for name in missing]


def _last_states(store: "Store", names: Iterable[str]) -> dict[str, str]:
    """State of each model in the newest run that tried to fit it."""
    wanted, found = set(names), dict[str, str]()
    for run in reversed(store.runs()):
        stages = store.manifest(run).get("stages") or {}
        found |= {m: str(s) for m, s in (stages.get("fit") or {}).items() if m in wanted}
        wanted -= found.keys()
        if not wanted:
            break
    return found


def _unfitted(store: "Store", name: str, state: str | None) -> Unfitted:
    if state is None:
        return Unfitted(name, NOT_YET, failed=False)
    if not state.startswith(_FAILED):
        return Unfitted(name, GONE, failed=False)
    reason = state.removeprefix(_FAILED).replace(store.url, "the store")
    return Unfitted(name, without_paths(reason), failed=True)


def sentence(model: Unfitted) -> str:
    """What the head of the page says of a model.

    Examples
    --------
    >>> sentence(Unfitted("m", "no rows to fit", failed=True)), sentence(Unfitted("m", NOT_YET, failed=False))
    ('Model m could not be fitted: no rows to fit.', 'Model m has no fit: not fitted yet; run `cohort fit CATALOG`.')
    """
    how = "could not be fitted" if model.failed else "has no fit"
    return f"Model {model.name} {how}: {model.reason.rstrip('.')}."


def loss(model: Unfitted) -> dict[str, Any]:
    """What the flow of scans shows beside a model."""
    kind = "model failed" if model.failed else "model without a fit"
    return {"kind": kind, "reason": model.reason, "n": 1, "names": [], "more": 0}
