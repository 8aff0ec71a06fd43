"""Ways to damage a NIfTI file: what its header claims, where it puts voxels, how it is gzipped."""

import struct

import nibabel as nib
import numpy as np

from fuzz.dicom import LENGTHS, one
from fuzz.packing import gzip_bomb, gzipped
from fuzz.seeds import Seed

Rng = np.random.Generator

DIMS = (-32768, -1, 0, 1, 2, 3, 5, 8, 255, 1000, 32767)
CODES = (
    -1,
    0,
    1,
    2,
    4,
    8,
    16,
    32,
    64,
    128,
    255,
    256,
    512,
    768,
    1024,
    1280,
    1536,
    1792,
    2048,
    2304,
    32767,
)
LONGS = (2**62, -(2**63), 2**32, 2**31, 10**12)
FLOATS = (0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-38, 1e38, -3e38, 1e10, 352.0, 353.5)

Field = tuple[str, np.dtype, int]


def hostile_field(rng: Rng, seed: Seed) -> bytes:
    """Some fields of the header say something impossible."""
    return _hostile(rng, seed, _fields(seed), most=3)


def hostile_dims(rng: Rng, seed: Seed) -> bytes:
    """The header claims any number of voxels, of any type, anywhere."""
    names = ("dim", "datatype", "bitpix", "vox_offset")
    return _hostile(rng, seed, [f for f in _fields(seed) if f[0] in names], most=6)


def hostile_place(rng: Rng, seed: Seed) -> bytes:
    """The header puts voxels where nothing can be, and scales them to no number."""
    names = ("pixdim", "qform", "sform", "quatern", "qoffset", "srow", "xyzt", "scl", "slice")
    return _hostile(rng, seed, [f for f in _fields(seed) if f[0].startswith(names)], most=6)


def _fields(seed: Seed) -> list[Field]:
    """Name, type in the file's order of bytes, and place of every field."""
    kind = nib.Nifti2Header if seed.name.startswith("nifti-2") else nib.Nifti1Header
    fields = kind(endianness=">" if "big endian" in seed.name else "<").structarr.dtype.fields
    return [(name, dtype, offset) for name, (dtype, offset) in fields.items()]


def _hostile(rng: Rng, seed: Seed, fields: list[Field], *, most: int) -> bytes:
    data = bytearray(seed.data)
    for _ in range(int(rng.integers(1, most + 1))):
        _set(rng, data, one(rng, fields))
    return bytes(data)


def _set(rng: Rng, data: bytearray, place: Field) -> None:
    """Give a field, or one number of it, a value out of the ordinary."""
    _, dtype, offset = place
    base = dtype.base
    number = int(rng.integers(0, dtype.itemsize // base.itemsize))
    at = offset + number * base.itemsize
    if base.kind == "S":
        new = rng.bytes(base.itemsize)
    elif base.kind == "f":
        new = np.array(one(rng, FLOATS), base).tobytes()
    else:
        pool = (
            LONGS if base.itemsize == 8 and rng.random() < 0.3 else DIMS if dtype.shape else CODES
        )
        new = np.array(one(rng, pool)).astype(base).tobytes()
    data[at : at + base.itemsize] = new


def hostile_extension(rng: Rng, seed: Seed) -> bytes:
    """What stands between header and voxels is not what it says."""
    start = seed.header_bytes
    flag = one(rng, (b"\1\0\0\0", b"\0\0\0\0", b"\xff" * 4))
    sizes, codes = (*LENGTHS, 16, 31, 32), (0, 2, 4, 6, 0xFFFFFFFF)
    extensions = (
        struct.pack("<II", one(rng, sizes), one(rng, codes)) + rng.bytes(24)
        for _ in range(int(rng.integers(1, 40)))
    )
    return seed.data[: start - 4] + flag + b"".join(extensions) + seed.data[start:]


def bomb(rng: Rng, seed: Seed) -> bytes:
    """A gzip file that holds a gigabyte, whether its header says so or not."""
    header = bytearray(seed.data[: seed.header_bytes])
    if rng.random() < 0.5:
        _set(rng, header, next(f for f in _fields(seed) if f[0] == "dim"))
    return gzip_bomb(bytes(header))


def members(rng: Rng, seed: Seed) -> bytes:
    """A gzip file of very many members, with a name that does not end, or with junk after its end."""
    whole = gzipped(seed.data)
    match int(rng.integers(4)):
        case 0:
            return whole + gzipped(b"") * 100_000
        case 1:
            return gzipped(b"") * 100_000 + whole
        case 2:
            return whole[:3] + b"\x08" + whole[4:10] + b"x" * (4 << 20) + whole[10:]
        case _:
            return whole + rng.bytes(int(rng.integers(1, 100_000)))


WAYS = {hostile_field: 8, hostile_dims: 8, hostile_place: 6, hostile_extension: 4}
"""Way -> how often."""
