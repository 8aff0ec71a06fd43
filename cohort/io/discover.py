"""What there is to ingest: files under the sources, grouped into series with an identity and a subject.

Only headers are parsed; the bytes are read once, for the digest. An unchanged tree costs one ``stat`` a file:
size, mtime, ctime and inode are the key of a private cache, for an object in a bucket size, ETag and time, for a series on a DICOM
node what the node lists of it.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cohort.io import nifti_header
from cohort.io.policy import DEFAULT, Policy
from cohort.io.refusal import Refused
from cohort.io.slices.dicom_group import KEY_PARTS, group, key_digest
from cohort.io.sources import content
from cohort.io.sources.filecache import UNREADABLE, FileCache, Key
from cohort.io.sources.files import SourceError, examined
from cohort.io.sources.index import Index, Row, ending
from cohort.io.sources.relations import Group, Relations
from cohort.io.sources.series import Parts, Series

__all__ = ["Discovery", "Series", "SourceError", "discover"]

_NO_META, _SRC_EMPTY, _SRC_DAMAGED = "DCM-NO-META", "SRC-EMPTY", "SRC-DAMAGED"

_IMAGES = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
"""How files are called that hold images."""

COPY = "copy of a scan in another source"
"""Why an image is passed over that lies under the same name with the same bytes in two sources."""


@dataclass
class Discovery:
    """What `discover` found; every file is in `series`, `skipped`, `refused` or `unreadable`."""

    series: list[Series] = field(default_factory=list)
    skipped: dict[str, Sequence[Path]] = field(default_factory=dict)
    """Reason -> files that are no image."""
    refused: list[tuple[Series | None, Refused]] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    """Files and folders that nobody knows the content of: a series beside one may lack a part."""
    damaged: list[Path] = field(default_factory=list)
    """Refused files that hold a slice, or should, of a series that nobody knows: one beside it may lack that slice."""
    n_files: int = 0
    """An archive counts as its members, unless it is refused as a whole."""
    n_images: int = 0
    n_matched: int = 0
    """Images in whose path the pattern found a subject."""


def discover(
    sources: Sequence[Path],
    *,
    subject: str | None = None,
    cache: Path | None = None,
    rehash: bool = False,
    progress: Callable[[int], None] | None = None,
    policy: Callable[[Series], Policy] = lambda series: DEFAULT,
) -> Discovery:
    """Find, digest and group the images under `sources`.

    Parameters
    ----------
    sources : sequence of Path
        Folders, walked without following links inside them, single files, archives, places in buckets or DICOM nodes as
        `places.from_url` names them.
    subject : str, optional
        Pattern with the named groups ``subject`` and, if there are sessions, ``session``; searched in the path
        relative to the source, then in the whole path. Without a match, a DICOM file's PatientID is the subject.
    cache : Path, optional
        File, private and outside the store, that remembers digests and headers; made with mode 0600.
    rehash : bool
        Read every file although the cache knows it.
    progress : callable, optional
        Called with the number of files done so far.
    policy : callable, optional
        What the catalog has decided about a series. With ``split``, matrices or spacings that differ in one
        series, and stacks of one series that continue each other and differ in a tag, make series of their own; with ``accept`` of ``DCM-NO-META``, files without meta information are taken.

    Returns
    -------
    Discovery
        ``series`` sorted by name. Memory grows with the number of series; a file takes about 80 bytes, 32 of them
        its digest.

    Raises
    ------
    SourceError
        If a source does not exist or cannot be read.
    Unreachable
        If a bucket or a DICOM node stops answering; what was read of it is remembered.
    """
    finder = _Finder(subject)
    result = Discovery()
    with FileCache(cache) as known, Index() as index:
        for path, relative, entry in examined(sources, known, rehash=rehash):
            ids = finder.ids(path, relative)
            if index.add(path, relative, entry, matched=ids is not None, subject=ids and ids[0]):
                result.n_files += 1
                if progress:
                    progress(result.n_files)
        for header in index.pairs():
            result.n_files += _join_pair(header, index, known)
        _refuse_lost(index)
        series = [*_nifti_series(index, finder), *_dicom_series(index, finder, policy, result)]
        result.series = sorted(series, key=lambda s: s.name)
        result.n_images, result.n_matched = index.n_images()
        result.skipped.update(index.reasons())
        result.unreadable = list(result.skipped.pop(UNREADABLE, ()))
        result.refused += [
            (None, Refused(code, what, fix=fix, files=[path]))
            for path, (code, what, fix) in index.refusals()
        ]
    result.damaged = [
        refused.files[0]
        for one, refused in result.refused
        if one is None and refused.code.startswith(("DCM-", _SRC_EMPTY, _SRC_DAMAGED))
    ]
    return result


class _Finder:
    """Finds subject and session in paths."""

    def __init__(self, pattern: str | None) -> None:
        self._pattern = re.compile(pattern) if pattern else None

    def ids(self, path: Path, relative: str) -> tuple[str | None, str | None] | None:
        """Subject and session that the pattern finds; None if it does not fit."""
        if self._pattern is None:
            return None
        match = self._pattern.search(relative) or self._pattern.search(path.as_posix())
        if match is None:
            return None
        groups = match.groupdict()
        return _plain(groups.get("subject")), _plain(groups.get("session"))


def _plain(text: str | None) -> str | None:
    """Normalised, without blanks around it; None for nothing."""
    return unicodedata.normalize("NFC", text).strip() or None if text else None


def _refuse_lost(index: Index) -> None:
    """Refuse what was an image, as far as its name and what lies beside it tell, and is empty or nothing any more."""
    fix = "copy the file again from its source, or move it out of the sources."
    empty = (_SRC_EMPTY, "no byte in {0}, which should be an image", fix)
    damaged = (
        _SRC_DAMAGED,
        f"by its first {content.HEAD_BYTES} bytes neither image nor text: {{0}}, which should be an image",
        fix,
    )
    stand_in = (
        _SRC_DAMAGED,
        "a placeholder (git-annex, DataLad, Git LFS) or a web page, no image: {0}, which should be one",
        "fetch the file itself, or move it out of the sources.",
    )
    reasons = index.reasons()
    beside: dict[tuple[Path, str], bool] = {}
    for reason, refusal in (
        (content.EMPTY, empty),
        (content.OPAQUE, damaged),
        (content.STAND_IN, stand_in),
    ):
        for path in reasons.get(reason, ()):
            # Voxels have no mark: without their header nothing tells whether they are damaged.
            name = path.name.lower()
            is_voxels = reason == content.OPAQUE and name.endswith(content.VOXELS)
            if is_voxels or not name.endswith(_IMAGES):
                place = (path.parent, ending(path))
                if place not in beside:
                    beside[place] = index.slices_beside(path)
                if not beside[place]:
                    continue
            index.refuse(path, refusal)
    for reason in (content.OPAQUE, content.STAND_IN):
        index.rename_reason(reason, content.NOT_IMAGE)


def _join_pair(header: Path, index: Index, known: FileCache) -> int:
    """Make one image of a NIfTI header and the ``.img`` beside it, whatever that seemed to be.

    Returns
    -------
    int
        1 if the ``.img`` lies in no source, because the header itself is one; else 0.
    """
    for voxels in nifti_header.voxel_files(header):
        listed = index.look_up(voxels)
        if listed is not None:
            reason, digest = listed
        elif voxels.is_file() and not voxels.is_symlink():
            reason, digest = None, _digest(voxels, known)
        else:
            continue
        if digest:
            index.join(header, voxels, digest)
            return int(listed is None)
        what = f"the file of its voxels is no such thing ({reason}): {{0}}"
        break
    else:
        what = "a header without its voxels: no .img beside {0}"
    index.refuse(header, ("NII-NO-PAIR", what, "copy the .img file beside the .hdr."))
    return 0


def _digest(path: Path, known: FileCache) -> str:
    """Digest of a local file that may hold voxels, "" if it cannot be read."""
    try:
        state = path.lstat()
        entry = known.get(path, state) or content.look(path)
    except OSError:
        return ""
    known.put(path, state, entry)
    return entry.digest


def _pass_over_copies(index: Index, finder: _Finder) -> None:
    """Take out images that lie under the same name with the same bytes, and of the same subject, in another source."""
    seen: set[tuple[object, ...]] = set()
    copies = []
    for row in index.niftis() if index.has_alike() else ():
        mark = (
            row.relative,
            row.digest,
            row.voxels and row.voxels[1],
            finder.ids(row.path, row.relative),
        )
        if mark in seen:
            copies.append(row)
        seen.add(mark)
    for row in copies:
        index.pass_over(row, COPY)


def _nifti_series(index: Index, finder: _Finder) -> Iterator[Series]:
    _pass_over_copies(index, finder)
    stems = Counter(_stem(relative) for relative in index.nifti_names())
    for row in index.niftis():
        stem = _stem(row.relative)
        name = stem if stems[stem] == 1 else row.relative
        subject, session = finder.ids(row.path, row.relative) or (None, None)
        files = [(row.path, row.digest), *([row.voxels] if row.voxels else [])]
        yield Series(
            kind="nifti",
            parts=Parts([(path, digest, None) for path, digest in files]),
            name=name,
            label=_label(name.rsplit("/", 1)[-1]),
            relative=row.relative,
            subject_id=subject,
            session_id=session,
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


def _dicom_series(
    index: Index, finder: _Finder, policy: Callable[[Series], Policy], result: Discovery
) -> list[Series]:
    """Group slices by their keys; refuse groups that share what no two scans may share."""
    keys = list(index.keys)
    groups: list[Group] = []
    bad: dict[int, Refused] = {}
    for numbers in group(keys):
        rows = index.dicoms(numbers)
        if not rows:  # what looked like slices was the voxels of NIfTI headers
            continue
        # The smallest of the keys that rounding set apart: the same one whatever the order of the files.
        key = min((keys[number] for number in numbers), key=repr)
        one = Group(_one_dicom_series(rows, key, finder), key, numbers, rows[0].number)
        bare = [row.path for row in rows if not row.has_meta]
        if bare and _NO_META not in policy(one.series).accept:
            bad[len(groups)] = _without_meta(bare, len(rows))
        groups.append(one)
    relations = Relations(groups, policy, index)
    bad = relations.conflicting | relations.torn | relations.mixed | bad
    result.refused += [(groups[n].series, refusal) for n, refusal in sorted(bad.items())]
    return [relations.flagged(n) for n in range(len(groups)) if n not in bad]


def _without_meta(files: Sequence[Path], n: int) -> Refused:
    return Refused(
        _NO_META,
        f"{len(files)} of {n} files have no file meta information, so that nothing says how {{0}} is encoded",
        fix="write the files again with their meta information, for example with dcmconv, "
        f"or state accept: [{_NO_META}] in the catalog",
        files=files[:1],
    )


def _one_dicom_series(rows: Sequence[Row], key: Key, finder: _Finder) -> Series:
    name = f"{key[2] or key[1]}.{key_digest(key)}"
    _, session = finder.ids(rows[0].path, rows[0].relative) or (None, None)
    return Series(
        kind="dicom",
        parts=Parts([(row.path, row.digest, row.frames) for row in rows]),
        name=name,
        label=f"{rows[0].number or 0:03d}{hashlib.sha256(name.encode()).hexdigest()[:8]}",
        relative=rows[0].relative,
        subject_id=_plain(str(key[0])),
        session_id=session,
        acquisition_uid=str(key[KEY_PARTS.index("series")]),
        acquisition_date=min((row.date for row in rows if row.date), default=""),
    )
