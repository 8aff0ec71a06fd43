"""Models of maps whose store lies in a bucket: the same numbers, what is kept, and who withdraws."""

import json

import pytest
import xarray as xr
import yaml
from test_voxel_maps import ASKED, SMALL, N, call, write_small

import cohort
from cohort.io import kept
from cohort.io.store import Store

pytest_plugins = ["s3"]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "stem"), [("cube", "cube"), ("streaming", "sums")])
def test_maps_in_a_bucket_are_those_on_a_disk(tmp_path, s3, form, stem):
    asked = {"mask": ASKED["mask"], "cluster_threshold": 2.0, "form": form}
    if form == "cube":
        asked["permutations"] = ASKED["permutations"]
    catalog = write_small(tmp_path, {"m": {**SMALL, "voxelwise": asked}})
    place = f"{s3.url}/cohorts/{form}"
    maps = {}
    for url in (str(tmp_path / "store"), place):
        said = call("ingest", catalog, "--store", url, "--workers", 0)
        assert said.exit_code == 0, said.output
        said = call("fit", catalog, "--store", url)
        assert said.exit_code == 0, said.output
        maps[url] = cohort.open(url).voxelwise("m").load()
    xr.testing.assert_equal(*maps.values())
    store = Store(place)
    first = kept.record(store, "m", stem)
    assert kept.is_whole(store, "m", first)
    # A fit that fails leaves what is kept; a piece that is lost is made anew.
    content = yaml.safe_load(catalog.read_text())
    content["models"]["m"]["voxelwise"]["mask"] = {"above": 1e6}
    catalog.write_text(json.dumps(content))
    assert call("fit", catalog, "--store", place).exit_code == 1
    assert kept.record(store, "m", stem) == first
    store.files.remove(f"models/m/{max(first['files'])}")
    content["models"]["m"]["voxelwise"] |= {"mask": ASKED["mask"], "cluster_threshold": 1.9}
    catalog.write_text(json.dumps(content))
    said = call("fit", catalog, "--store", place)
    assert said.exit_code == 0, said.output
    second = kept.record(store, "m", stem)
    assert second["place"] == f"{stem}-2.zarr"
    assert kept.is_whole(store, "m", second)
    assert kept.orphans(store, "m") == []
    (tmp_path / "scans/P05_1.nii.gz").unlink()
    proof = tmp_path / "proof.json"
    said = call("withdraw", catalog, "P05", "--proof", proof, "--voxels", "--store", place)
    assert said.exit_code == 0, said.output
    assert json.loads(proof.read_text())["check"]["found"] == []
    assert call("fit", catalog, "--store", place).exit_code == 0
    third = kept.record(store, "m", stem)
    assert len(third["scans"]) == N - 1
    assert not any("P05" in scan for scan in third["scans"])
    assert call("verify", catalog, "--store", place).exit_code == 0
