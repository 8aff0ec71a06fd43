"""Look through a finished store for what should not be there: identities, dates, paths, and bytes that could run.

De-identification lets nothing pass but what is listed; this is the second pair of eyes. It trusts no writer, reads every
file of the store as somebody would who was given it, and says where something stands, never what: findings are masked.
"""

import base64
import html
import io
import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cohort.io import deidentify, private, thumbnail, traces
from cohort.io.findings import PUBLIC, Finding, are_dates, attributes, codecs, json_lines, named
from cohort.io.gunzip import Gunzip
from cohort.io.storage import parquet
from cohort.io.storage.chunks import FORMAT_2, array_of, decoded, is_chunk
from cohort.io.traces import Originals, Trace, masked

if TYPE_CHECKING:
    from cohort.io.store import Store

__all__ = ["Finding", "Sought", "audit", "search"]

_OBJECTS = re.compile(
    r"\.(pkl|pickle|p|joblib|npy|npz|pt|dill|so|dll|exe|py|pyc|sh)$", re.IGNORECASE
)
_MAGIC = (
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"\x7fELF",
    b"\x80\x02",
    b"\x80\x03",
    b"\x80\x04",
    b"\x80\x05",
)
_LARGEST = 1 << 28
_OF_HEADERS = ("tables/protocols.parquet", "tables/scans.parquet")
"""Tables whose columns are attributes of scans."""

_RUN_ID = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}")


def audit(
    store: "Store",
    *,
    private: Path | None = None,
    ids: Literal["token", "keep"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Finding]:
    """Look through every file of a store.

    Parameters
    ----------
    store : Store
        Only read. One file at a time is held in memory.
    private : Path, optional
        The operator's token table (`io.private`): every original id, UID and path in it is looked for in every file,
        voxels too. Without it, only what looks like an identity is found.
    ids : {"token", "keep"}, optional
        Whether the store may show ids and file names; as ``cohort.json`` says by default, else no.
    progress : callable, optional
        Called with the bytes of each file when it is done.

    Yields
    ------
    Finding
        None from a store that is clean. What was found is masked in it.

    Raises
    ------
    PrivateError
        If there is no such table.

    Notes
    -----
    Shapes are those of PS3.15 table E.1-1 that a text can show. Originals of fewer than 4 characters (6, if they are
    digits) are not looked for: they occur in every table of numbers.
    """
    keep = (ids or store.ids) == "keep"
    rows = [] if private is None else _rows(private)
    yield from _Audit(store, Originals(rows, keep=keep), keep=keep).findings(progress)


class Sought(Protocol):
    """Texts to be looked for in all of a store, such as `traces.Originals`."""

    def __len__(self) -> int: ...
    def in_text(self, text: str) -> Iterator[Trace]: ...  # noqa: D102
    def in_voxels(self, data: bytes) -> Iterator[Trace]: ...  # noqa: D102


def search(
    store: "Store",
    sought: Sought,
    *,
    voxels: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Finding]:
    """`audit` for given texts alone, in names and in content, with or without the voxels; and what cannot be read."""
    found = _Audit(store, sought, keep=True, voxels=voxels).findings(progress)
    return (finding for finding in found if finding.kind in ("original", "unreadable"))


def _rows(table: Path) -> list[private.Row]:
    return list(private.everything(table))


Lines = list[tuple[str, str]]
"""Where a text stands in its file, and the text."""


class _Audit:
    def __init__(
        self, store: "Store", originals: Sought, *, keep: bool, voxels: bool = True
    ) -> None:
        self.store, self.originals, self.keep = store, originals, keep
        self.voxels = voxels and len(originals) > 0
        self.allowed: tuple[traces.Kind, ...] = ("file name",) if keep else ()
        self.arrays: dict[str, Mapping[str, Any]] = {}
        self.seen: set[str] = set()

    @cached_property
    def clock(self) -> re.Pattern[str]:
        """The times of the store's own runs: ours, nobody's visit."""
        started = set()
        for run in self.store.files.names("runs"):
            with suppress(OSError, ValueError):
                manifest = json.loads(self.store.files.read(f"runs/{run}/manifest.json"))
                started.add(str(manifest.get("started") or run))
        return re.compile("|".join([_RUN_ID.pattern, *map(re.escape, sorted(started))]))

    def findings(self, progress: Callable[[int], None] | None) -> Iterator[Finding]:
        for name, size in self.store.files.listing(""):
            yield from self.name(name)
            try:
                yield from self.file(name)
            except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
                # What could not be looked into is not clean.
                yield Finding("unreadable", name, "whole", type(error).__name__)
            if progress is not None:
                progress(size)

    def name(self, name: str) -> Iterator[Finding]:
        """What the name of a file gives away."""
        path = PurePosixPath(name)
        if path.name in FORMAT_2:
            yield Finding("codec", name, "name", "zarr format 2, whose filters may unpickle")
        if _OBJECTS.search(name):
            yield Finding("object", name, "name", path.suffix)
        if not self.keep and (found := named(path)) and not PUBLIC[found[0]].fullmatch(found[1]):
            place = path.parts[0] + found[1]
            if place not in self.seen:
                self.seen.add(place)
                yield Finding(
                    "id", name.replace(found[1], masked(found[1])), "name", masked(found[1])
                )
        for part in path.parts:
            if part not in self.seen:
                self.seen.add(part)
                for trace in self.traces(_RUN_ID.sub("", part)):
                    shown = name.replace(trace.text, masked(trace.text))
                    yield Finding(trace.kind, shown, "name", masked(trace.text))

    def file(self, name: str) -> Iterator[Finding]:
        suffix = PurePosixPath(name).suffix
        if is_chunk(name):
            if self.voxels:
                yield from self.chunk(name)
            return
        content = self.store.files.read(name)
        if suffix == ".json":
            value = json.loads(content)
            if name.endswith("zarr.json"):
                yield from codecs(name, value)
            yield from attributes(name, value)
            yield from self.texts(name, list(json_lines(value, "")))
        elif suffix == ".jsonl":
            for number, line in enumerate(content.splitlines(), 1):
                yield from self.texts(name, list(json_lines(json.loads(line), f"line {number} ")))
        elif suffix == ".parquet":
            yield from self.parquet(name, content)
        elif suffix == ".html":
            yield from self.page(name, content.decode("utf-8"))
        elif suffix == thumbnail.SUFFIX:
            header, pixels = thumbnail.opened(content)
            yield from self.texts(name, list(json_lines(header, "")))
            for trace in self.originals.in_voxels(pixels):
                yield Finding(trace.kind, name, f"byte {trace.start}", masked(trace.text))
        else:
            yield from self.other(name, content)

    def texts(self, name: str, lines: Lines) -> Iterator[Finding]:
        """Everything suspicious in the texts of a file, each once: looked for in all of them together, then placed."""
        if name.startswith(("runs/", "report/")):
            lines = [(where, self.clock.sub("", text)) for where, text in lines]
        starts, whole = [0], []
        for _, text in lines:
            whole.append(text.replace("\n", " "))
            starts.append(starts[-1] + len(text) + 1)
        found: dict[tuple[str, str], list[str]] = {}
        for trace in self.traces("\n".join(whole)):
            where = lines[min(bisect_right(starts, trace.start), len(lines)) - 1][0]
            found.setdefault((trace.kind, trace.text), []).append(where)
        for (kind, text), places in found.items():
            more = f" and {len(places) - 1} more" if len(places) > 1 else ""
            yield Finding(kind, name, f"{places[0]}{more}", masked(text))

    def traces(self, text: str) -> Iterator[Trace]:
        yield from traces.shapes(text, allowed=self.allowed)
        yield from self.originals.in_text(text)

    def parquet(self, name: str, content: bytes) -> Iterator[Finding]:
        import pyarrow as pa

        table = parquet.table(content)
        lines: Lines = [("a column's name", str(column)) for column in table.column_names]
        for key, value in (table.schema.metadata or {}).items():
            lines += json_lines(json.loads(value), f"schema {key.decode()} ")
        for column, values in zip(table.column_names, table.columns, strict=True):
            kind = values.type
            if pa.types.is_temporal(kind):
                yield Finding("date", name, f"column {column}", str(kind))
            elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
                numbers = values.drop_null().to_numpy()
                if are_dates(numbers):
                    shown = masked(str(int(numbers[0])))
                    yield Finding("date", name, f"column {column}, {len(numbers)} rows", shown)
            else:
                cells = [(i, str(v)) for i, v in enumerate(values.to_pylist()) if v is not None]
                lines += [(f"column {column}, row {i}", text) for i, text in cells]
                strange = [t for _, t in cells if not deidentify.is_word(str(column), t)]
                if strange and name in _OF_HEADERS:
                    where = f"column {column}, {len(strange)} rows"
                    yield Finding("attribute", name, where, masked(strange[0]))
                shape = None if self.keep else PUBLIC.get(str(column))
                if shape is not None and (bad := [t for _, t in cells if not shape.fullmatch(t)]):
                    where = f"column {column}, {len(bad)} rows"
                    yield Finding("id", name, where, masked(bad[0]))
        yield from self.texts(name, lines)

    def page(self, name: str, page: str) -> Iterator[Finding]:
        pictures = re.compile(r"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)")
        for number, picture in enumerate(pictures.findall(page), 1):
            data = base64.b64decode(picture)
            if data.startswith(b"\x1f\x8b"):  # what the viewer of a scan's page shows
                data = Gunzip(io.BytesIO(data)).read(_LARGEST)
            for trace in self.originals.in_voxels(data):
                yield Finding(trace.kind, name, f"picture {number}", masked(trace.text))
        text = html.unescape(pictures.sub("", page))
        lines = [(f"line {number}", line) for number, line in enumerate(text.splitlines(), 1)]
        yield from self.texts(name, lines)

    def other(self, name: str, content: bytes) -> Iterator[Finding]:
        if content.startswith(_MAGIC) or content[128:132] == b"DICM":
            kind = "file name" if content[128:132] == b"DICM" else "object"
            yield Finding(kind, name, "content", f"{len(content)} bytes")
        # Of bytes that are no text, the runs of characters that could be.
        parts = re.findall(rb"[\t\x20-\x7e\x80-\xff]{4,}", content)
        lines = [(f"line {i}", p.decode("utf-8", "replace")) for i, p in enumerate(parts, 1)]
        if name == ".lock":  # says who holds the store and since when
            lines = [(where, re.sub(r"since .* UTC", "", text)) for where, text in lines]
        yield from self.texts(name, lines)

    def chunk(self, name: str) -> Iterator[Finding]:
        """Originals among the voxels of one chunk."""
        array, key = array_of(name)
        metadata = self.arrays.get(array)
        if metadata is None:
            metadata = json.loads(self.store.files.read(f"{array}/zarr.json"))
            self.arrays = {array: metadata}
        data = decoded(metadata, key, self.store.files.read(name))
        for trace in self.originals.in_voxels(data):
            yield Finding(trace.kind, name, f"byte {trace.start} of the voxels", masked(trace.text))
