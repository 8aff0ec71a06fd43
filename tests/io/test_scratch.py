"""Copies of scans on a local disk: nobody else reads them, and what a killed process left goes with the next call."""

import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from cohort.io import scratch
from cohort.io.store import Store

HOLD = """
import sys, time
from pathlib import Path
from cohort.io.sources.places import local
with local([Path(sys.argv[1])]) as (copy,):
    print(copy, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where such folders lie, in this process and in others."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


@pytest.fixture
def holder(tmp_path):
    """A process that holds a copy of a scan, and the copy."""
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        archive.writestr("a.nii", b"voxels of a person")
    command = [sys.executable, "-c", HOLD, str(tmp_path / "scans.zip/a.nii")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_is_private_and_goes_with_its_block(temporary):
    with scratch.folder() as place, scratch.folder() as other:
        assert place != other
        assert place.stat().st_mode & 0o777 == 0o700
        (place / "in").mkdir()
        (place / "in/a.nii").write_bytes(b"voxels")
        assert scratch.sweep() == 0
        assert (place / "in/a.nii").read_bytes() == b"voxels"
    with pytest.raises(KeyError), scratch.folder() as place:
        raise KeyError
    assert list(temporary.iterdir()) == []


def test_copies_of_a_killed_process_go_with_the_next_call_and_no_others(
    holder, temporary, tmp_path
):
    process, copy = holder
    assert copy.read_bytes() == b"voxels of a person"
    assert temporary in copy.parents
    store = Store(tmp_path / "store")
    store.sweep()
    assert copy.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert copy.exists()
    store.sweep()
    assert list(temporary.iterdir()) == []


def test_a_worker_removes_them_before_its_first_copy(holder, temporary):
    process, copy = holder
    process.kill()
    process.wait()
    code = "from cohort.io import scratch\nwith scratch.folder(): pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not copy.exists()
    assert list(temporary.iterdir()) == []


def test_what_only_looks_like_one_is_left_alone(temporary, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "kept").touch()
    (temporary / "cohort-held-link").symlink_to(precious)
    (temporary / "cohort-held-file").write_bytes(b"")
    (temporary / "cohort-of-someone").mkdir()
    assert scratch.sweep() == 0
    assert (precious / "kept").exists()
    assert len(list(temporary.iterdir())) == 3


def test_where_folders_cannot_be_held_they_are_not_swept(temporary, monkeypatch):
    def refuse(handle, how):
        raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(scratch.fcntl, "flock", refuse)
        with scratch.folder() as place:
            assert place.is_dir()
            patch.undo()
            assert scratch.sweep() == 0
            assert place.is_dir()
    assert list(temporary.iterdir()) == []
