"""Maps from running sums through `cohort`: the maps of the cube, each scan read once, and nobody left who withdrew."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from killing import killed_at
from test_voxel_maps import (
    AFFINE,
    ASKED,
    SHAPE,
    SMALL,
    N,
    brain,
    call,
    fitted,
    plain,
    write_brain,
    write_small,
)

import cohort
from cohort.io import maps, sums
from cohort.io.store import Store
from cohort.stats import voxelwise
from cohort.stats.voxels import streaming
from cohort.stats.voxels.asked import Source

FORMS = {"cube-map": {"form": "cube"}, "sums-map": {"form": "streaming"}}
FORMULA = {**SMALL, "formula": "dx + age", "contrasts": {"both": "dx + 10 * age"}}
VOXELWISE = {"mask": ASKED["mask"], "cluster_threshold": 2.0, "joint": {"all": ["dx", "age"]}}


@pytest.fixture
def catalog(tmp_path):
    models = {
        name: {**FORMULA, "outcome": name.replace("-", "_"), "voxelwise": {**VOXELWISE, **form}}
        for name, form in FORMS.items()
    }
    return write_small(tmp_path, models)


@pytest.fixture
def read(monkeypatch):
    """Scans that were read for sums, or for the cube."""
    scans, load = [], Source.load

    def noted(self, scan_id):
        scans.append(scan_id)
        return load(self, scan_id)

    monkeypatch.setattr(Source, "load", noted)
    return scans


def edit(catalog, **given):
    content = yaml.safe_load(catalog.read_text())
    for model in content["models"].values():
        model.update(given)
    catalog.write_text(plain(content))


def everywhere(catalog):
    """Without a mask."""
    content = yaml.safe_load(catalog.read_text())
    for model in content["models"].values():
        model["voxelwise"]["mask"] = {}
    catalog.write_text(plain(content))


def alone(catalog):
    """Leave the model of sums alone in the catalog: what is read is read for it."""
    content = yaml.safe_load(catalog.read_text())
    content["models"].pop("cube-map", None)
    catalog.write_text(plain(content))


def events(catalog):
    store = Store(catalog.parent / "store")
    run = store.files.names("runs")[-1]
    return [json.loads(line) for line in store.events(run)]


def said_of(catalog):
    return next(e for e in events(catalog) if e["event"] == "fitted" and e["model"] == "sums-map")


def check_alike(catalog, names=("beta", "se", "t", "p", "q", "partial_r", "d", "F", "F_p", "F_q", "mean", "sigma")):  # fmt: skip
    opened = cohort.open(catalog)
    streamed, whole = (opened.voxelwise(name).load() for name in ("sums-map", "cube-map"))
    for name in names:
        rtol = 1e-6 if streamed[name].dtype == np.float32 else 1e-9
        np.testing.assert_allclose(streamed[name], whole[name], rtol=rtol, atol=1e-9, err_msg=name)
    for name in ("n", "dof"):
        np.testing.assert_array_equal(streamed[name], whole[name])
    assert "hc3_t" not in streamed
    return streamed, whole


def check_as_from_scratch(catalog):
    """The sums that are kept give what all scans that the model has give when they are read anew."""
    opened = cohort.open(catalog)
    before = opened.voxelwise("sums-map").load()
    store = opened.store
    store.remove_model("sums-map")
    assert call("fit", catalog).exit_code == 0
    after = cohort.open(catalog).voxelwise("sums-map").load()
    for name in ("beta", "se", "t", "p", "d", "mean", "sigma", "n", "dof"):
        np.testing.assert_allclose(before[name], after[name], rtol=1e-6 if before[name].dtype == np.float32 else 1e-9, atol=1e-9)  # fmt: skip


def test_sums_give_the_maps_of_the_cube_and_read_each_scan_once(catalog, tmp_path, read):
    alone_before = catalog.read_text()
    alone(catalog)
    said = fitted(catalog)
    assert sorted(read) == sorted(set(read))
    assert len(read) == N
    assert "294 of 294 voxels of the mask fitted (336 in the grid)" in said
    assert {"read": N, "anew": "first fit"}.items() <= said_of(catalog).items()
    assert not (tmp_path / "store/models/sums-map/cube.json").exists()
    catalog.write_text(alone_before)
    assert call("fit", catalog).exit_code == 0
    check_alike(catalog)
    opened = cohort.open(catalog)
    ours, theirs = (opened.voxelwise(f"{form}-map").attrs["peaks"] for form in ("sums", "cube"))
    pd.testing.assert_frame_equal(ours, theirs[ours.columns], rtol=1e-9)
    assert call("report", catalog).exit_code == 0
    assert "classical, from sums over the scans" in (tmp_path / "store/report/index.html").read_text()  # fmt: skip
    for command in ("verify", "audit"):
        assert call(command, catalog).exit_code == 0, call(command, catalog).output


def test_of_scans_that_come_and_go_nothing_else_is_read(catalog, tmp_path, read):
    alone(catalog)
    fitted(catalog)
    read.clear()
    for i in (N, N + 1):
        write_brain(tmp_path / "scans", i)
    fitted(catalog)
    assert [s[:7] for s in read] == ["sub-P16", "sub-P17"]
    assert said_of(catalog)["read"] == 2
    check_as_from_scratch(catalog)
    read.clear()
    edit(catalog, where="age < 80")
    fitted(catalog)
    people = pd.read_csv(tmp_path / "people.csv").iloc[: N + 2]
    assert [s[4:7] for s in read] == sorted(people["id"][people["age"] >= 80])
    check_as_from_scratch(catalog)
    read.clear()
    people = pd.read_csv(tmp_path / "people.csv")
    people.loc[people["id"] == "P03", "age"] = 71
    people.to_csv(tmp_path / "people.csv", index=False)
    fitted(catalog)
    assert [s[:7] for s in read] == ["sub-P03"]
    check_as_from_scratch(catalog)
    read.clear()
    edit(catalog, contrasts={"both": "dx + 20 * age"})
    assert "age < 80" in catalog.read_text()
    fitted(catalog)
    assert read == []


def test_where_old_bytes_are_gone_or_scans_are_counted_otherwise_all_are_read(catalog, tmp_path, read):  # fmt: skip
    alone(catalog)
    fitted(catalog)
    image = nib.Nifti1Image(brain(77), AFFINE)
    read.clear()
    nib.save(image, tmp_path / "scans/P02_1.nii.gz")
    fitted(catalog)
    assert len(read) == N
    assert said_of(catalog)["anew"] == "what 1 scans were that went, or were replaced, is not there any more"  # fmt: skip
    check_as_from_scratch(catalog)
    for given, why in (
        ({"mask": {"above": 1.0}}, "above changed"),
        ({"smooth_fwhm_mm": 3}, "smooth_fwhm_mm changed"),
    ):
        read.clear()
        content = yaml.safe_load(catalog.read_text())
        content["models"]["sums-map"]["voxelwise"].update(given)
        catalog.write_text(plain(content))
        fitted(catalog)
        assert len(read) == N
        assert said_of(catalog)["anew"] == why
    read.clear()
    edit(catalog, formula="dx + age + I(age ** 2)")
    fitted(catalog)
    assert (len(read), said_of(catalog)["anew"]) == (N, "columns changed")


@pytest.mark.parametrize("origin", [False, True])
def test_a_voxel_that_a_scan_lacks_comes_back_when_the_scan_leaves(catalog, tmp_path, origin):
    who = 0 if origin else 3
    lacking = brain(who)
    lacking[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(lacking, AFFINE), tmp_path / f"scans/P{who:02d}_1.nii.gz")
    everywhere(catalog)
    said = fitted(catalog)
    assert "1 voxel left out: some scan has no number there" in said
    assert np.isnan(cohort.open(catalog).voxelwise("sums-map")["t"].to_numpy()[:, 3, 3]).any()
    edit(catalog, where=f"age != {60 + (who * 7) % 23}")
    fitted(catalog)
    assert said_of(catalog)["read"] == 1
    streamed, _ = check_alike(catalog)
    assert int(np.isfinite(streamed["t"][0]).sum()) == 294


def test_a_scan_without_a_number_is_in_no_sum(catalog, tmp_path, read):
    nib.save(nib.Nifti1Image(np.full(SHAPE, np.nan, np.float32), AFFINE), tmp_path / "scans/P04_1.nii.gz")  # fmt: skip
    everywhere(catalog)
    fitted(catalog)
    check_alike(catalog)
    read.clear()
    alone(catalog)
    write_brain(tmp_path / "scans", N)
    fitted(catalog)
    assert [s[:7] for s in read] == ["sub-P16"]


def test_the_same_bytes_for_any_number_of_workers(catalog, tmp_path, monkeypatch):
    from cohort.stats.voxels import fitting

    alone(catalog)
    monkeypatch.setattr(streaming, "GROUP", 5)
    chunks = []
    for workers in (1, 2, 3):
        monkeypatch.setattr(fitting.os, "cpu_count", lambda n=workers: n)
        Store(tmp_path / "store").remove_model("sums-map")
        fitted(catalog)
        folder = tmp_path / "store/models/sums-map"
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if ".zarr/" in str(p) and p.is_file()}  # fmt: skip
        chunks.append(found)
    assert chunks[0] == chunks[1] == chunks[2]
    assert len(chunks[0]) > 40


def test_what_sums_cannot_give_is_refused_when_the_catalog_is_read(catalog):
    text = catalog.read_text()
    for asked, name in (({"permutations": {"seed": 1}}, "permutations"), ({"tfce": True}, "tfce")):
        content = yaml.safe_load(text)
        content["models"]["sums-map"]["voxelwise"].update(asked)
        catalog.write_text(plain(content))
        said = call("fit", catalog)
        assert said.exit_code == 2
        assert f"form: streaming keeps sums, and {name} needs the scans: form: cube" in said.output


def test_from_cube_to_sums_and_back(catalog, tmp_path):
    folder = tmp_path / "store/models/sums-map"
    alone(catalog)
    fitted(catalog)
    content = yaml.safe_load(catalog.read_text())
    for form, there in (("cube", "cube-1.zarr"), ("streaming", "sums-1.zarr")):
        content["models"]["sums-map"]["voxelwise"]["form"] = form
        catalog.write_text(plain(content))
        fitted(catalog)
        kept = {p.name for p in folder.iterdir() if p.name.endswith(".zarr")}
        assert kept == {"maps.zarr", there}
        assert call("verify", catalog).exit_code == 0, call("verify", catalog).output


def test_damaged_sums_are_seen_and_made_again(catalog, tmp_path, read):
    alone(catalog)
    fitted(catalog)
    chunk = next(p for p in sorted((tmp_path / "store/models/sums-map/sums-1.zarr/Xy/c").rglob("*")) if p.is_file())  # fmt: skip
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    said = call("verify", catalog)
    assert said.exit_code == 1
    assert "sums-1.zarr/Xy" in said.output
    call("verify", catalog, "--repair")
    read.clear()
    fitted(catalog)
    assert len(read) == N
    assert call("verify", catalog).exit_code == 0


def leave(catalog, tmp_path, who):
    """The sources' part of a withdrawal."""
    (tmp_path / f"scans/{who}_1.nii.gz").unlink()
    people = pd.read_csv(tmp_path / "people.csv")
    people[people["id"] != who].to_csv(tmp_path / "people.csv", index=False)


def holders(store, name):
    files = [p for p in store.root.rglob("*") if p.is_file()]
    return [p for p in files if name.encode() in p.read_bytes() or name in str(p.relative_to(store.root))]  # fmt: skip


@pytest.mark.parametrize("who", ["P05", "P00"])  # P00 is the scan from which values are counted
def test_who_withdraws_is_taken_out_and_nobody_is_read_again(catalog, tmp_path, read, who):
    alone(catalog)
    fitted(catalog)
    store = Store(tmp_path / "store")
    before = sums.record(store, "sums-map")
    first = sums.read(store, "sums-map", before).origin
    leave(catalog, tmp_path, who)
    read.clear()
    proof = tmp_path / "proof.json"
    said = call("withdraw", catalog, who, "--proof", proof, "--voxels")
    assert said.exit_code == 0, said.output
    assert [s[:7] for s in read] == [f"sub-{who}"]
    assert json.loads(proof.read_text())["models_to_refit"] == ["sums-map"]
    assert holders(store, who) == []
    after = sums.record(store, "sums-map")
    assert before["scans"].keys() - after["scans"].keys() == {read[0]}
    assert not (tmp_path / "store/models/sums-map" / before["place"]).exists()
    if who == "P00":
        assert after["origin"] == ""
        origin = sums.read(store, "sums-map", after).origin
        assert (np.abs(origin - first)[first > 0] > 1e-3).mean() > 0.99
    assert maps.record(store, "sums-map") is None
    assert call("verify", catalog).exit_code == 0, call("verify", catalog).output
    read.clear()
    fitted(catalog)
    assert read == []
    assert said_of(catalog)["read"] == 0
    check_as_from_scratch(catalog)


def test_who_left_the_model_before_withdrawing_is_no_origin_either(catalog, tmp_path, read):
    alone(catalog)
    fitted(catalog)
    edit(catalog, where="age > 60")  # all but the first
    fitted(catalog)
    store = Store(tmp_path / "store")
    before = sums.record(store, "sums-map")
    assert (before["origin"][:7], len(before["scans"])) == ("sub-P00", N - 1)
    leave(catalog, tmp_path, "P00")
    read.clear()
    assert call("withdraw", catalog, "P00", "--proof", tmp_path / "proof.json").exit_code == 0
    assert holders(store, "P00") == []
    after = sums.record(store, "sums-map")
    assert (after["origin"], after["scans"]) == ("", before["scans"])
    fitted(catalog)
    assert read == []
    check_as_from_scratch(catalog)


def test_sums_that_cannot_be_moved_from_who_withdraws_go_and_the_others_are_read(catalog, tmp_path, read):  # fmt: skip
    lacking = brain(3)
    lacking[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(lacking, AFFINE), tmp_path / "scans/P03_1.nii.gz")
    alone(catalog)
    fitted(catalog)
    leave(catalog, tmp_path, "P00")
    assert call("withdraw", catalog, "P00", "--proof", tmp_path / "proof.json").exit_code == 0
    store = Store(tmp_path / "store")
    assert sums.record(store, "sums-map") is None
    assert holders(store, "P00") == []
    assert store.files.names("models/sums-map") == []
    read.clear()
    fitted(catalog)
    assert len(read) == N - 1
    assert call("verify", catalog).exit_code == 0


@pytest.mark.parametrize("withdraws", [False, True])
@pytest.mark.parametrize(("who", "factor"), [("P00", 1e3), ("P00", 1e5), ("P04", 1e5)])
def test_where_who_leaves_was_far_from_the_others_all_are_read_anew(catalog, tmp_path, read, who, factor, withdraws):  # fmt: skip
    """P00 is the scan from which values are counted."""
    far = (brain(int(who[1:])) * factor).astype(np.float32)
    nib.save(nib.Nifti1Image(far, AFFINE), tmp_path / f"scans/{who}_1.nii.gz")
    alone(catalog)
    fitted(catalog)
    read.clear()
    if withdraws:
        leave(catalog, tmp_path, who)
        assert call("withdraw", catalog, who, "--proof", tmp_path / "proof.json").exit_code == 0
        assert sums.record(Store(tmp_path / "store"), "sums-map") is None
        read.clear()
    else:
        edit(catalog, where=f"age != {60 + (int(who[1:]) * 7) % 23}")
    fitted(catalog)
    assert len([s for s in read if who not in s]) == N - 1
    if not withdraws:
        assert said_of(catalog)["anew"].endswith("the scans that went is mostly rounding")
    check_as_from_scratch(catalog)


def test_another_way_to_fit_reads_no_scan_again(catalog, read, monkeypatch, tmp_path):
    fitted(catalog)
    assert len(read) == 2 * N  # the cube, and the sums
    read.clear()
    monkeypatch.setattr(voxelwise, "REVISION", voxelwise.REVISION + 1)
    fitted(catalog)
    assert read == []
    store = Store(tmp_path / "store")
    assert {maps.record(store, m)["revision"] for m in FORMS} == {voxelwise.REVISION}


def test_a_withdrawal_that_is_killed_anywhere_takes_everybody_out_once(catalog, tmp_path):
    alone(catalog)
    fitted(catalog)
    store, proof = Store(tmp_path / "store"), tmp_path / "proof.json"
    leave(catalog, tmp_path, "P00")
    # Each try goes on from where the one before was killed, a step further.
    operation = 0
    while killed_at(operation, lambda: call("withdraw", catalog, "P00", "--proof", proof)):
        operation += 1
        assert operation < 200
    assert operation >= 8
    assert holders(store, "P00") == []
    assert len(sums.record(store, "sums-map")["scans"]) == N - 1
    fitted(catalog)
    assert said_of(catalog)["read"] == 0
    check_as_from_scratch(catalog)


def test_a_fit_that_is_killed_anywhere_counts_nobody_twice(catalog, tmp_path):
    alone(catalog)
    fitted(catalog)
    write_brain(tmp_path / "scans", N)
    edit(catalog, where="age < 80")
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    operation = 0
    while killed_at(operation, lambda: call("fit", catalog)):
        operation += 1
        assert operation < 200
    assert operation >= 8
    store = Store(tmp_path / "store")
    said = sums.record(store, "sums-map")
    assert {n for n in store.files.names("models/sums-map") if n.startswith("sums-")} == {said["place"]}  # fmt: skip
    check_as_from_scratch(catalog)


def test_a_share_of_the_scans_that_is_a_whole_number_of_them_suffices(catalog, tmp_path):
    """0.28 of 25 are 7, and of doubles more than 7."""
    for i in range(25):
        image = brain(i)
        image[:, 0] = np.random.default_rng(i).uniform(1, 2, image[:, 0].shape) if i < 7 else 0
        nib.save(nib.Nifti1Image(image, AFFINE), tmp_path / "scans" / f"P{i:02d}_1.nii.gz")
    people = [(f"P{i:02d}", i % 2, 60 + (i * 7) % 23) for i in range(25)]
    pd.DataFrame(people, columns=["id", "dx", "age"]).to_csv(tmp_path / "people.csv", index=False)
    content = yaml.safe_load(catalog.read_text())
    for model in content["models"].values():
        model["voxelwise"]["mask"] = {"above": 0.0, "share": 0.28}
    catalog.write_text(plain(content))
    fitted(catalog)
    check_alike(catalog)
    for name in FORMS:
        voxels = maps.record(cohort.open(catalog).store, name)["voxels"]
        assert voxels["mask"] == voxels["grid"] == np.prod(SHAPE)
