"""One writer at a time: the kernel's lock on a folder, a lease in a bucket.

A bucket has no lock that its holder's death would free, and no clock but its own. So a lease is a number: the objects
``.lock/00000001``, ``.lock/00000002``, ... are each made by a conditional put, which one claimant alone can win, and
the highest number holds the store. Its holder writes it again and again; one that was not written for its term, by the
clock of the server, is dead, and the next number may be claimed. A holder that was taken for dead finds a higher number
than its own before it commits anything (`Lease.check`), and stops.
"""

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TextIO

from cohort.io.storage.backend import Locked, StoreError, Unreachable
from cohort.io.storage.room import writing

FOLDER = ".lock"
"""Of the store: a file in a folder, a prefix in a bucket."""

LOOK_S = 0.05
"""Seconds in which somebody who only looks who holds a folder is done."""

TERM_S = 60.0
"""Seconds without a sign of life after which a lease is over; it is renewed four times as often."""


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Hold a folder for writing; the operating system frees it if the process dies.

    Raises
    ------
    Locked
        With who holds it, where and since when.
    StoreError
        If a file lies where the folder should be.
    """
    with writing(root / FOLDER):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(
                f"{root}: expected a folder for the store or none yet, found a file at {error.filename}; name another store"
            ) from error
        stream = (root / FOLDER).open("a+")
    with stream:
        try:
            _claim_file(stream)
        except BlockingIOError as error:
            stream.seek(0)
            raise Locked(
                f"the store {root} is locked by {stream.read().strip() or 'another process'}"
            ) from error
        with writing(root / FOLDER):
            stream.truncate(0)
            stream.write(f"{_who()}\n")
            stream.flush()
        yield


def _claim_file(stream: TextIO) -> None:
    """Lock a file, or raise BlockingIOError; once more after a moment, for it may have been held by a look (`folder_holder`)."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(LOOK_S)
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def folder_holder(root: Path) -> str | None:
    """Who holds a folder for writing, or None if nobody does. Nothing is written; nobody waits for this look."""
    try:
        stream = (root / FOLDER).open(encoding="utf-8")
    except OSError:
        return None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return stream.read().strip() or "another process"
    return None


def _who() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"process {os.getpid()} on {socket.gethostname()} since {since} UTC"


class LeaseFiles(Protocol):
    """What a lease needs of a bucket."""

    @property
    def url(self) -> str: ...  # noqa: D102
    def read(self, name: str) -> bytes: ...  # noqa: D102
    def put(self, name: str, content: bytes) -> None: ...  # noqa: D102
    def put_new(self, name: str, content: bytes) -> None: ...  # noqa: D102
    def modified(self, name: str) -> datetime: ...  # noqa: D102
    def names(self, folder: str) -> list[str]: ...  # noqa: D102
    def drop(self, name: str) -> None: ...  # noqa: D102


class Lease:
    """The right to write to a bucket's store, for as long as signs of life keep coming.

    Parameters
    ----------
    files : LeaseFiles
    term_s : float
        Seconds of silence after which others may take it.

    Notes
    -----
    Needs conditional creation (``If-None-Match: *``) and listing after write, not ``If-Match``, which some servers get
    wrong. A claim that finds that the server overwrites instead of refusing is given up: there, two runs would mix.
    """

    def __init__(self, files: LeaseFiles, *, term_s: float = TERM_S) -> None:
        self.files, self.term_s = files, term_s
        self.number = 0

    @contextmanager
    def held(self) -> Iterator[int]:
        """Claim, renew in a thread, release.

        Yields
        ------
        int
            The number of this claim, for `check`.

        Raises
        ------
        Locked
            With who holds the store, where and since when.
        StoreError
            If the server ignores the condition of a put.
        """
        says = {"by": _who(), "token": uuid.uuid4().hex, "term_s": self.term_s, **_here()}
        content = json.dumps(says).encode()
        self.number = self._claim(content)
        ended = threading.Event()
        heart = threading.Thread(target=self._renew, args=(content, ended), daemon=True)
        heart.start()
        try:
            yield self.number
        finally:
            ended.set()
            heart.join()
            # Not removed but marked: a claimant that still believes in an older number must not find its turn free.
            # If the server is away, the term ends by itself.
            with suppress(Unreachable):
                if self._numbers()[-1:] == [self.number]:
                    released = json.dumps({**says, "released": True}).encode()
                    self.files.put(_name(self.number), released)

    def _claim(self, content: bytes) -> int:
        while True:
            numbers = self._numbers()
            if numbers and (holder := self._living(numbers[-1])) is not None:
                raise Locked(holder)
            mine = numbers[-1] + 1 if numbers else 1
            try:
                self.files.put_new(_name(mine), content)
            except FileExistsError:
                continue  # somebody was faster: look who
            self._expect_conditions(mine, content)
            if self._numbers()[-1] != mine:  # our idea of who was last was out of date
                self.files.drop(_name(mine))
                continue
            for old in numbers:
                self.files.drop(_name(old))
            return mine

    def _expect_conditions(self, mine: int, content: bytes) -> None:
        try:
            self.files.put_new(_name(mine), content + b"\n")
        except FileExistsError:
            return
        self.files.drop(_name(mine))
        raise StoreError(
            f"{self.files.url}: the server overwrites what a put with If-None-Match must not touch, so two runs at once"
            f" would mix; keep the store elsewhere (`cohort doctor {self.files.url}` says what else does not work)"
        )

    def _living(self, number: int) -> str | None:
        """Who holds a number, or None if it was released, its holder is dead, or it is gone."""
        try:
            says = json.loads(self.files.read(_name(number)))
            written = self.files.modified(_name(number))
        except FileNotFoundError:
            return None  # a later claim removed it, and will be found
        if says.get("released") or _is_dead(says):
            return None
        silent = (self._now() - written).total_seconds()
        if silent > says["term_s"]:
            return None
        return (
            f"the store {self.files.url} is locked by {says['by']}; its last sign of life is {silent:.0f} s old,"
            f" after {says['term_s']:.0f} s of silence the store is free"
        )

    def holder(self) -> str | None:
        """Who holds the store, or None; by our own clock, because nothing is written for a look."""
        numbers = self._numbers()
        try:
            name = _name(numbers[-1])
            says, written = json.loads(self.files.read(name)), self.files.modified(name)
        except (IndexError, FileNotFoundError):
            return None
        silent = datetime.now(written.tzinfo) - written
        over = says.get("released") or _is_dead(says) or silent.total_seconds() > says["term_s"]
        return None if over else str(says["by"])

    def _now(self) -> datetime:
        """Time by the clock of the server, which also dates the signs of life: ours may be a day off."""
        probe = f"{FOLDER}/now-{uuid.uuid4().hex}"
        self.files.put(probe, b"")
        try:
            return self.files.modified(probe)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.files.url}: the server does not show what was just put, so no lock can be trusted;"
                f" keep the store elsewhere (`cohort doctor {self.files.url}` says what else does not work)"
            ) from error
        finally:
            self.files.drop(probe)

    def _renew(self, content: bytes, ended: threading.Event) -> None:
        while not ended.wait(self.term_s / 4):
            # A server that is away for a moment: try again; the number decides whether we still hold the store.
            with suppress(OSError):
                if self._numbers()[-1:] != [self.number]:
                    return
                self.files.put(_name(self.number), content)

    def _numbers(self) -> list[int]:
        return sorted(int(n) for n in self.files.names(FOLDER) if n.isdecimal())


def check(files: LeaseFiles, number: int) -> None:
    """Raise `Locked` unless `number` still holds the store: a writer that was taken for dead commits nothing."""
    last = max((int(n) for n in files.names(FOLDER) if n.isdecimal()), default=0)
    if last != number:
        raise Locked(
            f"the store {files.url} was taken over (claim {last}, ours was {number}): this process gave no sign of life"
            " for too long; call again"
        )


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}"


def _here() -> dict[str, Any]:
    """Process and machine, as far as another process on it can recognise them; a container is a machine of its own."""
    machine = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - a link into the kernel
    return {"process": os.getpid(), "machine": machine}


def _is_dead(says: dict[str, Any]) -> bool:
    """Whether a holder was a process of this very machine that is no more: no need to wait for its silence."""
    if not says["machine"] or says["machine"] != _here()["machine"]:
        return False
    try:
        os.kill(says["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it lives, and is somebody else's
    return False
