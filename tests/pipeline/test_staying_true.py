"""What is in the tables, models and explanations follows from what is there now: nothing stale, nothing borrowed."""

import signal
import subprocess
import sys

import cohorts
import numpy as np
import pytest

from cohort import api
from cohort.io.store import Store

HERE = api.Options(workers=0)


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path, scans=8)


def edit(path, *changes):
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def store_of(catalog):
    return Store(catalog.parent / "store")


def test_a_cohort_that_lost_its_scans_is_not_modelled_from_its_table(catalog):
    edit(catalog, ("outcome: head_ml", "outcome: age"))
    api.update(catalog, options=HERE)
    store = store_of(catalog)
    store.write_table("scans", store.table("scans").iloc[:0])
    result = api.fit(catalog, options=HERE)
    assert "no scans in the store" in result.fits["size"]


def test_a_failure_of_one_recipe_costs_no_row_of_a_model_on_another(catalog):
    other = cohorts.RECIPE.replace("recipe: ball", "recipe: other").replace(
        "above: 0}", "above: 9999}"
    )
    names = ("n_head", "head_ml", "mean_head", "n_spots", "n_big", "where", "share", "spots_of")
    for name in names:
        other = other.replace(f"  {name}:", f"  {name}_b:")
    other = other.replace("n_big / n_head", "n_big_b / n_head_b")
    (catalog.parent / "recipes/other.yaml").write_text(other, encoding="utf-8")
    edit(catalog, ("recipes: [ball]", "recipes: [ball, other]"))
    result = api.update(catalog, options=HERE)
    assert len(result.failed) == 8
    assert result.fits["size"].rows["n_used"] == 8


def test_a_model_that_cannot_be_fitted_any_more_is_gone(catalog):
    api.update(catalog, options=HERE)
    assert store_of(catalog).models() == ["size"]
    edit(catalog, ("confounds: [weight]", 'confounds: [weight], where: "age > 999"'))
    result = api.update(catalog, options=HERE)
    assert isinstance(result.fits["size"], str)
    assert store_of(catalog).models() == []
    edit(catalog, (', where: "age > 999"', ""))
    api.update(catalog, options=HERE)
    text = catalog.read_text(encoding="utf-8")
    catalog.write_text(text[: text.index("models:")], encoding="utf-8")
    api.update(catalog, options=HERE)
    assert store_of(catalog).models() == []


def test_a_measurement_made_of_a_step_of_the_same_name_is_filled(catalog):
    api.update(catalog, options=HERE)
    recipe = catalog.parent / "recipes/ball.yaml"
    line = "  level: {call: median_in, image: image, mask: head}\n"
    edit(
        recipe,
        (line, ""),
        (
            '  dark:  {call: threshold, image: image, below: "0.9 * level"}\n',
            "  dark:  {call: threshold, image: image, below: 30}\n",
        ),
        ("measure:\n", "measure:\n" + line),
    )
    api.update(catalog, options=HERE)
    assert store_of(catalog).table("ball")["level"].notna().all()


def test_a_table_of_labels_can_be_taken_out_of_a_recipe(catalog):
    api.update(catalog, options=HERE)
    recipe = catalog.parent / "recipes/ball.yaml"
    line = (
        "  spots_of:   {call: regions, image: image, labels: parts, quantities: [n_voxels, mean]}\n"
    )
    edit(recipe, (line, ""))
    result = api.update(catalog, options=HERE)
    assert result.manifest["counts"]["failed"] == 0
    assert "ball.spots_of" not in store_of(catalog).tables()


def test_an_explanation_tells_the_parameters_a_number_was_made_with(catalog):
    api.update(catalog, options=HERE)
    scan = api.open(catalog).scans["scan_id"].iloc[0]
    edit(catalog.parent / "recipes/ball.yaml", ("0.9 * level", "0.8 * level"))
    api.fit(catalog, options=HERE)
    assert api.open(catalog).explain(scan, "n_big")["steps"]["dark"]["below"] == "0.9 * level"
    api.update(catalog, options=HERE)
    assert api.open(catalog).explain(scan, "n_big")["steps"]["dark"]["below"] == "0.8 * level"


def test_a_kept_variable_that_was_lost_is_made_again(catalog):
    api.update(catalog, options=HERE)
    store = store_of(catalog)
    scan = store.scan_ids()[0]
    before = store.open_derivative("ball", scan)["big"].values
    (store.root / f"derivatives/ball/{scan}.zarr/big/c/0/0/0").write_bytes(b"")
    (plan,) = api.plan(catalog, options=HERE)
    assert plan.reasons() == {"not kept before: big": 1}
    assert api.update(catalog, options=HERE).manifest["processed"] == 1
    np.testing.assert_array_equal(store.open_derivative("ball", scan)["big"], before)


def test_damage_in_the_store_is_mended_by_the_next_calls(catalog):
    api.update(catalog, options=HERE)
    store = store_of(catalog)
    before = store.table("ball")
    ids = store.scan_ids()
    chunk = store.root / f"scans/{ids[0]}.zarr/image/c/0/0/0"
    whole = bytearray(chunk.read_bytes())
    whole[len(whole) // 2] ^= 4
    chunk.write_bytes(bytes(whole))
    (store.root / f"scans/{ids[1]}.json").write_text("{", encoding="utf-8")
    for path in (store.root / f"derivatives/ball/{ids[2]}.zarr/big/c").rglob("0"):
        if path.is_file():
            path.unlink()
    edit(catalog.parent / "recipes/ball.yaml", ("iterations: 1", "iterations: 2"))
    api.update(catalog, options=HERE)
    edit(catalog.parent / "recipes/ball.yaml", ("iterations: 2", "iterations: 1"))
    for _ in range(2):
        result = api.update(catalog, options=HERE)
    assert result.manifest["counts"]["failed"] == 0
    assert store.table("ball").equals(before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("store: store", "store: scans/store"), "lies in the source"),
        (("ids: keep", "ids: token\nkey: store/key"), "lies in the store"),
        (("confounds: [weight]", "confounds: [weight], group: wait"), "group: 'wait' is no term"),
        (
            ("confounds: [weight]", "confounds: [weight], truth: {wait: 1}"),
            "truth: 'wait' is no term",
        ),
    ],
)
def test_a_catalog_that_would_do_harm_is_refused_before_anything_is_written(
    catalog, change, message
):
    edit(catalog, change)
    with pytest.raises(ValueError, match=message):
        api.update(catalog, options=HERE)
    assert not (catalog.parent / "store").exists()


def test_later_stages_need_no_sources(catalog):
    api.ingest(catalog, options=HERE)
    edit(catalog, ("[scans]", "[elsewhere]"))
    assert api.run(catalog, options=HERE).manifest["counts"]["done"] == 8


@pytest.mark.slow
def test_sigterm_leaves_a_manifest_and_exit_75(catalog):
    command = [
        sys.executable,
        "-m",
        "cohort.cli",
        "update",
        str(catalog),
        "--workers",
        "0",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if '"ingested"' in line:
            process.send_signal(signal.SIGTERM)
            break
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "stopped: signal" in stderr
    assert "resume with: cohort update" in stderr
    assert store_of(catalog).manifest()["stopped"] == "signal"
    assert np.isfinite(api.update(catalog, options=HERE).manifest["seconds"])
