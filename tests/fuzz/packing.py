"""Compressed forms of a whole file, and bombs: a megabyte that holds a gigabyte."""

import gzip
import struct
import zlib

BOMB_BYTES = 1 << 30
"""What a bomb holds."""

_BLOCK = bytes(1 << 20)


def gzipped(data: bytes) -> bytes:
    """As a gzip file, the same at any time."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def meta_end(data: bytes) -> int:
    """Where the file meta information of a DICOM file ends, by its own account."""
    return 144 + int.from_bytes(data[140:144], "little")


def deflated(data: bytes) -> bytes:
    """An explicit little endian DICOM file in the deflated transfer syntax."""
    packer = zlib.compressobj(1, wbits=-15)
    return deflated_meta(data) + packer.compress(data[meta_end(data) :]) + packer.flush()


def deflated_meta(data: bytes) -> bytes:
    """File meta information of an explicit little endian file, with the name of the deflated syntax."""
    meta = data[: meta_end(data)]
    meta = meta.replace(b"UI\x14\0001.2.840.10008.1.2.1\0", b"UI\x16\0001.2.840.10008.1.2.1.99")
    return meta[:140] + struct.pack("<I", max(len(meta) - 144, 0)) + meta[144:]


def bomb(head: bytes) -> bytes:
    """Raw deflate stream of `head` and a gigabyte of zeros, made of one block that repeats itself."""
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (BOMB_BYTES // len(_BLOCK)) + packer.flush()


def gzip_bomb(head: bytes) -> bytes:
    """A gzip file of `head` and a gigabyte of zeros, its checksum right."""
    check = zlib.crc32(head)
    for _ in range(BOMB_BYTES // len(_BLOCK)):
        check = zlib.crc32(_BLOCK, check)
    size = (BOMB_BYTES + len(head)) & 0xFFFFFFFF
    return b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bomb(head) + struct.pack("<II", check, size)
