"""What comes before and beside a run: libraries that change, recipes that change midway, a few scans first, forecasts."""

import json
import os
import shutil
import time
from pathlib import Path

import cohorts
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import api
from cohort.io.store import Store
from cohort.pipeline import versions

SCANS = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cohort that was brought up to date, made once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CONFIG", "CACHE", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(folder / "home" / kind.lower()))
        path = cohorts.write_cohort(folder / "cohort", SCANS)
        assert api.update(path, options=here()).manifest["processed"] == SCANS
    return path


@pytest.fixture
def catalog(made, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(made.parent, tmp_path / "cohort")) / made.name


def here(**more):
    return api.Options(workers=0, **more)


def table(catalog):
    return Store(catalog.parent / "store").table("ball").set_index("scan_id")


def tables(catalog):
    folder = catalog.parent / "store"
    return {
        p: p.read_bytes() for f in ("tables", "models") for p in sorted((folder / f).rglob("*.*"))
    }


def edit(catalog, old, new):
    path = catalog.parent / "recipes/ball.yaml"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def upgrade(monkeypatch, **libraries):
    """Another version of a library, from now on."""
    now = {**versions.numeric(), **libraries}
    monkeypatch.setattr(versions, "numeric", lambda: now)
    return now


def test_results_of_another_version_stay_readable_and_are_never_mixed_unasked(catalog, monkeypatch):
    before, old = table(catalog), versions.numeric()["scipy"]
    upgrade(monkeypatch, scipy="99.1")
    (plan,) = api.plan(catalog)
    assert plan.reasons() == {f"library: scipy {old} -> 99.1": SCANS}
    assert api.plan(catalog, options=here(accept_versions=True))[0].tasks == ()
    pd.testing.assert_frame_equal(table(catalog), before)

    api.run(catalog, options=here(max_scans=2))
    mixed = table(catalog)
    assert mixed["state"].value_counts().to_dict() == {"stale": SCANS - 2, "done": 2}
    assert set(mixed.loc[mixed["state"] == "stale", "reason"]) == {f"library: scipy {old} -> 99.1"}
    pd.testing.assert_series_equal(mixed["head_ml"], before["head_ml"])
    result = api.fit(catalog, options=here())
    refusal = result.fits["size"]
    assert result.newly_bad
    assert "2 of the versions here" in refusal
    assert f"{SCANS - 2} of library: scipy {old} -> 99.1" in refusal
    assert "--accept-versions" in refusal

    accepted = api.fit(catalog, options=here(accept_versions=True))
    assert len(accepted.fits["size"].augment) == SCANS
    assert api.run(catalog, options=here()).manifest["processed"] == SCANS - 2
    assert set(table(catalog)["state"]) == {"done"}


def test_a_run_that_ends_early_leaves_no_table_of_two_recipes(catalog):
    before = table(catalog)
    edit(catalog, "iterations: 1", "iterations: 2")
    api.run(catalog, options=here(max_scans=2))
    part = table(catalog)
    stale = part["state"] == "stale"
    assert stale.sum() == SCANS - 2
    assert set(part.loc[stale, "reason"]) == {"changed in the recipe: core"}
    assert part.loc[stale, ["n_spots", "n_big", "share"]].isna().all(axis=None)
    assert (part["head_ml"] == before["head_ml"]).all()  # stands on no changed step
    spots = Store(catalog.parent / "store").table("ball.spots_of")
    assert set(spots["scan_id"]) <= set(part.index[~stale])
    page = Path(api.report(catalog, options=here()).report).read_text(encoding="utf-8")
    assert "changed in the recipe: core" in page
    api.run(catalog, options=here())
    whole = table(catalog)
    assert set(whole["state"]) == {"done"}
    pd.testing.assert_frame_equal(whole[~stale], part[~stale])


def test_a_recipe_that_is_edited_while_it_runs_counts_from_the_next_call_on(catalog):
    edit(catalog, "iterations: 1", "iterations: 2")
    edits = ["iterations: 3"]

    def listen(event):
        if event["event"] == "done" and edits:
            edit(catalog, "iterations: 2", edits.pop())

    api.run(catalog, options=here(listen=listen))
    store = Store(catalog.parent / "store")
    assert not edits
    records = list(store.derivatives("ball", store.scan_ids()))
    assert len({r["recipe_digest"] for r in records}) == 1
    said = store.recipe(records[0]["recipe_digest"])
    assert said["steps"]["core"]["iterations"] == 2
    (plan,) = api.plan(catalog)
    assert plan.reasons() == {"changed in the recipe: core": SCANS}
    assert "head" not in plan.tasks[0].stale


def test_the_clock_decides_nothing(catalog, monkeypatch):
    files = sorted((catalog.parent / "scans").iterdir())
    for number, path in enumerate(files):
        stamp = (0, 4_070_908_800)[number % 2]  # 1970, 2099
        os.utime(path, (stamp, stamp))
    real = time.time
    for days in (-1, 1):
        monkeypatch.setattr(time, "time", lambda days=days: real() + 86400 * days)
        assert api.update(catalog, options=here()).manifest["processed"] == 0


def test_an_input_that_changed_under_its_old_size_and_time_is_measured_again(catalog):
    path = sorted((catalog.parent / "scans").iterdir())[2]
    state, content = path.stat(), path.read_bytes()
    cohorts.write_scan(path.with_name("other.nii.gz"), cohorts.ball(77))
    other = path.with_name("other.nii.gz")
    padded = other.read_bytes()
    other.unlink()
    if len(padded) < len(content):
        path.write_bytes(padded + bytes(len(content) - len(padded)))
    else:
        path.write_bytes(padded)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_mtime_ns == state.st_mtime_ns
    before = table(catalog)
    assert api.ingest(catalog, options=here()).manifest["processed"] == 1
    assert api.run(catalog, options=here()).manifest["processed"] == 1
    name = f"sub-{path.name[:3]}_ses-1_{path.name[:3]}v1"
    after = table(catalog)
    assert after.loc[name, "head_ml"] != before.loc[name, "head_ml"]
    others = before.index != name
    pd.testing.assert_frame_equal(after[others], before[others])


def test_a_canary_whose_numbers_move_ends_the_call_and_touches_no_table(catalog):
    before = tables(catalog)
    edit(catalog, "iterations: 1", "iterations: 2")
    result = api.update(catalog, options=here(canary=2))
    (canary,) = result.canaries
    assert result.newly_bad
    assert result.manifest["processed"] == 2
    assert result.manifest["canary"]["ball"]["stopped"]
    assert (canary.scans, canary.is_calm, canary.again) == (2, False, False)
    assert {c.column for c in canary.columns} & {"n_spots", "n_big", "share"}
    assert "head_ml" not in {c.column for c in canary.columns}
    assert tables(catalog) == before

    again = api.update(
        catalog, options=here(canary=2)
    )  # the next night: the same, and nothing runs
    assert again.newly_bad
    assert again.manifest["processed"] == 0
    assert again.canaries[0].again
    assert again.canaries[0].columns == canary.columns
    assert tables(catalog) == before

    on = api.run(catalog, options=here())
    assert not on.is_halted
    assert on.manifest["stages"]["run:ball"]["done"] == SCANS - 2
    assert set(table(catalog)["state"]) == {"done"}


def test_a_calm_canary_goes_on_and_the_account_holds_both_parts(catalog, monkeypatch):
    now = upgrade(monkeypatch, numpy="99.0")
    result = api.update(catalog, options=here(canary=2))
    assert not result.newly_bad
    stage = result.manifest["stages"]["run:ball"]
    assert (stage["done"], stage["failed"], stage["fresh"]) == (SCANS, 0, 0)
    assert stage["reasons"] == {next(iter(stage["reasons"])): SCANS}
    assert stage["cost"]["scans"] == SCANS
    assert result.manifest["canary"]["ball"]["versions"] == now
    assert set(table(catalog)["state"]) == {"done"}


def test_somebody_may_say_yes_to_numbers_that_moved(catalog):
    edit(catalog, "0.9 * level", "0.8 * level")
    asked = []
    options = here(canary=1, confirm=lambda canary: asked.append(canary) is None)
    result = api.run(catalog, options=options)
    assert not result.newly_bad
    assert [c.scans for c in asked] == [1]
    assert set(table(catalog)["state"]) == {"done"}
    assert result.manifest["stages"]["run:ball"]["done"] == SCANS


def test_plan_explains_forecasts_and_says_what_fits(catalog):
    from cohort.cli import app

    def call(*arguments):
        done = CliRunner().invoke(app, ["plan", str(catalog), *arguments])
        return done.exit_code, done.stdout

    store = Store(catalog.parent / "store")
    cost = store.manifest()["stages"]["run:ball"]["cost"]
    edit(catalog, "iterations: 1", "iterations: 2")
    code, out = call("--explain", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [t["scan_id"] for t in told] == [t.scan_id for t in api.plan(catalog)[0].tasks]
    assert all(t["causes"] == [{"kind": "recipe", "text": "core: iterations 1 -> 2"}] for t in told)
    assert "sub-003_ses-1_003v1  ball  stale: runs core," in call("sub-003")[1]
    assert call("--explain", "sub-9")[0] == 2

    code, out = call(
        "--json", "--workers", "1", "--budget", f"{3.5 * cost['seconds'] / SCANS:.6f}s"
    )
    forecast = json.loads(out)["forecast"]
    assert (forecast["scans"], forecast["tasks"], forecast["fits"]) == (SCANS, SCANS, 3)
    assert forecast["worker_hours"] == pytest.approx(cost["seconds"] / 3600, rel=1e-9)
    chunks = [r["chunks"] for r in store.records(store.scan_ids())]
    images = [size for c in chunks for name, (_, size) in c.items() if name.startswith("image/")]
    assert forecast["read_bytes"] == np.sum(images)
    assert "hours: " in call("--budget", "1h")[1]
    assert call("--budget", "soon")[0] == 2
    assert api.plan(catalog)[0].reasons() == {"changed in the recipe: core": SCANS}


def test_without_a_run_no_hours_are_given(tmp_path):
    path = cohorts.write_cohort(tmp_path, 3)
    api.ingest(path, options=here())
    (outlook,) = api.forecast(path, options=here(budget_seconds=60.0))
    assert (outlook.forecast.hours, outlook.forecast.fits) == (None, None)
    assert (outlook.forecast.scans, len(outlook.plan.tasks)) == (3, 3)
