"""What a plan will take, from arithmetic and from what earlier runs took."""

import cohorts
import pytest
import yaml

from cohort.io.store import Store
from cohort.pipeline.forecast import RUNS, Experience, experience, forecast
from cohort.pipeline.plan import BLOCK_BYTES, WORKER_BASE_BYTES, Plan, Task
from cohort.pipeline.recipe import bind

RECIPE = bind(yaml.safe_load(cohorts.RECIPE), where="ball.yaml")


def plan(n, **more):
    tasks = tuple(
        Task(f"s{i}", "new", tuple(RECIPE.keys), "scan", 50 << 20, read_bytes=10, write_bytes=3)
        for i in range(n)
    )
    return Plan("ball", (), tasks + tuple(more.get("blocks", ())), ())


def known(seconds_a_scan, scans=10):
    return Experience(scans, seconds_a_scan * scans, 1.0, 1, 400 << 20, is_same=True)


def manifest(run, *, scans, seconds, digest=RECIPE.digest, peak=1):
    cost = {
        "scans": scans,
        "seconds": seconds,
        "cpu_seconds": 1.0,
        "read_bytes": 5,
        "peak_rss_bytes": peak,
    }
    return run, {"stages": {"run:ball": {"cost": cost}}, "recipes": {"ball": {"digest": digest}}}


def test_without_experience_no_hours_are_given():
    found = forecast(plan(7), RECIPE, None, workers=2, budget_seconds=10.0)
    assert (found.hours, found.worker_hours, found.fits) == (None, None, None)
    assert (found.scans, found.tasks, found.read_bytes, found.write_bytes) == (7, 7, 70, 21)
    assert found.peak_bytes == WORKER_BASE_BYTES + (50 << 20)


def test_hours_are_whole_rounds_of_all_workers():
    found = forecast(plan(7), RECIPE, known(360.0), workers=2)
    assert found.worker_hours == pytest.approx(0.7)
    assert found.hours == pytest.approx(0.4)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [1.0, 359.9, 360.0, 1000.0, 1e6])
def test_what_fits_in_a_budget_is_the_most_whose_forecast_is_within_it(workers, budget):
    tasks = plan(20)
    found = forecast(tasks, RECIPE, known(360.0), workers=workers, budget_seconds=budget)
    within = [
        n
        for n in range(21)
        if (forecast(tasks, RECIPE, known(360.0), workers=workers, max_scans=n).hours or 0) * 3600
        <= budget + 1e-6
    ]
    assert found.fits == max(within)


def test_a_scan_in_blocks_is_a_task_for_each_block_and_step_and_as_large_as_a_block():
    big = Task("big", "new", ("a", "b"), "block", 99 << 30, block=64, n_blocks=27)
    found = forecast(plan(0, blocks=[big]), RECIPE, None, workers=1)
    assert found.tasks == 54
    assert found.peak_bytes == WORKER_BASE_BYTES + BLOCK_BYTES * 64**3


def test_nothing_to_do_takes_nothing():
    found = forecast(plan(0), RECIPE, known(1.0), workers=2, budget_seconds=5.0)
    assert (found.scans, found.hours, found.peak_bytes, found.fits) == (0, 0.0, 0, 0)


def test_experience_is_of_the_last_runs_that_say_what_they_took(tmp_path):
    store = Store(tmp_path)
    assert experience(store, RECIPE) is None
    for run, said in (
        manifest("1", scans=1000, seconds=9000.0, peak=9),
        manifest("2", scans=90, seconds=180.0, peak=7, digest="another"),
        ("3", {"stages": {"run:ball": {"done": 0}}}),
        manifest("4", scans=20, seconds=20.0),
        manifest("5", scans=0, seconds=0.0),
        ("6", {"stages": {"ingest": {}}}),
    ):
        store.write_manifest(run, said)
    found = experience(store, RECIPE)
    assert (found.scans, found.seconds, found.peak_rss_bytes, found.is_same) == (
        110,
        200.0,
        7,
        False,
    )


def test_a_store_of_many_runs_is_not_read_whole(tmp_path, monkeypatch):
    store = Store(tmp_path)
    for n in range(RUNS + 20):
        store.write_manifest(f"{n:04d}", {"stages": {}})
    read = []
    monkeypatch.setattr(
        Store, "manifest", lambda self, run: read.append(run) or {"stages": {}}, raising=True
    )
    assert experience(store, RECIPE) is None
    assert len(read) == RUNS
