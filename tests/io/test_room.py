"""A disk that takes nothing is named with what it lacks; one that fails for a moment is asked again, not for ever."""

import errno
from pathlib import Path

import pytest

from cohort.io.patience import PAUSES_S, patiently
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
