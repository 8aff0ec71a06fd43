"""A disk that takes nothing is named with what it lacks; one that fails for a moment is asked again, not for ever."""

import errno
import io
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from cohort.io.patience import PAUSES_S, opened, opened_raw, patiently
from cohort.io.storage.backend import AWAY, Unwritable
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.room import writing
from cohort.io.store import Store


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_named_with_the_bytes_that_are_needed():
    full = Path("/dev/full")
    with (
        pytest.raises(
            Unwritable, match=r"/dev/full: expected room for 1234 bytes, .* full \(\d+ b"
        ),
        writing(full, 1234),
        full.open("wb", buffering=0) as stream,
    ):
        stream.write(b"x")
    assert Unwritable in AWAY


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(IsADirectoryError), writing(tmp_path, 1):
        tmp_path.write_bytes(b"x")


def test_a_source_that_may_not_be_read_says_nothing_against_the_store(tmp_path):
    with pytest.raises(PermissionError, match="scan") as raised, writing(tmp_path / "store"):
        raise PermissionError(errno.EACCES, "Permission denied", "scan.nii")
    assert not isinstance(raised.value, Unwritable)


def test_a_group_that_could_not_be_written_leaves_nothing(tmp_path):
    files = LocalFiles(tmp_path)
    with pytest.raises(OSError, match="File name too long"):
        files.publish("scans/a.zarr", {"zarr.json": b"{}", "x" * 300: b"1"}, durable=True)
    assert list((tmp_path / "_staging").iterdir()) == []
    assert not (tmp_path / "scans").exists()


def failing(kind: int, times: int):
    """A read that fails so often, and then gives its number of calls."""
    calls = []

    def read():
        calls.append(1)
        if len(calls) <= times:
            raise OSError(kind, "in passing")
        return len(calls)

    return read, calls


@pytest.mark.parametrize("kind", [errno.EIO, errno.ESTALE])
def test_what_fails_in_passing_is_asked_again(kind, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for times in range(len(PAUSES_S) + 1):
        assert patiently(failing(kind, times)[0]) == times + 1
    read, calls = failing(kind, 100)
    with pytest.raises(OSError, match="in passing"):
        patiently(read)
    assert len(calls) == len(PAUSES_S) + 1


@pytest.mark.parametrize("kind", [errno.EACCES, errno.ENOENT])
def test_what_will_fail_again_is_an_error_at_once(kind):
    read, calls = failing(kind, 100)
    with pytest.raises(OSError, match="in passing"):
        patiently(read)
    assert len(calls) == 1


class _Flaky(io.FileIO):
    """Every read moves on, and one in three of them then fails."""

    reads = itertools.count(1)

    def readinto(self, buffer):
        found = super().readinto(buffer)
        if next(self.reads) % 3 == 0:
            raise OSError(errno.ESTALE, "in passing")
        return found

    def readall(self):
        found = super().readall()
        if next(self.reads) % 3 == 0:
            raise OSError(errno.EIO, "in passing")
        return found


@pytest.fixture
def flaky(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    path = tmp_path / "file"
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: _Flaky(self, "r"))
    return path


@pytest.mark.parametrize("n", [1_000, 10_000])
def test_a_file_whose_reads_fail_in_passing_is_read_to_its_end(flaky, n):
    content = np.random.default_rng(0).bytes(100_000)
    with opened(flaky) as stream:
        assert b"".join(iter(lambda: stream.read(n), b"")) == content
        stream.seek(5)
        assert stream.read() == content[5:]
    with opened_raw(flaky) as raw:
        raw.seek(7)
        assert raw.readall() == content[7:]


def test_a_file_that_could_not_be_read_can_be_once_its_disk_can(flaky, monkeypatch):
    reads = itertools.count()

    def fails(self, buffer):
        if next(reads) <= len(PAUSES_S):
            raise OSError(errno.EIO, "gone for long")
        return io.FileIO.readinto(self, buffer)

    monkeypatch.setattr(_Flaky, "readinto", fails)
    content = np.random.default_rng(0).bytes(100_000)
    with opened_raw(flaky) as raw:
        raw.seek(9)
        with pytest.raises(OSError, match="gone for long"):
            raw.read(5)
        assert raw.tell() == 9
        assert raw.read(5) == content[9:14]


def test_a_file_that_became_another_one_between_two_tries_is_not_read_on(flaky):
    with opened(flaky) as stream:
        stream.read(10)
        shutil.copy(__file__, flaky.with_name("other")).replace(flaky)
        reads = (stream.read(10_000) for _ in range(9))  # one in three fails, and opens again
        with pytest.raises(FileNotFoundError, match="another file by now"):
            list(reads)


def test_what_a_killed_writer_left_is_swept_wherever_it_lies(tmp_path):
    store = Store(tmp_path)
    store.write_json("tables/units.json", {"a": "ml"})
    left = ["", "tables", "quarantine", "recipes", "report", "scans", "derivatives/r", "models/m"]
    for folder in left:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / ".name.1f2e3d4c.tmp").write_bytes(b"half")
    assert store.sweep() == len(left)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["units.json"]
    assert store.sweep() == 0
