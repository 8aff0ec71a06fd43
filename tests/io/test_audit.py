"""The audit: a store as it should be has no finding, and every planted secret is found where it was put."""

import base64
import json
import pickle
import shutil
from pathlib import Path

import cohorts
import numpy as np
import pandas as pd
import pytest
import zarr
from numcodecs import Zstd

from cohort import api
from cohort.io import private
from cohort.io.audit import Finding, audit
from cohort.io.catalog import read_catalog
from cohort.io.discover import discover
from cohort.io.private import Row
from cohort.io.sources.filecache import FileCache
from cohort.io.store import Store
from cohort.pipeline.intake.units import Names, name_units

HERE = api.Options(workers=0)


def token_rows(path: Path) -> list[Row]:
    """The rows of a cohort's token table."""
    catalog = read_catalog(path)
    found, names = discover(catalog.source_paths(), subject=catalog.subject), Names(catalog)
    with FileCache(None) as cached:
        units, _ = name_units(catalog, found.series, names, cached)
    rows = []
    for unit in units:
        series = unit.series
        rows += [
            Row(unit.scan_id, "scan", series.name, tuple(map(str, series.files))),
            Row(unit.subject, "subject", series.subject_id or ""),
            Row(unit.name, "series", series.name),
        ]
    return rows


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folder with a cohort and its stores ``token`` and ``keep``, a refused series in each."""
    folder = tmp_path_factory.mktemp("made") / "DOE_STUDY"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        catalog = cohorts.write_cohort(folder, scans=5)
        text = catalog.read_text(encoding="utf-8").replace("(?P<subject>", "(?P<subject>MRN-")
        text = text.replace("\\\\d+)_v", "\\\\d+)_visit")
        for path in sorted((folder / "scans").iterdir()):
            path.rename(path.with_name(f"MRN-{path.name.replace('_v', '_visit')}"))
        people = (folder / "people.csv").read_text(encoding="utf-8").replace("_v", "_visit")
        people = people.replace("\n0", "\nMRN-0")
        (folder / "people.csv").write_text(people, encoding="utf-8")
        bad = folder / "scans" / "MRN-004_visit1.nii.gz"
        bad.write_bytes(bad.read_bytes()[:-40])
        for ids in ("token", "keep"):
            here = text.replace("store: store", f"store: {ids}").replace("ids: keep", f"ids: {ids}")
            catalog.write_text(here, encoding="utf-8")
            result = api.update(catalog, options=HERE)
            assert result.manifest["counts"]["quarantined"] == 1
            assert result.manifest["counts"]["done"] == 4
            private.remember(folder / f"{ids}.tokens", token_rows(catalog))
    return folder


@pytest.fixture
def store(made, tmp_path):
    """A store of tokens of its own for one test."""
    shutil.copytree(made / "token", tmp_path / "store")
    return Store(tmp_path / "store")


def look(store: Store, **options) -> list[Finding]:
    return list(audit(store, **options))


@pytest.mark.parametrize("ids", ["token", "keep"])
def test_a_store_as_it_should_be_has_no_finding(made, ids):
    done = []
    store = Store(made / ids)
    assert look(store, ids=ids, private=made / f"{ids}.tokens", progress=done.append) == []
    files = [p for p in store.root.rglob("*") if p.is_file()]
    assert (len(done), sum(done)) == (len(files), sum(p.stat().st_size for p in files))


def test_a_store_that_keeps_ids_fails_as_one_of_tokens(made):
    found = look(Store(made / "keep"), ids="token", private=made / "token.tokens")
    assert {f.kind for f in found} == {"id", "original", "file name"}
    told = "\n".join(map(str, found))
    assert "MRN-00" not in told
    assert "001" not in told
    for where in ("scans/", "derivatives/ball/", "quarantine/", "tables/scans.parquet"):
        assert any(f.kind == "id" and f.file.startswith(where) for f in found), where


# --- planting --------------------------------------------------------------------------------------------------------


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def first(store: Store, pattern: str) -> Path:
    return min(store.root.glob(pattern))


def in_json(pattern: str, *keys: str, value):
    def plant(store: Store) -> str:
        path = first(store, pattern)

        def change(content):
            for key in keys[:-1]:
                content = content[key]
            content[keys[-1]] = value

        edit(path, change)
        return path.relative_to(store.root).as_posix()

    return plant


def in_table(name: str, column: str, value):
    def plant(store: Store) -> str:
        path = store.root / name
        table = pd.read_parquet(path)
        if isinstance(value, str) and column in table:
            table[column] = [value, *table[column][1:]]
        else:
            table[column] = value if isinstance(value, str) else [value] * len(table)
        table.to_parquet(path, index=False)
        return name

    return plant


def in_text(pattern: str, text: str):
    def plant(store: Store) -> str:
        path = first(store, pattern)
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
        return path.relative_to(store.root).as_posix()

    return plant


def as_file(name: str, content: bytes):
    def plant(store: Store) -> str:
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return name

    return plant


def in_metadata(**changes):
    def plant(store: Store) -> str:
        path = first(store, "scans/*.zarr/image/zarr.json")
        edit(path, lambda content: content.update(changes))
        return path.relative_to(store.root).as_posix()

    return plant


PICKLE = [{"name": "numcodecs.pickle", "configuration": {}}]
SHARDED = [{"name": "sharding_indexed", "configuration": {"codecs": PICKLE, "index_codecs": []}}]
EVENT = '{"event": "note", "text": "from /data/jane/scans/a"}\n'

PLANTED = {
    "a name among the attributes": (in_json("scans/*.json", "attrs", "patient", value="DOE^JANE"), [("attribute", "key p…t"), ("person name", "attrs.patient")]),
    "a date in a flag": (in_json("scans/*.json", "attrs", "flags", value="seen 19991231"), [("date", "attrs.flags")]),
    "a date as a number": (in_json("scans/*.json", "attrs", "n_nan", value=19891231), [("date", "attrs.n_nan")]),
    "a number behind a model": (in_json("scans/*.json", "attrs", "manufacturer_model", value="skyra jd45"), [("attribute", "key manufacturer_model")]),
    "a model in the table": (in_table("tables/scans.parquet", "manufacturer_model", "skyra mrn123"), [("attribute", "column manufacturer_model")]),
    "a story as an attribute": (in_json("scans/*.json", "attrs", "flags", value="word " * 50), [("attribute", "key flags")]),
    "an attribute of a group": (in_json("scans/*.zarr/zarr.json", "attributes", "station", value="MR2"), [("attribute", "key s…n (7")]),
    "an attribute of an array": (in_json("scans/*.zarr/image/zarr.json", "attributes", "descrip", value="TE=3"), [("attribute", "key d…p (7")]),
    "a UID as a key": (in_json("scans/*.json", "1.3.12.2.1107.5.2", value=1), [("uid", "top key")]),
    "a UID in a manifest": (in_json("runs/*/manifest.json", "note", value="1.3.12.2.1107.5.2"), [("uid", "note")]),
    "a visit in a manifest": (in_json("runs/*/manifest.json", "when", value="2020-01-31T10:00:00Z"), [("date", "when")]),
    "a path in an event": (in_text("runs/*/events.jsonl", EVENT), [("path", "line 17 text")]),
    "a file in a refusal": (in_json("quarantine/*.json", "reason", value="gap before IM0001.dcm"), [("file name", "reason")]),
    "an address in a table": (in_table("tables/participants.parquet", "note", "jane@clinic.org"), [("e-mail", "column note, row 0 and 6 more")]),
    "dates in a column of numbers": (in_table("tables/participants.parquet", "day", 20200131.0), [("date", "column day, 7 rows")]),
    "dates in a column of dates": (in_table("tables/participants.parquet", "seen", pd.Timestamp("2020-01-31")), [("date", "column seen")]),
    "a name as a column": (in_table("tables/scans.parquet", "DOE^JANE", 1.0), [("person name", "a column's name and 2 more")]),
    "an id in the tables": (in_table("tables/ball.parquet", "subject", "007"), [("id", "column subject, 1 rows")]),
    "a link in the report": (in_text("report/index.html", "<a href='https://pacs.org/1'>x</a>"), [("url", "line")]),
    "a person in the report": (in_text("report/index.html", "<b>DOE&#94;JANE</b>"), [("person name", "line")]),
    "a date in a trace": (as_file("runs/r/failures/a.txt", b"line\nborn 31.12.1999\n"), [("date", "line 2")]),
    "a name in a CSV": (in_text("models/size/tidy.csv", "DOE^JANE,1\n"), [("person name", "line")]),
    "a name in no text": (as_file("x.bin", b"\0\1\2DOE^JANE\0"), [("person name", "line 1")]),
    "a pickle": (as_file("models/size/results", pickle.dumps({"a": 1})), [("object", "content")]),
    "a pickle by its name": (as_file("models/size/results.pickle", b""), [("object", "name")]),
    "an array of objects": (as_file("a.npy", b"\x93NUMPY"), [("object", "name"), ("object", "content")]),
    "a DICOM file": (as_file("scans/raw", bytes(128) + b"DICM"), [("id", "name"), ("file name", "content")]),
    "the name of an image": (as_file("tables/doe.nii.gz", b""), [("file name", "name")]),
    "the name of a person": (as_file("tables/DOE^JANE.json", b"{}"), [("person name", "name")]),
    "an id as a scan": (as_file("derivatives/ball/sub-007_ses-1_x.json", b"{}"), [("id", "name")]),
    "a codec that unpickles": (in_metadata(codecs=PICKLE), [("codec", "codecs")]),
    "one within shards": (in_metadata(codecs=SHARDED), [("codec", "codecs")]),
    "a type of objects": (in_metadata(data_type="variable_length_utf8"), [("codec", "data_type")]),
    "an old format": (as_file("models/size/maps.zarr/.zarray", b'{"dtype": "|O"}'), [("codec", "name")]),
    "a file cut short": (as_file("tables/cut.parquet", b"PAR1"), [("unreadable", "whole")]),
}  # fmt: skip
"""What is planted, and the kinds and places found."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_secret_is_found_where_it_was_put_and_nothing_else(store, name):
    plant, expected = PLANTED[name]
    file = plant(store)
    found = look(store)
    assert [f.kind for f in found] == [kind for kind, _ in expected], found
    for finding, (_, where) in zip(found, expected, strict=True):
        assert finding.where.startswith(where)
        assert finding.file == file or (finding.where == "name" and "…" in finding.file)
        for secret in (
            "DOE",
            "1999",
            "1989",
            "2020",
            "1.3.12",
            "/home",
            "jane",
            "IM0001",
            "007",
            "pacs",
        ):
            assert secret not in str(finding)


def test_all_of_them_at_once_are_all_found(store):
    expected: list[str] = []
    for name, (plant, kinds) in PLANTED.items():
        if name not in ("a codec that unpickles", "a type of objects", "a story as an attribute"):
            plant(store)
            expected += [kind for kind, _ in kinds]
    assert sorted(f.kind for f in look(store)) == sorted(expected)


# --- the originals behind the tokens ---------------------------------------------------------------------------------


def in_voxels(store: Store) -> str:
    chunk = first(store, "scans/*.zarr/image/c/0/0/0")
    voxels = np.frombuffer(Zstd().decode(chunk.read_bytes()), "<i2").copy()
    secret = np.frombuffer(b"MRN-001_visit1", "u1")
    voxels[2000 : 2000 + secret.size] = secret
    chunk.write_bytes(Zstd(level=3, checksum=True).encode(voxels))
    return chunk.relative_to(store.root).as_posix()


def in_a_shard(store: Store) -> str:
    array = zarr.create_array(
        store.root / "models/size/maps.zarr/t", shape=(40, 8, 8), chunks=(4, 8, 8), shards=(20, 8, 8),
        dtype="uint8", compressors=zarr.codecs.ZstdCodec(checksum=True), fill_value=0,
    )  # fmt: skip
    values = np.zeros((40, 8, 8), "u1")
    values.reshape(-1)[40 * 64 - 400 :][:14] = np.frombuffer(b"MRN-001_visit1", "u1")
    array[...] = values
    return "models/size/maps.zarr/t/c/1/0/0"


def in_a_picture(store: Store) -> str:
    picture = base64.b64encode(b"\x89PNG....tEXtmrn-001_VISIT1").decode()
    return in_text("report/index.html", f"<img src='data:image/png;base64,{picture}'>")(store)


@pytest.mark.parametrize(
    ("plant", "where"),
    [
        (in_json("scans/*.json", "attrs", "flags", value="x MRN-001"), "attrs.flags"),
        (in_json("runs/*/manifest.json", "note", value="ask MRN-001."), "note"),
        (in_table("tables/participants.parquet", "note", "MRN-001_visit1"), "column note, row 0"),
        (in_text("models/size/tidy.csv", "mrn-001,1"), "line"),
        (in_text("report/index.html", "scans/MRN-001_visit1"), "line "),
        (as_file("tables/MRN-001.json", b"{}"), "name"),
        (in_voxels, "byte 4000 of the voxels"),
        (in_a_shard, "byte 880 of the voxels"),
        (in_a_picture, "picture"),
    ],
)
def test_an_original_is_found_in_every_kind_of_file(store, made, plant, where):
    assert look(store) == []
    file = plant(store)
    table = made / "token.tokens"
    found = look(store, private=table)
    assert {f.kind for f in found} == {"original"}
    assert found[0].where.startswith(where)
    assert {f.file for f in found} == {file.replace("MRN-001", "M…1 (7 characters)")}
    assert "001" not in "".join(map(str, found))


def test_a_chunk_that_cannot_be_decoded_is_told(store, made):
    chunk = first(store, "scans/*.zarr/image/c/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:-5])
    (finding,) = look(store, private=made / "token.tokens")
    assert (finding.kind, store.root / finding.file) == ("unreadable", chunk)


def test_without_a_token_table_it_says_so(store, tmp_path):
    with pytest.raises(private.PrivateError, match="no token table"):
        look(store, private=tmp_path / "none")
