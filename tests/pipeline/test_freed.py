"""A worker whose freed memory stays with the allocator goes on, and does not wait at Dask's limit for ever."""

import time

import psutil
import pytest

from cohort.pipeline.cluster import connect

LIMIT = 640 << 20


def leave_holes(share):
    """Fill the heap up to `share` of the limit in small parts, and free all but a few of them."""
    parts = []
    while psutil.Process().memory_info().rss < share * LIMIT:
        parts += [bytearray(b"x" * (50 << 10)) for _ in range(100)]
    psutil.held = (
        parts[::1000] + parts[-1:]
    )  # lives as long as the process; a result might be spilled


def resident():
    return psutil.Process().memory_info().rss


@pytest.mark.slow
def test_a_worker_over_its_pause_limit_with_freed_memory_goes_on():
    with connect(workers=1, memory=LIMIT) as client:
        client.submit(leave_holes, 0.85, pure=False).result(timeout=60)
        # Unless the memory is given back, the worker is soon paused, and a task of then is never run.
        deadline = time.monotonic() + 60
        while client.submit(resident, pure=False).result(timeout=30) > 0.6 * LIMIT:
            assert time.monotonic() < deadline
            time.sleep(0.2)
