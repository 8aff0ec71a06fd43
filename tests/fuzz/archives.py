"""Archives to damage, and ways to damage what they say of their members."""

import io
import lzma
import struct
import tarfile
import warnings
import zipfile
import zlib
from functools import cache

import numpy as np

from fuzz.dicom import LENGTHS, one
from fuzz.packing import BOMB_BYTES, bomb, gzip_bomb, gzipped
from fuzz.seeds import CANARY, Seed, seeds

Rng = np.random.Generator

NAMES = (
    "", ".", "..", "../a", "/etc/a", "a/../../b", "a\0b", "\r\n\x1b[2J", CANARY, "a" * 300, "a/" * 600 + "b", "member000001",
    "NUL", "a\\..\\b", "\N{RIGHT-TO-LEFT OVERRIDE}a", "e\N{COMBINING ACUTE ACCENT}",
)  # fmt: skip
FILES = ("a/1", "a/2", "a/3", "b/note")


@cache
def archive_seeds() -> tuple[Seed, ...]:
    """Each kind of archive, of one series and a note."""
    made = {
        "zip": zipped(FILES, zipfile.ZIP_DEFLATED),
        "zip stored": zipped(FILES, zipfile.ZIP_STORED),
        "zip lzma": zipped(FILES, zipfile.ZIP_LZMA),
        "tar": taped(FILES),
        "tar pax": taped(FILES, tarfile.PAX_FORMAT),
    }
    packed = {"tar gzip": gzipped, "tar xz": lzma.compress}
    return (
        *(Seed(name, "archive", data, len(data)) for name, data in made.items()),
        *(Seed(n, "archive", made["tar"], len(made["tar"]), pack=p) for n, p in packed.items()),
    )


def _contents() -> list[bytes]:
    whole = next(s for s in seeds() if s.name == "explicit series")
    return [whole.beside["b"], whole.data, whole.beside["c"], CANARY.encode()]


def zipped(names, method: int) -> bytes:
    """A zip of the files under other names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        for name, data in zip(names, _contents(), strict=True):
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return file.getvalue()


def taped(names, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of the files under other names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in zip(names, _contents(), strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def hostile_names(rng: Rng, seed: Seed) -> bytes:
    """Members are called what no file should be called."""
    names = [one(rng, NAMES) if rng.random() < 0.6 else name for name in FILES]
    if seed.name.startswith("tar"):
        return taped(names, tarfile.PAX_FORMAT)
    return zipped(names, zipfile.ZIP_DEFLATED)


def hostile_numbers(rng: Rng, seed: Seed) -> bytes:
    """Sizes, places and methods of members are wrong."""
    return (_hostile_tar if seed.name.startswith("tar") else _hostile_zip)(rng, seed.data)


def _hostile_zip(rng: Rng, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        mark = one(rng, (b"PK\1\2", b"PK\3\4", b"PK\5\6"))
        at = data.find(mark, int(rng.integers(0, len(data)))) % len(data)
        place = at + int(rng.integers(4, 46))
        size = one(rng, (2, 4))
        data[place : place + size] = (one(rng, LENGTHS) & (256**size - 1)).to_bytes(size, "little")
    return bytes(data)


def _hostile_tar(rng: Rng, whole: bytes) -> bytes:
    data = bytearray(whole)
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = one(rng, heads)
    if rng.random() < 0.3:
        data[at + 156] = one(rng, b"0123456789LKgxSVDM\0")
    else:
        sizes = (
            b"77777777777",
            b"-0000000001",
            b"\x80" + b"\xff" * 11,
            b"\xff" * 12,
            b"xyz",
            b"00000000000",
        )
        size = one(rng, sizes).ljust(12, b"\0")
        data[at + 124 : at + 136] = size
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


def zip_bomb(rng: Rng, seed: Seed) -> bytes:
    """A member that holds a gigabyte, many times the same, or twenty thousand that hold nothing."""
    del seed
    if rng.random() < 0.3:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for number in range(20_000):
                archive.writestr(zipfile.ZipInfo(str(number)), b"")
        return file.getvalue()
    packed = bomb(b"")
    claim = BOMB_BYTES if rng.random() < 0.5 else 9
    sizes = struct.pack("<III", zlib.crc32(b""), len(packed), claim)
    common = struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes
    head = b"PK\3\4" + common + struct.pack("<HH", 1, 0) + b"a" + packed
    times = int(rng.integers(1, 5))
    entry = (
        b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHHHII", 1, 0, 0, 0, 0, 0, 0)
    )
    directory = b"".join(entry + str(n).encode() for n in range(times))
    end = struct.pack("<HHHHIIH", 0, 0, times, times, len(directory), len(head), 0)
    return head + directory + b"PK\5\6" + end


def tar_bomb(rng: Rng, seed: Seed) -> bytes:
    """A compressed tar whose member holds a gigabyte, or that goes on for a gigabyte after its end."""
    del seed
    member = tarfile.TarInfo("a")
    member.size = BOMB_BYTES
    return gzip_bomb(member.tobuf() if rng.random() < 0.5 else taped(FILES))


WAYS = {hostile_names: 3, hostile_numbers: 8}
"""Way -> how often."""
