"""Names as people type them: whole, in part, or nearly."""

import difflib
from collections.abc import Iterable

from cohort.io.store import Store, StoreError

SHOWN = 5


def one_named(part: str, names: Iterable[str], *, what: str, where: str) -> str:
    """The name that is `part`, or the only one that holds it.

    Parameters
    ----------
    what, where : str
        For the message: what has the name, and where it was looked for.

    Raises
    ------
    StoreError
        If none does, with those that are spelled alike; or several, with some of them.

    Examples
    --------
    >>> one_named("0002", ["sub-0001_ses-1", "sub-0002_ses-1"], what="scan", where="here")
    'sub-0002_ses-1'
    """
    every = list(names)
    if part in every:
        return part
    found = [name for name in every if part in name]
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
        raise StoreError(f"{len(found)} {what}s are called {part!r}: {some}; give more of the name")
    near = difflib.get_close_matches(part, every, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise StoreError(f"no {what} {part!r} in {where}{hint}")


def refuse_failed(store: Store, recipe: str, scan_id: str) -> None:
    """Raise `StoreError` with the reason if a recipe failed on a scan."""
    found = store.derivative(recipe, scan_id)
    if found is not None and found["state"] == "failed":
        raise StoreError(f"recipe {recipe} failed on {scan_id}: {found['type']}: {found['reason']}")
