"""Series that a node sends: what is in each instance, for the index, and local copies, for the reader.

A series is one request. It comes in parts which are written to disk as they come, so that memory does not grow with it; a series is whole, every
instance that the node lists and nothing else, or it is refused. The bytes are those that the node stores (``transfer-syntax=*``): the digest of a file is
the same in a folder and on a node.
"""

import errno
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from cohort.io import scratch
from cohort.io.refusal import Refused
from cohort.io.slices import dicom_file, dicom_header
from cohort.io.sources import content
from cohort.io.sources.dicomweb.address import below_root, step
from cohort.io.sources.dicomweb.listing import INSTANCE, ROWS, Instance, instances, value
from cohort.io.sources.dicomweb.multipart import MultipartError, boundary_of, parts
from cohort.io.sources.dicomweb.node import BadAnswer, Node, NodeAway
from cohort.io.sources.filecache import Entry

PAUSES_S = (1.0, 4.0)
"""Before the second and third try of a series whose answer was of no use."""

_SOP_INSTANCE = 0x00080018

_IMAGES = frozenset(dicom_header.SINGLE_FRAME + dicom_header.MULTI_FRAME)


def members(node: Node, path: Path) -> Iterator[tuple[str, Entry]]:
    """What is in each instance of a series; nothing is given if one of them cannot be had.

    Instances without pixels (reports, plans) are told by their headers, which are asked for without the rest.

    Yields
    ------
    (label, Entry)
        The label is the rest of the path of the instance.

    Raises
    ------
    NodeAway
    BadAnswer
        If the series does not come whole, three times.
    """
    listed = instances(node, path)
    if not listed:
        raise BadAnswer(errno.EBADMSG, "it lists a series without an instance")
    plain = _without_pixels(node, path, listed)
    for uid, reason in plain.items():
        yield f"instances/{step(uid)}", Entry(reason=reason)
    wanted = [one.uid for one in listed if one.uid not in plain]
    if not wanted:
        return
    with scratch.folder() as folder:
        copies = {step(uid): folder / f"{n:06d}" for n, uid in enumerate(wanted)}
        fetch(node, path, copies, besides=plain)
        for name, copy in copies.items():
            yield f"instances/{name}", content.look(copy)
            copy.unlink()


def fetch(
    node: Node, path: Path, copies: Mapping[str, Path], *, besides: Collection[str] | None = None
) -> None:
    """Copy instances of a series to local files.

    Parameters
    ----------
    node : Node
    path : Path
        Of the series.
    copies : mapping of str -> Path
        Instances, by the step that stands for their UID in a path, and where they go; no file is there yet.
    besides : collection of str, optional
        What else the series may hold: anything else is then an error. Without it, other instances are passed over.

    Raises
    ------
    NodeAway
        If the node does not answer at all.
    BadAnswer
        If something does not come, or comes damaged, three times.
    """
    others = None if besides is None else {step(uid) for uid in besides}
    for pause in (*PAUSES_S, None):
        try:
            _fetch_once(node, path, copies, others)
        except NodeAway as error:
            if not _answers(node):
                raise
            raise BadAnswer(errno.EIO, str(error.strerror)) from None
        except (BadAnswer, MultipartError) as error:
            if isinstance(error, BadAnswer) and error.errno == errno.ENOENT:
                raise
            said = str(error)
        else:
            return
        for copy in copies.values():
            copy.unlink(missing_ok=True)
        if pause is not None:
            time.sleep(pause)
    raise BadAnswer(errno.EBADMSG, f"{said}; tried {len(PAUSES_S) + 1} times")


def _answers(node: Node) -> bool:
    """Whether what failed is a matter of the series and not of the node."""
    try:
        node.ping()
    except (NodeAway, BadAnswer):
        return False
    return True


def _fetch_once(
    node: Node, path: Path, copies: Mapping[str, Path], others: Collection[str] | None
) -> None:
    left = dict(copies)
    steps = below_root(path)
    if others is None and len(left) == 1:
        steps = (*steps, "instances", next(iter(left)))
    n, beside = 0, next(iter(copies.values())).parent
    with tempfile.TemporaryDirectory(dir=beside) as folder, node.sent(*steps) as (kind, chunks):
        for part in parts(chunks, boundary_of(kind)):
            n += 1
            copy = Path(folder, f"{n}")
            with copy.open("xb") as file:
                file.writelines(part)
            uid = step(_sop_instance(copy))
            if uid in left:
                copy.replace(left.pop(uid))
            elif others is not None and uid not in others:
                raise MultipartError(
                    f"part {n} is an instance that was not listed, or a second time"
                )
            else:
                copy.unlink()
            if others is None and not left:
                return
    if left:
        raise MultipartError(f"{len(left)} of {len(copies)} instances did not come")


def _sop_instance(path: Path) -> str:
    """UID of a file as its data set has it."""
    with path.open("rb") as stream:
        try:
            parsed = dicom_file.parse(stream, path, tags=[_SOP_INSTANCE])
        except Refused:
            parsed = None
        # pydicom raises almost anything for what is no DICOM.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            parsed = None
    found = parsed and parsed.elements.get(_SOP_INSTANCE)
    raw = found.value if found else None
    text = raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw or "")
    if not (uid := text.strip("\0 ")):
        raise MultipartError("a part is no DICOM file")
    return uid


def _without_pixels(node: Node, path: Path, listed: Sequence[Instance]) -> dict[str, str]:
    """Instances that are no image, and why not."""
    if all(one.has_rows or one.sop_class in _IMAGES for one in listed):
        return {}
    rows = {value(one, INSTANCE): value(one, ROWS) for one in node.metadata(*below_root(path))}
    found = {}
    for one in listed:
        if one.uid in rows and not rows[one.uid] and one.sop_class:
            reason = content.no_image(one.sop_class, rows=0)
            if reason is not None:
                found[one.uid] = reason
    return found
