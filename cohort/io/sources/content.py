"""What is in one file: sniffed, parsed as far as its header, digested. Content decides, never a name."""

import hashlib
import io
import os
import re
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Literal, cast

from pydicom.config import IGNORE
from pydicom.uid import UID

from cohort.io import nifti_header, patience
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_header
from cohort.io.slices.continuity import place_of
from cohort.io.slices.succession import moments_of
from cohort.io.sources import archives
from cohort.io.sources.filecache import ARCHIVE, Entry, Key, Part

NOT_IMAGE, EMPTY = "not an image", "empty file"

OPAQUE = "neither image nor text"
"""Reason of bytes that nothing is known of: whether they should be an image, their name and what lies beside them tell."""

STAND_IN = "a text that stands in for a file"
"""Reason of a file that was never fetched: its name and what lies beside it tell whether an image is missing."""

_STAND_INS = re.compile(
    rb"\s*(/annex/objects/|version https://git-lfs\.github\.com/spec/|<!doctype html|<html)",
    re.IGNORECASE,
)
"""How placeholders of git-annex, DataLad and Git LFS begin, and what a server sends instead of a file."""

_FOREIGN = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"%PDF", b"II*\0", b"MM\0*", b"RIFF", b"\x89HDF", b"SQLite format 3",
    b"\x7fELF", b"MZ", b"\xd0\xcf\x11\xe0", b"\0\5\x16\7", b"\0\0\0\1Bud1", b"NRRD", b"ObjectType",
)  # fmt: skip
"""How files begin that are whole and no image of ours; the last but three are what desktops leave among images."""

NESTED = "archive in an archive"
"""Why an archive that lies in another is passed over: one level is what people pack, more is what bombs are made of."""

VOXELS = (".img", ".img.gz")
"""Names of files that hold the voxels of a NIfTI header beside them."""

_NAMED_NIFTI = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
_HEADER_BYTES = (348, 540)
"""With which of these numbers a NIfTI or Analyze header begins."""
_IMAGE_CLASSES = dicom_header.SINGLE_FRAME + dicom_header.MULTI_FRAME

_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1c-\x1f]")
"""What stands in no text."""

HEAD_BYTES = 4096
"""By which it is decided what a file is."""
_BLOCK = 1 << 20
_SMALL = 8 << 20
"""A file that fits is read once and parsed in memory: several times faster than many small reads."""


def look(path: Path) -> Entry:
    """Say what is in a local file; of an archive only that it is one.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with patience.opened_raw(path) as raw:
        head = raw.read(HEAD_BYTES)
        raw.seek(0)
        if dicom_header.is_dicom(head) and os.fstat(raw.fileno()).st_size <= _SMALL:
            whole = raw.readall()
            # At once, while the bytes are in the processor's cache.
            return _dicom(io.BytesIO(whole), path, hashlib.sha256(whole).hexdigest())
        with io.BufferedReader(raw) as stream:
            if dicom_header.is_dicom(head):
                return _dicom(stream, path)
            stream.seek(len(head))
            return _no_dicom(head, stream, stream, path)


def look_at(stream: BinaryIO, path: Path) -> Entry:
    """As `look`, for a stream that is read forwards once, such as a member of an archive or an object in a bucket."""
    head = stream.read(HEAD_BYTES)
    if not dicom_header.is_dicom(head):
        if head.startswith(archives.COMPRESSED):
            head += stream.read(_BLOCK)  # enough for the first block of bzip2
        return _no_dicom(head, io.BytesIO(head), stream, path)
    with tempfile.SpooledTemporaryFile(_SMALL) as spool:
        spool.write(head)
        while block := stream.read(_BLOCK):
            spool.write(block)
        spool.seek(0)
        return _dicom(cast(BinaryIO, spool), path)


def digest(stream: BinaryIO, begun: bytes = b"") -> str:
    """SHA-256 of `begun` and what is left of a stream."""
    state = hashlib.sha256(begun)
    while block := stream.read(_BLOCK):
        state.update(block)
    return state.hexdigest()


def _no_dicom(head: bytes, start: BinaryIO, rest: BinaryIO, path: Path) -> Entry:
    """What begins with `head`: `start` can go back to its beginning, `rest` goes on after `head`."""
    if nifti_header.is_nifti(head) or nifti_header.is_analyze(head) or _begun(head, path.name):
        return Entry(kind="nifti", digest=digest(rest, head), pair=nifti_header.is_pair(head))
    if not head:
        return Entry(reason=EMPTY)
    if head.startswith((b"7z\xbc\xaf", b"Rar!\x1a\x07")):
        return Entry(reason="archive of a kind that is not read (7z, rar)")
    if archives.kind(head, start):
        return Entry(kind=ARCHIVE)
    plain = _inflated(head)
    reason = NOT_IMAGE if plain.startswith(_FOREIGN) or _is_text(plain) else OPAQUE
    if _STAND_INS.match(plain):
        reason = STAND_IN
    # Voxels have no mark; the header beside them, if there is one, needs their digest.
    if not path.name.lower().endswith(VOXELS):
        return Entry(reason=reason)
    if rest is start:
        rest.seek(len(head))
    return Entry(reason=reason, digest=digest(rest, head))


def _inflated(head: bytes) -> bytes:
    """The first bytes of what is compressed by gzip; anything else as it is."""
    if not head.startswith(nifti_header.GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return head


def _is_text(head: bytes) -> bool:
    """Whether a file begins as a text does, in any of the usual encodings."""
    return head.startswith((b"\xff\xfe", b"\xfe\xff")) or not _CONTROL.search(head)


def _begun(head: bytes, name: str) -> bool:
    """Whether a file that is called a NIfTI image begins as one, though it is damaged: its reader says how."""
    if not name.lower().endswith(_NAMED_NIFTI):
        return False
    head = _inflated(head)
    if head.startswith(nifti_header.GZIP):
        return True
    return any(head[:4] == n.to_bytes(4, order) for n in _HEADER_BYTES for order in _ORDERS)


def _dicom(stream: BinaryIO, path: Path, known: str = "") -> Entry:
    """What a DICOM file at its beginning holds; its digest may be known."""
    try:
        headers = dicom_header.read_slices(stream, path)
    except Refused as refused:
        return Entry(refusal=(refused.code, refused.what, refused.fix))
    if not headers:
        return Entry(reason=NOT_IMAGE)
    first = headers[0]
    # A cut header may hold a part of its class, or nothing of it.
    if not first["rows"] and any(uid.startswith(first["sop_class"]) for uid in _IMAGE_CLASSES):
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
        if not first["sop_class"] and (_is_text(head) or head[128:132] != b"DICM"):
            # It only looks as if it were DICOM.
            looks = NOT_IMAGE if _is_text(head) else OPAQUE
            return Entry(reason=looks, digest=known or digest(stream, head))
        # What lacks only its pixels still names its series, whose reader refuses it.
        lacking = "Rows" if first["sop_class"] in _IMAGE_CLASSES else "SOPClassUID"
        what = f"the header stops before {lacking} in {{0}}"
        return Entry(refusal=("DCM-HEADER", what, "copy the file again from its source."))
    if reason := no_image(first["sop_class"], rows=first["rows"]):
        return Entry(reason=reason)
    stream.seek(0)
    dates = [h["acquisition_date"] for h in headers]
    return Entry(
        kind="dicom",
        digest=known or digest(stream),
        parts=_parts(headers),
        uid=_short(first["sop_uid"]),
        series_number=first["series_number"],
        date=min((date for date in dates if re.fullmatch(r"[0-9]{8}", date)), default=""),
        has_meta=first["has_meta"],
    )


def _parts(headers: Sequence[dicom_header.Header]) -> tuple[Part, ...]:
    """Keys of the slices of a file, which slices have each, where they lie and when they were taken."""
    numbers: dict[Key, list[int]] = {}
    for number, header in enumerate(headers):
        numbers.setdefault(dicom_header.group_key(header), []).append(number)
    parts: list[Part] = []
    for key, own in numbers.items():
        slices = [headers[n] for n in own]
        frames = None if len(numbers) == 1 else tuple(own)
        parts.append((key, frames, place_of(slices), moments_of(slices)))
    return tuple(parts)


def _short(uid: str) -> str:
    """Stand in for a UID."""
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:16] if uid else ""


def no_image(sop_class: str, *, rows: int) -> str | None:
    """Why what has this SOP class and so many rows holds no image; None if it should hold one."""
    if sop_class == dicom_header.DIRECTORY:
        return "DICOMDIR"
    if sop_class in _IMAGE_CLASSES or rows:
        return None
    # The dictionary's name, never what the file wrote: not in a warning either.
    uid = UID(sop_class, validation_mode=IGNORE)
    return f"no pixels ({uid.name})" if uid.name != uid else "no pixels"
