"""Maps of a cube of eight times the memory that the process may take. Takes long: ``make bench ONLY=voxelcube``."""

from collections.abc import Iterator

from bench_voxelwise import memory
from run import Row

ONLY_BY_NAME = True

LIMIT_MB = 512


def bench_eight_times() -> Iterator[Row]:
    """600 scans of 1.8 million voxels, 4.1 GB, against 512 MB."""
    row = memory(600, (109, 128, 128), 32, 16 << 20)
    yield Row("voxelcube/peak-mb", row.ours_s, f"{LIMIT_MB} MB, an eighth of the cube", LIMIT_MB, 1.0, row.note)  # fmt: skip
