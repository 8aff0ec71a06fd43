"""One bucket of an S3 server: the few requests a store needs, through obstore, or s3fs where that is not installed.

Both find endpoint, region and credentials in the environment. What a server says no to becomes `Unreachable`,
FileNotFoundError or FileExistsError; everything else passes.
"""

import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cohort.io.patience import PAUSES_S
from cohort.io.sources.buckets import BROKEN_OFF, PATIENCE_S, client
from cohort.io.storage.backend import StoreError, Unreachable

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore
    from zarr.core.buffer import Buffer

Result = TypeVar("Result")


@dataclass(frozen=True)
class Head:
    """What a server says of an object."""

    size: int
    modified: datetime
    etag: str


class Bucket(Protocol):
    """The requests. Keys have no slash at either end; listings are those of the server at that moment."""

    def get(self, key: str) -> bytes:
        """Content. Raises FileNotFoundError."""

    def get_part(self, key: str, start: int, length: int) -> bytes:
        """Bytes from a place on; the last `length` bytes, by a suffix range, where `start` is negative."""

    def put(self, key: str, content: bytes | Path) -> None:
        """Write, in several parts where it is large."""

    def create(self, key: str, content: bytes) -> None:
        """Write with ``If-None-Match: *``. Raises FileExistsError."""

    def replace(self, key: str, content: bytes, *, etag: str) -> None:
        """Write with ``If-Match``. Raises FileExistsError if the object has another tag."""

    def head(self, key: str) -> Head:
        """Size, time and tag. Raises FileNotFoundError."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Keys below a prefix with their sizes, sorted."""

    def children(self, prefix: str) -> "Sequence[str]":
        """Keys and prefixes directly below a prefix."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, there or not."""

    def zarr_store(self) -> "ZarrStore":
        """The whole bucket for zarr, to read."""


def connect(name: str, *, retry_s: float = PATIENCE_S) -> Bucket:
    """The bucket of a name at the server that the environment names; one client a process.

    Raises
    ------
    StoreError
        If neither obstore nor s3fs is installed.
    """
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    return _connect(name, retry_s, environment)


# A client costs milliseconds and holds connections; another environment is another client.
@functools.lru_cache(maxsize=8)
def _connect(name: str, retry_s: float, environment: tuple[tuple[str, str], ...]) -> Bucket:
    del environment
    if find_spec("obstore"):
        return _Obstore(name, retry_s=retry_s)
    if find_spec("s3fs"):
        return _S3fs(name)
    raise StoreError(f"s3://{name}: needs obstore; pip install 'cohort[cloud]'")


def _words(name: str, error: object) -> str:
    """What a server answered, in our words: its own may repeat a credential."""
    text = str(error)
    if "non-partial" in text:
        said = "a range was asked for, the answer has status 200 instead of 206"
    elif place := re.search(r"Requested [\d.]+, got [\d.]+", text):
        said = f"range: {place[0]}"
    else:
        codes = re.findall(
            r"status code: (\d{3})|<Code>(\w{1,40})</Code>|\((\w{1,40})\) when", text
        )
        said = " ".join(part for code in codes for part in code if part) or type(error).__name__
    return f"s3://{name}: the object store fails ({said}); `cohort doctor s3://{name}/PREFIX` says what works there"


def _no_bucket(name: str) -> Unreachable:
    return Unreachable(f"s3://{name}: there is no such bucket")


@contextmanager
def _obstore_errors(name: str, *, writing: bool = False) -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    # Without the cause: a traceback prints it, and it may hold a key or a signature.
    except FileNotFoundError as error:
        if writing or "NoSuchBucket" in str(error):
            raise _no_bucket(name) from None
        raise FileNotFoundError(f"s3://{name}: no such object") from None
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise FileExistsError(f"s3://{name}: an object is there, or another one") from None
    except exceptions.BaseError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(name) from None
        raise Unreachable(_words(name, error)) from None


def _again(ask: Callable[[], Result]) -> Result:
    """Ask again where the connection breaks off, as when a server restarts.

    The client does so by itself, but not for what HTTP allows to have an effect twice, nor for the rest of a listing. Ours
    have none: what is removed stays removed, and who creates looks whether it was itself (`ObjectFiles.put_new`). A server that
    does not answer at all is waited for by the client, in each try.
    """
    from obstore import exceptions

    for pause in PAUSES_S:
        try:
            return ask()
        except exceptions.BaseError as error:
            if BROKEN_OFF not in str(error):
                raise
        time.sleep(pause)
    return ask()


class _Obstore:
    """`Bucket` through obstore."""

    def __init__(self, name: str, *, retry_s: float) -> None:
        self.name = name
        self._store = client(name, patience_s=retry_s)

    def get(self, key: str) -> bytes:
        import obstore

        with _obstore_errors(self.name):
            return bytes(obstore.get(self._store, key).bytes())

    def get_part(self, key: str, start: int, length: int) -> bytes:
        import obstore

        with _obstore_errors(self.name):
            if start < 0:
                suffix = obstore.get(self._store, key, options={"range": {"suffix": length}})
                return bytes(suffix.bytes())
            return bytes(obstore.get_range(self._store, key, start=start, length=length))

    def put(self, key: str, content: bytes | Path) -> None:
        import obstore

        with _obstore_errors(self.name, writing=True):
            _again(lambda: obstore.put(self._store, key, content))

    def create(self, key: str, content: bytes) -> None:
        import obstore

        with _obstore_errors(self.name, writing=True):
            _again(lambda: obstore.put(self._store, key, content, mode="create"))

    def replace(self, key: str, content: bytes, *, etag: str) -> None:
        import obstore

        with _obstore_errors(self.name, writing=True):
            obstore.put(self._store, key, content, mode={"e_tag": etag})

    def head(self, key: str) -> Head:
        import obstore

        with _obstore_errors(self.name):
            found = obstore.head(self._store, key)
        return Head(found["size"], found["last_modified"], found["e_tag"] or "")

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        import obstore

        with _obstore_errors(self.name):
            found = _again(
                lambda: [
                    (o["path"], o["size"])
                    for page in obstore.list(self._store, prefix=prefix or None)
                    for o in page
                ]
            )
        yield from sorted(found)

    def children(self, prefix: str) -> Sequence[str]:
        import obstore

        with _obstore_errors(self.name):
            found = _again(lambda: obstore.list_with_delimiter(self._store, prefix or None))
        return [*found["common_prefixes"], *(o["path"] for o in found["objects"])]

    def delete(self, keys: Sequence[str]) -> None:
        import obstore

        with _obstore_errors(self.name, writing=True):
            _again(lambda: obstore.delete(self._store, list(keys)))

    def zarr_store(self) -> "ZarrStore":
        from zarr.storage import ObjectStore

        return _reader(
            ObjectStore(self._store, read_only=True), partial(_obstore_errors, self.name)
        )


@contextmanager
def _s3fs_errors(name: str) -> Iterator[None]:
    away = import_module("botocore.exceptions").BotoCoreError
    try:
        yield
    except FileNotFoundError as error:
        if "bucket" in str(error).lower():
            raise _no_bucket(name) from None
        raise FileNotFoundError(f"s3://{name}: no such object") from None
    except (OSError, away) as error:
        if isinstance(error, FileExistsError) or re.search(
            r"PreconditionFailed|\(412\)", str(error.__cause__)
        ):
            raise FileExistsError(f"s3://{name}: an object is there, or another one") from None
        raise Unreachable(_words(name, error.__cause__ or error)) from None


class _S3fs:
    """`Bucket` through s3fs: one to four times as slow as obstore, for where that is not to be had."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._system = self._connected(asynchronous=False)

    def _connected(self, *, asynchronous: bool) -> Any:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return import_module("s3fs").S3FileSystem(
            asynchronous=asynchronous,
            use_listings_cache=False,
            skip_instance_cache=True,
            client_kwargs={"region_name": region or "us-east-1"},
        )

    def _at(self, key: str) -> str:
        return f"{self.name}/{key}".rstrip("/")

    def get(self, key: str) -> bytes:
        with _s3fs_errors(self.name):
            return self._system.cat_file(self._at(key))

    def get_part(self, key: str, start: int, length: int) -> bytes:
        with _s3fs_errors(self.name):
            if start < 0:
                return self._system.cat_file(self._at(key), start=-length)
            return self._system.cat_file(self._at(key), start=start, end=start + length)

    def put(self, key: str, content: bytes | Path) -> None:
        with _s3fs_errors(self.name):
            if isinstance(content, Path):
                self._system.put_file(str(content), self._at(key))
            else:
                self._system.pipe_file(self._at(key), content)

    def create(self, key: str, content: bytes) -> None:
        with _s3fs_errors(self.name):
            self._system.pipe_file(self._at(key), content, mode="create")

    def replace(self, key: str, content: bytes, *, etag: str) -> None:
        with _s3fs_errors(self.name):
            self._system.call_s3(
                "put_object", Bucket=self.name, Key=key, Body=content, IfMatch=etag
            )

    def head(self, key: str) -> Head:
        with _s3fs_errors(self.name):
            found = self._system.call_s3("head_object", Bucket=self.name, Key=key)
        return Head(found["ContentLength"], found["LastModified"], found["ETag"])

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with _s3fs_errors(self.name):
            found = self._system.find(self._at(prefix), detail=True, refresh=True)
        start = len(self.name) + 1
        yield from sorted((key[start:], entry["size"]) for key, entry in found.items())

    def children(self, prefix: str) -> Sequence[str]:
        with _s3fs_errors(self.name):
            try:
                found = self._system.ls(self._at(prefix), detail=False, refresh=True)
            except FileNotFoundError:
                return []
        start = len(self.name) + 1
        return [key[start:].rstrip("/") for key in found]

    def delete(self, keys: Sequence[str]) -> None:
        with _s3fs_errors(self.name):
            for first in range(0, len(keys), 1000):  # more than a request may name
                objects = [{"Key": key} for key in keys[first : first + 1000]]
                self._system.call_s3(
                    "delete_objects", Bucket=self.name, Delete={"Objects": objects}
                )

    def zarr_store(self) -> "ZarrStore":
        return self._zarr_store

    @functools.cached_property
    def _zarr_store(self) -> "ZarrStore":
        """One for all: each holds connections of its own in the event loop of zarr."""
        from zarr.storage import FsspecStore

        store = FsspecStore(self._connected(asynchronous=True), read_only=True, path=self.name)
        return _reader(store, partial(_s3fs_errors, self.name))


def _reader(store: "ZarrStore", errors: Callable[[], AbstractContextManager[None]]) -> "ZarrStore":
    """A store of zarr whose errors are told in the words of this package: a server that is away is no damage."""
    from zarr.storage import WrapperStore

    class Reader(WrapperStore[Any]):
        async def get(self, *args: Any, **kwargs: Any) -> "Buffer | None":
            with errors():
                return await super().get(*args, **kwargs)

    return Reader(store)
