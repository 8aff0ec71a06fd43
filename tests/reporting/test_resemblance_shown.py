"""Scans that resemble each other: found from the thumbnails of a store, shown in the report, and among real brains."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage as ndi

from cohort import schema
from cohort.cohort import Cohort
from cohort.io import nifti
from cohort.io.store import Store
from cohort.reporting import resemblance, slices
from cohort.reporting.html import render

N = 24


def anatomy(seed, shape=(30, 36, 32)):
    rng = np.random.default_rng(seed)
    z, y, x = (np.mgrid[: shape[0], : shape[1], : shape[2]].T - np.array(shape) / 2 + 0.5).T
    body = 1 / (1 + np.exp(np.sqrt((z * 1.1) ** 2 + y**2 + (x * 1.2) ** 2) - 11))
    detail = ndi.gaussian_filter(rng.normal(size=shape), 2.5)
    return 1000 * body * (1 + 0.2 * detail / detail.std() + 0.2 * np.tanh(x))


def write(store, scan_id, values, affine=None):
    affine = np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine
    dtype = np.int16 if values.max() > 255 else np.uint8
    scan = schema.make_scan(
        np.ascontiguousarray(np.rint(values), dtype), affine, image_attrs={"units": "1"}
    )
    store.write_scan(scan_id, scan, {"stamp": scan_id, "source": scan_id})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Strangers, a copy of one of them with another type, scale and size, and one mirrored."""
    found = Store(tmp_path_factory.mktemp("resemblance"))
    ids = [f"sub-{i:02d}_ses-1_a" for i in range(N)]
    for i, scan_id in enumerate(ids):
        write(found, scan_id, anatomy(i))
    write(found, "sub-copy_ses-1_a", np.clip(anatomy(3)[1:, :, :-2] * 0.15, 0, 255))
    write(found, "sub-flip_ses-1_a", anatomy(5)[..., ::-1])
    ids += ["sub-copy_ses-1_a", "sub-flip_ses-1_a"]
    table = pd.DataFrame({"scan_id": ids, "subject": [i.split("_")[0][4:] for i in ids]})
    found.write_table("scans", table.assign(participant=table["subject"], state="done"))
    return found


def test_a_copy_stored_otherwise_and_a_mirror_image_are_found_and_nothing_else(store):
    found = Cohort(store).similar()
    assert found[["kind", "scan_id", "other"]].to_numpy().tolist() == [
        ["flipped", "sub-flip_ses-1_a", "sub-05_ses-1_a"],
        ["duplicate", "sub-03_ses-1_a", "sub-copy_ses-1_a"],
    ]
    assert (found["r"] > 0.97).all()
    assert (found.attrs["unread"], found.attrs["reason"]) == ([], "")


def test_scans_without_a_subject_are_not_those_of_one(store):
    found = resemblance.similar(store, store.table("scans").assign(subject=None))
    assert list(found["kind"]) == ["flipped", "duplicate"]
    assert found["reason"].iloc[1].endswith("as scans of two subjects")


def test_the_report_shows_both_of_each_pair_side_by_side(store):
    page = render(store, title="t")
    section = page.partition('<section id="resemblance"')[2].partition("</section>")[0]
    assert section.count("<img ") == 4
    assert "Left and right exchanged" in section
    assert "One image twice" in section
    assert '<a href="#scan-' in section
    assert render(store, title="t") == page


def test_a_cohort_in_which_nothing_stands_twice_says_so(store):
    scans = store.table("scans").iloc[:N]
    shown = resemblance.context(store, scans)
    assert (shown["rows"], shown["many"], shown["reason"]) == ([], False, "")
    assert resemblance.context(store, pd.DataFrame())["n"] == 0


def few(folder, n: int, *, blank: int = 0) -> Store:
    """`n` strangers, the first of them without any content."""
    found = Store(folder)
    ids = [f"sub-{i:02d}_ses-1_a" for i in range(n)]
    for i, scan_id in enumerate(ids):
        write(found, scan_id, anatomy(i) * (i >= blank))
    table = pd.DataFrame({"scan_id": ids, "subject": ids, "state": "done"})
    found.write_table("scans", table)
    return found


@pytest.mark.parametrize(
    ("n", "blank", "why"),
    [
        (1, 0, "there is 1, so none was compared"),
        (9, 0, "there are 9, so none was compared"),
        (12, 4, "8 of 12 show anything, so none was compared"),
    ],
)
def test_a_cohort_that_could_not_be_compared_says_why_wherever_one_looks(tmp_path, n, blank, why):
    store = few(tmp_path, n, blank=blank)
    with pytest.warns(UserWarning, match=f"^nothing was compared: at least 10 scans .*; {why}$"):
        found = Cohort(store).similar()
    assert found.empty
    assert found.attrs["reason"].endswith(why)
    page = render(store, title="t")
    assert ("At least 10 scans are needed" in page) == (n > 1)  # one scan has no such section
    assert (why in page) == (n > 1)
    assert "No image stands twice" not in page


def test_scans_of_which_none_is_set_apart_are_not_said_to_differ(tmp_path):
    store = few(tmp_path, 0)
    ids = [f"sub-{i:02d}_ses-1_a" for i in range(12)]
    for scan_id in ids:
        write(store, scan_id, anatomy(0))
    store.write_table("scans", pd.DataFrame({"scan_id": ids, "subject": ids, "state": "done"}))
    with pytest.warns(UserWarning, match="all 12 scans are alike"):
        assert Cohort(store).similar().empty
    page = render(store, title="t")
    assert "All 12 scans are alike: nothing sets one of them apart." in page
    assert "No image stands twice" not in page


def test_more_scans_than_a_report_compares_are_left_to_the_notebook(store, monkeypatch):
    monkeypatch.setattr(resemblance, "MAX_SCANS", 25)
    shown = resemblance.context(store, store.table("scans"))
    assert (shown["rows"], shown["many"]) == ([], True)
    assert "<code>Cohort.similar()</code> compares them" in render(store, title="t")


def test_a_scan_that_cannot_be_read_is_counted_and_costs_nothing_else(store):
    scans = store.table("scans")
    more = pd.concat([scans, scans.iloc[:1].assign(scan_id="sub-gone_ses-1_a")])
    found = resemblance.similar(store, more)
    assert found.attrs["unread"] == ["sub-gone_ses-1_a"]
    assert len(found) == 2


@pytest.mark.parametrize("plane", slices.VIEWS)
def test_a_mid_plane_is_drawn_as_the_image_is(store, plane):
    scan_id = "sub-00_ses-1_a"
    mine = resemblance.mid_plane(store.thumbnail(scan_id), plane=plane)
    whole = slices.take(store.open_scan(scan_id)["image"], plane=plane)
    for name in ("row_mm", "column_mm", "top", "left", "dim", "position_mm"):
        assert getattr(mine, name) == getattr(whole, name)
    drawn = [slices.tile(cut, size=90).astype(int) for cut in (mine, whole)]
    assert np.abs(drawn[0] - drawn[1]).mean() < 4


@pytest.fixture(scope="module")
def brains(tmp_path_factory, shared):
    """167 brains, 9 of them of a second visit: store, files and scan ids."""
    files = sorted((shared / "oasis1-mni2mm/uint8").glob("*.nii.gz"))
    assert len(files) == 167
    found, ids = Store(tmp_path_factory.mktemp("brains")), [p.name[:13] for p in files]
    for path, scan_id in zip(files, ids, strict=True):
        found.write_scan(scan_id, nifti.read_image(path), {"stamp": scan_id})
    return found, files, ids


@pytest.mark.slow
def test_among_167_brains_of_158_persons_nothing_is_told(brains):
    store, _, ids = brains
    table = pd.DataFrame({"scan_id": ids, "subject": [name[:9] for name in ids]})
    assert resemblance.similar(store, table).empty


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_among_167_brains_a_copy_a_flip_and_a_swapped_label_are_found_and_nothing_else(
    tmp_path, brains, seed
):
    store, files, ids = brains
    rng = np.random.default_rng(seed)
    copied, flipped = rng.choice(len(ids), 2, replace=False)
    volume = nib.load(files[copied])
    again = np.rint(np.asarray(volume.get_fdata()) * 300).astype(np.int16)[1:, :, :-1]
    nib.save(nib.Nifti1Image(again, volume.affine), tmp_path / "copy.nii.gz")
    volume = nib.load(files[flipped])
    mirrored = np.asarray(volume.dataobj.get_unscaled())[::-1]
    nib.save(nib.Nifti1Image(mirrored, volume.affine), tmp_path / "flip.nii.gz")
    for name in ("copy", "flip"):
        store.write_scan(name, nifti.read_image(tmp_path / f"{name}.nii.gz"), {"stamp": name})
    subjects = [name[:9] for name in ids]
    second = int(rng.choice([i for i, name in enumerate(ids) if name.endswith("MR2")]))
    other = int(rng.choice([i for i, s in enumerate(subjects) if s != subjects[second]]))
    labels = [*subjects, "copy", "flip"]
    labels[second], labels[other] = labels[other], labels[second]
    first = ids[second].replace("MR2", "MR1")
    table = pd.DataFrame({"scan_id": [*ids, "copy", "flip"], "subject": labels})
    found = resemblance.similar(store, table)
    assert [(row.kind, {row.scan_id, row.other}) for row in found.itertuples()] == [
        ("flipped", {ids[flipped], "flip"}),
        ("duplicate", {ids[copied], "copy"}),
        ("swapped", {first, ids[second]}),
    ]
    assert found["scan_id"][0] == "flip"
    assert ids[other] in found["reason"][2]
