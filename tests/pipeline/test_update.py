"""The whole way on small scans: what is measured, what is stale, what is refused, and that nothing is lost."""

import functools
import gzip
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import cohorts
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage as ndi

from cohort import api
from cohort.call import Call
from cohort.io.store import Store
from cohort.ops import masks
from cohort.pipeline.steps import STEPS

HERE = api.Options(workers=0)


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path)


def table(catalog: Path) -> pd.DataFrame:
    found = Store(catalog.parent / "store").table("ball")
    assert found is not None
    return found


def expected(path: Path) -> dict[str, float]:
    """The recipe of `cohorts.RECIPE` in plain NumPy and SciPy."""
    image = nib.as_closest_canonical(nib.load(path))
    data = image.get_fdata().transpose(2, 1, 0)
    head = data > 0
    spots = (data < 0.9 * np.median(data[head])) & ndi.binary_erosion(head)
    labels, n = ndi.label(spots)
    sizes = np.bincount(labels.ravel(), minlength=2)
    sizes[0] = 0
    big = labels == sizes.argmax()
    z, y, x = ndi.center_of_mass(big)
    world = image.affine @ [x, y, z, 1]
    return {
        "n_head": head.sum(),
        "head_ml": head.sum() * 12 / 1000,
        "mean_head": data[head].mean(),
        "n_spots": n,
        "n_big": big.sum(),
        **{f"where_{d}": world[i] for i, d in enumerate("xyz")},
        "share": big.sum() / head.sum(),
    }


def test_update_measures_what_numpy_and_scipy_measure(catalog):
    result = api.update(catalog, options=HERE)
    assert result.manifest["counts"] == {"fresh": 0, "done": 6, "failed": 0, "quarantined": 0}
    assert not result.newly_bad
    rows = table(catalog).set_index("scan_id")
    assert len(rows) == 6
    for path in sorted((catalog.parent / "scans").glob("*.nii.gz")):
        subject = path.name[:3]
        row = rows.loc[f"sub-{subject}_ses-1_{subject}v1"]
        for name, value in expected(path).items():
            assert row[name] == pytest.approx(value, rel=1e-12, abs=1e-9), name
    assert result.manifest["unmatched"]["rows_without_scan"] == ["006_v1", "007_v1"]
    units = Store(catalog.parent / "store").units("ball")
    assert (units["head_ml"], units["where_x"], units["n_head"]) == ("ml", "mm", "voxel")


def test_an_error_that_escapes_a_step_names_it(tmp_path, monkeypatch):
    """Whatever a library says of its arrays, the reader has to know of which step."""
    catalog = cohorts.write_cohort(tmp_path, 1)

    @functools.wraps(masks.erode)
    def broken(mask, **given):
        if isinstance(mask.data, np.ndarray):  # not while the recipe is tried out
            np.zeros(0).reshape(0, -1)
        return masks.erode(mask, **given)

    monkeypatch.setitem(STEPS, "erode", STEPS["erode"]._replace(function=broken))
    (failed,) = api.update(catalog, options=HERE).failed
    assert failed["message"].startswith("step 'core': cannot reshape array of size 0")


@pytest.mark.parametrize("spotless", [[2], [0, 1, 2]])
@pytest.mark.parametrize("grain", ["scan", "block"])
def test_a_scan_in_which_nothing_is_found_has_no_regions_and_all_its_numbers(
    tmp_path, spotless, grain
):
    catalog = cohorts.write_cohort(tmp_path, 3)
    recipe = tmp_path / "recipes/ball.yaml"
    quantities = "[n_voxels, mean, centroid_mm, bounding_box, inscribed_radius_mm, sphericity]"
    recipe.write_text(recipe.read_text().replace("[n_voxels, mean]", quantities))
    for n in spotless:
        even = np.where(cohorts.ball(n) > 0, 100, 0).astype(np.int16)
        cohorts.write_scan(tmp_path / f"scans/{n:03d}_v1.nii.gz", even)
    options = api.Options(workers=0, grain=grain)
    assert api.update(catalog, options=options).manifest["counts"].get("failed", 0) == 0
    found, wide = Store(tmp_path / "store").table("ball.spots_of"), table(catalog)
    assert set(wide.state) == {"done"}
    truth = [expected(tmp_path / f"scans/{n:03d}_v1.nii.gz")["n_spots"] for n in range(3)]
    assert [truth[n] for n in spotless] == [0] * len(spotless)
    assert list(wide.n_spots) == truth
    assert list(found.groupby("scan_id").size().reindex(wide.scan_id, fill_value=0)) == truth
    assert list(found.columns[:4]) == ["scan_id", "label", "n_voxels", "mean"]
    assert {"centroid_mm_x", "inscribed_radius_mm", "sphericity"} <= set(found)
    # Nothing found in any scan is a table that can be asked like another.
    joined = api.open(catalog).sql(
        'SELECT scan_id, count(label) AS n, avg(mean) FROM ball LEFT JOIN "ball.spots_of" USING (scan_id) '
        "WHERE scan_id LIKE 'sub-%' GROUP BY 1 ORDER BY 1"
    )
    assert list(joined.n) == truth
    assert (found.label.dtype.kind, found["mean"].dtype.kind) == ("i", "f")


def test_an_update_without_changes_processes_nothing_and_leaves_every_table_alone(catalog):
    api.update(catalog, options=HERE)
    before = {p: p.stat().st_mtime_ns for p in (catalog.parent / "store/tables").iterdir()}
    again = api.update(catalog, options=HERE)
    assert again.manifest["processed"] == 0
    assert again.manifest["counts"] == {"fresh": 6, "done": 0, "failed": 0, "quarantined": 0}
    assert {p: p.stat().st_mtime_ns for p in (catalog.parent / "store/tables").iterdir()} == before


def test_an_update_reads_the_record_of_a_scan_once_and_of_a_stale_one_twice(catalog, monkeypatch):
    """A record is most of what a scan costs that has nothing to do; a plan needs little of it."""
    api.update(catalog, options=HERE)
    read, plain = [], Store.record

    def record(store, scan_id):
        read.append(scan_id)
        return plain(store, scan_id)

    monkeypatch.setattr(Store, "record", record)
    ids = cohorts.store_of(catalog).scan_ids()
    Call(catalog, None, HERE).work("update", ["ingest", "run"])
    assert sorted(read) == ids
    read.clear()
    Call(catalog, None, HERE).work("run", ["run"])
    assert sorted(read) == ids
    recipe = catalog.parent / "recipes/ball.yaml"
    recipe.write_text(recipe.read_text().replace("iterations: 1", "iterations: 2"))
    cohorts.store_of(catalog).files.remove(f"scans/{ids[2]}.json")
    changed = Call(catalog, None, HERE).work("update", ["ingest", "run"]).manifest
    assert changed["stages"]["run:ball"]["done"] == len(ids)
    assert changed["stages"]["ingest"]["done"] == 1


def test_a_scan_that_goes_between_its_ingest_and_its_plan_is_passed_over(catalog, monkeypatch):
    api.ingest(catalog, options=HERE)
    store = cohorts.store_of(catalog)
    ids = store.scan_ids()
    ingest = Call._ingest

    def then_one_goes(call, ledger):
        done = ingest(call, ledger)
        store.files.remove(f"scans/{ids[1]}.json")
        return done

    monkeypatch.setattr(Call, "_ingest", then_one_goes)
    done = Call(catalog, None, HERE).work("update", ["ingest", "run"]).manifest
    assert done["stages"]["run:ball"]["done"] == len(ids) - 1
    assert store.derivative_ids("ball") == [s for s in ids if s != ids[1]]


def test_touching_a_file_processes_nothing_even_when_every_file_is_digested_again(catalog):
    api.update(catalog, options=HERE)
    os.utime(catalog.parent / "scans/000_v1.nii.gz", (1, 1))
    assert api.update(catalog, options=HERE).manifest["processed"] == 0
    rehash = api.Options(workers=0, rehash=True)
    assert api.update(catalog, options=rehash).manifest["processed"] == 0


def test_one_voxel_changed_processes_that_scan_alone(catalog):
    api.update(catalog, options=HERE)
    data = cohorts.ball(3)
    data[9, 10, 8] += 1
    path = catalog.parent / "scans/003_v1.nii.gz"
    cohorts.write_scan(path, data)
    result = api.update(catalog, options=HERE)
    assert result.manifest["processed"] == 1
    row = table(catalog).set_index("scan_id").loc["sub-003_ses-1_003v1"]
    assert row["mean_head"] == pytest.approx(expected(path)["mean_head"], rel=1e-12)


def test_a_change_of_the_header_alone_is_ingested_but_not_measured_again(catalog):
    api.update(catalog, options=HERE)
    path = catalog.parent / "scans/002_v1.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"another text"
    data = np.asarray(image.dataobj.get_unscaled())
    fresh = nib.Nifti1Image(data, image.affine, image.header)
    fresh.header.set_slope_inter(0.5, 0.0)
    nib.save(fresh, path)
    result = api.update(catalog, options=HERE)
    assert result.manifest["stages"]["ingest"]["done"] == 1
    assert result.manifest["stages"]["run:ball"]["fresh"] == 6


def test_a_changed_parameter_runs_that_step_and_what_follows(catalog):
    api.update(catalog, options=HERE)
    recipe = catalog.parent / "recipes/ball.yaml"
    recipe.write_text(cohorts.RECIPE.replace("0.9 * level", "0.8 * level"), encoding="utf-8")
    (plan,) = api.plan(catalog, options=HERE)
    assert plan.reasons() == {"changed in the recipe: dark": 6}
    stale = {"dark", "spots", "parts", "big", "n_spots", "n_big", "where", "share", "spots_of"}
    assert set(plan.stale_steps()) == stale
    result = api.update(catalog, options=HERE)
    assert result.manifest["processed"] == 6
    ran = result.manifest["stages"]["run:ball"]["steps"]
    # `head` and `core` run again because nobody kept them; `level`, a number, is at hand.
    assert set(ran) == stale | {"head", "core"}
    clean = cohorts.write_cohort(catalog.parent / "clean")
    (clean.parent / "recipes/ball.yaml").write_text(recipe.read_text(), encoding="utf-8")
    api.update(clean, options=HERE)
    pd.testing.assert_frame_equal(table(catalog), table(clean))


def test_both_grains_and_any_workers_leave_the_same_bytes(catalog):
    api.update(catalog, options=HERE)
    other = cohorts.write_cohort(catalog.parent / "blocks")
    api.update(other, options=api.Options(workers=0, grain="block"))
    assert digests(catalog) == digests(other)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("grain", ["scan", "block"])
def test_a_cluster_leaves_the_same_bytes_as_a_plain_loop(catalog, grain):
    api.update(catalog, options=HERE)
    other = cohorts.write_cohort(catalog.parent / "cluster")
    api.update(other, options=api.Options(workers=2, grain=grain, memory=2 << 30))
    assert digests(catalog) == digests(other)


def digests(catalog: Path) -> dict[str, str]:
    """Content of everything that counts in a store, by path."""
    from cohort.provenance import file_digest

    root = catalog.parent / "store"
    parts = ("scans", "derivatives", "tables")
    return {
        p.relative_to(root).as_posix(): file_digest(p)
        for part in parts
        for p in sorted((root / part).rglob("*"))
        if p.is_file()
    }


def test_a_corrupt_scan_is_quarantined_by_name_and_the_rest_is_finished(catalog):
    path = catalog.parent / "scans/004_v1.nii.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    result = api.update(catalog, options=HERE)
    assert result.manifest["counts"] == {"fresh": 0, "done": 5, "failed": 0, "quarantined": 1}
    assert result.newly_bad
    (problem,) = result.problems
    assert problem.code == "NII-TRUNCATED"
    assert str(path) in problem.text
    again = api.update(catalog, options=HERE)
    assert again.manifest["counts"] == {"fresh": 5, "done": 0, "failed": 0, "quarantined": 1}
    assert (again.manifest["processed"], again.newly_bad) == (0, False)
    cohorts.write_scan(path, cohorts.ball(4))
    mended = api.update(catalog, options=HERE)
    assert mended.manifest["counts"] == {"fresh": 5, "done": 1, "failed": 0, "quarantined": 0}
    assert Store(catalog.parent / "store").quarantine() == []


def test_a_scan_on_which_a_step_fails_is_named_and_not_tried_again_until_something_changes(catalog):
    cohorts.write_scan(catalog.parent / "scans/001_v1.nii.gz", np.zeros((9, 8, 7), np.int16))
    result = api.update(catalog, options=HERE)
    assert result.manifest["counts"]["failed"] == 1
    (failed,) = result.failed
    assert failed["scan_id"] == "sub-001_ses-1_001v1"
    assert "mask without voxels" in failed["message"]
    rows = table(catalog).set_index("scan_id")
    assert rows.loc["sub-001_ses-1_001v1", "state"] == "failed"
    assert np.isnan(rows.loc["sub-001_ses-1_001v1", "n_head"])
    again = api.update(catalog, options=HERE)
    assert (again.manifest["processed"], again.newly_bad) == (0, False)


def test_two_files_that_would_be_one_scan_are_both_refused(catalog):
    again = catalog.parent / "scans/copy/000_v1.nii.gz"
    cohorts.write_scan(again, cohorts.ball(50))
    result = api.update(catalog, options=HERE)
    assert [p.code for p in result.problems] == ["ID-COLLISION", "ID-COLLISION"]
    assert result.manifest["counts"] == {"fresh": 0, "done": 5, "failed": 0, "quarantined": 2}
    again.unlink()
    assert api.update(catalog, options=HERE).manifest["counts"]["quarantined"] == 0


def test_a_scan_whose_file_went_away_leaves_the_tables(catalog):
    api.update(catalog, options=HERE)
    (catalog.parent / "scans/005_v1.nii.gz").unlink()
    result = api.update(catalog, options=HERE)
    assert len(table(catalog)) == 5
    assert result.manifest["found"]["absent"] == ["sub-005_ses-1_005v1"]


def test_a_lost_chunk_is_an_error_and_never_background(catalog):
    api.ingest(catalog, options=HERE)
    store = Store(catalog.parent / "store")
    (store.root / "scans/sub-000_ses-1_000v1.zarr/image/c/0/0/0").unlink()
    with pytest.raises(ValueError, match=r"image/c/0/0/0 is missing"):
        store.open_scan("sub-000_ses-1_000v1")


@pytest.mark.slow
def test_killing_the_process_at_any_moment_and_running_again_ends_as_if_undisturbed(tmp_path):
    calm = cohorts.write_cohort(tmp_path / "calm", scans=8)
    api.update(calm, options=HERE)
    wild = cohorts.write_cohort(tmp_path / "wild", scans=8)
    command = [sys.executable, "-m", "cohort.cli", "update", str(wild), "--workers", "0"]
    moments = random.Random(7)
    started = time.perf_counter()
    subprocess.run(
        [*command[:-3], str(cohorts.write_cohort(tmp_path / "timed", scans=8)), "--workers", "0"],
        check=True,
        capture_output=True,
    )
    whole = time.perf_counter() - started
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.2, 1.0) * whole)
        process.kill()
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert digests(wild) == digests(calm)
    assert not list((tmp_path / "wild/store/_staging").iterdir())


def test_a_second_writer_is_told_who_holds_the_store(catalog):
    from cohort.io.store import Locked

    with (
        Store(catalog.parent / "store").lock(),
        pytest.raises(Locked, match=rf"process {os.getpid()} on"),
    ):
        api.update(catalog, options=HERE)


def test_the_latest_of_many_runs_within_a_second_is_the_last(catalog):
    api.ingest(catalog, options=HERE)
    store = Store(catalog.parent / "store")
    made = [api.fit(catalog, options=HERE).manifest["run_id"] for _ in range(12)]
    assert store.runs()[1:] == made
    assert store.manifest()["run_id"] == made[-1]


def test_every_call_leaves_a_manifest_and_events(catalog):
    api.update(catalog, options=HERE)
    api.run(catalog, options=HERE)
    store = Store(catalog.parent / "store")
    assert [store.manifest(r)["command"] for r in store.runs()] == ["update", "run"]
    events = [
        json.loads(line)
        for line in (store.root / "runs" / store.runs()[0] / "events.jsonl")
        .read_text()
        .splitlines()
    ]
    assert sum(e["event"] == "done" for e in events) == 6
    assert events[-1]["event"] == "end"


def test_tokens_hide_subjects_and_paths_and_still_join_with_the_table(catalog):
    catalog.write_text(cohorts.CATALOG.replace("ids: keep", "ids: token"), encoding="utf-8")
    result = api.update(catalog, options=HERE)
    scans = api.open(catalog).scans
    assert scans["participant"].notna().all()
    assert scans["subject"].str.fullmatch(r"[a-z0-9]{16}").all()
    assert len(result.manifest["unmatched"]["rows_without_scan"]) == 2
    for path in (catalog.parent / "store").rglob("*"):
        if path.is_file():
            assert b"000_v1" not in path.read_bytes(), path
