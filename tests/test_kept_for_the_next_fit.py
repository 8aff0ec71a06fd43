"""What a model of maps keeps for its next fit: it outlives a fit that fails or dies, is made anew where it is damaged, and nobody who withdrew stays in it."""

import json
import shutil

import numpy as np
import pytest
import yaml
from killing import killed_at
from test_voxel_maps import ASKED, SMALL, N, call, fitted, write_brain, write_small

import cohort
from cohort.io import kept, maps
from cohort.io.leaving import withdraw
from cohort.io.storage import jsonfile
from cohort.io.store import Store
from cohort.stats import voxelwise
from cohort.stats.voxels import fitting
from cohort.stats.voxels.asked import Source

STEM = {"cube": "cube", "streaming": "sums"}
NAMES = ("beta", "se", "t", "p", "mean", "sigma", "n", "dof")


@pytest.fixture(params=["cube", "streaming"])
def form(request):
    return request.param


@pytest.fixture
def catalog(tmp_path, form):
    asked = {"mask": ASKED["mask"], "cluster_threshold": 2.0, "form": form}
    if form == "cube":
        asked["permutations"] = {"seed": 4, "n": 120}
    return write_small(tmp_path, {"m": {**SMALL, "voxelwise": asked}})


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def read(monkeypatch):
    """Scans that were read."""
    scans, load = [], Source.load

    def noted(self, scan_id):
        scans.append(scan_id[:7])
        return load(self, scan_id)

    monkeypatch.setattr(Source, "load", noted)
    return scans


def edit(catalog, **given):
    content = yaml.safe_load(catalog.read_text())
    model = content["models"]["m"]
    model["voxelwise"] |= given.pop("voxelwise", {})
    model.update(given)
    catalog.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))


def groups(store):
    return sorted(n for n in store.files.names("models/m") if n.endswith(".zarr"))


def sound(catalog, code=0):
    said = call("verify", catalog)
    assert said.exit_code == code, said.output
    return said.output


def check_as_from_scratch(catalog, store):
    before = cohort.open(catalog).voxelwise("m").load()
    store.remove_model("m")
    assert call("fit", catalog).exit_code == 0
    after = cohort.open(catalog).voxelwise("m").load()
    for name in NAMES:
        rtol = 1e-6 if before[name].dtype == np.float32 else 1e-9
        np.testing.assert_allclose(before[name], after[name], rtol=rtol, atol=1e-9)


class Killed(BaseException):
    """The end of a process, as the store sees it."""


def interrupted(catalog, monkeypatch, at):
    """A fit that ends at a function, before it does anything."""
    place, name = at

    def dies(*_given, **_named):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(place, name, dies)
        with pytest.raises(Killed):
            call("fit", catalog)


def leave(tmp_path, who):
    (tmp_path / f"scans/{who}_1.nii.gz").unlink()


def withdrawn(catalog, tmp_path, who="P05", code=0):
    leave(tmp_path, who)
    proof = tmp_path / "proof.json"
    said = call("withdraw", catalog, who, "--proof", proof)
    assert said.exit_code == code, said.output
    return json.loads(proof.read_text())


# -- who withdraws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_who_withdraws_after_an_interrupted_fit_is_in_no_cube(catalog, store, tmp_path, monkeypatch):  # fmt: skip
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    interrupted(catalog, monkeypatch, (voxelwise, "fit"))
    said = kept.record(store, "m", "cube")
    assert len(said["scans"]) == N  # it has a record already
    assert (groups(store), store.mapped()) == ([said["place"]], [])
    sound(catalog)
    proof = withdrawn(catalog, tmp_path)
    assert (groups(store), proof["models_to_refit"], proof["check"]["found"]) == ([], ["m"], [])
    fitted(catalog)
    assert len(kept.record(store, "m", "cube")["scans"]) == N - 1


@pytest.mark.parametrize("lost", ["cube.json", "sums.json", "maps.json", "damaged", "older"])
def test_voxels_that_no_record_lists_leave_with_who_withdraws(catalog, store, tmp_path, form, lost):  # fmt: skip
    fitted(catalog)
    folder = store.root / "models/m"
    stem = STEM[form]
    match lost:
        case "maps.json":
            (folder / lost).unlink()
        case "damaged":
            for name in ("maps.json", f"{stem}.json"):
                (folder / name).write_bytes((folder / name).read_bytes().replace(b'"', b"'", 9))
        case "older":  # the cube of a store that an earlier version wrote, whose fit was killed
            store.remove_model("m")
            shutil.copytree(store.root / "scans", folder / "cube.zarr")
        case _:
            (folder / f"{stem}.json").unlink()
    proof = withdrawn(catalog, tmp_path)
    assert proof["models_to_refit"] == ["m"]
    assert proof["check"]["found"] == []
    left = kept.record(store, "m", stem)
    assert groups(store) == ([] if left is None else [left["place"]])
    assert left is None or len(left["scans"]) == N - 1
    sound(catalog)


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_a_search_that_finds_voxels_of_nobody_knows_whom_does_not_say_clean(catalog, store, tmp_path, monkeypatch):  # fmt: skip
    fitted(catalog)
    monkeypatch.setattr(withdraw, "_models", lambda store, who: [])
    (store.root / "models/m/cube.json").unlink()
    proof = withdrawn(catalog, tmp_path, code=1)
    assert "unlisted in models/m/cube-1.zarr, whole" in proof["check"]["found"]


def test_who_withdraws_after_a_fit_that_failed_is_in_nothing_that_is_kept(catalog, store, tmp_path, form):  # fmt: skip
    fitted(catalog)
    edit(catalog, voxelwise={"mask": {"above": 1e6}})
    assert call("fit", catalog).exit_code == 1
    assert groups(store) == [f"{STEM[form]}-1.zarr"]
    withdrawn(catalog, tmp_path)
    left = kept.record(store, "m", STEM[form])
    if form == "cube":
        assert left is None
        assert groups(store) == []
    else:
        assert not any("P05" in scan for scan in left["scans"])
        assert groups(store) == ["sums-2.zarr"]
    sound(catalog)


def test_no_damaged_model_keeps_voxels_without_a_record_after_a_repair(catalog, store, tmp_path, form):  # fmt: skip
    fitted(catalog)
    chunk = next(p for p in sorted((store.root / "models/m/maps.zarr/t/c").rglob("*")) if p.is_file())  # fmt: skip
    flip(chunk)
    sound(catalog, 1)
    call("verify", catalog, "--repair")
    assert groups(store) == [f"{STEM[form]}-1.zarr"]
    withdrawn(catalog, tmp_path)
    left = kept.record(store, "m", STEM[form])
    assert groups(store) == ([] if form == "cube" else [left["place"]])


# -- fits that fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["grid", "mask image", "mask", "formula", "blocks"])
def test_a_fit_that_fails_keeps_what_the_last_one_was_made_of(catalog, store, tmp_path, form, read, wrong):  # fmt: skip
    if wrong == "blocks" and form == "streaming":
        pytest.skip("sums are not exchanged")
    fitted(catalog)
    good = catalog.read_text()
    read.clear()
    match wrong:
        case "grid":
            write_brain(tmp_path / "scans", N, (7, 8, 5))
        case "mask image":
            edit(catalog, voxelwise={"mask": {"image": "no.nii.gz"}})
        case "mask":
            edit(catalog, voxelwise={"mask": {"above": 1e6}})
        case "formula":
            edit(catalog, formula="dx + age + I(2 * age)", voxelwise={"smooth_fwhm_mm": 3})
        case "blocks":
            edit(
                catalog, voxelwise={"permutations": {"seed": 1, "n": 120, "blocks": "participant"}}
            )
    call("ingest", catalog, "--workers", 0)
    said = call("fit", catalog)
    assert said.exit_code == 1, said.output
    assert (store.mapped(), groups(store)) == ([], [f"{STEM[form]}-1.zarr"])
    sound(catalog)
    assert "could not be fitted" in call("report", catalog).output + (store.root / "report/index.html").read_text()  # fmt: skip
    catalog.write_text(good)
    write_brain(tmp_path / "scans", N)
    read.clear()
    fitted(catalog)
    assert read == ["sub-P16"]
    assert len(maps.record(store, "m")["scans"]) == N + 1
    check_as_from_scratch(catalog, store)


def test_the_other_form_is_kept_until_this_one_is_there(catalog, store, form, read):
    fitted(catalog)
    good = catalog.read_text()
    other = {"cube": "streaming", "streaming": "cube"}[form]
    edit(catalog, voxelwise={"form": other, "mask": {"above": 1e6}, "permutations": None})
    assert call("fit", catalog).exit_code == 1
    assert f"{STEM[form]}-1.zarr" in groups(store)
    sound(catalog)
    catalog.write_text(good)
    read.clear()
    fitted(catalog)
    assert read == []
    assert groups(store) == sorted(["maps.zarr", f"{STEM[form]}-1.zarr"])
    sound(catalog)


def test_what_is_kept_goes_with_a_model_that_the_catalog_has_no_more(catalog, store):
    fitted(catalog)
    edit(catalog, voxelwise={"mask": {"above": 1e6}})
    assert call("fit", catalog).exit_code == 1
    content = yaml.safe_load(catalog.read_text())
    content["models"] = {"other": content["models"]["m"]}
    catalog.write_text(yaml.safe_dump(content))
    assert call("fit", catalog).exit_code == 1
    assert "m" not in store.files.names("models")


# -- fits that die -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_a_cube_outlives_a_fit_that_was_interrupted(catalog, store, monkeypatch, read):
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    interrupted(catalog, monkeypatch, (fitting, "_written"))
    assert len(read) == N
    read.clear()
    fitted(catalog)
    assert read == []
    check_as_from_scratch(catalog, store)


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_a_fit_that_is_killed_anywhere_leaves_voxels_only_of_whom_a_record_names(catalog, store, tmp_path):  # fmt: skip
    edit(catalog, voxelwise={"permutations": None})
    fitted(catalog)
    write_brain(tmp_path / "scans", N)
    edit(catalog, where="age < 80")
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    operation, started = 0, [("cube-1.zarr", N)]
    while killed_at(operation, lambda: call("fit", catalog)):
        said = kept.record(store, "m", "cube")
        started.append((said["place"], len(said["scans"])))
        assert maps.cube_of(store, "m") is not None
        assert "damaged" not in sound(catalog, call("verify", catalog).exit_code)
        operation += 1
        assert operation < 200
    assert operation >= 8
    # The old one, whole, until the new one is.
    assert len(set(started)) == 2
    assert started == sorted(started)
    (cube,) = (n for n in groups(store) if n.startswith("cube"))
    assert cube == "cube-2.zarr"
    assert "model m" not in call("verify", catalog).output
    check_as_from_scratch(catalog, store)


# -- damage ------------------------------------------------------------------------------------------


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "missing", "cut", "record"])
@pytest.mark.parametrize("arrives", [False, True])
def test_what_is_damaged_is_made_anew_and_that_is_said(catalog, store, tmp_path, form, read, how, arrives):  # fmt: skip
    fitted(catalog)
    group = store.root / f"models/m/{STEM[form]}-1.zarr"
    chunk = next(p for p in sorted(group.rglob("*")) if p.is_file() and "/c/" in str(p))
    match how:
        case "flipped":
            flip(chunk)
        case "missing":
            chunk.unlink()
        case "cut":
            chunk.write_bytes(chunk.read_bytes()[:-3])
        case "record":
            flip(group.with_name(f"{STEM[form]}.json"))
    edit(catalog, contrasts={"both": "dx + age"})
    if arrives:
        write_brain(tmp_path / "scans", N)
    read.clear()
    said = fitted(catalog)
    # Who arrives is read before the damage is met, and again.
    met = form == "cube" and how == "flipped" and arrives
    assert len(read) == N + arrives + met
    if form == "cube" and how == "flipped":
        line = next(line for line in said.splitlines() if "made anew" in line)
        assert f"models/m/{group.name}/{chunk.relative_to(group)}: missing or damaged" in line
    if form == "streaming" and how != "record":
        run = store.files.names("runs")[-1]
        told = next(e for e in map(json.loads, store.events(run)) if e["event"] == "fitted")
        assert told["anew"] == "a file of the sums is missing or damaged"
    sound(catalog)
    check_as_from_scratch(catalog, store)


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_a_scan_that_is_damaged_is_not_taken_for_the_cube(catalog, store):
    fitted(catalog)
    chunk = next(p for p in sorted((store.root / "scans").glob("*P03*/image/c/**/*")) if p.is_file())  # fmt: skip
    flip(chunk)
    edit(catalog, voxelwise={"smooth_fwhm_mm": 3})
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "sub-P03" in said.output
    assert groups(store) == ["cube-1.zarr"]


# -- stores of an earlier version, and rubbish ---------------------------------------------------------


@pytest.mark.parametrize("form", ["cube"], indirect=True)
def test_a_store_of_an_earlier_version_is_read_and_its_cube_made_anew(catalog, store, tmp_path, read):  # fmt: skip
    fitted(catalog)
    earlier(store)
    sound(catalog)
    read.clear()
    assert "fresh" in str(state_of(catalog, store))
    edit(catalog, contrasts={"both": "dx + age"})
    fitted(catalog)
    assert len(read) == N
    assert groups(store) == ["cube-1.zarr", "maps.zarr"]
    sound(catalog)
    earlier(store)
    withdrawn(catalog, tmp_path)
    assert not (store.root / "models/m").exists()


def state_of(catalog, store):
    call("fit", catalog)
    return store.manifest()["stages"]["fit"]["m"]


def earlier(store):
    """The folder as versions wrote it whose cube had no record of its own."""
    folder = store.root / "models/m"
    cube, said = kept.record(store, "m", "cube"), maps.record(store, "m")
    (folder / cube["place"]).rename(folder / "cube.zarr")
    (folder / "cube.json").unlink()
    files = {name.replace(cube["place"], "cube.zarr"): each for name, each in cube["files"].items()}
    held = {key: cube[key] for key in ("preparation", "scans", "metadata")}
    said.pop("scans")
    (folder / "maps.json").write_bytes(
        jsonfile.encode({**said, "cube": held, "files": {**files, **said["files"]}})
    )


def test_rubbish_lists_what_no_record_names(catalog, store, form):
    fitted(catalog)
    place = f"models/m/{STEM[form]}-1.zarr"
    size = sum(n for _, n in store.files.listing(place))
    (store.root / f"models/m/{STEM[form]}.json").unlink()
    said = call("gc", catalog, "--dry-run")
    assert "m: of a fit that was interrupted" in said.output
    assert f"{place}: {size} bytes of an interrupted call" in sound(catalog)
    assert call("gc", catalog).exit_code == 0
    assert groups(store) == ["maps.zarr"]
    sound(catalog)
    assert call("gc", catalog, "--dry-run").output.count("interrupted") == 0
