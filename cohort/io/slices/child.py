"""Compressed frames decoded where they can do no harm: in a process of their own, with limits.

Decoders are C libraries that are fed with whatever a file holds. What kills one, or keeps it busy for ever, costs
the series it came from and nothing else. Starting a process takes a third of a second, so one is kept until it dies.

A request is one line of JSON: path, header, seconds, memory. The answer is one line of JSON and, if the frame could
be decoded, its bytes. Python's own multiprocessing is no way here: Dask's workers are daemons, which may not use it.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any
from weakref import finalize

import numpy as np

from cohort.io.refusal import Refused
from cohort.io.slices.dicom_header import Header

SECONDS = 60.0
"""A frame takes no longer."""

MEMORY = 2 << 30
"""Bytes that a frame may take on top of the interpreter and its libraries."""

_START_SECONDS = 120.0
"""For the interpreter and its libraries, which may come from a busy network disk."""

_GRACE_SECONDS = 5.0
"""A child that is late ends by itself after so many seconds more, should its parent be gone."""

_LINE_BYTES = 1 << 16
"""Longest line of an answer, and what a pipe holds by default."""

_PIPE_BYTES = 1 << 20
"""What a pipe should hold, so that a frame passes in few steps."""

_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
"""What a frame may consist of."""


class ChildError(RuntimeError):
    """The decoding process does not start: the installation is at fault, not a file."""


def decode(
    path: Path, header: Header, *, seconds: float = SECONDS, memory: int = MEMORY
) -> np.ndarray:
    """Decode one compressed frame in the child of this process, which is started at first use.

    Parameters
    ----------
    path : Path
        A plain local file.
    header : Header
        Of the frame.
    seconds : float
        Limit from the request to the last byte.
    memory : int
        Limit in bytes, on top of the interpreter and its libraries.

    Returns
    -------
    (rows, columns) array, int or uint of 8, 16 or 32 bits, native byte order
        What `pixels.decode_frame` gives there. Threads take turns; a fork of this process starts a child of its own.

    Raises
    ------
    Refused
        ``DCM-PIXELS`` if the decoder crashes, is late, wants more memory or finds the stream damaged, and whatever
        `pixels.decode_frame` refuses, such as ``DCM-SYNTAX``.
    ChildError
        If the child does not start.

    Notes
    -----
    Oracle: `pixels.decode_frame` in this process, equal to the bit.
    """
    own = os.getpid()
    # Two threads that come first may make two; the second call gives both the one that was kept.
    _child_of(own)
    return _child_of(own).decode(path, header, seconds=seconds, memory=memory)


class Child:
    """A process that decodes one frame a request; started at first use, and anew after one had to be ended.

    Parameters
    ----------
    command : sequence of str, optional
        What to start; it has to call `serve`.
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        self._command = tuple(command) or (sys.executable, "-P", "-m", "cohort.io.slices.child")
        self._lock = Lock()
        self._process: _Process | None = None
        self._end: finalize[..., Any] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.popen.pid

    def decode(
        self, path: Path, header: Header, *, seconds: float = SECONDS, memory: int = MEMORY
    ) -> np.ndarray:
        """As the function `decode`, in this child."""
        request = {"path": os.fspath(path), "header": header, "seconds": seconds, "memory": memory}
        with self._lock:
            process = self._running()
            try:
                answer = process.ask(request, (header["rows"], header["columns"]), seconds)
            # Whatever it was, an interrupt too: what is still under way belongs to this frame, no later one may meet it.
            except BaseException as error:
                self.close()
                if (reason := _reason(error, process.popen.returncode, seconds)) is None:
                    raise
                raise _undecoded(reason, path) from error
        match answer:
            case np.ndarray():
                return answer
            case [code, what, fix]:
                raise Refused(code, what, fix=fix, files=[path])
            case "MemoryError":
                raise _undecoded(f"the decoder needs more than {memory >> 20} MB for", path)
            case kind:
                raise _undecoded(f"the decoder finds damage ({kind}) in", path)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._end is not None:
            self._end()
        self._process = self._end = None

    def _running(self) -> "_Process":
        """The process; a new one if the last has ended or speaks without being asked."""
        if self._process is None or self._process.readable(0.0):
            self.close()
            self._process = _Process(self._command)
            self._end = finalize(self, self._process.end, os.getpid())
            try:
                self._process.greet()
            except (EOFError, TimeoutError, ValueError) as error:
                popen = self._process.popen
                self.close()
                raise ChildError(
                    f"the decoding process does not start (exit code {popen.returncode})"
                ) from error
        return self._process


@lru_cache(maxsize=1)
def _child_of(process: int) -> Child:
    """The child of this process; a fork lets go of its parent's."""
    return Child()


class _Process:
    """A started child, and the talk with it: no step without a deadline."""

    def __init__(self, command: Sequence[str]) -> None:
        environment = os.environ | {
            # It finds what its parent finds, whatever the working folder.
            "PYTHONPATH": os.pathsep.join(place or str(Path.cwd()) for place in sys.path),
            # Threads of libraries that no decoder uses cost address space and time.
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        pipe = subprocess.PIPE
        # Diagnostics may quote headers: nobody reads them.
        self.popen = subprocess.Popen(
            command, bufsize=0, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
        )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._to, self._from = self.popen.stdin.fileno(), self.popen.stdout.fileno()
        os.set_blocking(self._to, False)
        # Linux has it, and a limit for what all pipes of a user hold.
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(self._from, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def end(self, owner: int) -> None:
        """End the child and leave no zombie; a fork of the `owner` only lets go of the pipes."""
        if owner == os.getpid():
            self.popen.kill()
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        self.popen.stdout.close()
        self.popen.wait()

    def readable(self, seconds: float) -> bool:
        """Whether there is something to read, or the child has ended, within a time."""
        return _ready(self._from, select.POLLIN, seconds)

    def greet(self) -> None:
        """Wait until the child is there and has its limits."""
        if self._line(monotonic() + _START_SECONDS) != ({"ready": True}, b""):
            raise ValueError("no greeting")

    def ask(
        self, request: dict[str, Any], shape: tuple[int, int], seconds: float
    ) -> np.ndarray | list[str] | str:
        """Give the frame of a request, or code, words and remedy of a refusal, or the name of an exception.

        Raises
        ------
        TimeoutError, EOFError, ValueError
            If the child is late, has ended, or says something else.
        """
        deadline = monotonic() + seconds
        self._send(json.dumps(request).encode() + b"\n", deadline)
        answer, rest = self._line(deadline)
        match answer:
            case {"dtype": str(dtype)} if dtype in _DTYPES:
                # The size that was expected, not one that was answered.
                frame = np.empty(shape, dtype)
                self._fill(frame.reshape(-1).view(np.uint8).data, rest, deadline)
                return frame
            case {"refused": [str(), str(), str()] as refusal} if not rest:
                return refusal
            case {"failed": str(kind)} if not rest and kind.isidentifier():
                return kind
            case _:
                raise ValueError("an answer that is none")

    def _send(self, data: bytes, deadline: float) -> None:
        while data:
            if not _ready(self._to, select.POLLOUT, deadline - monotonic()):
                raise TimeoutError
            try:
                data = data[os.write(self._to, data) :]
            except BrokenPipeError as error:
                raise EOFError from error

    def _line(self, deadline: float) -> tuple[Any, bytes]:
        """A line of JSON, and what came with it of what follows."""
        data = b""
        while b"\n" not in data:
            if len(data) >= _LINE_BYTES:
                raise ValueError("a line without end")
            piece = bytearray(_LINE_BYTES)
            data += piece[: self._receive(memoryview(piece), deadline)]
        line, _, rest = data.partition(b"\n")
        return json.loads(line), rest

    def _fill(self, left: memoryview, rest: bytes, deadline: float) -> None:
        """Fill `left` with `rest` and what follows it, neither more nor less."""
        if len(rest) > len(left):
            raise ValueError("more bytes than pixels")
        left[: len(rest)] = rest
        n = len(rest)
        while n < len(left):
            n += self._receive(left[n:], deadline)

    def _receive(self, place: memoryview, deadline: float) -> int:
        """Put what there is, at least one byte, at the beginning of `place`; how much it was."""
        if not self.readable(deadline - monotonic()):
            raise TimeoutError
        n = os.readv(self._from, [place])
        if not n:
            raise EOFError
        return n


def _ready(pipe: int, event: int, seconds: float) -> bool:
    """Whether a pipe can be read from (written to), or has lost its other end, within a time."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(max(0.0, 1000 * seconds)))


def _reason(error: BaseException, code: int | None, seconds: float) -> str | None:
    """Say what the child did wrong; None if it was not the child."""
    match error:
        case TimeoutError():
            return f"the decoder gives no answer within {seconds:g} s for"
        case EOFError():
            end = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            return f"the decoder crashes ({end}) on"
        case ValueError() | RecursionError():  # of json
            return "the decoder gives an answer that is none for"
        case _:
            return None


def _undecoded(what: str, path: Path) -> Refused:
    return Refused(
        "DCM-PIXELS",
        f"{what} {{0}}",
        fix="copy the file again from its source; if it stays so, store the series uncompressed (dcmconv, gdcmconv).",
        files=[path],
    )


def serve(decoder: Callable[[Path, Header], np.ndarray]) -> None:
    """Be the child: answer requests from standard input until it ends.

    Parameters
    ----------
    decoder : callable
        Path and header of a frame -> (rows, columns) array; may raise `Refused`, and anything else.
    """
    # An interrupt is for the parent, which ends its child.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What a library prints must not stand between answers.
    answers = os.dup(1)
    os.dup2(2, 1)
    # Some decoders cannot raise where they meet damage, say so here, and give back what memory happened to hold.
    unraised: list[str] = []
    sys.unraisablehook = lambda what: unraised.append(what.exc_type.__name__)
    in_use = _limit()
    _write(answers, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if in_use is not None:
            _set_limit(resource.RLIMIT_AS, in_use + request["memory"], for_good=False)
        # The kernel's alarm needs no interpreter: it rings in the middle of a C loop, whether the parent lives or not.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE_SECONDS)
        answer, frame = _answer(decoder, Path(request["path"]), request["header"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        if unraised:
            answer, frame = {"failed": unraised[0]}, b""
            unraised.clear()
        _write(answers, answer, frame)


def _limit() -> int | None:
    """Allow no core file, no growing file; give the bytes of address space that are in use, if the system tells."""
    # Patients' pixels. Linux sends cores to a program whatever the limit, unless it is 1.
    _set_limit(resource.RLIMIT_CORE, 1)
    _set_limit(resource.RLIMIT_FSIZE, 0)
    sys.dont_write_bytecode = True
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _set_limit(kind: int, size: int, *, for_good: bool = True) -> None:
    """Set a limit, or the lowest that was set before; unless it is `for_good` it can be raised again."""
    _, hard = resource.getrlimit(kind)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(kind, (soft, soft if for_good else hard))


def _answer(
    decoder: Callable[[Path, Header], np.ndarray], path: Path, header: Header
) -> tuple[dict[str, Any], bytes | memoryview]:
    try:
        frame = np.ascontiguousarray(decoder(path, header))
        frame = frame.astype(frame.dtype.newbyteorder("="), copy=False)
        if frame.shape != (shape := (header["rows"], header["columns"])):
            found = " x ".join(map(str, frame.shape))
            what = f"the compressed image is {found} but its header says {shape[0]} x {shape[1]}, in {{0}}"
            return {"refused": ["DCM-PIXELS", what, "copy the file again from its source."]}, b""
        return {"dtype": frame.dtype.name}, frame.reshape(-1).view(np.uint8).data
    except Exception as error:  # noqa: BLE001 - decoders raise what they like, the parent names it
        # Running out of memory comes in many covers.
        if any(isinstance(e, MemoryError) for e in (error, error.__cause__, error.__context__)):
            return {"failed": "MemoryError"}, b""
        if isinstance(error, Refused):
            return {"refused": [error.code, error.what, error.fix]}, b""
        return {"failed": type(error).__name__}, b""


def _write(pipe: int, answer: dict[str, Any], frame: bytes | memoryview = b"") -> None:
    line = json.dumps(answer).encode() + b"\n"
    for data in (memoryview(line), memoryview(frame)):
        n = 0
        while n < len(data):
            n += os.write(pipe, data[n:])


def main() -> None:
    """Serve with this package's decoders."""
    # `pixels` itself asks for children.
    from cohort.io.slices.pixels import decode_frame

    serve(decode_frame)


if __name__ == "__main__":
    main()
