"""What identities look like: shapes that give them away in any text, and the originals behind a store's own tokens."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np

from cohort.io.deidentify import MANUFACTURERS
from cohort.io.private import Row

Kind = Literal["person name", "uid", "date", "e-mail", "url", "path", "file name", "original"]

SHORTEST = 4
"""Characters of the shortest original looked for; one of digits alone needs `SHORTEST_NUMBER`, as measurements are numbers too."""

SHORTEST_NUMBER = 6

LONG = 8
"""From this length on an original counts inside a word and among voxels too; a shorter one only as a word of its own."""

_DAY = r"(?:0[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0[1-9]|1[0-2])"
_YEAR = r"(?:18|19|20)\d\d"

SHAPES: Mapping[Kind, re.Pattern[str]] = {
    # DICOM's form, PN: family^given; three components are a person for sure, two are letters with a caret between them.
    "person name": re.compile(r"[^\W\d_][^\W\d_]+(?:\^+[^\W\d_]+)+"),
    # Those made from a UUID under 2.25 and those that the standard itself gives out say nothing about anybody.
    "uid": re.compile(r"(?<![\w.])(?!2\.25\.|1\.2\.840\.10008\.)[0-2](?:\.\d+){4,}(?!\w)"),
    "date": re.compile(
        rf"(?<![\w.])(?:{_YEAR}{_MONTH}{_DAY}(?:[T ]?\d{{4,6}}(?:\.\d+)?Z?)?"
        rf"|{_YEAR}(?P<a>[-/.]){_MONTH}(?P=a){_DAY}(?:[T ]\d\d:?\d\d[\d:.]*Z?)?"
        rf"|{_DAY}(?P<b>[-/.]){_MONTH}(?P=b){_YEAR})(?!\w|\.\d)"
    ),
    "e-mail": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}"),
    "url": re.compile(
        r"\b(?:https?|ftp|s3|gs|abfss?|file)://(?!www\.w3\.org/)[^\s\"'<>]+", re.IGNORECASE
    ),
    "path": re.compile(
        r"(?<![\w.~)\]}<>/:*])~?/(?:[^\s/\\\"'<>|]+/)+[^\s/\\\"'<>|]*"
        r"|(?<!\w)[A-Za-z]:\\[^\s\\\"'<>|]+(?:\\[^\s\"'<>|]*)?"
        r"|(?<!\\)\\\\[\w.-]+\\[\w$.-]+"
    ),
    "file name": re.compile(
        r"[\w^~@()+-][^\s\"'<>|:*?/\\]*\.(?:dcm|dicom|ima|nii|hdr|img)(?:\.gz)?(?!\w)",
        re.IGNORECASE,
    ),
}
"""What nobody's identity should look like in a store."""


_OWN_WORDS = re.compile("|".join([r"u?int\d+|float\d+", *sorted(MANUFACTURERS)]), re.IGNORECASE)
"""Words that every store has of its own, and that folders are often called by."""

_QUOTED = re.compile(r"""(?P<q>['"])(?P<path>~?/[^'"\n]+|[A-Za-z]:\\[^'"\n]+)(?P=q)""")


def without_paths(text: str) -> str:
    """A message or a traceback of which nobody learns where something lies.

    Of a Python file the last folder and the name are left, of anything else nothing.

    Examples
    --------
    >>> without_paths("No such file: '/data/DOE JANE/im1.dcm'")
    "No such file: '(a path)'"
    >>> without_paths('File "/data/jane/env/zarr/core.py", line 3')
    'File "zarr/core.py", line 3'
    """

    def shown(path: str) -> str:
        return "/".join(PurePath(path).parts[-2:]) if path.endswith(".py") else "(a path)"

    text = _QUOTED.sub(lambda m: f"{m['q']}{shown(m['path'])}{m['q']}", text)
    return SHAPES["path"].sub(lambda m: shown(m[0]), text)


@dataclass(frozen=True, slots=True)
class Trace:
    """Something in a text that should not be there, at ``start``."""

    kind: Kind
    start: int
    text: str


def shapes(text: str, *, allowed: Collection[Kind] = ()) -> Iterator[Trace]:
    """Find what looks like an identity, kind by kind.

    Examples
    --------
    >>> [(t.kind, t.text) for t in shapes("seen 1999-12-31, DOE^JANE; 0.19991231 is a number")]
    [('person name', 'DOE^JANE'), ('date', '1999-12-31')]
    """
    for kind, shape in SHAPES.items():
        for match in shape.finditer(text) if kind not in allowed else ():
            yield Trace(kind, match.start(), match[0])


def masked(text: str) -> str:
    """A text of which nobody learns more than its ends and its length.

    Examples
    --------
    >>> masked("DOE^JANE"), masked("4711")
    ('D…E (8 characters)', '… (4 characters)')
    """
    shown = f"{text[0]}…{text[-1]}" if len(text) > SHORTEST else "…"
    return f"{shown} ({len(text)} characters)"


class Originals:
    """The ids, UIDs and paths behind the tokens of a store, ready to be looked for in its files.

    Of a path, the whole counts and those parts that belong to one subject alone: a folder that several share ("scans",
    "T1w") names nobody, nor does one called by a word of every store ("siemens", "uint8"). Where there is one subject only, plain words in small letters are left out. Capital letters make
    no difference.

    Parameters
    ----------
    rows : iterable of Row
        Of the store's token table.
    keep : bool
        The store keeps the ids of subjects and sessions and the names of files: those are not looked for.
    """

    def __init__(self, rows: Iterable[Row], *, keep: bool = False) -> None:
        texts: set[str] = set()
        owners: defaultdict[str, set[str]] = defaultdict(set)
        public: set[str] = set()
        for row in rows:
            lines = row.original.split("\n")
            if row.kind == "scan":
                texts.update(row.files)
                for path in row.files:
                    _own(PurePath(path), row.token.partition("_")[0], owners)
            elif row.kind == "file":
                texts.update(lines)
                for path in lines:
                    _own(PurePath(path), "", owners)
            elif row.kind == "series":
                # A series is known by its UID with a digest of its geometry behind it, or by its path in the sources.
                texts.update(lines)
                texts.update(uid for text in lines for uid in SHAPES["uid"].findall(text))
                texts.update(text.rpartition(".")[0] for text in lines)
            elif keep:
                public.update(lines)
            else:
                texts.update(lines)
            if keep:
                public.update(PurePath(path).name for path in (*row.files, *lines))
        several = len({who for each in owners.values() for who in each} - {""}) > 1
        parts = {
            part
            for part, who in owners.items()
            if len(who - {""}) == 1 and (several or not re.fullmatch("[a-z]+", part))
        }
        names = {n for part in parts for n in (part, _name(part)) if not _OWN_WORDS.fullmatch(n)}
        plain = {text.lower() for text in texts | names} - {text.lower() for text in public}
        self._words = _Needles(
            text.encode("utf-8", "surrogatepass") for text in plain if _distinctive(text)
        )
        # Among voxels, text may also lie as one character a voxel of two bytes.
        long = [text for text in plain if len(text) >= LONG]
        self._voxels = _Needles(
            text.encode(code, "surrogatepass") for text in long for code in ("utf-8", "utf-16-le")
        )

    def __len__(self) -> int:
        """Number of originals that are looked for."""
        return len(self._words)

    def in_text(self, text: str) -> Iterator[Trace]:
        """Every original in a text, in order; one shorter than `LONG` only as a word of its own."""
        lowered = text.lower()
        shown = text if len(text) == len(lowered) else lowered
        data = lowered.encode("utf-8", "surrogatepass")
        for place, needle in sorted(self._words.find(data)):
            before, after = data[place - 1 : place], data[place + len(needle) :][:1]
            if len(needle) >= LONG or not (_is_word(before) or _is_word(after)):
                start = len(data[:place].decode("utf-8", "surrogatepass"))
                end = start + len(needle.decode("utf-8", "surrogatepass"))
                yield Trace("original", start, shown[start:end])

    def in_voxels(self, data: bytes) -> Iterator[Trace]:
        """Every original of at least `LONG` characters among the bytes of an array, in order; `start` counts bytes."""
        for start, needle in sorted(self._voxels.find(data.lower())):
            code = "utf-16-le" if b"\0" in needle else "utf-8"
            yield Trace("original", start, needle.decode(code, "surrogatepass"))


def _own(path: PurePath, subject: str, owners: Mapping[str, set[str]]) -> None:
    for part in path.parts:
        owners[part].add(subject)


def _name(part: str) -> str:
    """A file's name without the ending of an image format."""
    return re.sub(r"\.(dcm|dicom|ima|nii|hdr|img)(\.gz)?$", "", part, flags=re.IGNORECASE)


def _distinctive(text: str) -> bool:
    return len(text) >= (SHORTEST_NUMBER if text.isdecimal() else SHORTEST)


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte > b"\x7f"


class _Needles:
    """Many byte strings, each of at least four bytes, looked for at once: their first four bytes single out the places."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        self._by_start: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._count = 0
        for needle in sorted(set(needles)):
            self._by_start[needle[:4]].append(needle)
            self._count += 1
        starts = b"".join(sorted(self._by_start))
        self._starts = np.unique(np.frombuffer(starts, "<u4"))
        # Most places are ruled out by two bytes, which costs a look into a table.
        self._pairs = np.zeros(1 << 16, bool)
        self._pairs[self._starts & 0xFFFF] = True

    def __len__(self) -> int:
        return self._count

    def find(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        if len(data) < 4 or not self._count:
            return
        for shift in range(4):
            words = np.frombuffer(data, "<u4", count=(len(data) - shift) // 4, offset=shift)
            likely = np.flatnonzero(self._pairs[words.astype(np.uint16)])
            sure = likely[np.isin(words[likely], self._starts)]
            for place in sure.tolist():
                start = 4 * place + shift
                for needle in self._by_start[data[start : start + 4]]:
                    if data.startswith(needle, start):
                        yield start, needle
