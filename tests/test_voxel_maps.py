"""A model of maps through `cohort`: fitted, fresh, shown, verified, and gone with who withdraws."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from typer.testing import CliRunner

import cohort
from cohort import api, cli
from cohort.io import kept, maps
from cohort.io.cube import Cube
from cohort.io.store import Store
from cohort.reporting import mapspage, mapsplots
from cohort.stats.voxels.asked import Source

SHAPE = (7, 8, 6)  # x, y, z
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])
AFFINE[:3, 3] = (10, -12, -6)
N = 16
SMALL = {"outcome": "signal", "formula": "dx + age", "confounds": ["age"], "group": "dx"}
ASKED = {"mask": {"above": 0.0}, "permutations": {"seed": 4, "n": 120}, "cluster_threshold": 2.0}


def call(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def brain(i, shape=SHAPE):
    """Voxels on published axes (x to the left); a corner of the group is brighter, one plane is outside."""
    rng = np.random.default_rng(i)
    data = rng.normal(100, 5, shape)
    data[4:6, 2:4, 1:3] += 40 * (i % 2)
    data[:, 0] = 0
    return data.astype(np.float32)


def write_brain(folder, i, shape=SHAPE, affine=AFFINE):
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(brain(i, shape), affine), folder / f"P{i:02d}_1.nii.gz")


def plain(content):
    """YAML without anchors."""
    return yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False)


def write_small(folder, models):
    """A cohort of `N` brains, a table of four people more, and a catalog with these models."""
    for i in range(N):
        write_brain(folder / "scans", i)
    people = pd.DataFrame(
        {"id": [f"P{i:02d}" for i in range(20)], "dx": [i % 2 for i in range(20)], "age": [60 + (i * 7) % 23 for i in range(20)]}
    )  # fmt: skip
    people.to_csv(folder / "people.csv", index=False)
    content = {
        "cohort": "small",
        "sources": ["scans"],
        "store": "store",
        "ids": "keep",
        "subject": r"(?P<subject>P\d+)_(?P<session>\d)",
        "participants": {"table": "people.csv", "id": "id"},
        "models": models,
    }
    path = folder / "small.yaml"
    path.write_text(plain(content))
    return path


@pytest.fixture
def catalog(tmp_path):
    return write_small(tmp_path, {"signal-map": {**SMALL, "voxelwise": ASKED}})


def changed(path, **voxelwise):
    content = yaml.safe_load(path.read_text())
    content["models"]["signal-map"]["voxelwise"].update(voxelwise)
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def fitted(catalog, *arguments):
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    said = call("fit", catalog, *arguments)
    assert said.exit_code == 0, said.output
    return said.output


def state(catalog):
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    said = call("fit", catalog)
    assert said.exit_code == 0, said.output
    return Store(catalog.parent / "store").manifest()["stages"]["fit"]["signal-map"]


def test_maps_are_those_of_statsmodels_and_lie_where_the_scans_do(catalog, tmp_path):
    import statsmodels.api as sm

    said = fitted(catalog)
    assert "16 scans, 294 of 294 voxels of the mask fitted (336 in the grid)" in said
    opened = cohort.open(catalog)
    found = opened.voxelwise("signal-map")
    assert found["t"].sel(contrast="dx").dims == ("z", "y", "x")
    scans = opened.stack("image").load()  # noqa: PD013
    table = opened.scans.set_index("scan_id").loc[scans["scan"].to_numpy(), "participant"]
    people = pd.read_csv(tmp_path / "people.csv").set_index("id").loc[table]
    X = sm.add_constant(people[["dx", "age"]].to_numpy(float))
    rng = np.random.default_rng(0)
    inside = np.argwhere(np.isfinite(found["t"][0].to_numpy()))
    for z, y, x in rng.permutation(inside)[:40]:
        fit = sm.OLS(scans[:, z, y, x].to_numpy().astype(float), X).fit()
        for name, expected in (
            ("beta", fit.params[1]),
            ("se", fit.bse[1]),
            ("t", fit.tvalues[1]),
            ("p", fit.pvalues[1]),
            ("hc3_t", fit.params[1] / fit.HC3_se[1]),
        ):
            np.testing.assert_allclose(found[name][0, z, y, x], expected, rtol=1e-9, atol=1e-12)
    # the planted corner, in mm
    best = found.attrs["peaks"].iloc[0]
    assert best["fwe_p"] <= 0.05
    assert best["mass_p"] <= 0.05
    world = AFFINE @ [4.5, 2.5, 1.5, 1]
    assert abs(best[["x_mm", "y_mm", "z_mm"]].to_numpy(float) - world[:3]).max() <= 3
    at = found.sel(x=best["x_mm"], y=best["y_mm"], z=best["z_mm"])
    assert float(at["t"][0]) == best["t"]


CODES = {"t": 3, "hc3_t": 3, "F": 4, "partial_r": 2, "beta": 1001, "se": 1001, "p": 22, "fwe_p": 22, "q": 22, "n": 0, "support": 0}  # fmt: skip
"""nifti1.h: TTEST, FTEST, CORREL, ESTIMATE, PVAL, NONE."""


def test_maps_are_exported_as_nifti_that_says_what_they_are(catalog, tmp_path):
    changed(catalog, tfce=True, contrasts=["dx", "age"], joint={"both": ["dx", "age"]})
    fitted(catalog)
    found = cohort.open(catalog).voxelwise("signal-map")
    out = tmp_path / "out/maps"
    said = call("export", "nifti", catalog, "--model", "signal-map", "-o", out)
    assert said.exit_code == 0, said.output
    about = json.loads((out / "maps.json").read_text())
    assert set(about["files"]) == {p.name for p in out.glob("*.nii.gz")}
    assert sorted(said.output.split()) == sorted(str(p) for p in (*out.glob("*.nii.gz"), out / "peaks.tsv"))  # fmt: skip
    whole = {str(n) for n, v in found.data_vars.items() if v.dims[-3:] == ("z", "y", "x")}
    assert {one["map"] for one in about["files"].values()} == whole
    for file, one in about["files"].items():
        image, values = nib.load(out / file), found[one["map"]]
        if one["contrast"] is not None:
            values = values.sel({values.dims[0]: one["contrast"]})
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, values)
        x, y, z = 2, 3, 1
        np.testing.assert_allclose((image.affine @ [x, y, z, 1])[:3], [found[d][i] for d, i in zip("xyz", (x, y, z), strict=True)])  # fmt: skip
        assert image.header.get_xyzt_units()[0] == "mm"
        code = int(image.header["intent_code"])
        assert code == CODES.get(one["map"], code)
        wanted = {3: (N - 3,), 2: (N - 3,), 4: (2, N - 3)}.get(code, ())
        assert image.header.get_intent()[1] == wanted
        assert image.header.get_intent()[2] == one["map"]
    # A viewer gets p from the intent alone.
    from scipy import special

    image = nib.load(out / "contrast-dx_stat-t_statmap.nii.gz")
    p = 2 * special.stdtr(image.header.get_intent()[1][0], -np.abs(image.get_fdata()))
    np.testing.assert_allclose(p.T, found["p"].sel(contrast="dx"), rtol=1e-12)
    F = nib.load(out / "contrast-both_stat-F_statmap.nii.gz")
    p = special.fdtrc(*F.header.get_intent()[1], F.get_fdata())
    np.testing.assert_allclose(p.T, found["F_p"][0], rtol=1e-12)
    listed = pd.read_csv(out / "peaks.tsv", sep="\t", na_values="n/a")
    pd.testing.assert_frame_equal(listed, found.attrs["peaks"], check_dtype=False)
    units = {c: one.get("Units") for c, one in json.loads((out / "peaks.json").read_text()).items()}
    assert (units["x_mm"], units["volume_ml"], units["t"]) == ("mm", "ml", None)


def test_a_joint_test_called_like_a_contrast_is_exported_beside_it(catalog, tmp_path):
    changed(catalog, permutations=None, contrasts=["dx", "age"], joint={"age": ["age", "dx"]})
    fitted(catalog)
    out = tmp_path / "out"
    said = call("export", "nifti", catalog, "--model", "signal-map", "-o", out)
    assert said.exit_code == 0, said.output
    found = cohort.open(catalog).voxelwise("signal-map")
    files = json.loads((out / "maps.json").read_text())["files"]
    whole = {n: v for n, v in found.data_vars.items() if v.dims[-3:] == ("z", "y", "x")}
    pairs = {(n, c) for n, v in whole.items() for c in (v[v.dims[0]].to_numpy().tolist() if v.ndim > 3 else [None])}  # fmt: skip
    assert {(one["map"], one["contrast"]) for one in files.values()} == pairs
    assert len(files) == len(pairs)
    for name, code, parameters in (("t", 3, (N - 3,)), ("partial_r", 2, (N - 3,)), ("F", 4, (2, N - 3))):  # fmt: skip
        (file,) = (f for f, one in files.items() if (one["map"], one["contrast"]) == (name, "age"))
        image = nib.load(out / file)
        assert (int(image.header["intent_code"]), image.header.get_intent()[1]) == (code, parameters)  # fmt: skip
        values = found[name].sel({found[name].dims[0]: "age"})
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, values)


def test_contrasts_whose_names_are_one_in_bids_are_exported_apart(catalog, tmp_path):
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"]["contrasts"] = {"a-b": "dx - age", "a_b": "dx + age"}
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    changed(catalog, permutations=None)
    fitted(catalog)
    given = ("export", "nifti", catalog, "--model", "signal-map", "--map", "t")
    said = call(*given, "-o", tmp_path / "all")
    assert said.exit_code == 2
    assert "'a-b' and 'a_b' would both become 'ab'" in said.output
    assert "rename one in the model, or export them apart with `--contrast`" in said.output
    t = cohort.open(catalog).voxelwise("signal-map")["t"]
    for name in ("a-b", "a_b"):
        assert call(*given, "--contrast", name, "--contrast", "dx", "-o", tmp_path / name).exit_code == 0  # fmt: skip
        image = nib.load(tmp_path / name / "contrast-ab_stat-t_statmap.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, t.sel(contrast=name))


def test_an_export_of_maps_holds_what_was_asked_for(catalog, tmp_path):
    changed(catalog, joint={"both": ["dx", "age"]})
    fitted(catalog)
    out, given = tmp_path / "maps", ("export", "nifti", catalog, "-o", tmp_path / "maps")
    wanted = (*given, "--model", "signal-map", "--map", "t", "--map", "F", "--map", "n")
    assert call(*wanted, "--contrast", "dx").exit_code == 0
    assert {p.name for p in out.glob("*.nii.gz")} == {"contrast-dx_stat-t_statmap.nii.gz", "stat-n_statmap.nii.gz"}  # fmt: skip
    before = sorted(out.iterdir())
    for arguments, line in (
        (wanted, "is there already; choose another name, or replace it with --force"),
        ((*given, "--force", "--model", "signal"), "no maps of 'signal'; there are signal-map"),
        (
            (*wanted, "--force", "--map", "tt"),
            "signal-map has no map 'tt'; there are F, F_p, F_q, beta",
        ),
        ((*wanted, "--force", "--contrast", "age"), "has no contrast 'age'; there are dx, both"),
        ((*wanted[:7], "--force", "--map", "F", "--contrast", "dx"), "F of dx is no map"),
        ((*wanted, "P01"), "expected no SCAN beside it"),
        (given, "expected a SCAN, or --model"),
        ((*given, "P01", "--map", "t"), "expected a SCAN, or --model"),
    ):
        said = call(*arguments)
        assert said.exit_code == 2, said.output
        assert line in said.output
        assert len(said.output.splitlines()) == 1
        assert sorted(out.iterdir()) == before
    assert call(*wanted, "--force").exit_code == 0
    assert (out / "contrast-both_stat-F_statmap.nii.gz").is_file()


def test_a_map_whose_voxels_have_different_degrees_of_freedom_names_no_single_one(
    catalog, tmp_path
):
    scan = nib.load(tmp_path / "scans/P03_1.nii.gz").get_fdata(dtype=np.float32)
    scan[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "scans/P03_1.nii.gz")
    changed(catalog, mask={}, permutations=None)
    fitted(catalog)
    out = tmp_path / "maps"
    done = call("export", "nifti", catalog, "--model", "signal-map", "--map", "t", "--map", "beta", "-o", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    header = nib.load(out / "contrast-dx_stat-t_statmap.nii.gz").header
    assert int(header["intent_code"]) == 0
    assert b"dof differ" in header["descrip"].item()
    assert int(nib.load(out / "contrast-dx_stat-beta_statmap.nii.gz").header["intent_code"]) == 1001


def test_who_waits_for_maps_hears_how_far_they_are(catalog):
    changed(catalog, tfce=True, contrasts=["dx", "age"])
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    told = []
    api.fit(catalog, options=api.Options(listen=told.append))
    for stage, total in (("maps", None), ("dx", 120), ("age", 120)):
        own = [e for e in told if e.get("stage") == f"signal-map: {stage}"]
        done = [e["done"] for e in own]
        assert done == sorted(done)
        assert {e["total"] for e in own} == {total or done[-1]} == {done[-1]}
    told.clear()
    api.fit(catalog, options=api.Options(listen=told.append))
    assert not any(str(e.get("stage")).startswith("signal-map") for e in told)  # fresh


def test_only_what_changed_is_read_or_fitted_again(catalog, tmp_path, monkeypatch):
    fitted(catalog)
    assert state(catalog) == "fresh"
    read, load = [], Source.load

    def noted(self, scan_id):
        read.append(scan_id)
        return load(self, scan_id)

    monkeypatch.setattr(Source, "load", noted)
    changed(catalog, tfce=True)
    assert state(catalog) == "done"
    assert read == []
    write_brain(tmp_path / "scans", N)
    assert state(catalog) == "done"
    assert len(read) == 1
    assert read[0].startswith("sub-P16_")
    changed(catalog, smooth_fwhm_mm=6)
    assert state(catalog) == "done"
    assert len(read) == 1 + N + 1
    assert state(catalog) == "fresh"


def test_a_scan_of_another_precision_arrives_and_leaves(catalog, tmp_path):
    """Values far from 0 by much less than they differ, of which float32 holds little; maps are those made anew."""

    def write(i, dtype):
        image = nib.Nifti1Image((brain(i) / 5 + 1e7).astype(dtype), AFFINE)
        nib.save(image, tmp_path / "scans" / f"P{i:02d}_1.nii.gz")

    def maps_now():
        folder = tmp_path / "store/models/signal-map"
        record = kept.record(Store(tmp_path / "store"), "signal-map", "cube")
        content = {}
        for group in (record["place"], "maps.zarr"):
            paths = [p for p in (folder / group).rglob("*") if p.is_file()]
            # The number of the cube tells how often it was made.
            content |= {(group[:4], p.relative_to(folder / group)): p.read_bytes() for p in paths}
        return content, record["metadata"]["data_type"]

    def anew():
        shutil.rmtree(tmp_path / "store/models")
        assert state(catalog) == "done"
        return maps_now()

    changed(catalog, mask={}, permutations=None)
    for i in range(N):
        write(i, np.float64)
    assert state(catalog) == "done"
    write(N, np.float32)
    assert state(catalog) == "done"
    found = maps_now()
    assert found[1] == "float64"
    assert found == anew()
    for i in range(N):
        write(i, np.float32 if i < N - 1 else np.float64)
    assert state(catalog) == "done"
    assert maps_now()[1] == "float64"
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"]["where"] = f"participant != 'P{N - 1:02d}'"
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    assert state(catalog) == "done"
    found = maps_now()
    assert found[1] == "float32"
    assert found == anew()


def test_the_report_shows_them(catalog, tmp_path):
    fitted(catalog)
    said = call("report", catalog)
    assert said.exit_code == 0, said.output
    page = (tmp_path / "store/report/index.html").read_text()
    assert "Maps <bdi>signal-map</bdi>" in page
    assert "294 of 294 voxels of the mask fitted" in page
    assert "Clusters and peaks" in page
    assert "120 arrangements of the scans" in page
    assert "No model was fitted" not in page
    assert '<dt>models fitted</dt><dd><span title="1.0">1</span>' in page
    assert "Used by maps signal-map" in page
    assert "Model signal-map: " in page.partition('id="flow"')[0]
    first = cohort.open(catalog).voxelwise("signal-map").attrs["peaks"].iloc[0]
    at = f"t = {first['t']:.2f} at ({first['x_mm']:g}, {first['y_mm']:g}, {first['z_mm']:g}) mm"
    assert at in page


def test_a_tail_is_told_where_its_p_are(catalog, tmp_path):
    changed(catalog, permutations={"seed": 4, "n": 400, "tail": True})
    said = fitted(catalog)
    assert "and a generalised Pareto tail of the " in said
    assert "which gives p below 0.1 (|t| from " in said
    assert cohort.open(catalog).voxelwise("signal-map")["fwe_p"].min() < 1 / 400
    assert call("report", catalog).exit_code == 0
    assert "generalised Pareto tail" in (tmp_path / "store/report/index.html").read_text()
    changed(catalog, permutations={"seed": 4, "n": 120, "tail": True})
    assert "counted, because no generalised Pareto tail fits" in fitted(catalog)


def test_a_voxel_that_some_scan_lacks_is_judged_by_no_arrangement(catalog, tmp_path, monkeypatch):
    for i in range(N):
        data = brain(i)
        data[1, 5, 3] = 500 + 400 * (i % 2) + i if i != 6 else np.nan  # beyond all other voxels
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "scans" / f"P{i:02d}_1.nii.gz")
    changed(catalog, mask={"above": 0.0, "share": 0.9})
    said = fitted(catalog)
    assert "take no part in arrangements of the scans and in clusters: 1." in said
    found = cohort.open(catalog).voxelwise("signal-map").load()
    x, y, z = (AFFINE @ [1, 5, 3, 1])[:3]
    t = found["t"].sel(contrast="dx")
    assert abs(t).max() == abs(t.sel(x=x, y=y, z=z))
    t = t.to_numpy()
    best = found.attrs["peaks"].iloc[0]
    assert abs(best["t"]) == np.nanmax(np.abs(np.where(np.isfinite(found["fwe_p"][0]), t, np.nan)))
    assert f"The most extreme voxel that every scan has, t = {best['t']:.3g}" in said
    shown = []
    for name in ("projections", "overlay"):
        drawn = getattr(mapsplots, name)

        def record(*maps, drawn=drawn, **keywords):
            shown.append((maps[-1].to_numpy(), keywords["floor"]))
            return drawn(*maps, **keywords)

        monkeypatch.setattr(mapsplots, name, record)
    assert call("report", catalog).exit_code == 0
    assert len(shown) >= 2
    for values, floor in shown:
        assert np.array_equal(np.isnan(values), np.isnan(t))  # the outline stays
        assert np.array_equal(np.abs(values) >= floor, found["fwe_p"][0] <= 0.05)
    changed(catalog, permutations=None)
    assert f"The most extreme voxel, t = {np.nanmax(np.abs(t)):.3g}" in fitted(catalog)


def test_the_report_shows_support_where_it_was_asked_for(catalog, tmp_path):
    changed(catalog, tfce=True)
    fitted(catalog)
    assert call("report", catalog).exit_code == 0
    p = cohort.open(catalog).voxelwise("signal-map")["support_p"]
    page = (tmp_path / "store/report/index.html").read_text()
    assert f"corrected for all voxels, {int((p <= 0.05).sum()):,} of them." in page


def test_a_store_with_maps_is_sound_and_damage_is_seen(catalog):
    fitted(catalog)
    assert call("verify", catalog).exit_code == 0, call("verify", catalog).output
    assert call("audit", catalog).exit_code == 0, call("audit", catalog).output
    store = Store(catalog.parent / "store")
    chunk = next((store.root / "models/signal-map/maps.zarr/t/c").rglob("*/0"), None)
    chunk = chunk if chunk and chunk.is_file() else next(
        p for p in (store.root / "models/signal-map/maps.zarr/t/c").rglob("*") if p.is_file()
    )  # fmt: skip
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    said = call("verify", catalog)
    assert said.exit_code == 1
    assert "maps.zarr/t/" in said.output
    (catalog.parent / "out").mkdir()
    said = call(
        "export", "nifti", catalog, "--model", "signal-map", "-o", catalog.parent / "out/maps"
    )
    assert said.exit_code != 0
    assert "call `cohort verify --repair`, then `cohort fit`" in said.output
    call("verify", catalog, "--repair")
    assert state(catalog) == "done"
    assert call("verify", catalog).exit_code == 0


def test_who_withdraws_is_in_no_map_and_no_cube(catalog, tmp_path):
    fitted(catalog)
    store = Store(tmp_path / "store")
    assert any("P05" in scan for scan in maps.record(store, "signal-map")["scans"])
    (tmp_path / "scans/P05_1.nii.gz").unlink()
    people = pd.read_csv(tmp_path / "people.csv")
    people[people["id"] != "P05"].to_csv(tmp_path / "people.csv", index=False)
    said = call("withdraw", catalog, "P05", "--proof", tmp_path / "proof.json")
    assert said.exit_code == 0, said.output
    assert not (tmp_path / "store/models/signal-map").exists()
    assert state(catalog) == "done"
    for said in (maps.record(store, "signal-map"), kept.record(store, "signal-map", "cube")):
        assert len(said["scans"]) == N - 1
        assert not any("P05" in scan for scan in said["scans"])


def test_what_a_map_cannot_be_made_of_is_said_in_one_line(catalog, tmp_path):
    fitted(catalog)
    for asked, line in (
        ({"mask": {"above": 1e6}}, "the mask has no voxel: expected some of 336, found none (100% of 16 scans above 1e+06)"),
        ({"mask": {"image": "no.nii"}}, "mask: expected an image at 'no.nii', found no file"),
    ):  # fmt: skip
        changed(catalog, **asked)
        said = call("fit", catalog)
        assert said.exit_code == 1
        assert line in said.output
        assert "signal-map" not in Store(tmp_path / "store").mapped()
    changed(catalog, mask={"above": 0.0}, variable="brain")
    said = call("fit", catalog)
    assert said.exit_code == 2
    assert "voxelwise.variable: no 'brain' of the scans; there are image" in said.output
    changed(catalog, variable="image")
    write_brain(tmp_path / "scans", N, shape=(7, 8, 5))
    call("ingest", catalog, "--workers", 0)
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "6 x 8 x 7 voxels of 3 x 2 x 2 mm" in said.output
    assert "5 x 8 x 7 voxels" in said.output


@pytest.mark.parametrize(("formula", "confounds"), [("1", []), ("age", ["age"])])
def test_a_model_of_nothing_but_confounds_says_what_can_be_tested(catalog, formula, confounds):
    content = yaml.safe_load(catalog.read_text())
    model = content["models"]["signal-map"]
    model |= {"formula": formula, "confounds": confounds}
    del model["group"]
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert f"voxelwise.contrasts: expected a term to test, found none: '{formula}' has no term" in said.output  # fmt: skip
    changed(catalog, contrasts=["Intercept"])
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "changes Intercept: it is the same in all rows; sign-flip tests a mean" in said.output
    changed(catalog, permutations={"seed": 1, "n": 100, "scheme": "sign-flip"})
    assert "(|t| from" in fitted(catalog)


def test_maps_of_a_column_that_waits_for_an_ingest_say_so(catalog):
    changed(catalog, permutations=None)
    fitted(catalog)
    content = yaml.safe_load(catalog.read_text())
    content["participants"]["derive"] = {"double": "age * 2"}
    content["models"]["signal-map"] |= {"formula": "dx + double", "confounds": ["double"]}
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert "no column 'double' in the store's table of participants yet" in said.output
    fitted(catalog)


def test_a_term_stands_for_its_columns(catalog, tmp_path):
    import statsmodels.formula.api as smf

    people = pd.read_csv(tmp_path / "people.csv")
    people["sex"] = [("M", "F", "F")[i % 3] for i in range(20)]
    people["site"] = [f"s{i // 3 % 4}" for i in range(20)]
    people.to_csv(tmp_path / "people.csv", index=False)
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"] |= {
        "formula": "dx + age + sex + site",
        "contrasts": {"sex": "2 * dx", "old": "dx + 10 * age"},  # a contrast's name comes first
    }
    joint = {"both": ["dx", "site"], "same": ["dx", "old", "age"]}
    content["models"]["signal-map"]["voxelwise"] = {
        "mask": {"above": 0.0}, "contrasts": ["dx", "sex", "old"], "joint": joint
    }  # fmt: skip
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    said = fitted(catalog)
    opened = cohort.open(catalog)
    found = opened.voxelwise("signal-map").load()
    for name, terms in joint.items():
        own = found.sel(test=name)
        known = np.isfinite(own["F"].to_numpy())
        q = stats.false_discovery_control(own["F_p"].to_numpy()[known])
        np.testing.assert_allclose(own["F_q"].to_numpy()[known], q, rtol=1e-6)
        hit, most = int((q <= 0.05).sum()), own["F"].where(own["F"] == own["F"].max(), drop=True)
        at = ", ".join(f"{float(most[d][0]):g}" for d in "xyz")
        told = f"{name} (F of {', '.join(terms)}): {hit} voxels at a false discovery rate of 0.05. The largest F,"
        assert f"{told} {float(most.squeeze()):.3g}, lies at ({at}) mm." in said
    scans = opened.stack("image").load()  # noqa: PD013
    table = opened.scans.set_index("scan_id").loc[scans["scan"].to_numpy(), "participant"]
    rows = people.set_index("id").loc[table].reset_index()
    inside = np.argwhere(np.isfinite(found["t"][0].to_numpy()))
    for z, y, x in inside[::40]:
        rows["v"] = scans[:, z, y, x].to_numpy().astype(float)
        fit = smf.ols("v ~ dx + age + sex + site", rows).fit()
        sites = "site[T.s1] = 0, site[T.s2] = 0, site[T.s3] = 0"
        for name, test in (("both", f"dx = 0, {sites}"), ("same", "dx = 0, age = 0")):
            expected, own = fit.f_test(test), found.sel(test=name)
            np.testing.assert_allclose(own["F"][z, y, x], expected.fvalue, rtol=1e-9)
            np.testing.assert_allclose(own["F_p"][z, y, x], expected.pvalue, rtol=1e-9)
        np.testing.assert_allclose(found["beta"][1, z, y, x], 2 * fit.params["dx"], rtol=1e-9)
    content["models"]["signal-map"] |= {"contrasts": {}}
    content["models"]["signal-map"]["voxelwise"] |= {"contrasts": ["sex"], "joint": {}}
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    fitted(catalog)
    found = cohort.open(catalog).voxelwise("signal-map").load()
    assert found["contrast"].to_numpy().tolist() == ["sex"]
    np.testing.assert_allclose(found["beta"][0, z, y, x], fit.params["sex[T.M]"], rtol=1e-9)
    changed(catalog, contrasts=["site"])
    said = call("fit", catalog)
    assert said.exit_code == 1
    assert (
        "expected one column, found the term 'site' with 3 (site[T.s1], site[T.s2], site[T.s3]); name one of them, or test"
        " them together: joint: {site: [site]}"
    ) in said.output


def test_scans_of_one_subject_that_change_places_one_by_one_are_told(catalog, tmp_path):
    for i in range(N):
        data = brain(i) + np.random.default_rng(50 + i).normal(size=SHAPE).astype(np.float32)
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "scans" / f"P{i:02d}_2.nii.gz")
    doubt = "permutations: scans of one subject change places one by one"
    assert doubt not in fitted(catalog)  # the first of each
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"]["one_scan_per"] = "all"
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    assert f"warning signal-map: {doubt}" in fitted(catalog)
    alone = cohort.open(catalog).voxelwise("signal-map").load()
    changed(catalog, permutations={"seed": 4, "n": 120, "blocks": "subject", "exchange": "whole"})
    said = fitted(catalog)
    assert doubt not in said
    assert "the rows are not independent" in said
    together = cohort.open(catalog).voxelwise("signal-map").load()
    known = np.isfinite(alone["t"].to_numpy())
    larger = (together["p_permuted"] >= alone["p_permuted"]).to_numpy()[known]
    assert larger.mean() > 0.8  # subjects, not scans, are what there is


def test_scans_that_cannot_be_exchanged_are_told_before_a_cube_is_made(catalog, tmp_path):
    fitted(catalog)
    place = tmp_path / "store/models/signal-map/cube.json"
    before = place.read_bytes()
    write_brain(tmp_path / "scans", N)
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    for asked, line in (
        ({"blocks": "dx"}, "no exchange of rows changes dx: it is the same in all rows of each block"),
        ({"blocks": "age", "exchange": "whole", "scheme": "huh-jhun"}, "huh-jhun mixes the rows"),
        ({"seed": 2**64}, "the seed is 18446744073709551616"),
    ):  # fmt: skip
        changed(catalog, permutations={"seed": 4, "n": 120, **asked})
        said = call("fit", catalog)
        assert said.exit_code == 1
        assert line in said.output
        assert place.read_bytes() == before
    changed(catalog, permutations={"seed": 4, "n": 120})
    assert "17 scans" in fitted(catalog)
    assert place.read_bytes() != before


def test_a_share_of_nothing_is_refused(catalog):
    changed(catalog, mask={"share": 0.9})
    said = call("fit", catalog)
    assert said.exit_code == 2
    assert "models.signal-map.voxelwise.mask: share: expected above beside it" in said.output
    assert len(said.output.splitlines()) == 1


def test_what_arrangements_cannot_do_is_said(catalog, tmp_path):
    people = pd.read_csv(tmp_path / "people.csv")
    people["pair"] = [f"b{i // 2}" for i in range(20)]
    people.loc[3, "pair"] = None
    people.to_csv(tmp_path / "people.csv", index=False)
    changed(catalog, permutations={"seed": 4, "n": 120, "blocks": "pair"}, contrasts=["dx", "age"])
    assert call("ingest", catalog, "--workers", 0).exit_code == 0
    said = call("fit", catalog)
    assert said.exit_code == 1
    told = "expected a block for each of 16 rows, found 'pair' missing in 1 (the first is sub-P03_ses-1_P031); fill"
    assert told in said.output
    people.loc[3, "pair"] = "b0"  # P02 is alone
    people.to_csv(tmp_path / "people.csv", index=False)
    alone = "warning signal-map: 1 of 16 rows have a block of their own and never change places"
    said = fitted(catalog)
    assert said.count(alone) == 1
    assert "no voxel can have" not in said
    page = mapspage.methods(Store(tmp_path / "store").read_json("models/signal-map/maps.json"))
    assert "Voxels counted where all scans exceed 0." in page
    assert (
        "the largest |t| of 120 arrangements of the scans within blocks of pair (freedman" in page
    )
    assert "Clusters are voxels with |t| above 2, connected over 6 neighbours" in page
    content = yaml.safe_load(catalog.read_text())
    content["models"]["signal-map"]["where"] = "age <= 67 and age != 66"  # five scans
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    changed(catalog, permutations={"seed": 4, "n": 120, "scheme": "sign-flip"}, contrasts=["dx"])
    said = fitted(catalog)
    n = Store(tmp_path / "store").read_json("models/signal-map/maps.json")["rows"]["n_used"]
    smallest = 2 / 2**n  # an arrangement, and its opposite
    assert smallest > 0.05
    told = f"dx: no voxel can have a corrected p <= 0.05: all {2**n} arrangements give {smallest:.2g} or more"
    assert f"warning signal-map: {told}" in said
    page = mapspage.methods(Store(tmp_path / "store").read_json("models/signal-map/maps.json"))
    assert f"the largest |t| of all {2**n} arrangements of the scans (sign-flip, seed 4;" in page
    found = cohort.open(catalog).voxelwise("signal-map")
    assert told in found.attrs["warnings"]
    np.testing.assert_allclose(np.nanmin(found["fwe_p"]), smallest)


def test_support_without_arrangements_is_refused(catalog):
    changed(catalog, tfce=True, permutations=None)
    said = call("fit", catalog)
    assert said.exit_code == 2
    assert "tfce: expected permutations, of which support has its p, found none" in said.output


def test_one_voxel_is_one_voxel_and_has_a_volume(catalog, tmp_path):
    changed(catalog, cluster_threshold=3.0)
    image = np.stack([brain(i) for i in range(N)])
    image[:, 1, 3, 3] = 100.0  # the same in all scans
    for i, data in enumerate(image):
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / f"scans/P{i:02d}_1.nii.gz")
    said = fitted(catalog)
    assert "1 voxel left out: the value is the same in all scans." in said
    assert call("report", catalog).exit_code == 0
    peaks = cohort.open(catalog).voxelwise("signal-map").attrs["peaks"]
    assert (peaks["n_voxels"] == 1).any()
    page = (tmp_path / "store/report/index.html").read_text()
    assert ">0.0120<" in page  # ml of a voxel of 2 x 2 x 3 mm
    assert "False discovery rates are those of Benjamini and Hochberg." in page
    assert "Familywise error was controlled" in page


def test_an_explicit_mask_and_scans_without_numbers(catalog, tmp_path):
    inside = np.zeros(SHAPE, np.uint8)
    inside[2:6, 1:5, 1:4] = 1
    nib.save(nib.Nifti1Image(inside, AFFINE), tmp_path / "mask.nii.gz")
    changed(catalog, mask={"image": "mask.nii.gz"})
    said = fitted(catalog)
    assert f"{inside.sum()} of {inside.sum()} voxels of the mask" in said
    found = cohort.open(catalog).voxelwise("signal-map")
    assert int(np.isfinite(found["t"]).sum()) == inside.sum()


def test_masks_that_do_not_fit_are_named(catalog, tmp_path):
    fitted(catalog)
    nib.save(nib.Nifti1Image(np.ones((7, 8, 5), np.uint8), AFFINE), tmp_path / "other.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), tmp_path / "empty.nii.gz")
    nib.save(nib.Nifti1Image(np.full(SHAPE, 0.5, np.float32), AFFINE), tmp_path / "share.nii.gz")
    (tmp_path / "cut.nii").write_bytes(b"no image")
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 2), np.uint8), AFFINE), tmp_path / "two.nii.gz")
    for name, line in (
        ("other.nii.gz", "mask is 5 x 8 x 7 voxels"),
        ("empty.nii.gz", "the mask has no voxel: expected some of 336, found none"),
        (
            "share.nii.gz",
            "mask share.nii.gz: expected 0 outside and other whole numbers inside, found that 336 of 336",
        ),
        ("cut.nii", "mask cut.nii: NII-HEADER"),
        ("two.nii.gz", "mask two.nii.gz: expected one volume, found 2 of them"),
    ):
        for form in ("cube", "streaming"):
            changed(catalog, mask={"image": name}, form=form, permutations=None)
            said = call("fit", catalog)
            assert said.exit_code == 1
            assert line in said.output


@pytest.mark.parametrize("inside", [1, 255, -3, 7.0])
def test_what_is_not_0_is_in_the_mask(catalog, tmp_path, inside):
    mask = np.zeros(SHAPE, np.float32 if isinstance(inside, float) else np.int16)
    mask[2:6, 2:5, 1:4] = inside
    nib.save(nib.Nifti1Image(mask, AFFINE), tmp_path / "m.nii.gz")
    changed(catalog, permutations=None, mask={"image": "m.nii.gz"})
    assert "36 of 36 voxels of the mask fitted" in fitted(catalog)
    found = cohort.open(catalog).voxelwise("signal-map")["n"].to_numpy() > 0
    assert found.sum() == 36
    assert found[1:4, 2:5].any(axis=2).all()


def test_a_scan_whose_map_holds_nothing_is_named_and_left_out(catalog, tmp_path):
    nothing = np.full(SHAPE, np.nan, np.float32)
    nib.save(nib.Nifti1Image(nothing, AFFINE), tmp_path / "scans/P03_1.nii.gz")
    for smooth in (None, 4):
        changed(catalog, smooth_fwhm_mm=smooth)
        said = fitted(catalog)
        assert "sub-P03_ses-1_P031: the map holds no number in the mask; left out" in said
        assert "15 scans, " in said


@pytest.mark.slow
def test_dementia_shows_in_and_around_the_ventricles(shared, tmp_path):
    """The real scans: fluid is dark, so that where ventricles and sulci grow, brains with dementia are darker."""
    folder = tmp_path / "catalogs/cohorts"
    folder.mkdir(parents=True)
    source = Path(__file__).resolve().parents[1] / "catalogs/cohorts/oasis1-maps.yaml"
    content = yaml.safe_load(source.read_text())
    data = shared / "oasis1-mni2mm/uint8"
    content |= {"sources": [str(data)], "store": str(tmp_path / "store")}
    content["participants"]["table"] = str(shared / "oasis/oasis1_cross_sectional.csv")
    content["models"] = {"intensity-by-ad": content["models"]["intensity-by-ad"]}
    content["models"]["intensity-by-ad"]["voxelwise"] |= {
        "permutations": {"seed": 1, "n": 100},
        "tfce": False,
    }
    catalog = folder / "oasis1-maps.yaml"
    catalog.write_text(yaml.safe_dump(content, sort_keys=False))
    said = fitted(catalog)
    assert "158 scans" in said
    found = cohort.open(catalog).voxelwise("intensity-by-ad")
    peaks = found.attrs["peaks"]
    darker = peaks[(peaks["sign"] == -1) & (peaks["fwe_p"] <= 0.05)]
    # the box of lateral ventricles and medial temporal lobes of MNI
    near = (
        darker["x_mm"].abs().le(45)
        & darker["y_mm"].between(-60, 30)
        & darker["z_mm"].between(-35, 35)
    )
    assert near.iloc[0]
    assert near.sum() >= 2
    assert json.dumps(found.attrs["reading"])
    assert isinstance(maps.cube_of(Store(tmp_path / "store"), "intensity-by-ad"), Cube)


@pytest.mark.parametrize("form", ["cube", "streaming"])
def test_maps_say_which_scan_stands_for_a_first_one_without_covariates(tmp_path, form):
    catalog = write_small(
        tmp_path, {"signal-map": {**SMALL, "voxelwise": {"form": form, "mask": {"above": 0.0}}}}
    )
    people = pd.read_csv(tmp_path / "people.csv")
    for i in (3, 7):
        nib.save(nib.Nifti1Image(brain(i), AFFINE), tmp_path / f"scans/P{i:02d}_2.nii.gz")
    visits = pd.concat([people.assign(id=people["id"] + f"_{k}") for k in (1, 2)])
    visits.to_csv(tmp_path / "people.csv", index=False)
    assert "cannot be used" not in fitted(catalog)
    record = maps.record(Store(tmp_path / "store"), "signal-map")
    assert record["rows"]["n_table"] == N + 2
    visits.loc[visits["id"].isin(["P03_1", "P07_1"]), "age"] = np.nan
    visits.to_csv(tmp_path / "people.csv", index=False)
    said = fitted(catalog)
    record = maps.record(Store(tmp_path / "store"), "signal-map")
    told = (
        f"2 of {N} subjects: a later scan is fitted, because the first cannot be used (one_scan_per: first);"
        " sub-P03_ses-2_P032 instead of sub-P03_ses-1_P031 (missing age), the first of them"
    )
    assert f"warning signal-map: {told}" in said
    assert record["warnings"] == [told]
    page = Path(call("report", catalog).stdout.strip().splitlines()[-1])
    assert told in page.read_text(encoding="utf-8")
    # Another reason for the same scans, and the same design: what is said is as it is now.
    visits[visits["id"] != "P03_1"].to_csv(tmp_path / "people.csv", index=False)
    assert "P031 (no row in the participants table)" in fitted(catalog)
