"""Maps are made of what the recipe makes of the scans now, and of scans that lie on one grid."""

import nibabel as nib
import numpy as np
import pytest
import yaml
from test_voxel_maps import AFFINE, SHAPE, N, brain, call, catalog, changed, write_brain

from cohort.io import cube as cubes
from cohort.io import maps
from cohort.io.storage import jsonfile
from cohort.io.storage.disk import LocalFiles
from cohort.io.store import Store

__all__ = ["catalog"]


def recipe(catalog, sigma):
    """Let the model take what a recipe keeps."""
    text = f"recipe: r\nsteps:\n  sm: {{call: gaussian, image: image, sigma_mm: {sigma}}}\nkeep: [sm]\n"
    text += "measure: {level: {call: otsu, image: image}}\n"  # which does not stand on what is kept
    (catalog.parent / "r.yaml").write_text(text)
    content = yaml.safe_load(catalog.read_text())
    content["recipes"] = ["r.yaml"]
    content["models"]["signal-map"]["recipe"] = "r"
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    changed(catalog, variable="sm", mask={}, permutations=None)


def at(catalog, *arguments):
    said = call(*arguments[:1], catalog, *arguments[1:], "--workers", 0)
    assert said.exit_code != 2, said.output
    store = Store(catalog.parent / "store")
    return said, store.manifest()["stages"]["fit"]["signal-map"], maps.record(store, "signal-map")


def test_what_an_earlier_recipe_kept_is_in_no_map(catalog):
    recipe(catalog, 2)
    said, how, record = at(catalog, "update")
    assert (said.exit_code, how, record["rows"]["n_used"]) == (0, "done", N), said.output
    recipe(catalog, 5)
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "all left out (r is stale on it); bring them up to date with `cohort run`" in said.output
    said, how, record = at(catalog, "update", "--max-scans", 9)
    assert how == "done", said.output
    assert record["rows"]["n_used"] == 9
    assert record["rows"]["reasons"] == {"r is stale on it": N - 9}
    table = Store(catalog.parent / "store").table("r")
    assert set(record["scans"]) == set(table.loc[table["state"] == "done", "scan_id"])
    said, how, record = at(catalog, "update")
    assert (how, record["rows"]["n_used"]) == ("done", N)
    assert at(catalog, "update")[1] == "fresh"


def test_what_several_versions_of_a_library_made_is_mixed_only_knowingly(catalog):
    recipe(catalog, 2)
    assert at(catalog, "update")[1] == "done"
    store = Store(catalog.parent / "store")
    for scan_id in store.scan_ids()[:3]:
        place = store.root / f"derivatives/r/{scan_id}.json"
        found = store.derivative("r", scan_id)
        place.write_bytes(jsonfile.encode({**found, "versions": {**found["versions"], "scipy": "1.0"}}))  # fmt: skip
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "made by several versions of a library (13 of the versions here, 3 of library: scipy 1.0 -> " in said.output  # fmt: skip
    said = call("fit", catalog, "--accept-versions")
    assert said.exit_code == 0, said.output
    assert maps.record(store, "signal-map")["rows"]["n_used"] == N


def moved(by):
    affine = AFFINE.copy()
    affine[0, 3] += by
    return affine


@pytest.mark.parametrize("form", ["cube", "streaming"])
def test_maps_lie_where_the_scans_do_now_and_all_scans_on_one_grid(catalog, tmp_path, form):
    folder = tmp_path / "scans"
    changed(catalog, form=form, permutations=None)
    _, how, before = at(catalog, "update")
    assert how == "done"
    for i in range(N):  # the same voxels, elsewhere
        write_brain(folder, i, affine=moved(30))
    _, how, after = at(catalog, "update")
    assert how == "done"
    assert after["affine"][3] - before["affine"][3] == 30
    # One scan leaves the grid: the first, to which others are compared, too. Those that are kept are looked at as well.
    for i, shape, affine, line in (
        (0, SHAPE, AFFINE, "but lie up to 30 mm apart"),
        (0, (6, 8, 5), moved(30), "5 x 8 x 6 voxels of 3 x 2 x 2 mm"),
        (9, SHAPE, AFFINE, "but lie up to 30 mm apart"),
    ):
        write_brain(folder, i, shape, affine)
        said, how, _ = at(catalog, "update")
        assert (
            f"expected all scans on one grid, found 1 of {N} on another: sub-P{i:02d}_ses-1_P{i:02d}1 ("
            in how
        )
        assert line in how
        assert said.exit_code == 1
        write_brain(folder, i, affine=moved(30))
    nib.save(nib.Nifti1Image(np.stack([brain(3)] * 2, axis=-1), moved(30)), folder / "P03_1.nii.gz")
    _, how, _ = at(catalog, "update")
    assert f"expected all scans on one grid, found 1 of {N} on another: sub-P03_ses-1_P031 (" in how
    assert "has the dims time, z, y, x; expected z, y, x" in how
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"]["where"] = "participant != 'P03'"
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    _, how, record = at(catalog, "update")
    assert (how, record["rows"]["n_used"]) == ("done", N - 1)


def test_a_cube_takes_nothing_of_another_shape(tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    ones = {"a": "same", "b": "same"}
    metadata = cubes.write(
        tmp_path / "before/cube.zarr", ones, lambda _: np.ones((4, 4, 4), np.float32)
    )
    before = cubes.Cube(LocalFiles(tmp_path / "before"), "cube.zarr", metadata, ones)
    with pytest.raises(
        ValueError, match=r"c has \(3, 4, 4\) voxels, those that are kept \(4, 4, 4\)"
    ):
        cubes.write(tmp_path / "after/cube.zarr", {**ones, "c": "new"}, lambda _: np.ones((3, 4, 4), np.float32), before=before)  # fmt: skip


@pytest.mark.parametrize("form", ["cube", "streaming"])
def test_a_scan_without_covariates_that_arrives_is_counted_beside_the_same_maps(catalog, tmp_path, form):  # fmt: skip
    changed(catalog, form=form, permutations=None)
    people = tmp_path / "people.csv"
    text = people.read_text().splitlines()
    place = next(i for i, line in enumerate(text) if line.startswith(f"P{N}"))
    text[place] = text[place].rpartition(",")[0] + ","
    people.write_text("\n".join(text) + "\n")
    how, before = at(catalog, "update")[1:]
    assert (how, before["rows"]) == (
        "done",
        {"n_table": N, "n_used": N, "reasons": {}, "dropped": []},
    )
    page = (tmp_path / "store/report/index.html").read_text()
    write_brain(tmp_path / "scans", N)
    how, record = at(catalog, "update")[1:]
    assert how == "fresh"
    rows = record.pop("rows")
    assert (rows["n_table"], rows["n_used"], rows["reasons"]) == (N + 1, N, {"missing age": 1})
    assert [d["row"] for d in rows["dropped"]] == [f"sub-P{N}_ses-1_P{N}1"]
    del before["rows"]
    assert record == before
    assert (tmp_path / "store/report/index.html").read_text() != page
    assert "1 left out" in (tmp_path / "store/report/index.html").read_text()
    assert at(catalog, "update")[2]["rows"] == rows
