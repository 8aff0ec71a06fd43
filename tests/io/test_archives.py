"""Archives: the same series as from a folder, hostile ones refused by name, and nothing ever written under a name of theirs."""

import bz2
import errno
import gzip
import io
import lzma
import struct
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path, PurePosixPath

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manyfiles import peak_bytes
from series import phantom, write_series

from cohort.io import nifti
from cohort.io.discover import discover
from cohort.io.sources import archive_limits, archive_tar, archives
from cohort.io.sources.places import local, opened

KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def pack(kind, files, path, *, change=lambda info: None):
    """Write (name, content) pairs; `change` edits the record of a member before it goes in."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files:
                info = zipfile.ZipInfo(name)
                info.filename, info.compress_type = name, zipfile.ZIP_DEFLATED
                change(info)
                with warnings.catch_warnings(action="ignore"):  # two members of one name
                    archive.writestr(info, content)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as archive:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                change(info)
                archive.addfile(info, io.BytesIO(content))
    return path


def tree_files(folder):
    return [
        (p.relative_to(folder).as_posix(), p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    ]


def walked(path, wanted=None):
    """Label -> reason or content of every member."""
    with path.open("rb") as stream:
        return {
            member.label: member.reason if member.stream is None else member.stream.read()
            for member in archives.members(stream, path, wanted=wanted)
        }


def refusal(path):
    ((series, refused),) = discover([path]).refused
    assert series is None
    return refused


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    volume, affine = phantom()
    write_series(root / "b" / "mr", volume, affine, PatientID="B-2")
    write_series(root / "a" / "ct", volume + 1, affine, PatientID="A-1")
    nib.save(nib.Nifti1Image(volume.T, affine), root / "t1.nii.gz")
    nib.save(nib.Nifti1Pair(volume.T + 2, affine), root / "pair.hdr")
    (root / "notes.txt").write_text("no image\n" * 50)
    return root


# --- the same as a folder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beside", [False, True], ids=["as the source", "in a folder"])
def test_an_archive_gives_the_series_of_the_folder_it_was_made_of(kind, beside, tree, tmp_path):
    (tmp_path / "packed").mkdir()
    path = pack(kind, tree_files(tree), tmp_path / "packed" / "study.bin")
    plain = discover([tree])
    found = discover([path.parent if beside else path])
    prefix = "study.bin/"
    assert found.n_files == plain.n_files == 18
    assert {k: len(v) for k, v in found.skipped.items()} == {"not an image": 1}
    by_relative = {s.relative: s for s in plain.series}
    assert len(found.series) == 4
    for series in found.series:
        twin = by_relative[series.relative.removeprefix(prefix)]
        assert (series.digests, series.subject_id, series.label) == (
            twin.digests, twin.subject_id, twin.label
        )  # fmt: skip
        assert [f.relative_to(path) for f in series.files] == [
            f.relative_to(tree) for f in twin.files
        ]
        with local(series.files) as copies:
            assert [c.read_bytes() for c in copies] == [f.read_bytes() for f in twin.files]
            folder = copies[0].parent
            assert folder.stat().st_mode & 0o777 == 0o700
            if series.kind == "nifti":
                np.testing.assert_array_equal(
                    nifti.read_image(copies[0]).image, nifti.read_image(twin.files[0]).image
                )
        assert not folder.exists()


def test_the_subject_may_stand_in_the_name_of_the_archive_or_of_a_member(tmp_path):
    image = nib.Nifti1Image(phantom()[0].T, phantom()[1]).to_bytes()
    pack("zip", [("visit-1/t1.nii", image)], tmp_path / "sub-7.zip")
    pack("tar", [("sub-8/visit-2/t1.nii", image)], tmp_path / "rest.tar")
    found = discover([tmp_path], subject=r"sub-(?P<subject>\d+).*visit-(?P<session>\d)")
    assert {(s.subject_id, s.session_id) for s in found.series} == {("7", "1"), ("8", "2")}


def test_an_unchanged_archive_is_not_opened_again(tree, tmp_path):
    folder, cache = tmp_path / "in", tmp_path / "cache"
    folder.mkdir()
    path = pack("tar.gz", tree_files(tree), folder / "study.tar.gz")
    first = discover([folder], cache=cache)
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    for _ in range(2):  # the second time from the cache: a refused archive has no members left
        found = discover([folder], cache=cache)
        assert found.series == []
        assert {refusal.code for _, refusal in found.refused} == {"ARC-DAMAGED"}
    pack("tar.gz", tree_files(tree), path)
    assert discover([folder], cache=cache).series == first.series
    opened_files = []
    sys.addaudithook(lambda event, args: opened_files.append(args[0]) if event == "open" else None)
    assert discover([folder], cache=cache).series == first.series
    assert str(cache) in map(str, opened_files)
    assert str(path) not in map(str, opened_files)


@pytest.mark.parametrize("kind", KINDS)
def test_only_wanted_members_are_read_and_the_rest_of_the_archive_is_left(kind, tmp_path):
    files = [(f"{n}", bytes([n]) * 1000) for n in range(20)]
    path = pack(kind, files, tmp_path / "a")
    assert walked(path, {"3", "7"}) == {"3": files[3][1], "7": files[7][1]}
    with pytest.raises(FileNotFoundError, match="no such member"), local([path / "3", path / "x"]):
        pass
    with opened(path / "5") as stream:
        assert stream.read() == files[5][1]


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_folders_alone_is_counted(kind, tmp_path):
    def change(info):
        if kind != "zip":
            info.type = tarfile.DIRTYPE

    path = pack(kind, [("a/", b""), ("a/b/", b"")], tmp_path / "nothing", change=change)
    assert {k: list(v) for k, v in discover([path]).skipped.items()} == {"empty archive": [path]}


# --- names ---------------------------------------------------------------------------------------------------------

HOSTILE = [
    "../outside", "a/../../outside", "/etc/cron.d/x", "..", ".", "a\x00b", "a\nb", "\u202egpj.exe", "",
    "x" * 300, "/".join(["d" * 200] * 8), "member000003", "twice", "twice", "./twice", "twice//",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_hostile_name_gets_a_number_and_its_member_is_read_all_the_same(kind, tmp_path):
    names = [n for n in HOSTILE if kind == "zip" or "\0" not in n]
    names = [n for n in names if not (kind != "zip" and n in ("", "twice//"))]
    files = [(name, f"{number}".encode()) for number, name in enumerate(names)]
    (tmp_path / "in").mkdir()
    path = pack(kind, files, tmp_path / "in" / "a")
    found = walked(path)
    assert sorted(found.values()) == sorted(content for _, content in files)
    labels = {content: label for label, content in found.items()}
    assert labels[b"%d" % names.index("twice")] == "twice"
    for number, name in enumerate(names):
        if number != names.index("twice"):
            assert labels[b"%d" % number] == f"member{number:06d}", name
    with local([path / label for label in found]) as copies:
        assert [copy.read_bytes() for copy in copies] == list(found.values())
        assert all(copy.name.isdigit() for copy in copies)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "in"]


@given(st.lists(st.text(max_size=12), max_size=12))
def test_labels_of_any_names_are_plain_unique_and_always_the_same(names):
    with tempfile.TemporaryDirectory() as folder:
        kept = [n for n in names if n.isascii() or n.isprintable()]
        path = pack("zip", [(n, b"x") for n in kept], Path(folder, "a"))
        labels = list(walked(path))
        assert len(labels) == len(kept)
        assert labels == list(walked(path))
    for label in labels:
        assert PurePosixPath(label).as_posix() == label
        assert not label.startswith("/")
        assert ".." not in label.split("/")
        assert label.isprintable()


# --- what is no file -----------------------------------------------------------------------------------------------


def test_links_and_devices_of_a_tar_are_counted_and_not_followed(tmp_path):
    kinds = {
        "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE,
        "disk": tarfile.BLKTYPE, "folder": tarfile.DIRTYPE, "file": tarfile.REGTYPE,
    }  # fmt: skip

    def change(info):
        info.type, info.linkname = kinds[info.name], "/etc/passwd"

    path = pack("tar", [(name, b"") for name in kinds], tmp_path / "a.tar", change=change)
    found = discover([path])
    assert {reason: sorted(p.name for p in paths) for reason, paths in found.skipped.items()} == {
        "symbolic link": ["hard", "link"], "not a regular file": ["disk", "fifo"], "empty file": ["file"]
    }  # fmt: skip
    assert found.n_files == 5


def test_links_of_a_zip_are_counted_and_not_followed(tmp_path):
    modes = {"link": 0o120777, "fifo": 0o010644, "file": 0o100644, "dos": 0}

    def change(info):
        info.external_attr = modes[info.filename] << 16

    path = pack("zip", [(name, b"/etc/passwd") for name in modes], tmp_path / "a", change=change)
    assert walked(path) == {
        "link": "symbolic link", "fifo": "not a regular file", "file": b"/etc/passwd", "dos": b"/etc/passwd"
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inner", KINDS)
def test_an_archive_in_an_archive_is_passed_over(kind, inner, tree, tmp_path):
    nested = pack(inner, tree_files(tree), tmp_path / "inner").read_bytes()
    path = pack(kind, [("inner", nested), ("notes", b"text")], tmp_path / "outer")
    found = discover([path])
    assert {reason: [p.name for p in paths] for reason, paths in found.skipped.items()} == {
        "archive in an archive": ["inner"], "not an image": ["notes"]
    }  # fmt: skip
    assert found.series == []


# --- damage --------------------------------------------------------------------------------------------------------


def small_series(folder):
    """The same bytes every time."""
    volume, affine = phantom(shape=(4, 3, 3))
    uids = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.3"}
    write_series(
        folder, volume, affine, per_slice=lambda i: {"SOPInstanceUID": f"1.2.3.{i}"}, **uids
    )
    return tree_files(folder)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_an_archive_cut_anywhere_gives_all_of_its_series_or_none(kind, data):
    with tempfile.TemporaryDirectory() as folder:
        files = small_series(Path(folder, "in"))
        path = pack(kind, files, Path(folder, "a"))
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        found = discover([path])
        if found.series:
            # The padding behind a tar's end mark may go.
            assert kind == "tar"
            assert len(found.series[0].files) == len(files)
        elif found.refused:
            ((_, refused),) = found.refused
            assert refused.code == "ARC-DAMAGED"
            assert refused.files[0] == path or path in refused.files[0].parents
        else:
            assert found.skipped.keys() <= {"not an image", "empty file"}
        assert found.n_files == (len(files) if found.series else 1)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz", "tar.bz2"])
@given(data=st.data())
def test_damage_to_compressed_members_never_passes(kind, data):
    with tempfile.TemporaryDirectory() as folder:
        files = small_series(Path(folder, "in"))
        path = pack(kind, files, Path(folder, "a"))
        whole = bytearray(path.read_bytes())
        if kind == "zip":  # the content of a member; its directory has no checksum
            with zipfile.ZipFile(path) as archive:
                info = data.draw(st.sampled_from(archive.infolist()))
            start = info.header_offset + 30 + len(info.filename)
            place = data.draw(st.integers(start, start + info.compress_size - 1))
        else:
            place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= 1 << data.draw(st.integers(0, 7))
        sound = {s.digest for s in discover([path]).series}
        path.write_bytes(whole)
        found = discover([path])
        # Some bits (a time, a flag of the compressor) change nothing.
        assert {s.digest for s in found.series} in (set(), sound)


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_bytes_that_were_an_archive_never_end_in_an_error(data, kind):
    with tempfile.TemporaryDirectory() as folder:
        path = pack(kind, small_series(Path(folder, "in")), Path(folder, "a"))
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 8))):
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
        path.write_bytes(raw)
        found = discover([path])
        places = {f for s in found.series for f in s.files}
        n = len(places) + sum(map(len, found.skipped.values()))
        n += sum(len(s.files) if s else 1 for s, _ in found.refused)
        assert found.n_files == n


def zip_of(*names, **more):
    """A zip of small NIfTI images, members stored as they are."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for seed, name in enumerate(names):
            volume, affine = phantom(seed=seed)
            archive.writestr(name, nib.Nifti1Image(volume.T, affine).to_bytes())
        for name, content in more.items():
            archive.writestr(name, content)
    return packed.getvalue()


def test_a_zip_is_believed_only_if_its_directory_is_that_of_the_whole_file(tmp_path):
    first, inner = zip_of("a.nii", "b.nii"), zip_of("c.nii")
    outer = zip_of("d.nii", "e.nii", nested=inner)
    end = outer.index(inner) + len(inner)
    shifted = zipfile.ZipFile(tmp_path / "shifted", "w")
    damaged = {
        "two in a row": first + inner,
        "a directory cut off": outer[: end + 10],
        "a directory cut short": outer[:-30],
        "the second cut short": first + inner[:-40],
    }
    for why, content in damaged.items():
        path = tmp_path / why
        path.write_bytes(content)
        assert refusal(path).code == "ARC-DAMAGED", why
    # Offsets that were moved behind another zip: the directory fits, and passes over what lies before it.
    with shifted, shifted.open("x", "w") as member:
        member.write(b"x")
    path = tmp_path / "shifted"
    raw = bytearray(path.read_bytes())
    entry, tail = raw.index(b"PK\1\2"), raw.rindex(b"PK\5\6")
    struct.pack_into("<I", raw, entry + 42, len(first))
    struct.pack_into("<I", raw, tail + 16, entry + len(first))
    path.write_bytes(first + raw)
    assert "passes over the first" in str(refusal(path))


def test_a_zip_may_have_a_comment_and_padding_behind_it(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(outer := zip_of("d.nii", nested=zip_of("c.nii")))
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by somebody"
    for content in (outer, path.read_bytes(), outer + bytes(100)):
        path.write_bytes(content)
        found = discover([path])
        assert [s.relative for s in found.series] == ["a.zip/d.nii"]
        assert [*found.skipped] == ["archive in an archive"]


def tar_block(**fields):
    """One header of a tar whose checksum fits."""
    raw = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)[:512])
    for place, text in fields.values():
        raw[place : place + len(text)] = text
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def end(tar):
    """Where the end mark begins."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        last = archive.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (lambda tar: tar[: end(tar)] + b"garbage!" * 64 + bytes(1024), "ARC-DAMAGED"),
        (lambda tar: tar + tar, "ARC-DAMAGED"),
        (lambda tar: tar[: end(tar)], "ARC-DAMAGED"),
        (lambda tar: tar_block(size=(124, b"\xff" * 12)) + tar, "ARC-DAMAGED"),
        (lambda tar: tar_block(size=(124, b"77777777777\0")) + tar, "ARC-BOMB"),
        (lambda tar: tar_block(size=(124, b"00077777777\0"), type=(156, b"x")) + tar, "ARC-BOMB"),
        (lambda tar: tar_block(size=(124, b"00077777777\0"), type=(156, b"L")) + tar, "ARC-BOMB"),
        (lambda tar: tar_block(type=(156, b"L")) * 3000 + tar, "ARC-DAMAGED"),
        (lambda tar: tar_block(type=(156, b"g")) * 500 + tar, "ARC-DAMAGED"),
    ],
    ids=[
        "garbage for a header", "two joined", "no end", "negative size", "8 GiB claimed", "16 MiB of extensions",
        "name of 16 MiB", "many extensions", "extensions of extensions",
    ],
)  # fmt: skip
@pytest.mark.parametrize("packer", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_tar_that_lies_about_itself_is_refused(content, code, packer, tmp_path):
    tar = pack("tar", small_series(tmp_path / "in"), tmp_path / "sound").read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(packer(content(tar)))
    refused = refusal(path)
    assert (refused.code, refused.files) == (code, (path,))


def test_encrypted_and_unknown_zips_are_refused(tmp_path):
    files = small_series(tmp_path / "in")
    raw = pack("zip", files, tmp_path / "sound").read_bytes()
    encrypted, other = bytearray(raw), bytearray(raw)
    at = raw.rfind(b"PK\x01\x02")
    encrypted[at + 8] |= 1
    local_at = struct.unpack("<I", raw[at + 42 : at + 46])[0]
    other[at + 10 : at + 12] = other[local_at + 8 : local_at + 10] = b"\x09\x00"  # deflate64
    (tmp_path / "a.zip").write_bytes(encrypted)
    (tmp_path / "b.zip").write_bytes(other)
    refused = refusal(tmp_path / "a.zip")
    assert (refused.code, refused.files) == ("ARC-ENCRYPTED", (tmp_path / "a.zip",))
    assert "1 of 4 members" in str(refused)
    refused = refusal(tmp_path / "b.zip")
    assert refused.code == "ARC-METHOD"
    assert "method 9" in str(refused)


def test_a_damaged_member_is_named(tmp_path):
    files = [(f"im{n}", content) for n, (_, content) in enumerate(small_series(tmp_path / "in"))]
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:  # stored
        for name, content in files:
            archive.writestr(name, content)
        start = archive.getinfo("im2").header_offset
    raw = bytearray(path.read_bytes())
    raw[start + 200] ^= 1
    path.write_bytes(raw)
    for _ in range(2):  # the second time from the cache
        found = discover([path], cache=tmp_path / "cache")
        ((_, refused),) = found.refused
        assert (found.n_files, refused.code, refused.files) == (1, "ARC-DAMAGED", (path / "im2",))


# --- bombs ---------------------------------------------------------------------------------------------------------


def central_directory(n, *, claims=(0, 0)):
    """A zip of `n` members that share one local header and claim (compressed, uncompressed) bytes."""
    there = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, *claims, 1, 0) + b"x"
    entry = (
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, *claims, 1, 0, 0, 0, 0, 0, 0)
        + b"x"
    )
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, n, n, n * len(entry), len(there))
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, len(there) + n * len(entry), 1)
    tail = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return there + entry * n + end + locator + tail


def test_a_zip_is_refused_for_what_it_claims_before_anything_is_inflated(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(central_directory(2))
    assert discover([path]).n_files == 2
    for content, said in (
        (central_directory(1_000_001), "more than 1,000,000 members"),
        (central_directory(2, claims=(100, 1 << 31)), "4,294,967,296 bytes from an archive"),
        (central_directory(1, claims=(100, (1 << 30) + 1)), "1,073,741,825 bytes"),
    ):
        path.write_bytes(content)
        refused = refusal(path)
        assert refused.code == "ARC-BOMB"
        assert said in str(refused)


def test_a_tar_of_too_many_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_tar, "MAX_MEMBERS", 10)
    assert discover([pack("tar", [(f"{n}", b"") for n in range(10)], tmp_path / "a")]).n_files == 10
    path = pack("tar.gz", [(f"{n}", b"") for n in range(11)], tmp_path / "a")
    assert "more than" in str(refusal(path))


@pytest.mark.parametrize(
    "packer", [gzip.compress, bz2.compress, lzma.compress], ids=["gzip", "bzip2", "xz"]
)
def test_what_comes_out_is_counted_not_believed(packer, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_limits, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(archive_limits, "MAX_RATIO", 20)
    # Each member is small; together they are not.
    files = [(f"{n}", bytes(200_000)) for n in range(10)]
    path = tmp_path / "a.tar.x"
    path.write_bytes(packer(pack("tar", files, tmp_path / "a.tar").read_bytes()))
    refused = refusal(path)
    assert refused.code == "ARC-BOMB"
    assert "1,048,576 bytes come out of it" in str(refused)


@pytest.mark.slow
def test_bombs_take_no_memory(tmp_path):
    small = pack("tar.xz", [("a", b"x")], tmp_path / "small")
    # Two members that together come to 1.2 GiB, of which a quarter of a MB is on the disk.
    header = tarfile.TarInfo("a")
    header.size = 600 << 20
    block, stream = lzma.compress(bytes(100 << 20)), lzma.compress(header.tobuf())
    bomb, many = tmp_path / "bomb.tar.xz", tmp_path / "many.zip"
    bomb.write_bytes((stream + block * 6) * 2)
    many.write_bytes(central_directory(1_000_001))
    for path, limit in ((bomb, 100 << 20), (many, 300 << 20)):
        peak, n_files, _, codes = peak_bytes(path, small=small)
        assert (n_files, codes) == (1, "ARC-BOMB")
        assert peak < limit


class _Failing(io.FileIO):
    """A disk of which all reads after some fail for good."""

    left = 0

    def readinto(self, buffer):
        self._fail()
        return super().readinto(buffer)

    def readall(self):
        self._fail()
        return super().readall()

    def _fail(self):
        type(self).left -= 1
        if self.left < 0:
            raise OSError(errno.EIO, "gone for good")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_whose_disk_fails_is_unreadable_and_not_damaged(kind, tmp_path, monkeypatch):
    volume, affine = phantom()
    write_series(tmp_path / "scans", volume[:3], affine)
    files = [*tree_files(tmp_path / "scans"), ("noise", np.random.default_rng(0).bytes(60_000))]
    path = pack(kind, files, tmp_path / f"all.{kind}")
    whole = len(discover([path]).series)
    monkeypatch.setattr("cohort.io.patience.PAUSES_S", ())
    monkeypatch.setattr("cohort.io.patience._open", lambda path: _Failing(path, "rb"))
    for n in range(99):
        _Failing.left = n
        found = discover([path])
        assert not found.refused
        if len(found.series) == whole:
            break
        assert (found.unreadable, found.series) == ([path], [])
    assert 2 < n < 98
