"""Finding series: content decides, every file is accounted for, and an unchanged tree is not read again."""

import gzip
import os
import shutil
import stat
import sys
import zipfile
from collections import Counter

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from series import phantom, save, write_series

from cohort.io.dicom import read_series
from cohort.io.discover import SourceError, discover
from cohort.io.filecache import FileCache
from cohort.provenance import file_digest


def nifti(path, *, seed=0, kind=nib.Nifti1Image):
    volume, affine = phantom(seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(kind(volume.T, affine), path)
    return path


def accounted(found):
    files = [f for s in found.series for f in s.files]
    files += [f for paths in found.skipped.values() for f in paths]
    for series, refusal in found.refused:
        files += series.files if series else refusal.files
    return sorted(files)


@pytest.fixture
def tree(tmp_path):
    """Two subjects, DICOM and NIfTI, and what lies about in such folders."""
    root = tmp_path / "tree"
    volume, affine = phantom()
    write_series(root / "b" / "mr", volume, affine, PatientID="B-2")
    write_series(root / "a" / "ct", volume + 1, affine, PatientID="A-1")
    nifti(root / "c" / "t1.nii.gz")
    (root / "notes.dcm").write_text("this is no image\n" * 50)
    (root / "empty.nii").touch()
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        archive.writestr("inside.txt", "x")
    return root


def test_every_file_ends_in_one_place(tree):
    found = discover([tree])
    everything = sorted(p for p in tree.rglob("*") if p.is_file())
    assert accounted(found) == everything
    assert found.n_files == len(everything) == 18
    assert {reason: len(paths) for reason, paths in found.skipped.items()} == {
        "not an image": 1, "empty file": 1, "archive": 1
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
    (tmp_path / "fake.nii").write_bytes(b"\x1f\x8b" + b"x" * 500)
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"text"))
    found = discover([tmp_path])
    assert [(s.kind, len(s.files)) for s in found.series] == [("dicom", 7), ("nifti", 1)]
    assert [p.name for p in found.skipped["not an image"]] == ["fake.nii", "text.nii.gz"]


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
    assert "CANARY" not in str(refusal)


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


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        ("DCM-UID-COLLISION", {"PatientID": "DOE^JANE"}),
        ("DCM-SPACING-MIX", {"PixelSpacing": [1.3, 1.3]}),
        ("DCM-MATRIX-MIX", {"Rows": 5, "Columns": 6}),
    ],
)
def test_what_one_series_may_not_mix_refuses_all_of_it(code, tags, tmp_path):
    write_series(tmp_path, *phantom(), per_slice=lambda i: tags if i > 3 else {})
    found = discover([tmp_path])
    assert found.series == []
    assert {refusal.code for _, refusal in found.refused} == {code}
    assert len(accounted(found)) == 7
    assert "DOE" not in "".join(str(refusal) for _, refusal in found.refused)


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
        from cohort.io.files import examine

        entry = examine(path)
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


def test_a_deflated_file_is_refused(tmp_path):
    (path,) = write_series(tmp_path, phantom()[0][:1], phantom()[1])
    dataset = pydicom.dcmread(path)
    save(dataset, path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.save_as(path, enforce_file_format=True)
    ((_, refusal),) = discover([tmp_path]).refused
    assert refusal.code == "DCM-SYNTAX"
