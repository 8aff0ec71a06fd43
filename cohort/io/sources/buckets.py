"""Object stores that hold sources: which URLs are allowed, how an object is named, and its bytes.

An object is named by a path, ``s3:/bucket/key`` for ``s3://bucket/key``. Who may read it, and where the service is, stands
in the environment alone (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ...): a catalog cannot send a request to a host of its
choice. What an object store answers may repeat a credential, so its words are never passed on.
"""

import errno
import io
import ipaddress
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cohort.io.patience import PAUSES_S
from cohort.io.storage.backend import Unreachable

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import S3Store

SCHEME = "s3"
"""Amazon's object store and everything that speaks like it."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")

_CHUNK = 1 << 20

PATIENCE_S = 180.0
"""Seconds for which a request is tried again, with growing pauses, before it fails."""

_TRIES = 10_000
"""More than fit into that time, which alone bounds them: ten, the client's own number, are over in two seconds, and five lose
one request in 15,000 to a server that fails one in five."""

BROKEN_OFF = "kind: Interrupted"
"""How obstore says that a connection ended in the middle of a request, or of its answer."""

_SILENCE = "60 s"
"""How long a server may say nothing. A transfer as a whole may take long: a shard of a store has 256 MB."""

_PROBE_S = 5.0
"""For a server that failed beyond all patience to answer something else."""


class UrlError(ValueError):
    """A URL that is no place of scans; says why, never repeats a credential."""


@dataclass(frozen=True, slots=True)
class Object:
    """One object of a listing.

    Parameters
    ----------
    key : str
        POSIX path within the bucket.
    size : int
        Bytes.
    state : str
        Changes whenever the object does: size, ETag and time of the last change.
    etag : str, optional
    """

    key: str
    size: int
    state: str
    etag: str | None


def from_url(url: str) -> Path:
    """Path that names a bucket, or what lies in it.

    Raises
    ------
    UrlError
        For another scheme, a chain (``a::b``), credentials, a query, or a name no bucket or key has.

    Examples
    --------
    >>> from_url("s3://scans/2024/").as_posix()
    's3:/scans/2024'
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    expected = "expected a local path or a URL s3://bucket/prefix, found"
    if "::" in url:
        raise UrlError(f"{expected} a chain of URLs")
    if scheme != SCHEME:
        known = re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,15}", scheme)
        raise UrlError(f"{expected} " + (f"{scheme}://" if known else "something else"))
    if "@" in bucket:
        raise UrlError(
            f"{expected} credentials in it; take them out and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in the environment"
        )
    if "?" in rest or "#" in rest:
        raise UrlError(f"{expected} '?' or '#' in it")
    if not _BUCKET.fullmatch(bucket) or _is_address(bucket):
        raise UrlError(f"{expected} {bucket!r} where the name of a bucket should be")
    parts = [part for part in key.split("/") if part]
    if any(part in (".", "..") or not part.isprintable() for part in parts):
        raise UrlError(f"{expected} '.', '..' or a control character in its prefix")
    return Path(f"{scheme}:", bucket, *parts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # A host with a port, or one that a resolver would take for a number.
        return re.fullmatch(r"[0-9.]+|0x[0-9a-f]+", text) is not None
    return True


def is_object(path: Path) -> bool:
    """Whether a path names something in a bucket."""
    return path.parts[:1] == (f"{SCHEME}:",) and len(path.parts) > 1


def key_of(path: Path) -> str:
    """Key within its bucket of the object that `path` names; "" for the bucket itself."""
    return "/".join(path.parts[2:])


class Bucket:
    """One bucket, through obstore.

    Parameters
    ----------
    path : Path
        The bucket or anything in it, as `from_url` names it.

    Raises
    ------
    OSError
        From every method, in this module's words.
    Unreachable
        From every method, if the server answers nothing else either: the next request would meet the same.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.parts[1]
        self._store = client(self._name, patience_s=PATIENCE_S)

    def path(self, found: Object) -> Path:
        """Name of an object of this bucket."""
        return Path(f"{SCHEME}:", self._name, found.key)

    def listing(self, prefix: str) -> Iterator[Object]:
        """Objects below a prefix that ends where a name does, a page at a time."""
        with self._asking():
            yield from map(_object, self._listed(prefix))

    def _listed(self, prefix: str) -> "Iterator[ObjectMeta]":
        """Where the connection breaks off, what follows the last one is asked for: the client does so for no listing."""
        from obstore.exceptions import BaseError

        last, rising, pauses = None, True, iter(PAUSES_S)
        while True:
            try:
                for page in self._store.list(prefix or None, offset=last):
                    for found in page:
                        # S3 lists by name; servers are about that do not.
                        rising = rising and (last is None or last < found["path"])
                        last = found["path"]
                        yield found
                    pauses = iter(PAUSES_S)
            except BaseError as error:
                pause = next(pauses, None)
                if BROKEN_OFF not in str(error) or not rising or pause is None:
                    raise
            else:
                return
            time.sleep(pause)

    def head(self, key: str) -> Object | None:
        """Find one object; None if there is none of this key."""
        if not key:
            return None
        try:
            with self._asking():
                return _object(self._store.head(key))
        except FileNotFoundError:
            return None

    def range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object from `start`; `length` of them must be there."""
        if not length:
            return b""
        with self._asking():
            return bytes(self._store.get_range(key, start=start, length=length))

    def opened(self, key: str, *, etag: str | None = None) -> BinaryIO:
        """Give an object as a forward stream of one request; ESTALE if it has another ETag by now."""
        return io.BufferedReader(_Streamed(self._chunks(key, etag)), _CHUNK)

    def _chunks(self, key: str, etag: str | None) -> Iterator[bytes]:
        with self._asking():
            got = self._store.get(key, options={"if_match": etag} if etag else {})
            yield from (bytes(chunk) for chunk in got.stream(min_chunk_size=_CHUNK))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with _in_our_words():
                yield
        except OSError as error:
            if error.errno == errno.EIO and not self._answers():
                raise Unreachable(f"{SCHEME}://{self._name}: {error.strerror}") from None
            raise

    def _answers(self) -> bool:
        """Whether the server says anything of an object that nobody has: then a failure concerns what was asked for."""
        try:
            with _in_our_words():
                client(self._name, patience_s=_PROBE_S).head("cohort-asks-whether-anybody-answers")
        except OSError as error:
            return error.errno != errno.EIO
        return True


def client(name: str, *, patience_s: float) -> "S3Store":
    """Connection to a bucket at the server that the environment names.

    Raises
    ------
    OSError
        In this module's words; ENOSYS without obstore.
    """
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise OSError(
            errno.ENOSYS, "s3:// needs the package obstore: pip install 'cohort[cloud]'"
        ) from error
    # As `client_options` these would replace what the environment says of the client; here they are added to it.
    config: Any = {"timeout": "1 day", "read_timeout": _SILENCE}
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        config["allow_http"] = "true"  # whoever sets such an endpoint means it
    patience: Any = {"retry_timeout": timedelta(seconds=patience_s), "max_retries": _TRIES}
    with _in_our_words():
        return S3Store(name, config=config, retry_config=patience)


def _object(meta: "ObjectMeta") -> Object:
    etag = meta["e_tag"]
    state = f"{meta['size']} {etag} {meta['last_modified'].isoformat()}"
    return Object(meta["path"], meta["size"], state, etag)


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    # Without the cause: a traceback prints it, and it may hold a key or a signature.
    except Exception as error:  # noqa: BLE001 - the client promises no common base
        raise _told(error) from None


def _told(error: Exception) -> OSError:
    """What went wrong, in fixed words and codes."""
    text = str(error)
    code = next(iter(re.findall(r"<Code>(\w{1,40})</Code>", text)), "")
    status = next(iter(re.findall(r"status code: (\d{3})", text)), "")
    detail = " ".join(part for part in (status, code) if part)
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError) or code in ("NoSuchBucket", "NoSuchKey"):
        return FileNotFoundError(errno.ENOENT, "no such bucket or object")
    if status in ("401", "403") or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(errno.EACCES, f"the object store denies access ({detail or kind})")
    if kind == "PreconditionError":
        return OSError(errno.ESTALE, "the object changed while it was read")
    if kind == "InvalidPathError":
        return OSError(
            errno.EINVAL,
            "a key in it is no plain path ('..', an empty part or a control character); rename that object",
        )
    return OSError(errno.EIO, f"the object store fails ({detail or kind})")


class _Streamed(io.RawIOBase):
    """Chunks as a file that is read forwards."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._left = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        chunk = self._left or next(self._chunks, b"")
        length = min(len(buffer), len(chunk))
        buffer[:length], self._left = chunk[:length], chunk[length:]
        return length


class RangedFile(io.RawIOBase):
    """An object as a file that reads only what is asked for.

    Parameters
    ----------
    bucket : Bucket
    found : Object
    """

    def __init__(self, bucket: Bucket, found: Object) -> None:
        self._bucket, self._found, self._at = bucket, found, 0

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read out of order: yes."""
        return True

    def tell(self) -> int:
        """Position, bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; costs nothing until the next read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with one request."""
        length = max(0, min(len(buffer), self._found.size - self._at))
        buffer[:length] = self._bucket.range(self._found.key, self._at, length)
        self._at += length
        return length
