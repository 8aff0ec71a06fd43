"""A multipart answer (RFC 2046) read forwards, part by part, in memory that does not grow with it.

Servers that do not tell the length of an answer end it by closing the connection: only the closing delimiter says that nothing is
missing. Libraries take whatever came by then for the last part.
"""

import re
from collections.abc import Iterator

_MOST_HEADERS = 16 << 10
"""Bytes of the headers of one part."""

_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class MultipartError(ValueError):
    """An answer that is cut off or was never in parts."""


def boundary_of(content_type: str) -> bytes:
    """Boundary that the header ``Content-Type`` names.

    Raises
    ------
    MultipartError
        If the answer is not ``multipart/related``, or names none.

    Examples
    --------
    >>> boundary_of('multipart/related; type="application/dicom"; boundary=a-b')
    b'a-b'
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "multipart/related":
        shown = kind if re.fullmatch(r"[a-z0-9.+-]{1,40}/[a-z0-9.+-]{1,40}", kind) else "another"
        raise MultipartError(f"it is of the kind {shown}, expected multipart/related")
    match = re.search(
        r';\s*boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))', content_type, re.IGNORECASE
    )
    if match is None:
        raise MultipartError("it names no boundary between its parts")
    return (match[1] or match[2]).encode("latin-1", "replace")


def parts(chunks: Iterator[bytes], boundary: bytes) -> Iterator[Iterator[bytes]]:
    r"""Take an answer apart.

    Parameters
    ----------
    chunks : iterator of bytes
        The answer, in pieces of any size.
    boundary : bytes
        Without its dashes.

    Yields
    ------
    iterator of bytes
        The content of one part, to be used up before the next is asked for; what is left of it is passed over.

    Raises
    ------
    MultipartError
        If the answer ends before its closing delimiter, or a part is not as long as it says.

    Examples
    --------
    >>> answer = [b"--x\r\nA: b\r\n\r\nfir", b"st\r\n--", b"x\r\n\r\nsecond\r\n--x--"]
    >>> [b"".join(part) for part in parts(iter(answer), b"x")]
    [b'first', b'second']
    """
    text = _Text(chunks)
    delimiter = b"\r\n--" + boundary
    for _ in text.until(delimiter):  # what stands before the first part is nobody's
        pass
    number = 0
    while text.after_delimiter():
        length = text.headers()
        part = _counted(text.until(delimiter), length, number)
        yield part
        for _ in part:
            pass
        number += 1


def _counted(content: Iterator[bytes], length: int | None, number: int) -> Iterator[bytes]:
    found = 0
    for piece in content:
        found += len(piece)
        yield piece
    if length is not None and found != length:
        raise MultipartError(f"part {number + 1} has {found} bytes and says {length}")


class _Text:
    """What came and was not used yet."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        # The first delimiter may stand at the very beginning, where no line ends before it.
        self._chunks, self._held = chunks, b"\r\n"

    def _more(self) -> None:
        chunk = next(self._chunks, b"")
        if not chunk:
            raise MultipartError("it stops before its end")
        self._held += chunk

    def until(self, mark: bytes) -> Iterator[bytes]:
        """What stands before `mark`, which is passed over."""
        while (at := self._held.find(mark)) < 0:
            safe = max(0, len(self._held) - len(mark) + 1)
            if safe:
                yield self._held[:safe]
                self._held = self._held[safe:]
            self._more()
        if at:
            yield self._held[:at]
        self._held = self._held[at + len(mark) :]

    def after_delimiter(self) -> bool:
        """Whether a part follows; the end of the delimiter's line is passed over."""
        while len(self._held) < 2:
            self._more()
        if self._held.startswith(b"--"):
            return False
        padding = b"".join(self.until(b"\r\n"))
        if padding.strip(b" \t"):
            raise MultipartError("something else follows a delimiter")
        self._held = (
            b"\r\n" + self._held
        )  # headers may be missing: the empty line is then the first
        return True

    def headers(self) -> int | None:
        """Pass over the headers of a part; its length, if they tell it."""
        while (at := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > _MOST_HEADERS:
                raise MultipartError("the headers of a part do not end")
            self._more()
        match = _LENGTH.search(self._held[:at])
        self._held = self._held[at + 4 :]
        return int(match[1]) if match else None
