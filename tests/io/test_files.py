"""Walking and looking: one answer however a file is read, nothing lost on the way, and memory that does not grow with files."""

import gzip
import os
import sqlite3
import stat
import tempfile
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from manyfiles import peak_bytes, write_many
from series import phantom, write_series

from cohort.io.discover import discover
from cohort.io.sources import content
from cohort.io.sources.filecache import CacheError, Entry, FileCache
from cohort.io.sources.series import Parts, PathList
from cohort.provenance import file_digest


def every_kind(folder):
    """One file of each kind that is told apart."""
    volume, affine = phantom()
    write_series(folder / "mr", volume[:1], affine)
    (large,) = write_series(folder / "large", np.zeros((1, 2100, 2100), np.int16), affine)
    assert large.stat().st_size > 8 << 20
    image = nib.Nifti1Image(volume.T, affine).to_bytes()
    header = nib.Nifti1Pair(volume.T, affine).header.binaryblock + bytes(4)
    for name, raw in {
        "a.nii": image,
        "a.nii.gz": gzip.compress(image),
        "b.hdr": header,
        "b.hdr.gz": gzip.compress(header),
        "b.img": volume.tobytes() * 400,
        "b.img.gz": gzip.compress(volume.tobytes() * 400),
        "analyze.hdr": header[:344] + bytes(4),
        "cut.nii": image[:200],
        "damaged.nii.gz": gzip.compress(image)[:30] + b"\xff" * 400,
        "text.nii": b"no image",
        "text.nii.gz": gzip.compress(b"no image"),
        "cut.dcm": (folder / "mr/000.dcm").read_bytes()[:200],
        "text": b"no image" * 2000,
        "empty": b"",
        "seven": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    }.items():
        (folder / name).write_bytes(raw)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_a_file_is_the_same_read_from_a_disk_or_forwards_from_a_stream(tmp_path):
    files = every_kind(tmp_path)
    entries = [content.look(path) for path in files]
    for path, entry in zip(files, entries, strict=True):
        with path.open("rb") as stream:
            stream.seekable = stream.seek = stream.tell = None  # nothing but read
            assert content.look_at(stream, path) == entry, path.name
        if entry.digest:
            assert entry.digest == file_digest(path)
    digested = {path.name for path, entry in zip(files, entries, strict=True) if entry.digest}
    assert digested == {
        "000.dcm", "a.nii", "a.nii.gz", "b.hdr", "b.hdr.gz", "b.img", "b.img.gz", "analyze.hdr", "cut.nii", "damaged.nii.gz"
    }  # fmt: skip


def test_a_private_text_of_a_header_is_in_no_warning(tmp_path, caplog):
    (path,) = write_series(tmp_path, *[phantom()[0][:1], phantom()[1]])
    uid = b"1.2.840.10008.5.1.4.1.1.4"
    path.write_bytes(path.read_bytes().replace(uid, b"CANARY^7Q^NOT^A^UID^AT^AL"))
    discover([tmp_path])
    assert "CANARY" not in caplog.text


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_a_file_that_cannot_be_read_is_unreadable_and_not_remembered(tmp_path):
    for _ in range(2):
        found = discover([Path("/proc/self/mem")], cache=tmp_path / "cache")
        assert [p.name for p in found.unreadable] == ["mem"]
        assert (found.n_files, found.skipped, found.series) == (1, {}, [])


def test_a_folder_that_cannot_be_listed_is_unreadable_and_the_rest_is_found():
    with tempfile.TemporaryDirectory() as root:
        write_series(Path(root, "mr"), *phantom())
        # Folders in folders until the path is too long for the system.
        at = os.open(root, os.O_RDONLY)
        for _ in range(18):
            os.mkdir("d" * 250, dir_fd=at)
            inner = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = inner
        os.close(at)
        found = discover([Path(root)])
        assert len(found.unreadable) == 1
        assert found.unreadable[0].name == "d" * 250
        assert [len(s.files) for s in found.series] == [7]
        assert found.n_files == 8


def test_names_that_are_no_text_are_kept(tmp_path):
    volume, affine = phantom()
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    write_series(Path(os.fsdecode(raw)), volume, affine)
    nib.save(nib.Nifti1Image(volume.T, affine), tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(os.fsdecode(raw + b"/t\xff.nii"))
    for _ in range(2):
        found = discover([tmp_path], cache=tmp_path.parent / "cache", subject="(?P<subject>caf.)")
        assert {len(s.files) for s in found.series} == {1, 7}
        assert all(f.exists() for s in found.series for f in s.files)


# --- packed ---------------------------------------------------------------------------------------------------------


def test_packed_files_come_back_as_they_were():
    digests = [f"{n:064x}" for n in range(3)]
    files = [(Path(f"/a/b{n}"), digest, None) for n, digest in enumerate(digests)]
    plain, framed = Parts(files), Parts([*files[:2], (*files[2][:2], (0, 2))])
    assert tuple(plain.paths) == tuple(path for path, _, _ in files)
    assert plain.digests == framed.digests == tuple(digests)
    assert (plain.frames, framed.frames) == ((None,) * 3, (None, None, (0, 2)))
    assert plain == Parts(files)
    assert plain != framed
    assert (list(PathList()), Parts([]).digests) == ([], ())
    paths = PathList([Path("/a"), Path("/b")])
    assert (paths[0], paths[1:], len(paths)) == (Path("/a"), (Path("/b"),), 2)
    assert hash(paths) == hash(PathList([Path("/a"), Path("/b")]))


# --- the cache ------------------------------------------------------------------------------------------------------


def test_two_processes_share_a_cache_and_wait_for_each_other(tmp_path):
    path, file = tmp_path / "cache", tmp_path / "a"
    file.touch()
    with FileCache(path):
        pass
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    freed = threading.Timer(0.3, other.rollback)
    freed.start()
    with FileCache(path) as known:
        known.put(file, file.lstat(), Entry(reason="nothing"))
    freed.join()
    other.close()
    with FileCache(path) as known:
        assert known.get(file, file.lstat()) == Entry(reason="nothing")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_does_not_grow_with_files(tmp_path):
    peaks = {}
    for n in (100, 8_000, 33_000):
        write_many(tmp_path / f"{n}", n)
        if n > 100:
            peaks[n], n_files, n_series, _ = peak_bytes(tmp_path / f"{n}", small=tmp_path / "100")
            assert (n_files, n_series) == (n, n // 100)
    # Series included, which hold 32 bytes of digest for each; paths and digests as they are would take five times as much.
    assert (peaks[33_000] - peaks[8_000]) / 25_000 < 200


def test_a_cache_that_cannot_be_used_is_one_line_and_an_error_of_the_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot use the cache of file headers") as caught:
        FileCache(tmp_path / "file/cache").__enter__()
    assert "\n" not in str(caught.value)
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"x")
    full = pytest.raises(CacheError, match=r"full.*; make room")
    with full, FileCache(tmp_path / "cache") as cache:
        cache._database.execute("PRAGMA max_page_count = 3")  # as a disk that is full
        for n in range(1000):
            cache.put(tmp_path / f"{n:0200}", "state", Entry("nifti", digest="0" * 64))
