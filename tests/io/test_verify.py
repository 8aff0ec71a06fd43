"""Verification: a sound store has no problem, and whatever bit flips, file goes or file comes is found and named."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import cohorts
import numpy as np
import pytest

from cohort import api
from cohort.io.storage import jsonfile
from cohort.io.store import Store
from cohort.io.verify import Problem, discard, verify

pytest_plugins = ["s3"]

HERE = api.Options(workers=0)
UNDIGESTED = {".lock"}
"""Says who holds the store; empty of results."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A catalog whose store holds six scans, one refusal, one failed derivative, a model and a report."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        catalog = cohorts.write_cohort(folder, scans=7)
        scans = sorted((folder / "scans").iterdir())
        scans[0].write_bytes(scans[0].read_bytes()[:-40])
        cohorts.write_scan(scans[1], np.zeros((19, 22, 17), np.int16))
        result = api.update(catalog, options=HERE)
    assert result.manifest["counts"] == {"fresh": 0, "done": 5, "failed": 1, "quarantined": 1}
    return catalog


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store for one test."""
    shutil.copytree(made.parent / "store", tmp_path / "store", symlinks=True)
    return Store(tmp_path / "store")


def problems(store: Store) -> list[Problem]:
    return list(verify(store))


def files(store: Store) -> dict[str, list[str]]:
    """Every file of a store by its kind."""
    found: dict[str, list[str]] = {}
    for path in sorted(p for p in store.root.rglob("*") if p.is_file()):
        name = path.relative_to(store.root).as_posix()
        parts = PurePosixPath(name)
        inner = name.partition(".zarr/")[2]
        kind = (
            f"{parts.parts[0]} {'chunk' if inner and parts.name != 'zarr.json' else parts.suffix}"
        )
        if parts.name in ("zarr.json", "checksums.json", "stamp.json"):
            kind = f"{parts.parts[0]} {parts.name}"
        if name not in UNDIGESTED:
            found.setdefault(kind, []).append(name)
    return found


def unit_of(name: str) -> tuple[str, str, str]:
    """Unit, array and chunk that a problem with a file should name."""
    first, _, inner = name.partition(".zarr/")
    section, *rest = first.split("/")
    stem = rest[-1].removesuffix(".json").removesuffix(".thumbnail") if rest else ""
    array, _, chunk = inner.partition("/")
    if array == "zarr.json":
        array, chunk = "", "zarr.json"
    units = {
        "scans": f"scan {stem}",
        "derivatives": f"{rest[0]} of {stem}" if rest else "",
        "tables": f"table {stem.removesuffix('.parquet').removesuffix('.units')}",
        "quarantine": f"refusal {stem}",
        "recipes": f"recipe {stem}",
        "baseline": f"baseline {stem}",
        "models": f"model {rest[0]}" if rest else "",
        "runs": f"run {rest[0]}" if rest else "",
        "report": "report",
        "cohort.json": "cohort",
    }
    unit = "table list" if name.endswith("checksums.json") else units[section]
    return unit, array, chunk


def test_a_sound_store_has_no_problem_and_every_byte_was_looked_at(store):
    done: list[int] = []
    assert list(verify(store, progress=done.append)) == []
    there = [name for names in files(store).values() for name in names]
    assert sum(done) == sum((store.root / name).stat().st_size for name in there)
    assert list(verify(Store(store.root / "nothing"))) == []


def test_the_store_of_these_tests_has_every_kind_of_file(store):
    assert set(files(store)) == {
        "cohort.json .json", "scans .json", "scans .thumbnail", "scans chunk", "scans zarr.json",
        "derivatives .json",
        "derivatives chunk", "derivatives zarr.json", "tables .parquet", "tables .json",
        "tables checksums.json", "quarantine .json", "recipes .json", "models .json", "models .parquet",
        "models .csv", "models .yaml", "runs .json", "runs .jsonl", "runs .txt", "report .html", "report stamp.json",
        "report .json", "baseline .json",
    }  # fmt: skip


@pytest.mark.parametrize("flips", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_every_flipped_bit_in_any_kind_of_file_is_found_and_named(store, flips):
    rng = np.random.default_rng(flips)
    kinds = sorted(files(store).items())
    found = 0
    for n in range(flips):
        name = str(rng.choice(kinds[n % len(kinds)][1]))
        path = store.root / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        told = problems(store)
        assert [(p.kind, p.file, p.unit, p.array, p.chunk) for p in told] == [
            ("damaged", name, *unit_of(name))
        ]
        path.write_bytes(whole)
        found += 1
    assert found == flips
    assert problems(store) == []


KINDS = (
    "scans .thumbnail",
    *("cohort.json .json", "scans .json", "scans chunk", "scans zarr.json", "derivatives .json"),
    *("derivatives chunk", "derivatives zarr.json", "tables .parquet", "tables .json"),
    *(
        "tables checksums.json",
        "quarantine .json",
        "recipes .json",
        "models .json",
        "models .parquet",
    ),
    *(
        "models .csv",
        "models .yaml",
        "runs .json",
        "runs .jsonl",
        "runs .txt",
        "report .html",
        "report stamp.json",
    ),
    "baseline .json",
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_kind_that_goes_is_missed(store, kind):
    for name in [n for n in files(store)[kind] if not n.endswith("participants.units.json")]:
        content = (store.root / name).read_bytes()
        (store.root / name).unlink()
        told = problems(store)
        assert [(p.kind, p.file, p.unit, p.array, p.chunk) for p in told] == [
            ("missing", name, *unit_of(name))
        ], told
        assert told[0].is_error
        (store.root / name).write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 0.5, 0])
def test_a_file_of_any_kind_that_is_cut_short_is_found(store, kind, cut):
    name = files(store)[kind][0]
    content = (store.root / name).read_bytes()
    (store.root / name).write_bytes(
        content[: len(content) - 1 if cut == 1 else int(cut * len(content))]
    )
    told = problems(store)
    assert [(p.kind, p.file, p.unit, p.array, p.chunk) for p in told] == [
        ("damaged", name, *unit_of(name))
    ]


@pytest.mark.parametrize(
    ("folder", "unit"), [("scans", "scan {}"), ("derivatives/ball", "ball of {}")]
)
def test_a_scan_or_a_derivative_that_went_whole_is_missed(store, folder, unit):
    scan_id = store.scan_ids()[1]
    (store.root / f"{folder}/{scan_id}.json").unlink()
    shutil.rmtree(store.root / f"{folder}/{scan_id}.zarr")
    (told,) = problems(store)
    assert (told.kind, told.unit) == ("missing", unit.format(scan_id))


def test_all_derivatives_of_a_recipe_that_went_are_missed(store):
    ids = store.derivative_ids("ball")
    shutil.rmtree(store.root / "derivatives")
    assert [(p.kind, p.unit) for p in problems(store)] == [("missing", f"ball of {i}") for i in ids]


def test_a_baseline_is_missed_whatever_the_last_call_was_and_comes_back_with_the_next(
    made, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(made.parent, tmp_path / "made", symlinks=True)
    catalog = tmp_path / "made/catalog.yaml"
    store = Store(tmp_path / "made/store")
    there = {f"baseline/{name}" for name in store.files.names("baseline")}
    assert there == {f"baseline/{name}.json" for name in ("scans", "models", "recipe.ball")}
    api.fit(catalog, options=HERE)  # says nothing of scans and numbers
    shutil.rmtree(store.root / "baseline")
    assert {p.file for p in problems(store) if p.kind == "missing"} == there
    api.update(catalog, options=HERE)
    assert problems(store) == []
    # Of a recipe that the catalog lacks, and of a store into which nothing was ever fitted, none is missed.
    text = catalog.read_text(encoding="utf-8")
    catalog.write_text(text.partition("models:")[0].replace("recipes: [ball]", "recipes: []"))
    gone = api.collect(api.open(catalog))
    assert [g.what for g in gone if "baseline/recipe.ball.json" in g.names]
    assert problems(store) == []


FOREIGN = (
    "scans/{id}.zarr/image/c/0/0/1", "scans/{id}.zarr/.zattrs", "scans/{id}.txt", "scans/other.nii",
    "scans/deep/er", "derivatives/ball/{id}.zarr/x/y", "derivatives/ball/notes", "tables/mine.csv",
    "tables/new.parquet", "tables/nothing.units.json", "quarantine/a.txt", "quarantine/a/b.json",
    "recipes/notes", "models/size/fit.pickle", "models/notes.txt", "runs/notes.txt", "derivatives/notes.txt", "report/other.html", "secret.txt", "a/folder/file",
)  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_of_somebody_else_is_found(store, name):
    path = store.root / name.format(id=store.scan_ids()[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"somebody else's")
    (told,) = problems(store)
    assert (told.kind, told.file) == ("foreign", path.relative_to(store.root).as_posix())
    assert told.is_error
    assert "15 bytes" in told.text


LEFT: dict[str, Callable[[Store], Path]] = {
    "a staging folder": lambda s: s.root / "_staging/abc/image/c/0",
    "a half-written file": lambda s: s.root / "tables/.ball.parquet.0a1b2c3d.tmp",
    "a half-written record": lambda s: s.root / "scans/.sub-1.json.0a1b2c3d.tmp",
    "chunks that nobody knows": lambda s: s.root / "scans/sub-9_ses-1_x.zarr/image/c/0/0/0",
    "half a model": lambda s: s.root / "models/other/tidy.parquet",
    "half a run": lambda s: s.root / "runs/20200101T000000.000000Z-abcdef/events.jsonl",
}


@pytest.mark.parametrize("what", LEFT)
def test_what_an_interrupted_call_left_is_told_and_is_no_error(store, what):
    path = LEFT[what](store)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"event": "start"}\n')
    (told,) = problems(store)
    assert told.kind == "leftover"
    assert not told.is_error
    assert path.relative_to(store.root).as_posix().startswith(told.file)
    assert "19 bytes" in told.text


def test_the_record_of_another_scan_is_no_record(store):
    one, other = store.scan_ids()[:2]
    shutil.copyfile(store.root / f"scans/{other}.json", store.root / f"scans/{one}.json")
    (told,) = problems(store)
    assert (told.kind, told.unit) == ("damaged", f"scan {one}")
    assert "the record of another scan" in told.text


def test_a_record_without_a_digest_is_not_believed(store):
    name = f"scans/{store.scan_ids()[0]}.json"
    record = jsonfile.decode((store.root / name).read_bytes())
    (store.root / name).write_text(json.dumps(record), encoding="utf-8")
    (told,) = problems(store)
    assert (told.kind, told.file) == ("damaged", name)


def test_what_the_disk_does_not_give_is_told_and_the_rest_is_looked_at(store):
    scan_id = store.scan_ids()[0]
    record = store.root / f"scans/{scan_id}.json"
    chunk = store.root / f"scans/{store.scan_ids()[1]}.zarr/image/c/0/0/0"
    size = chunk.stat().st_size
    for path, target in ((record, record), (chunk, "/" + "x/" * (size // 2) + "x" * (size % 2))):
        path.unlink()
        path.symlink_to(
            str(target)[:size]
        )  # the system cannot follow it, as little as it can read a bad sector
    (store.root / "secret.txt").write_bytes(b"")
    told = {p.kind: p for p in problems(store)}
    assert set(told) == {"unreadable", "foreign"}
    assert [p.file for p in problems(store) if p.kind == "unreadable"] == [
        p.relative_to(store.root).as_posix() for p in (record, chunk)
    ]
    assert str(store.root) not in told["unreadable"].text


def test_a_large_file_is_digested_in_little_memory(tmp_path):
    store = Store(tmp_path)
    chunk = tmp_path / "scans/a.zarr/image/c/0"
    chunk.parent.mkdir(parents=True)
    with chunk.open("wb") as stream:
        stream.truncate(200 << 20)
    zeros = "0" * 64
    record = {"scan_id": "a", "chunks": {"image/c/0": [zeros, 200 << 20]}}
    (tmp_path / "scans/a.json").write_bytes(jsonfile.encode(record))
    store.write_info(cohort="c", catalog="d")
    tracemalloc.start()
    (told,) = problems(store)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (told.kind, told.array, told.chunk) == ("damaged", "image", "c/0")
    assert peak < 8 << 20


@pytest.mark.slow
def test_a_bucket_is_verified_as_a_folder_is(store, s3):
    bucket = Store(f"{s3.url}/c/store")
    for name, _ in store.files.listing():
        bucket.files.write(name, store.files.read(name))
    assert problems(bucket) == []
    for kind, names in files(store).items():
        whole = store.files.read(names[0])
        damaged = bytearray(whole)
        damaged[len(damaged) // 3] ^= 16
        bucket.files.write(names[0], bytes(damaged))
        assert [(p.kind, p.file) for p in problems(bucket)] == [("damaged", names[0])], kind
        bucket.files.remove(names[0])
        unsaid = ("tables/participants.units.json", "report/previous.json")
        if names[0] not in unsaid and not names[0].startswith("baseline/"):
            # Nothing says that there is one of those.
            assert [(p.kind, p.file) for p in problems(bucket)] == [("missing", names[0])], kind
        bucket.files.write(names[0], whole)
    bucket.files.write("scans/a/b", b"x")
    bucket.files.write("secret.txt", b"x")
    told = [(p.kind, p.file) for p in problems(bucket)]
    assert told == [("foreign", "scans/a/b"), ("foreign", "secret.txt")]


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.startswith(("runs", "cohort"))])
def test_what_is_discarded_is_made_again_to_the_bit(made, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "again"
    shutil.copytree(made.parent, folder)
    store = Store(folder / "store")

    def content():
        return {
            name: (store.root / name).read_bytes()
            for names in files(store).values()
            for name in names
            if not name.startswith(("runs/", "report/"))  # they show when a call was made
        }

    before = content()
    name = files(store)[kind][0]
    damaged = bytearray((store.root / name).read_bytes())
    damaged[len(damaged) // 2] ^= 4
    (store.root / name).write_bytes(bytes(damaged))
    with store.lock():
        assert discard(store, verify(store)) != []
    api.update(folder / "catalog.yaml", options=HERE)
    assert problems(store) == []
    assert content() == before
