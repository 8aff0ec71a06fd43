"""What there is to ingest: files under the sources, grouped into series with an identity and a subject.

Only headers are parsed; the bytes are read once, for the digest. An unchanged tree costs one ``stat`` a file:
size, mtime, ctime and inode are the key of a private cache.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cohort.io import dicom_header, nifti_header
from cohort.io.filecache import UNREADABLE, Entry, FileCache
from cohort.io.files import SourceError, digest, examined
from cohort.io.refusal import Refused

__all__ = ["Discovery", "Series", "SourceError", "discover"]


@dataclass(frozen=True)
class Series:
    """Files that make one scan.

    Parameters
    ----------
    kind : {"dicom", "nifti"}
    files : tuple of Path
        Sorted; for NIfTI the header, then the voxels if they are in a file of their own.
    digests : tuple of str
        SHA-256 of each file.
    subject_id, session_id : str, optional
        As the sources give them: private.
    name : str
        Private identity. NIfTI: path relative to its source, without extension. DICOM: SeriesInstanceUID and a
        digest of the group's geometry.
    label : str
        Short name, [A-Za-z0-9]+, for stores that keep ids.
    """

    kind: Literal["dicom", "nifti"]
    files: tuple[Path, ...]
    digests: tuple[str, ...]
    subject_id: str | None
    session_id: str | None
    name: str
    label: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content: the same files under other names give the same digest."""
        return hashlib.sha256("\n".join([self.kind, *sorted(self.digests)]).encode()).hexdigest()


@dataclass
class Discovery:
    """What `discover` found; every file is in `series`, `skipped`, `refused` or `unreadable`."""

    series: list[Series] = field(default_factory=list)
    skipped: dict[str, list[Path]] = field(default_factory=dict)
    """Reason -> files that are no image."""
    refused: list[tuple[Series | None, Refused]] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    """Files and folders that nobody knows the content of: a series beside one may lack a part."""
    n_files: int = 0
    n_images: int = 0
    n_matched: int = 0
    """Images in whose path the pattern found a subject."""


@dataclass(frozen=True)
class _Found:
    """One file, where it lies under its source, and what is in it."""

    path: Path
    relative: str
    entry: Entry


def discover(
    sources: Sequence[Path],
    *,
    subject: str | None = None,
    cache: Path | None = None,
    rehash: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Discovery:
    """Find, digest and group the images under `sources`.

    Parameters
    ----------
    sources : sequence of Path
        Folders, walked without following links inside them, or single files.
    subject : str, optional
        Pattern with the named groups ``subject`` and, if there are sessions, ``session``; searched in the path
        relative to the source, then in the whole path. Without a match, a DICOM file's PatientID is the subject.
    cache : Path, optional
        File, private and outside the store, that remembers digests and headers; made with mode 0600.
    rehash : bool
        Read every file although the cache knows it.
    progress : callable, optional
        Called with the number of files done so far.

    Returns
    -------
    Discovery
        ``series`` sorted by name.

    Raises
    ------
    SourceError
        If a source does not exist or cannot be read.
    """
    pattern = re.compile(subject) if subject else None
    result = Discovery()
    found: list[_Found] = []
    keys: dict[tuple[object, ...], tuple[object, ...]] = {}
    with FileCache(cache) as known:
        for path, relative, entry in examined(sources, known, rehash=rehash):
            result.n_files += 1
            if entry.reason == UNREADABLE:
                result.unreadable.append(path)
            elif entry.reason:
                result.skipped.setdefault(entry.reason, []).append(path)
            elif entry.refusal:
                code, what, fix = entry.refusal
                result.refused.append((None, Refused(code, what, fix=fix, files=[path])))
            else:
                # Slices of a series share one key: memory grows with series, not with files.
                shared = replace(entry, key=keys.setdefault(entry.key, entry.key))
                found.append(_Found(path, relative, shared))
            if progress:
                progress(result.n_files)
        _claim_voxel_files(found, result, known)
    result.n_images = len(found)
    result.n_matched = sum(_match(item, pattern) is not None for item in found)
    series = [*_nifti_series(found, pattern), *_dicom_series(found, pattern, result)]
    result.series = sorted(series, key=lambda s: (s.name, s.files))
    return result


def _claim_voxel_files(found: list[_Found], result: Discovery, known: FileCache) -> None:
    """Take the ``.img`` of each pair out of the files that are no image, and digest it with its header."""
    for i, item in enumerate(found):
        if not item.entry.pair:
            continue
        try:
            voxels = nifti_header.voxels_beside(item.path)
            content = _voxels_digest(voxels, known)
        except Refused as refused:
            result.refused.append((None, refused))
            continue
        for paths in result.skipped.values():
            if voxels in paths:
                paths.remove(voxels)
        entry = replace(item.entry, pair=False, voxels=voxels, voxels_digest=content)
        found[i] = replace(item, entry=entry)
    found[:] = [item for item in found if not item.entry.pair]
    result.skipped = {reason: paths for reason, paths in result.skipped.items() if paths}


def _voxels_digest(path: Path, known: FileCache) -> str:
    """Digest of a file that was no image by itself, remembered like any other."""
    state = path.lstat()
    entry = known.get(path, state)
    if entry is None or not entry.digest:
        try:
            with path.open("rb") as stream:
                entry = Entry(reason="not an image", digest=digest(stream))
        except OSError as error:
            raise Refused(
                "NII-NO-PAIR",
                f"the voxels of a header cannot be read ({error.strerror}): {{0}}",
                fix="allow reading the file.",
                files=[path],
            ) from error
        known.put(path, state, entry)
    return entry.digest


def _nifti_series(found: Sequence[_Found], pattern: re.Pattern[str] | None) -> Iterator[Series]:
    images = [item for item in found if item.entry.kind == "nifti"]
    stems: defaultdict[str, int] = defaultdict(int)
    for item in images:
        stems[_stem(item.relative)] += 1
    for item in images:
        stem = _stem(item.relative)
        name = stem if stems[stem] == 1 else item.relative
        subject, session = _ids(item, pattern)
        voxels, digest = item.entry.voxels, item.entry.voxels_digest
        yield Series(
            kind="nifti",
            files=(item.path,) if voxels is None else (item.path, voxels),
            digests=(item.entry.digest,) if digest is None else (item.entry.digest, digest),
            subject_id=subject,
            session_id=session,
            name=name,
            label=_label(name.rsplit("/", 1)[-1]),
        )


def _label(name: str) -> str:
    """Letters and digits of a file's name; separators go, and a digest stands for anything else that goes."""
    plain = re.sub(r"[^A-Za-z0-9]", "", name)
    if plain and len(plain) <= 64 and plain == re.sub(r"[-_. ]", "", name):
        return plain
    return f"{plain[:64]}x{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def _stem(relative: str) -> str:
    """Path without ``.nii``, ``.nii.gz`` or ``.hdr``."""
    return re.sub(r"(\.nii|\.hdr)?(\.gz)?$", "", relative, flags=re.IGNORECASE)


def _match(item: _Found, pattern: re.Pattern[str] | None) -> re.Match[str] | None:
    if pattern is None:
        return None
    return pattern.search(item.relative) or pattern.search(item.path.as_posix())


def _ids(item: _Found, pattern: re.Pattern[str] | None) -> tuple[str | None, str | None]:
    """Subject and session that the pattern finds in the path."""
    match = _match(item, pattern)
    if not match:
        return None, None
    groups = match.groupdict()
    return _plain(groups.get("subject")), _plain(groups.get("session"))


def _plain(text: str | None) -> str | None:
    """Normalised, without blanks around it; None for nothing."""
    return unicodedata.normalize("NFC", text).strip() or None if text else None


def _dicom_series(
    found: Sequence[_Found], pattern: re.Pattern[str] | None, result: Discovery
) -> list[Series]:
    """Group files by their keys; refuse groups that share what no two scans may share."""
    images = [item for item in found if item.entry.kind == "dicom"]
    ids = [_ids(item, pattern) for item in images]
    # The subject of the path stands for the patient: two folders may hold one anonymised PatientID.
    keys = [(ids[i][0] or item.entry.key[0], *item.entry.key[1:]) for i, item in enumerate(images)]
    groups = dicom_header.group(keys)
    series = [_one_dicom_series([images[i] for i in g], keys[g[0]], ids[g[0]]) for g in groups]
    heads = [keys[g[0]] for g in groups]
    bad: dict[int, Refused] = {}
    for part, numbers in _mixed(heads):
        one, other = (
            numbers[0],
            next(n for n in numbers if heads[n][part] != heads[numbers[0]][part]),
        )
        files = [series[one].files[0], series[other].files[0]]
        refusal = dicom_header.mix(part, heads[one], heads[other], files)
        bad |= {n: refusal for n in numbers if n not in bad}
    result.refused += [(series[n], refusal) for n, refusal in sorted(bad.items())]
    return [one for n, one in enumerate(series) if n not in bad]


def _mixed(heads: Sequence[tuple[object, ...]]) -> Iterator[tuple[int, list[int]]]:
    """Groups that are one series by its UID and yet differ in patient, or in matrix or spacing and nothing else."""
    patient, study, uid, matrix, spacing = (
        dicom_header.KEY_PARTS.index(name)
        for name in ("patient", "study", "series", "matrix", "PixelSpacing")
    )
    rest = [i for i in range(len(dicom_header.KEY_PARTS)) if i not in (matrix, spacing)]
    for part, same in ((patient, [study, uid]), (matrix, rest), (spacing, rest)):
        alike: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        for n, head in enumerate(heads):
            if head[uid]:
                alike[tuple(head[i] for i in same)].append(n)
        for numbers in alike.values():
            if len({heads[n][part] for n in numbers}) > 1:
                yield part, numbers


def _one_dicom_series(
    items: Sequence[_Found], key: tuple[object, ...], ids: tuple[str | None, str | None]
) -> Series:
    items = sorted(items, key=lambda item: item.path)
    name = f"{key[2] or key[1]}.{dicom_header.key_digest(key)}"
    number = items[0].entry.series_number or 0
    return Series(
        kind="dicom",
        files=tuple(item.path for item in items),
        digests=tuple(item.entry.digest for item in items),
        subject_id=_plain(str(key[0])),
        session_id=ids[1],
        name=name,
        label=f"{number:03d}{hashlib.sha256(name.encode()).hexdigest()[:8]}",
    )
