"""A gzip stream read to its end in bounded pieces, checksums included."""

import zlib
from typing import BinaryIO

_MAGIC = b"\x1f\x8b"
_READ = 1 << 20


class DamagedGzipError(ValueError):
    """The stream stops early, or its checksum does not fit its content."""


class Gunzip:
    """Uncompressed bytes of a gzip file, as ``read(n)`` gives them.

    Every member's CRC-32 and length are checked by zlib when the member ends. Several members are read as one
    stream; bytes after the last one that are no member are counted in `junk`.

    Parameters
    ----------
    stream : binary file
        At its beginning.

    Examples
    --------
    >>> import gzip, io
    >>> Gunzip(io.BytesIO(gzip.compress(b"abc") + gzip.compress(b"def"))).read(5)
    b'abcde'
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._member = zlib.decompressobj(wbits=31)
        self._waiting = b""
        self.junk = 0

    def read(self, n: int) -> bytes:
        """At most `n` bytes, fewer only at the end of the stream.

        Raises
        ------
        DamagedGzipError
            If the compressed data is damaged or stops early.
        """
        pieces: list[bytes] = []
        while n > 0 and (piece := self._piece(n)):
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def _piece(self, n: int) -> bytes:
        while True:
            if self._member.eof and not self._next_member():
                return b""
            compressed = self._waiting or self._stream.read(_READ)
            if not compressed:
                raise DamagedGzipError("the gzip stream stops before its end")
            try:
                piece = self._member.decompress(compressed, n)
            except zlib.error as error:
                raise DamagedGzipError(f"the gzip stream is damaged ({error})") from error
            self._waiting = (
                self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            )
            if piece:
                return piece

    def _next_member(self) -> bool:
        """Whether another member follows."""
        if len(self._waiting) < len(_MAGIC):
            self._waiting += self._stream.read(_READ)
        if self._waiting.startswith(_MAGIC):
            self._member = zlib.decompressobj(wbits=31)
            return True
        while self._waiting:
            self.junk += len(self._waiting)
            self._waiting = self._stream.read(_READ)
        return False
