"""A cohort whose store is a bucket: the same numbers and the same bytes, whatever happens on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cohorts
import numpy as np
import pandas as pd
import pytest

from cohort import api
from cohort.io.storage import metadata, objects
from cohort.io.storage import s3 as client
from cohort.io.storage.backend import Locked, Unreachable
from cohort.io.store import Store

pytest_plugins = ["s3"]

HERE = api.Options(workers=0)


@pytest.fixture
def catalog(tmp_path):
    return cohorts.write_cohort(tmp_path)


@pytest.fixture
def there(s3):
    """Options for a store in a bucket."""
    return api.Options(workers=0, store=f"{s3.url}/cohorts/balls")


@pytest.mark.parametrize(
    ("grain", "in_shards"),
    [
        ("block", True),
        pytest.param("scan", False, marks=pytest.mark.slow),
        pytest.param("scan", True, marks=pytest.mark.slow),
        pytest.param("block", False, marks=pytest.mark.slow),
    ],
)
def test_an_update_leaves_the_bytes_that_a_folder_holds(
    catalog, there, monkeypatch, grain, in_shards
):
    if in_shards:
        monkeypatch.setattr(metadata, "WHOLE_BYTES", 1000)
        monkeypatch.setattr(metadata, "CHUNK", 8 if grain == "scan" else 9)
        metadata._made_array.cache_clear()  # of the scans of other tests
    local = api.update(catalog, options=HERE)
    result = api.update(catalog, options=api.Options(workers=0, store=there.store, grain=grain))
    metadata._made_array.cache_clear()
    assert result.manifest["counts"] == local.manifest["counts"]
    assert result.manifest["counts"]["done"] == 6
    kept = cohorts.contents(result.store)
    assert kept == cohorts.contents(local.store)
    chunks = [name for name in kept if name.startswith("scans/") and "/image/c/" in name]
    assert len(chunks) == 6
    assert (b"sharding_indexed" in kept[f"{chunks[0].partition('/c/')[0]}/zarr.json"]) == in_shards
    assert str(result.report) == f"{there.store}/report/index.html"
    assert result.store.files.size("report/index.html") > 10_000
    assert Store(there.store).sweep() == 0


def test_what_is_fresh_is_not_put_again(catalog, there, s3):
    api.update(catalog, options=there)
    before = cohorts.contents(Store(there.store))
    s3.requests()
    again = api.update(catalog, options=there)
    assert again.manifest["processed"] == 0
    assert again.manifest["counts"]["fresh"] == 6
    written = [line for line in s3.requests() if line.startswith("PUT")]
    assert {line.split("/")[3] for line in written} == {".lock", "runs"}
    assert cohorts.contents(Store(there.store)) == before


@pytest.mark.slow
def test_one_changed_voxel_puts_one_scan(catalog, there, s3):
    api.update(catalog, options=there)
    data = cohorts.ball(3)
    data[9, 10, 8] += 1
    cohorts.write_scan(catalog.parent / "scans/003_v1.nii.gz", data)
    s3.requests()
    assert api.update(catalog, options=there).manifest["processed"] == 1
    scans = [line for line in s3.requests() if line.startswith("PUT") and "/scans/" in line]
    assert scans
    assert all("003v1" in line for line in scans)


@pytest.mark.slow
def test_a_notebook_opens_a_bucket_lazily(catalog, there):
    api.update(catalog, options=HERE)
    api.update(catalog, options=there)
    local, cohort = api.open(catalog), api.open(there.store)
    pd.testing.assert_frame_equal(cohort.scans, local.scans)
    pd.testing.assert_frame_equal(cohort.measurements("ball"), local.measurements("ball"))
    scan = cohort.scans["scan_id"].iloc[2]
    image = cohort.scan(scan)["image"]
    np.testing.assert_array_equal(image[4:7, ::2, 3], local.scan(scan)["image"][4:7, ::2, 3])
    assert float(cohort.stack().mean()) == float(local.stack().mean())  # noqa: PD013 - scans, not columns
    assert cohort.explain(scan, "n_big") == local.explain(scan, "n_big")
    assert api.status(cohort)["recipes"] == {"ball": {"done": 6}}


@pytest.mark.slow
def test_damage_in_a_bucket_is_mended_by_the_next_calls(catalog, there):
    api.update(catalog, options=there)
    store = Store(there.store)
    before = cohorts.contents(store)
    chunk = next(name for name in before if name.startswith("scans/") and "/image/c/" in name)
    records = [name for name in before if name.startswith("derivatives/") and name.count("/") == 2]
    store.files.remove(chunk)
    store.files.write(records[1], b"{")
    store.files.write("tables/ball.parquet", b"PAR1")
    result = api.update(catalog, options=there)
    assert result.manifest["counts"]["failed"] == 0
    assert result.manifest["processed"] == 2
    assert cohorts.contents(store) == before


@pytest.mark.slow
def test_events_and_failures_are_kept_with_the_run(catalog, there):
    cohorts.write_scan(catalog.parent / "scans/001_v1.nii.gz", 0 * cohorts.ball(1))
    result = api.update(catalog, options=there)
    store = Store(there.store)
    (run,) = store.runs()
    events = [json.loads(line) for line in store.events(run)]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    assert sum(e["event"] == "done" for e in events) == 5
    (failed,) = result.failed
    trace = store.files.read(f"runs/{run}/failures/ball.{failed['scan_id']}.txt").decode()
    assert "mask without voxels" in trace


def test_no_object_holds_a_credential_or_a_path(catalog, there, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-not-to-be-seen")
    catalog.write_text(cohorts.CATALOG.replace("ids: keep", "ids: token"), encoding="utf-8")
    api.update(catalog, options=there)
    store = Store(there.store)
    names = [name for name, _ in store.files.listing()]
    assert len(names) > 100
    for name, content in zip(names, store.files.each(store.files.read, names), strict=True):
        for word in (b"a-secret-not", str(tmp_path).encode(), b"000_v1"):
            assert word not in content, name


def test_a_second_writer_is_told_who_holds_the_bucket(catalog, there):
    with (
        Store(there.store).lock(),
        pytest.raises(Locked, match=rf"process {os.getpid()} on .* sign of life"),
    ):
        api.update(catalog, options=there)
    assert api.update(catalog, options=there).manifest["counts"]["done"] == 6


@pytest.mark.slow
def test_a_server_that_goes_away_costs_nothing_that_is_there(catalog, there, monkeypatch):
    api.update(catalog, options=there)
    before = cohorts.contents(Store(there.store))
    with monkeypatch.context() as away:
        away.setattr(objects, "connect", partial(client.connect, retry_s=0.2))
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(Unreachable, match="the object store fails"):
            api.update(catalog, options=there)
    assert cohorts.contents(Store(there.store)) == before
    assert api.update(catalog, options=there).manifest["processed"] == 0


def command(catalog: Path, store: str) -> list[str]:
    options = ["--workers", "0", "--store", store]
    return [sys.executable, "-m", "cohort.cli", "update", str(catalog), *options]


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_ends_as_if_undisturbed(tmp_path, there):
    calm = cohorts.write_cohort(tmp_path / "calm")
    began = time.perf_counter()
    subprocess.run(command(calm, str(tmp_path / "calm/store")), check=True, capture_output=True)
    whole = time.perf_counter() - began
    wild, moments = cohorts.write_cohort(tmp_path / "wild"), random.Random(3)
    for _ in range(6):
        process = subprocess.Popen(
            command(wild, there.store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(0.3, 1.0) * whole)
        process.kill()
        process.wait()
    last = subprocess.run(command(wild, there.store), check=False, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert cohorts.contents(Store(there.store)) == cohorts.contents(cohorts.store_of(calm))
    assert Store(there.store).sweep() == 0


@pytest.mark.slow
def test_a_second_command_exits_75_and_the_first_one_is_undisturbed(tmp_path, there):
    catalog = cohorts.write_cohort(tmp_path)
    first = subprocess.Popen(
        [*command(catalog, there.store), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with first:
        assert any('"ingested"' in line for line in first.stdout)
        first.send_signal(signal.SIGSTOP)
        second = subprocess.run(
            command(catalog, there.store), check=False, capture_output=True, text=True
        )
        first.send_signal(signal.SIGCONT)
        first.stdout.read()
    assert (first.returncode, second.returncode) == (0, 75)
    assert f"is locked by process {first.pid} on" in second.stderr


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("grain", ["scan", "block"])
def test_workers_leave_the_same_bytes_in_a_bucket(catalog, there, grain):
    api.update(catalog, options=HERE)
    options = api.Options(workers=2, grain=grain, memory=2 << 30, store=there.store)
    api.update(catalog, options=options)
    assert cohorts.contents(Store(there.store)) == cohorts.contents(cohorts.store_of(catalog))
