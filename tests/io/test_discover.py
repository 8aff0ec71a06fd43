"""Finding series: content decides, every file is accounted for, and an unchanged tree is not read again."""

import gzip
import io
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hardcases import CASES
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from series import phantom, save, slice_of, write_series

from cohort.io.dicom import read_series
from cohort.io.discover import SourceError, discover
from cohort.io.policy import Policy
from cohort.io.sources.content import look
from cohort.io.sources.filecache import FileCache
from cohort.provenance import file_digest


def nifti(path, *, seed=0, kind=nib.Nifti1Image):
    volume, affine = phantom(seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(kind(volume.T, affine), path)
    return path


def accounted(found):
    """Every place that the result names, once; a file whose frames make several series counts once."""
    series = [*found.series, *(s for s, _ in found.refused if s)]
    files = {f for s in series for f in s.files}
    alone = [f for paths in found.skipped.values() for f in paths]
    alone += [refusal.files[0] for s, refusal in found.refused if s is None] + found.unreadable
    assert not files.intersection(alone)
    assert len(set(alone)) == len(alone)
    return sorted([*files, *alone])


def plain(found):
    """A result with refusals as values: two that say the same are not equal otherwise."""
    refused = [(series, refusal.args) for series, refusal in found.refused]
    return replace(found, refused=refused)


@pytest.fixture
def tree(tmp_path):
    """Two subjects, DICOM and NIfTI, and what lies about in such folders."""
    root = tmp_path / "tree"
    volume, affine = phantom()
    write_series(root / "b" / "mr", volume, affine, PatientID="B-2")
    write_series(root / "a" / "ct", volume + 1, affine, PatientID="A-1")
    nifti(root / "c" / "t1.nii.gz")
    (root / "notes.dcm").write_text("this is no image\n" * 50)
    (root / "empty.txt").touch()
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("inside.txt", "x")
    return root


def test_every_file_ends_in_one_place(tree):
    found = discover([tree])
    everything = sorted(p for p in tree.rglob("*") if p.is_file() and p.suffix != ".zip")
    everything.append(tree / "more.zip/inside.txt")
    assert accounted(found) == sorted(everything)
    assert found.n_files == len(everything) == 18
    assert {reason: len(paths) for reason, paths in found.skipped.items()} == {
        "not an image": 2, "empty file": 1
    }  # fmt: skip
    assert found.refused == []
    assert [s.name for s in found.series] == sorted(s.name for s in found.series)
    assert Counter(s.kind for s in found.series) == {"dicom": 2, "nifti": 1}


def test_a_series_knows_its_subject_files_and_content(tree):
    by_subject = {s.subject_id: s for s in discover([tree]).series}
    assert set(by_subject) == {"A-1", "B-2", None}
    series = by_subject["A-1"]
    assert series.files == tuple(sorted((tree / "a/ct").iterdir()))
    assert series.digests == tuple(file_digest(f) for f in series.files)
    assert series.label.startswith("004")
    assert series.label.isalnum()
    assert len(series.label) == 11
    assert read_series(series.files).image.shape == (7, 6, 5)
    assert (by_subject[None].name, by_subject[None].label) == ("c/t1", "t1")


def test_names_of_files_do_not_matter_and_content_does(tree, tmp_path):
    before = {s.name: s.digest for s in discover([tree]).series if s.kind == "dicom"}
    for i, path in enumerate(sorted(tree.rglob("mr/*"), reverse=True)):
        path.rename(path.with_name(f"IM{i}"))
    assert {s.name: s.digest for s in discover([tree]).series if s.kind == "dicom"} == before
    one = next(iter(tree.rglob("mr/*")))
    raw = bytearray(one.read_bytes())
    raw[-1] ^= 1
    one.write_bytes(raw)
    after = {s.name: s.digest for s in discover([tree]).series if s.kind == "dicom"}
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 1


def test_extensions_lie_and_content_is_believed(tmp_path):
    shutil.move(nifti(tmp_path / "x.nii.gz"), tmp_path / "scan.txt")
    volume, affine = phantom()
    for i, path in enumerate(write_series(tmp_path, volume, affine)):
        path.rename(tmp_path / f"{i}")
    (tmp_path / "text.nii").write_bytes(b"text" * 100)
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"text"))
    (tmp_path / "fake.gz").write_bytes(b"\x1f\x8b" + b"x" * 500)
    found = discover([tmp_path])
    assert [(s.kind, len(s.files)) for s in found.series] == [("dicom", 7), ("nifti", 1)]
    assert [p.name for p in found.skipped["not an image"]] == ["fake.gz", "text.nii", "text.nii.gz"]


def test_a_nifti_that_is_damaged_at_its_beginning_is_left_to_its_reader(tmp_path):
    raw = nifti(tmp_path / "whole.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(raw[:200])
    (tmp_path / "damaged.nii.gz").write_bytes(b"\x1f\x8b" + b"x" * 500)
    assert [s.name for s in discover([tmp_path]).series] == ["cut", "damaged", "whole"]


def test_a_preamble_may_be_missing(tmp_path):
    files = write_series(tmp_path, *phantom())
    for path in files:
        path.write_bytes(path.read_bytes()[132:])
    (series,) = discover([tmp_path]).series
    np.testing.assert_array_equal(read_series(series.files).image, phantom()[0])


def test_dicom_without_an_image_is_counted_by_kind(tmp_path):
    def write(name, **tags):
        dataset = Dataset()
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        dataset.save_as(tmp_path / name, enforce_file_format=True)

    identity = {"SOPInstanceUID": "1.2.3", "PatientID": "CANARY7Q"}
    write("report", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", **identity)
    write("private", SOPClassUID="1.9.87654321", **identity)
    write("DICOMDIR", SOPClassUID="1.2.840.10008.1.3.10", **identity)
    write("cut", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", **identity)
    found = discover([tmp_path])
    assert {reason: [p.name for p in paths] for reason, paths in found.skipped.items()} == {
        "DICOMDIR": ["DICOMDIR"],
        "no pixels (Basic Text SR Storage)": ["report"],
        "no pixels": ["private"],
    }
    ((series, refusal),) = found.refused
    assert series is None
    assert (refusal.code, [p.name for p in refusal.files]) == ("DCM-HEADER", ["cut"])
    assert found.damaged == [tmp_path / "cut"]
    assert "CANARY" not in str(refusal)


def test_an_empty_file_is_refused_where_an_image_should_be(tmp_path):
    write_series(tmp_path / "mr", *phantom(), names=range(1, 8))
    empty = [
        tmp_path / name
        for name in ("mr/000.dcm", "mr/notes", "mr/sub/a", "b.nii.gz", "b.tar.gz", "LOCK")
    ]
    for path in empty:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    plain = write_series(tmp_path / "plain", *phantom(seed=1))
    for path in plain:
        path.rename(path.with_suffix(""))
    (tmp_path / "plain/007").touch()
    found = discover([tmp_path])
    assert [(r.code, r.files[0].name) for _, r in found.refused] == [
        ("SRC-EMPTY", "b.nii.gz"), ("SRC-EMPTY", "000.dcm"), ("SRC-EMPTY", "007")
    ]  # fmt: skip
    assert found.damaged == [r.files[0] for _, r in found.refused]
    assert len(found.skipped["empty file"]) == 4
    assert len(accounted(found)) == found.n_files


def test_a_slice_that_lacks_only_its_pixels_stays_in_its_series(tmp_path):
    files = write_series(tmp_path, *phantom())
    dataset = pydicom.dcmread(files[-1])
    del dataset.PixelData
    dataset.save_as(files[-1])
    (series,) = discover([tmp_path]).series
    assert series.files == tuple(files)


def test_the_pattern_gives_subject_and_session(tmp_path):
    nifti(tmp_path / "sub-07_ses-2" / "anat" / "t1.nii.gz")
    nifti(tmp_path / "other" / "t1.nii.gz")
    write_series(tmp_path / "sub-08_ses-1" / "mr", *phantom(), PatientID="HOSPITAL-1")
    write_series(tmp_path / "elsewhere", *phantom(), PatientID="HOSPITAL-2")
    pattern = r"sub-(?P<subject>\d+)_ses-(?P<session>\d)"
    found = discover([tmp_path], subject=pattern)
    assert {(s.subject_id, s.session_id) for s in found.series} == {
        ("07", "2"), ("08", "1"), ("HOSPITAL-2", None), (None, None)
    }  # fmt: skip
    (series,) = discover([tmp_path / "sub-07_ses-2"], subject=pattern).series
    assert (series.subject_id, series.name) == ("07", "anat/t1")


def test_a_name_that_two_files_share_keeps_its_extension(tmp_path):
    nifti(tmp_path / "t1.nii")
    nifti(tmp_path / "t1.nii.gz", seed=1)
    nifti(tmp_path / "T 2-w.nii", seed=2)
    found = discover([tmp_path])
    assert [(s.name, s.label) for s in found.series] == [
        ("T 2-w", "T2w"), ("t1.nii", "t1nii"), ("t1.nii.gz", "t1niigz")
    ]  # fmt: skip


def test_header_and_voxels_of_a_pair_are_one_series(tmp_path):
    nifti(tmp_path / "a.hdr", kind=nib.Nifti1Pair)
    nifti(tmp_path / "b.hdr", kind=nib.Nifti1Pair)
    (tmp_path / "b.img").unlink()
    found = discover([tmp_path], cache=tmp_path.parent / "cache")
    (series,) = found.series
    assert [f.name for f in series.files] == ["a.hdr", "a.img"]
    assert series.digests[1] == file_digest(tmp_path / "a.img")
    assert [refusal.code for _, refusal in found.refused] == ["NII-NO-PAIR"]
    assert found.skipped == {}
    assert accounted(found) == sorted(tmp_path.iterdir())
    again = discover([tmp_path], cache=tmp_path.parent / "cache")
    assert again.series == found.series


MIXES = [
    ("DCM-UID-COLLISION", {"PatientID": "DOE^JANE"}),
    ("DCM-SPACING-MIX", {"PixelSpacing": [1.3, 1.3]}),
    ("DCM-MATRIX-MIX", {"Rows": 5, "Columns": 6}),
]


@pytest.mark.parametrize(("code", "tags"), MIXES)
def test_what_one_series_may_not_mix_refuses_all_of_it(code, tags, tmp_path):
    write_series(tmp_path, *phantom(), per_slice=lambda i: tags if i > 3 else {})
    found = discover([tmp_path])
    assert found.series == []
    assert {refusal.code for _, refusal in found.refused} == {code}
    assert len(accounted(found)) == 7
    assert "DOE" not in "".join(str(refusal) for _, refusal in found.refused)


@pytest.mark.parametrize(("code", "tags"), MIXES)
def test_a_series_is_split_where_the_catalog_says_so_and_patients_never(code, tags, tmp_path):
    write_series(tmp_path, *phantom(), per_slice=lambda i: tags if i > 3 else {})
    found = discover([tmp_path], policy=lambda series: Policy(split=True))
    sizes = sorted(len(series.files) for series in found.series)
    assert sizes == ([] if code == "DCM-UID-COLLISION" else [3, 4])
    assert len({series.name for series in found.series}) == len(sizes)
    # Only one half is meant: the other would be a part of a mixed series.
    half = discover([tmp_path], policy=lambda series: Policy(split=len(series.files) == 3))
    assert half.series == []


def implicit_without_meta(folder, **tags):
    """A series as raw data sets, the way some old archives keep them."""
    files = write_series(folder, *phantom(), syntax="1.2.840.10008.1.2", **tags)
    for path in files:
        dataset = pydicom.dcmread(path)
        with path.open("wb") as stream:
            pydicom.filewriter.write_dataset(pydicom.filebase.DicomFileLike(stream), dataset)
    return files


def test_files_without_meta_information_are_taken_only_if_the_catalog_says_so(tmp_path):
    files = implicit_without_meta(tmp_path)
    found = discover([tmp_path])
    ((series, refusal),) = found.refused
    assert (found.series, refusal.code, series.files) == ([], "DCM-NO-META", tuple(files))
    assert "7 of 7 files" in str(refusal)
    assert str(refusal).endswith("or state accept: [DCM-NO-META] in the catalog")
    taken = discover([tmp_path], policy=lambda s: Policy(accept=frozenset({"DCM-NO-META"})))
    assert [s.files for s in taken.series] == [tuple(files)]


def test_series_that_differ_by_their_uid_alone_are_kept_apart_and_flagged(tmp_path):
    volume, affine = phantom()
    common = {"StudyInstanceUID": "1.2.4", "EchoTime": "10"}
    write_series(tmp_path / "a", volume[:4], affine, **common)
    write_series(tmp_path / "b", volume[4:], affine, **common)
    write_series(tmp_path / "c", volume, affine, **common, SeriesNumber=5)
    flags = {len(series.files): series.flags for series in discover([tmp_path]).series}
    assert flags == {4: ("looks_like_one_series",), 3: ("looks_like_one_series",), 7: ()}


def test_a_series_knows_its_acquisition(tmp_path):
    dates = {0: "20240302", 1: "20240229", 2: "20240101", 3: ""}
    files = write_series(
        tmp_path / "dicom",
        *phantom(),
        per_slice=lambda i: {"AcquisitionDate": dates.get(i, "20240301"), "EchoTime": i % 2},
        SeriesInstanceUID="1.2.3",
    )
    files[2].write_bytes(files[2].read_bytes().replace(b"20240101", b"no date!"))
    nifti(tmp_path / "t1.nii")
    found = {
        s.relative: s for s in discover([tmp_path], policy=lambda s: Policy(split=True)).series
    }
    assert {s.acquisition_uid for s in found.values() if s.kind == "dicom"} == {"1.2.3"}
    assert found["dicom/000.dcm"].acquisition_date == "20240301"
    assert found["dicom/001.dcm"].acquisition_date == "20240229"
    assert (found["t1.nii"].acquisition_uid, found["t1.nii"].acquisition_date) == ("", "")


def test_the_same_image_in_two_sources_counts_once_and_another_of_its_name_does_not(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for source, kind in ((one, nib.Nifti1Image), (two, nib.Nifti1Image)):
        nifti(source / "same.nii", kind=kind)
        nifti(source / "pair.hdr", kind=nib.Nifti1Pair)
    nifti(one / "other.nii")
    nifti(two / "other.nii", seed=1)
    found = discover([one, two])
    assert [(s.name, s.files[0].parent) for s in found.series] == [
        ("other.nii", one), ("other.nii", two), ("pair", one), ("same", one)
    ]  # fmt: skip
    copies = ["pair.hdr", "pair.img", "same.nii"]
    assert [p.name for p in found.skipped["copy of a scan in another source"]] == copies
    assert len(accounted(found)) == found.n_files == 8
    # Under the ids of two people the same voxels are no copy, but a mistake that somebody has to see.
    apart = discover([one, two], subject="/(?P<subject>one|two)/")
    assert [s.name for s in apart.series].count("same.nii") == 2


@pytest.mark.parametrize("what", ["two-echoes", "two-orientations"])
def test_frames_of_one_file_may_belong_to_several_series(what, tmp_path):
    (case,) = (c for c in CASES if c.name == f"D23-{what}-in-one-enhanced-mr")
    case.make(tmp_path / "scans")
    first = discover([tmp_path / "scans"], cache=tmp_path / "cache")
    one, two = first.series
    assert one.files == two.files
    assert len({one.name, two.name}) == len({one.label, two.label}) == 2
    assert one.digest != two.digest
    (frames,), (others,) = one.frames, two.frames
    assert sorted(frames + others) == list(range(len(frames) + len(others)))
    assert first.n_files == first.n_images == len(accounted(first)) == 1
    assert discover([tmp_path / "scans"], cache=tmp_path / "cache") == first


def test_a_file_that_was_sent_again_is_a_copy_in_each_of_its_series(tmp_path):
    (case,) = (c for c in CASES if c.name == "D23-two-echoes-in-one-enhanced-mr")
    case.make(tmp_path)
    (path,) = tmp_path.rglob("*.dcm")
    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = "sent again"
    dataset.save_as(tmp_path / "again.dcm")
    found = discover([tmp_path])
    assert found.refused == []
    assert [len(series.files) for series in found.series] == [2, 2]
    scans = [read_series(series.files, frames=series.frames) for series in found.series]
    assert all(scan.n_duplicates == scan.image.sizes["z"] for scan in scans)


def test_a_file_whose_frames_make_one_series_is_whole(shared):
    found = discover([shared / "dcm-qa/dcm_qa_enh"])
    assert {part for s in found.series for part in s.frames} == {None}


def test_echoes_and_orientations_become_series_of_their_own(tmp_path):
    volume, affine = phantom()
    uids = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    for echo in (10, 20):
        write_series(tmp_path / str(echo), volume, affine, EchoTime=str(echo), **uids)
    turned = affine[:, [1, 2, 0, 3]]
    write_series(tmp_path / "turned", volume, turned, EchoTime="10", **uids)
    found = discover([tmp_path])
    assert [len(s.files) for s in found.series] == [7, 7, 7]
    assert len({s.name for s in found.series}) == len({s.label for s in found.series}) == 3


def test_links_are_not_followed(tmp_path):
    nifti(tmp_path / "real" / "a.nii")
    (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "same.nii").symlink_to(tmp_path / "real" / "a.nii")
    os.mkfifo(tmp_path / "real" / "pipe")
    found = discover([tmp_path])
    assert len(found.series) == 1
    assert {reason: len(paths) for reason, paths in found.skipped.items()} == {
        "symbolic link": 2, "not a regular file": 1
    }  # fmt: skip


def test_a_source_may_be_a_file_and_overlap_another(tree):
    whole = discover([tree])
    single = tree / "c" / "t1.nii.gz"
    (series,) = discover([single]).series
    assert (series.name, series.files) == ("t1", (single,))
    both = discover([tree, single, tree / "c"])
    assert both.n_files == whole.n_files
    assert both.series == whole.series


def test_a_source_that_is_not_there_is_an_error_in_one_line(tmp_path):
    with pytest.raises(SourceError, match="nowhere cannot be read: No such file") as caught:
        discover([tmp_path / "nowhere"])
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


# --- any tree ------------------------------------------------------------------------------------------------------


def dicom_bytes(series, number):
    volume, affine = phantom(shape=(5, 3, 4))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    uids = {
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": f"1.2.{series}",
        "SOPInstanceUID": f"1.3.{series}.{number}",
    }
    dataset = slice_of(volume[number], lps, number, PatientID=f"P{series}", **uids)
    with tempfile.NamedTemporaryFile() as file:
        return save(dataset, Path(file.name)).read_bytes()


SLICES = {(s, n): dicom_bytes(s, n) for s in (1, 2) for n in range(3)}
IMAGE = nib.Nifti1Image(phantom()[0].T, phantom()[1]).to_bytes()
CONTENT = {
    "slice": st.sampled_from(sorted(SLICES.values())),
    "image": st.sampled_from([IMAGE, gzip.compress(IMAGE)]),
    "header": st.just(nib.Nifti1Pair(phantom()[0].T, phantom()[1]).header.binaryblock + bytes(4)),
    "voxels": st.just(bytes(420)),
    "damaged": st.sampled_from([data[:300] for data in SLICES.values()]),
    "mixed": st.sampled_from([d.replace(b"P1", b"P2") for d in SLICES.values()]),
    "other": st.binary(max_size=40) | st.just(b"%PDF-1.4" + bytes(700)),
}
NAMES = st.sampled_from(["a", "b.dcm", "c.nii", "c.nii.gz", "d.hdr", "d.img", "d.img.gz", "e"])
FILES = st.dictionaries(
    st.tuples(st.sampled_from(["", "x/", "x/y/", "z/"]), NAMES).map("".join),
    st.one_of(*CONTENT.values()),
    max_size=8,
)


def packed(files, kind):
    whole = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(whole, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=whole, mode=f"w:{kind}") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return whole.getvalue()


@given(
    files=FILES,
    archives=st.dictionaries(
        st.sampled_from(["p.zip", "x/q.bin"]),
        st.tuples(FILES, st.sampled_from(["zip", "", "gz"])),
        max_size=2,
    ),
    links=st.integers(0, 2),
)
def test_every_file_of_any_tree_ends_in_one_place(files, archives, links):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        expected = set()
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
            expected.add(root / name)
        for name, (members, kind) in archives.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(packed(members, kind))
            expected |= {root / name / member for member in members} or {root / name}
        for number in range(links):
            (root / f"link{number}").symlink_to(root)
            expected.add(root / f"link{number}")
        cache = root.parent / f"{root.name}.cache"
        try:
            found = discover([root], cache=cache)
            assert accounted(found) == sorted(expected)
            assert found.n_files == len(expected)
            assert plain(discover([root], cache=cache)) == plain(found)
            assert plain(discover([root])) == plain(found)
        finally:
            cache.unlink(missing_ok=True)


# --- the cache -----------------------------------------------------------------------------------------------------


class Opened:
    """Files under a folder that were opened since the last look, as Python's own audit tells."""

    def __init__(self, folder):
        self.prefix, self.paths = str(folder), set()
        sys.addaudithook(self)

    def __call__(self, event, args):
        if event == "open" and isinstance(args[0], str) and args[0].startswith(self.prefix):
            self.paths.add(args[0])

    def since(self):
        paths, self.paths = self.paths, set()
        return paths


def test_an_unchanged_tree_is_not_read_again(tree, tmp_path):
    nifti(tree / "pair.hdr", kind=nib.Nifti1Pair)
    opened, cache = Opened(tree), tmp_path / "private" / "files.sqlite"
    first = discover([tree], cache=cache)
    assert len(opened.since()) == 20
    again = discover([tree], cache=cache)
    assert opened.since() == set()
    assert again == first
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    discover([tree], cache=cache, rehash=True)
    assert len(opened.since()) == 20
    discover([tree])
    assert len(opened.since()) == 20


@pytest.mark.parametrize("how", ["content", "touched", "replaced"])
def test_a_changed_file_and_no_other_is_read_again(how, tree, tmp_path):
    cache = tmp_path / "cache"
    first = discover([tree], cache=cache)
    path = tree / "c" / "t1.nii.gz"
    state = path.stat()
    if how == "replaced":
        nifti(tmp_path / "new.nii.gz", seed=5).rename(path)
    else:
        nifti(path, seed=5 if how == "content" else 0)
    # Size and mtime as before: ctime or inode still tell.
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    opened = Opened(tree)
    after = discover([tree], cache=cache)
    assert opened.since() == {str(path)}
    changed = [a.name for a, b in zip(after.series, first.series, strict=True) if a != b]
    assert changed == ([] if how == "touched" else ["c/t1"])


def test_a_damaged_cache_is_begun_anew(tree, tmp_path):
    cache = tmp_path / "cache"
    expected = discover([tree], cache=cache)
    cache.write_bytes(b"no database at all" * 100)
    assert discover([tree], cache=cache) == expected
    opened = Opened(tree)
    assert discover([tree], cache=cache) == expected
    assert opened.since() == set()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path):
    path = nifti(tmp_path / "a.nii")
    before = path.lstat()
    with FileCache(tmp_path / "cache") as known:
        entry = known.get(path, before)
        assert entry is None
        entry = look(path)
        path.write_bytes(path.read_bytes() + b"x")
        known.put(path, before, entry)
        assert known.get(path, before) is None
        known.put(path, path.lstat(), entry)
        assert known.get(path, path.lstat()) == entry


def test_progress_counts_the_files(tree):
    seen = []
    found = discover([tree], progress=seen.append)
    assert seen == list(range(1, found.n_files + 1))


def test_real_folders_give_the_series_that_are_there(shared):
    def shapes(name):
        found = discover([shared / name])
        assert len(accounted(found)) == found.n_files
        return sorted(len(s.files) for s in found.series)

    assert shapes("tcia-chest-ct") == [5]
    assert shapes("sunnybrook-localizers") == [5, 5, 5]
    assert shapes("dcmstack-multiecho")[-3:] == [2, 2, 3]
    assert shapes("dicom2nifti-samples/failing/sliceorientation/001") == [2, 2]
    assert shapes("sunnybrook-cine") == [222]
    assert len(shapes("hippocampus-msd")) == 256


DAMAGE = {
    "zeroed": lambda raw: bytes(len(raw)),
    "random": lambda raw: np.random.default_rng(0).bytes(len(raw)),
    "cut in the preamble": lambda raw: raw[:100],
    "cut behind the mark": lambda raw: raw[:132],
    "cut in the meta information": lambda raw: raw[:250],
    "cut in the class": lambda raw: raw[:185],
    "cut in the header": lambda raw: raw[:408],
}


@pytest.mark.parametrize("form", ["{}.dcm", "{}.IMA", "IM{}", "1.2.840.7.{}"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_slice_that_is_damaged_to_the_bone_is_named(damage, form, tmp_path):
    for i, path in enumerate(write_series(tmp_path, *phantom())):
        path = path.rename(tmp_path / form.format(i))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    found = discover([tmp_path])
    ((series, refusal),) = found.refused
    assert (series, refusal.files) == (None, (path,))
    assert refusal.code in ("SRC-DAMAGED", "DCM-HEADER")
    assert found.damaged == [path]
    assert found.skipped == {}


BESIDE_SLICES = {
    "IM9": b"a text, not a slice\n" * 9,
    "8": "тоже".encode("utf-16"),
    "7": gzip.compress(b"log"),
    ".DS_Store": b"\0\0\0\1Bud1" + bytes(400),
    "._3.dcm": b"\0\5\x16\7" + bytes(400),
    "scan.dcm": b"\x89PNG\r\n\x1a\n" + bytes(99),
    "voxels.bin": bytes(99),
}


def test_what_desktops_and_people_leave_among_slices_is_passed_over(tmp_path):
    for path in write_series(tmp_path, *phantom()):
        path.rename(path.with_suffix(""))
    for name, content in BESIDE_SLICES.items():
        (tmp_path / name).write_bytes(content)
    found = discover([tmp_path])
    assert (found.refused, found.damaged, len(found.series)) == ([], [], 1)
    assert {k: len(v) for k, v in found.skipped.items()} == {"not an image": len(BESIDE_SLICES)}


STAND_INS = {
    "annex": b"/annex/objects/MD5E-s1234--00.nii.gz\n",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
    "page": b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
}


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("name", ["a.nii", "A.NII.GZ", "a.dcm"])
def test_what_stands_in_for_an_image_that_was_not_fetched_is_named(stand_in, name, tmp_path):
    (tmp_path / name).write_bytes(STAND_INS[stand_in])
    (tmp_path / "a.html").write_bytes(STAND_INS[stand_in])
    found = discover([tmp_path])
    ((_, refusal),) = found.refused
    assert (refusal.code, refusal.files) == ("SRC-DAMAGED", (tmp_path / name,))
    assert "a placeholder (git-annex, DataLad, Git LFS) or a web page" in refusal.what
    assert {reason: list(files) for reason, files in found.skipped.items()} == {
        "not an image": [tmp_path / "a.html"]
    }


def test_a_slice_that_was_not_fetched_never_makes_a_shorter_scan(tmp_path):
    last = write_series(tmp_path, *phantom())[-1]
    last.write_bytes(STAND_INS["annex"])
    (tmp_path / "a page.html").write_bytes(STAND_INS["page"])
    found = discover([tmp_path])
    assert [r.files for _, r in found.refused] == [(last,)]
    assert found.damaged == [last]


@pytest.mark.parametrize("content", [bytes(600), gzip.compress(bytes(600))], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_a_nifti_that_is_zeroed_is_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert [r.code for _, r in discover([tmp_path]).refused] == ["SRC-DAMAGED"]


@pytest.mark.parametrize("ends", [(".HDR", ".IMG"), (".hdr", ".IMG"), (".HDR", ".img")])
def test_a_pair_is_one_image_whatever_the_case_of_its_endings(ends, tmp_path):
    nib.save(nib.Nifti1Pair(*phantom()), tmp_path / "a.hdr")
    for old, new in zip((".hdr", ".img"), ends, strict=True):
        (tmp_path / f"a{old}").rename(tmp_path / f"A{new}")
    found = discover([tmp_path])
    assert (found.refused, found.skipped, found.n_files) == ([], {}, 2)
    assert [[p.suffix for p in s.files] for s in found.series] == [list(ends)]
