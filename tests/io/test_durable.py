"""The order of a power cut's promise, as the kernel sees it: files on the disk, then renamed, then the record."""

import re
import shutil
import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
from cohort import schema
from cohort.io.store import Store
scan = schema.make_scan(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([2.0, 2, 3, 1]))
store = Store(sys.argv[1])
store.write_scan("sub-1_ses-1_a", scan, {"stamp": "s"})
store.write_json("tables/units.json", {"a": "ml"})
"""

CALLS = "openat,open,creat,close,fsync,fdatasync,rename,renameat,renameat2,write,mkdir"


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The calls to the system of one process that writes a scan and a table's units, as (name, paths) of the store."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    root = tmp_path_factory.mktemp("durable").resolve() / "store"
    log = root.parent / "calls"
    command = [sys.executable, "-c", CODE, str(root)]
    traced = ["strace", "-f", "-y", "-e", f"trace={CALLS}", "-o", str(log), *command]
    done = subprocess.run(traced, check=False, capture_output=True, text=True)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip(f"tracing is not allowed here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found = []
    for line in log.read_text().splitlines():
        if (call := re.search(r"(\w+)\(", line)) and str(root) in line and " = -1 " not in line:
            inside = rf'["<]{re.escape(str(root))}(/[^">]*)?[">]'
            found.append((call[1], [path.lstrip("/") for path in re.findall(inside, line)]))
    return found


def numbers(calls, names, path):
    """Where in the list calls of one of the names have the path as their first (or only) one."""
    return [n for n, (name, paths) in enumerate(calls) if name in names and paths[:1] == [path]]


def renames(calls):
    """Number, from and to of every rename."""
    return [(n, *paths) for n, (name, paths) in enumerate(calls) if name.startswith("rename")]


def test_every_file_is_on_the_disk_before_it_is_renamed(calls):
    moved = renames(calls)
    assert len(moved) >= 3
    for number, before, _ in moved:
        # A group is a folder: each file in it, and each folder, for its names.
        written = {
            paths[0]
            for name, paths in calls[:number]
            if name in ("write", "mkdir")
            and (paths[0] == before or paths[0].startswith(f"{before}/"))
        }
        assert written
        for path in written:
            last = max(numbers(calls[:number], ("write", "mkdir"), path))
            synced = numbers(calls[:number], ("fsync", "fdatasync"), path)
            assert synced, f"{path} is renamed and was never synced"
            assert max(synced) > last, f"{path} was written after it was synced"


def test_the_folder_is_on_the_disk_after_the_rename(calls):
    for number, _, after in renames(calls):
        folder = after.rpartition("/")[0]
        synced = numbers(calls, ("fsync", "fdatasync"), folder)
        assert any(n > number for n in synced), f"{folder or 'the store'} was not synced after"


def test_the_record_comes_last(calls):
    moved = {after: number for number, _, after in renames(calls)}
    group, record = moved["scans/sub-1_ses-1_a.zarr"], moved["scans/sub-1_ses-1_a.json"]
    assert group < record
    # The group's own name is on the disk before the record of it is begun.
    begun = min(
        n
        for n, (name, paths) in enumerate(calls)
        if name in ("openat", "open", "creat") and ".sub-1_ses-1_a.json." in paths[-1]
    )
    synced = numbers(calls, ("fsync", "fdatasync"), "scans")
    assert any(group < n < begun for n in synced)


def test_the_trace_saw_what_it_should(calls):
    chunks = {p for name, paths in calls if name == "write" for p in paths if "/c/" in p}
    assert any("/image/c/" in chunk for chunk in chunks)
