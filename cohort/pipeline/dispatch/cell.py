"""A process of its own in which scans run one after the other: what kills it, hangs or eats memory costs one scan.

Its parent, a worker, sends a batch and hears of each scan as it ends. Messages are a length of eight bytes and a pickle,
between processes of one program. Python's own multiprocessing is no way here: Dask's workers are daemons, which may not use
it.
"""

import contextlib
import ctypes
import faulthandler
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO
from weakref import finalize

from cohort.pipeline.dispatch.cost import Cost, Meter
from cohort.pipeline.dispatch.guard import Failure, Sealed, failure, guarded

LOOK_SECONDS = 0.05
"""How often the memory of a scan at work is looked at."""

START_SECONDS = 300.0
"""For the interpreter and the libraries, which may come from a busy network disk."""

SLACK_BYTES = 4 << 30
"""Address space beyond the limit of resident memory: libraries that come late, stacks of threads, what is never touched."""

_LENGTH = struct.Struct("<Q")
_PDEATHSIG = 1
"""Linux: the signal that a process gets when its parent ends."""

_TRACE_BYTES = 4000


class CellError(RuntimeError):
    """The process for scans does not start: the installation is at fault, not a scan."""


class Ended(Exception):
    """The process that ran a scan is no more: ``memory`` or ``time`` if we ended it, otherwise by what it ended."""

    def __init__(self, why: str, peak_bytes: int, trace: str = "") -> None:
        super().__init__(why)
        self.why, self.peak_bytes, self.trace = why, peak_bytes, trace


class Cell:
    """A started process, and the talk with it: no step without a deadline.

    Raises
    ------
    CellError
        If the process does not start.
    """

    def __init__(self) -> None:
        path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
        # What a crash says (Python's own stack) is read afterwards; a file, because nobody empties a pipe meanwhile.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._popen = subprocess.Popen(
            (sys.executable, "-P", "-m", "cohort.pipeline.dispatch.cell"),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            # It finds what its parent finds, whatever the working folder.
            env=os.environ | {"PYTHONPATH": path},
            # A Ctrl-C at the terminal is for the driver.
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._to, self._from = self._popen.stdin, self._popen.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._from, select.POLLIN)
        self._buffer = bytearray()
        self._peak = 0
        self._end = finalize(self, _end, self._popen, self._said, os.getpid())
        try:
            self._hear(START_SECONDS, None)
        except Ended as end:
            raise CellError(f"the process for scans does not start ({end.why})") from end

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive and self._popen.poll() is None

    def begin(self, load: bytes, first: int, last: int, limit_bytes: int | None) -> Failure | None:
        """Hand over a pickled function and list, of which the items from `first` to before `last` are to run.

        Returns
        -------
        Failure or None
            Why the function or the list cannot be opened there.

        Raises
        ------
        Ended
        """
        content = pickle.dumps((load, first, last, limit_bytes))
        data = memoryview(_LENGTH.pack(len(content)) + content)
        try:
            while data:
                data = data[self._to.write(data) or 0 :]
        except OSError:
            self._lost()
        return self._hear(START_SECONDS, None)

    def answer(self, seconds: float, limit_bytes: int | None) -> tuple[str | None, bytes, Cost]:
        """Kind of the failure if it is one, pickled result or failure, and cost of the next item.

        Raises
        ------
        Ended
            If the process ends, takes longer, or has more than `limit_bytes` resident.
        """
        return self._hear(seconds, limit_bytes)

    @property
    def has_answer(self) -> bool:
        """Whether something of the next answer is there."""
        return bool(self._buffer) or bool(self._poll.poll(0))

    def kill(self) -> None:
        """End what it does; who waits for an answer hears of it."""
        self._popen.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        self._end()

    def _hear(self, seconds: float, limit_bytes: int | None) -> Any:
        self._peak = 0
        deadline = monotonic() + seconds
        while (end := self._complete()) is None:
            if self._poll.poll(1000 * LOOK_SECONDS):
                data = os.read(self._from, 1 << 20)
                if not data:
                    self._lost()
                self._buffer += data
                continue
            self._peak = max(self._peak, self._resident())
            if limit_bytes is not None and self._peak > limit_bytes:
                self.close()
                raise Ended("memory", self._peak)
            if monotonic() > deadline:
                self.close()
                raise Ended("time", self._peak)
        content = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return pickle.loads(content)

    def _complete(self) -> int | None:
        """Where the first message of the buffer ends, if it is there as a whole."""
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        return end if len(self._buffer) >= end else None

    def _lost(self) -> None:
        code = self._popen.wait()
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TRACE_BYTES))
        trace = self._said.read().decode(errors="replace")
        self.close()
        raise Ended(_name(code), self._peak, trace)

    def _resident(self) -> int:
        try:
            pages = int(Path(f"/proc/{self._popen.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * resource.getpagesize()


def _end(popen: "subprocess.Popen[bytes]", said: BinaryIO, owner: int) -> None:
    """End a child and leave no zombie; a fork of its owner only lets go of the pipes."""
    assert popen.stdin is not None
    assert popen.stdout is not None
    if owner == os.getpid():
        popen.kill()
    for stream in (popen.stdin, popen.stdout, said):
        stream.close()
    if owner == os.getpid():
        popen.wait()


def _name(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# -- in the child -----------------------------------------------------------------------------------


def main() -> None:
    """Be the process: run what comes from standard input until it ends."""
    # An interrupt is for the driver. Nobody is left to hear of the work once the parent is gone, even in a C loop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    _harden()
    # What a library prints must not stand between answers, nor, as it may quote a header, beside what a crash says.
    answers, said = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    faulthandler.enable(said, all_threads=False)
    _send(answers, "ready")
    while (content := _receive(sys.stdin.buffer)) is not None:
        _serve(answers, *pickle.loads(content))


def _serve(answers: int, load: bytes, first: int, last: int, limit_bytes: int | None) -> None:
    try:
        function, items = pickle.loads(load)
        # After the libraries: what they map is not the scan's.
        _limit_address_space(limit_bytes)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear it
        _send(answers, failure(error))
        return
    _send(answers, None)
    for item in items[first:last]:
        _send(answers, _run(function, item))


def _run(function: Callable[[Any], Any], item: Any) -> tuple[str | None, bytes, Cost]:
    meter = Meter()
    result: Any
    try:
        result = guarded(function, Sealed(item))
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a library
        result = failure(error)
    try:
        content = pickle.dumps(result)
    except Exception as error:  # noqa: BLE001 - pickle raises what it likes
        result = failure(error)
        content = pickle.dumps(result)
    return result.kind if isinstance(result, Failure) else None, content, meter.cost()


def _send(pipe: int, answer: object) -> None:
    content = pickle.dumps(answer)
    data = memoryview(_LENGTH.pack(len(content)) + content)
    while data:
        data = data[os.write(pipe, data) :]


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


def _harden() -> None:
    """Allow no core file (patients' pixels), and be the first that a system without memory ends."""
    # Linux sends cores to a program whatever the limit, unless it is 1.
    _set_limit(resource.RLIMIT_CORE, 1)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _limit_address_space(limit_bytes: int | None) -> None:
    """Let one huge allocation fail at once; what grows slowly is watched by the parent."""
    if limit_bytes is None:
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _set_limit(resource.RLIMIT_AS, pages * resource.getpagesize() + limit_bytes + SLACK_BYTES)


def _set_limit(kind: int, size: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


if __name__ == "__main__":
    main()
