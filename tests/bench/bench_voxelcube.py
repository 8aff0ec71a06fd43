"""Maps of a cube of eight times the memory that the process may take. Takes long: ``make bench ONLY=voxelcube``."""

from collections.abc import Iterator

from bench_voxelwise import memory
from run import Row

ONLY_BY_NAME = True

LIMIT_MB = 512


def bench_eight_times() -> Iterator[Row]:
    """2,400 scans of 450,000 voxels, 4.3 GB, against 512 MB; few arrangements, which take no memory."""
    row = memory(2400, (64, 80, 88), 8, 16 << 20)
    yield Row("voxelcube/peak-mb", row.ours_s, f"{LIMIT_MB} MB, an eighth of the cube", LIMIT_MB, 1.0, row.note)  # fmt: skip
