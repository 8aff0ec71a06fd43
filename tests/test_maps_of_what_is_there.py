"""Maps are made of what the recipe makes of the scans now, and of scans that lie on one grid."""

import yaml
from test_voxel_maps import N, call, catalog, changed

from cohort.io import maps
from cohort.io.storage import jsonfile
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
    assert set(record["cube"]["scans"]) == set(table.loc[table["state"] == "done", "scan_id"])
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
