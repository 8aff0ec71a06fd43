"""From a number to a mutant, and ways to damage any file."""

from dataclasses import dataclass

import numpy as np

from fuzz import archives, dicom, nifti
from fuzz.dicom import one
from fuzz.seeds import Seed, seeds

Rng = np.random.Generator

SEED = 20_000
"""Another one makes other mutants."""


def flipped_header(rng: Rng, seed: Seed) -> bytes:
    """Bytes of the header are others."""
    return _flipped(rng, seed.data, 0, seed.header_bytes)


def flipped_pixels(rng: Rng, seed: Seed) -> bytes:
    """Bytes after the header are others."""
    return _flipped(rng, seed.data, min(seed.header_bytes, len(seed.data) - 1), len(seed.data))


def flipped_packed(rng: Rng, seed: Seed) -> bytes:
    """Bytes of the file as it lies on the disk are others."""
    data = seed.pack(seed.data)
    return _flipped(rng, data, 0, len(data))


def _flipped(rng: Rng, whole: bytes, start: int, end: int) -> bytes:
    data = bytearray(whole)
    for place in rng.integers(start, end, int(rng.integers(1, 9))):
        data[place] ^= (
            1 << int(rng.integers(8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
        )
    return bytes(data)


def cut(rng: Rng, seed: Seed) -> bytes:
    """The end is missing."""
    near = min(seed.header_bytes + 64, len(seed.data))
    return seed.data[: int(rng.integers(0, near if rng.random() < 0.5 else len(seed.data)))]


def inserted(rng: Rng, seed: Seed) -> bytes:
    """There is something in between."""
    place = int(rng.integers(0, len(seed.data)))
    return seed.data[:place] + rng.bytes(int(rng.integers(1, 300))) + seed.data[place:]


def removed(rng: Rng, seed: Seed) -> bytes:
    """Something in between is missing, or zero."""
    start, n = int(rng.integers(0, len(seed.data))), int(rng.integers(1, 300))
    fill = bytes(n) if rng.random() < 0.5 else b""
    return seed.data[:start] + fill + seed.data[start + n :]


def spliced(rng: Rng, seed: Seed) -> bytes:
    """The second half is that of another file."""
    other = one(rng, _seeds(seed.kind)).data
    return seed.data[: int(rng.integers(len(seed.data)))] + other[int(rng.integers(len(other))) :]


WAYS = {flipped_header: 6, flipped_pixels: 5, cut: 4, inserted: 3, removed: 3, spliced: 3}
"""Way -> how often."""

BOMBS = {
    "dicom": (dicom.deflate_bomb,),
    "nifti": (nifti.bomb, nifti.members),
    "archive": (archives.zip_bomb, archives.tar_bomb),
}
BOMB_SHARE = 0.004
"""Each takes a second."""

KINDS = {"dicom": 0.55, "nifti": 0.35, "archive": 0.1}
"""Kind of file -> share of mutants."""


def _seeds(kind: str) -> tuple[Seed, ...]:
    return (
        archives.archive_seeds()
        if kind == "archive"
        else tuple(s for s in seeds() if s.kind == kind)
    )


@dataclass(frozen=True)
class Mutant:
    """Files, the damaged one first, and how it was made."""

    label: str
    files: dict[str, bytes]


def mutant(number: int) -> Mutant:
    """Make a mutant, always the same for a number."""
    rng = np.random.default_rng([SEED, number])
    seed = one(rng, _seeds(str(rng.choice(list(KINDS), p=list(KINDS.values())))))
    if rng.random() < BOMB_SHARE:
        way = one(rng, BOMBS[seed.kind])
        data = way(rng, seed)
    else:
        ways = WAYS | {"nifti": nifti.WAYS, "archive": archives.WAYS}.get(seed.kind, {})
        ways |= dicom.WAYS if seed.elements else {}
        ways |= dicom.COMPRESSED if seed.is_compressed else {}
        ways |= {flipped_packed: 12} if seed.pack is not bytes else {}
        odds = np.array(list(ways.values()), float)
        way = list(ways)[int(rng.choice(len(ways), p=odds / odds.sum()))]
        data = way(rng, seed)
        data = data if way is flipped_packed else seed.pack(data)
    name = "a.hdr" if "a.img" in seed.beside else "a"
    return Mutant(f"{seed.name}, {way.__name__}", {name: data, **seed.beside})
