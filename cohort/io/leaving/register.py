"""Who withdrew from a cohort: kept out of every later ingest, and named to nobody who reads the store.

``withdrawn.json`` holds one entry a withdrawal: a salted SHA-256 of the subject's public name, and one of the content
of each of its series, so that the same files stay out under another name too. A token has 80 bits of a keyed hash, so
nobody finds it again from its digest; where the catalog keeps ids, somebody who has the list of pseudonyms could find
out which of them withdrew.
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable
from typing import Any

from cohort.io.storage.backend import StoreError
from cohort.io.storage.papers import Papers

FILE = "withdrawn.json"


class Register:
    """The withdrawals of one store, as they are now.

    Parameters
    ----------
    store : Papers

    Raises
    ------
    StoreError
        If the file is damaged: who withdrew is not known, so nothing may be ingested.
    """

    def __init__(self, store: Papers) -> None:
        self._store = store
        try:
            said = store.read_json(FILE) or {}
        except StoreError as error:
            raise StoreError(
                f"{store.url}: {FILE}, which keeps out who withdrew, is damaged; restore it from a backup (nothing was"
                " ingested, because nobody knows who has to stay out)"
            ) from error
        self._salt: str = said.get("salt") or secrets.token_hex(16)
        self._entries: list[dict[str, Any]] = list(said.get("withdrawals", ()))
        self._known = {d for e in self._entries for d in (e["subject"], *e["contents"])}

    def __len__(self) -> int:
        """Number of withdrawals."""
        return len(self._entries)

    def has_subject(self, name: str) -> bool:
        """Whether the subject of a public name withdrew."""
        return bool(self._known) and self._digest("subject", name) in self._known

    def has_content(self, digest: str) -> bool:
        """Whether a series of this content belonged to somebody who withdrew."""
        return bool(self._known) and self._digest("content", digest) in self._known

    def add(self, subject: str, contents: Iterable[str]) -> None:
        """Keep a subject out from now on; durable when this returns."""
        mine = self._digest("subject", subject)
        before = {d for e in self._entries if e["subject"] == mine for d in e["contents"]}
        contents = sorted(before | {self._digest("content", text) for text in contents})
        self._write([e for e in self._entries if e["subject"] != mine], mine, contents)

    def readmit(self, subject: str) -> bool:
        """Let a subject in again; False if nobody of that name withdrew."""
        mine = self._digest("subject", subject)
        left = [e for e in self._entries if e["subject"] != mine]
        if len(left) == len(self._entries):
            return False
        self._write(left)
        return True

    def _digest(self, kind: str, text: str) -> str:
        return hashlib.sha256(f"{self._salt} {kind} {text}".encode()).hexdigest()

    def _write(
        self, entries: list[dict[str, Any]], subject: str = "", contents: Collection[str] = ()
    ) -> None:
        if subject:
            # Sorted by digest: the order of the entries says nothing about who withdrew when.
            entries = [*entries, {"subject": subject, "contents": list(contents)}]
            entries.sort(key=lambda e: str(e["subject"]))
        self._store.write_json(FILE, {"salt": self._salt, "withdrawals": entries})
        self._entries = entries
        self._known = {d for e in entries for d in (e["subject"], *e["contents"])}
