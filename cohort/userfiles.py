"""What of a store lies with its user and not in it: names and paths, and the note of a withdrawal that is not at its end."""

import os
from pathlib import Path

from cohort import provenance
from cohort.io.store import Store


def cache_file(store: Store) -> Path:
    """Private index of the sources of a store: it holds paths, so it lies with the user, not in the store."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "cohort" / f"{_digest(store)}.index"


def finish_withdrawal(store: Store) -> None:
    """Carry out the withdrawal that was killed, if there is one. Call under the lock."""
    from cohort.io.leaving import withdraw

    tokens = tokens_file(store)
    if begun := withdraw.pending(withdraw.journal_file(tokens)):
        from cohort.stats.voxels.streaming import take_out

        withdraw.carry_out(store, begun, tokens=tokens, cache=cache_file(store), sums=take_out)


def tokens_file(store: Store) -> Path:
    """Private table of what the names in a store stand for. No cache: without it nobody finds a file again."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return home / "cohort" / f"{_digest(store)}.tokens"


def _digest(store: Store) -> str:
    """What tells a store from others of the same user: where it lies, however its folder was named in the call."""
    url = store.url
    place = url if "://" in url else os.path.abspath(url)  # noqa: PTH100 - lexical, as catalogs are
    return provenance.digest(place)[:16]
