"""What no record needs goes, to the byte; what a record, the catalog or a call at work needs stays."""

import json
from pathlib import Path

import cohorts
import pytest
from typer.testing import CliRunner

from cohort import api, cli
from cohort.call import Call
from cohort.io.sources.filecache import FileCache
from cohort.io.store import Locked, Store
from cohort.userfiles import cache_file

HERE = api.Options(workers=0)


def bring(catalog: Path):
    """All but the report, which takes most of the time."""
    return Call(catalog, None, HERE).work("update", ["ingest", "run", "fit"])


def content(root: Path) -> dict[str, bytes]:
    files = [p for p in root.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in files}


def size(root: Path) -> int:
    return sum(map(len, content(root).values()))


@pytest.fixture
def littered(tmp_path):
    """A store with one of every kind of rubbish; and what may look like it and is none."""
    catalog = cohorts.write_cohort(tmp_path, scans=5)
    recipes = tmp_path / "recipes"
    text = cohorts.RECIPE
    (recipes / "old.yaml").write_text(
        text.replace("recipe: ball", "recipe: old").replace("iterations: 1", "iterations: 3")
    )
    said = catalog.read_text()
    catalog.write_text(said.replace("recipes: [ball]", "recipes: [ball, old]").replace(
        "models:\n", "models:\n  gone: {outcome: head_ml, formula: old, recipe: old}\n").replace(
        "formula: \"old + weight\"", "formula: \"old + weight\", recipe: ball"))  # fmt: skip
    bring(catalog)
    catalog.write_text(said)
    (recipes / "ball.yaml").write_text(text.replace("iterations: 1", "iterations: 2"))
    (tmp_path / "scans/004_v1.nii.gz").unlink()
    Call(catalog, None, HERE).work(
        "update", ["ingest", "run"]
    )  # not `fit`: it forgets models itself
    store = tmp_path / "store"
    (store / "_staging/abc").mkdir(parents=True)
    (store / "_staging/abc/chunk").write_bytes(b"x" * 1000)
    for folder in ("scans", "derivatives/ball"):
        (store / folder / "sub-9_ses-1_x.zarr").mkdir()
        (store / folder / "sub-9_ses-1_x.zarr/zarr.json").write_bytes(b"{}")
    orphan = store / "derivatives/ball/sub-8_ses-1_x.json"
    orphan.write_bytes((store / "derivatives/ball/sub-000_ses-1_000v1.json").read_bytes())
    killed = store / "runs/20260101T000000.000000Z-abcdef"
    killed.mkdir()
    (killed / "events.jsonl").write_text("{}\n")
    return catalog


def test_what_goes_is_said_before_to_the_byte_and_nothing_that_is_needed_goes(littered):
    store = littered.parent / "store"
    before, total = content(store), size(store)
    said = api.collect(api.open(littered), dry_run=True)
    assert content(store) == before
    kinds = {each.kind for each in said}
    assert kinds == {"staging", "derivatives", "table", "recipe", "model", "run", "cache"}
    assert api.collect(api.open(littered)) == said
    inside = [each for each in said if each.kind != "cache"]
    # The list of the tables' digests is written again, shorter.
    listed = len(before["tables/checksums.json"]) - (store / "tables/checksums.json").stat().st_size
    assert total - size(store) == sum(each.bytes for each in inside) + listed
    left = content(store)
    assert not any("old" in name or "sub-9" in name or "sub-8" in name for name in left)
    assert {n for n in before if n.startswith("scans/sub-0")} <= set(left)
    assert "derivatives/ball/sub-004_ses-1_004v1.json" in left  # its scan is still in the store
    assert [str(p) for p in api.verify(api.open(littered)) if p.is_error] == []
    with FileCache(cache_file(Store(store))) as known:
        assert list(known.gone()) == []
    assert b"004_v1" not in cache_file(Store(store)).read_bytes()
    assert b"000_v1" in cache_file(Store(store)).read_bytes()
    again = bring(littered)
    assert (again.manifest["processed"], again.manifest["counts"]["fresh"]) == (0, 4)
    assert api.collect(api.open(littered)) == []


def test_runs_beyond_those_to_keep_go_but_none_that_a_reader_looks_for(littered):
    store = Store(littered.parent / "store")
    with store.lock(), pytest.raises(Locked):
        api.collect(api.open(littered))
    done = CliRunner().invoke(cli.app, ["gc", str(littered.parent / "store")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "expected the cohort's catalog" in done.stderr
    shown = CliRunner().invoke(cli.app, ["gc", str(littered), "--dry-run", "--json"])
    assert shown.exit_code == 0
    assert {json.loads(line)["kind"] for line in shown.stdout.splitlines()} >= {"run", "staging"}
    for _ in range(3):
        Call(littered, None, HERE).work("run", ["run"])
    before = store.runs()
    api.collect(api.open(littered), keep_runs=2)
    left = store.runs()
    assert left[-2:] == before[-2:]
    assert len(left) < len(before)
    stages = [set(store.manifest(run)["stages"]) for run in left]
    assert set().union(*stages) == {"ingest", "run:ball", "run:old", "fit"}
    assert [str(p) for p in api.verify(api.open(littered)) if p.is_error] == []
