"""Nothing that names somebody leaves the private side: canaries in every place, hostile ids, closed ports, private files."""

import base64
import json
import os
import re
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import canary
import numpy as np
import pandas as pd
import psutil
import pytest
import zarr
from canary import WORD, hits_in_bytes, hits_in_store, hits_in_text
from series import phantom, write_series
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io.audit import audit
from cohort.io.catalog import CatalogError
from cohort.io.store import Store
from cohort.pipeline.cluster import connect

HERE = api.Options(workers=0)


def run_all(catalog: Path, client=None, listen=lambda event: None) -> tuple[Store, list[dict]]:
    """Every stage; after the ingest a chunk goes away, so that a recipe meets a damaged store as well."""
    events: list[dict] = []

    def hear(event):
        events.append(dict(event))
        listen(event)

    options = api.Options(workers=0 if client is None else None, listen=hear)
    result = api.ingest(catalog, client=client, options=options)
    chunks = (result.store.root / "scans").glob("*.zarr/image/c/0/0/0")
    # Not that of the scan without content, which fails anyhow: its file is far smaller than the others.
    max(chunks, key=lambda chunk: chunk.stat().st_size).unlink()
    api.run(catalog, client=client, options=options)
    api.fit(catalog, options=options)
    api.report(catalog, options=options)
    return result.store, events


def check_all_stages_had_work(store: Store, *, series: int, refused: int) -> None:
    table = store.table("ball")
    assert table is not None
    assert len(store.quarantine()) + len(table) == series
    assert len(store.quarantine()) >= refused
    assert sorted(table["state"]) == ["done"] * (len(table) - 2) + ["failed"] * 2
    assert store.models() == ["size"]
    assert (store.root / "report" / "index.html").stat().st_size > 10_000


def test_no_canary_of_a_small_cohort_is_in_store_events_or_output(tmp_path, capfd, caplog):
    store, events = run_all(canary.write_canaries(tmp_path, small=True))
    check_all_stages_had_work(store, series=7, refused=1)
    assert hits_in_store(store.root) == []
    assert hits_in_text(json.dumps(events)) == []
    assert hits_in_text("".join(capfd.readouterr()) + caplog.text) == []


@pytest.mark.slow
def test_no_canary_of_any_kind_of_series_is_in_store_events_or_output(tmp_path, capfd, caplog):
    store, events = run_all(canary.write_canaries(tmp_path))
    check_all_stages_had_work(store, series=20, refused=8)
    assert hits_in_store(store.root) == []
    assert hits_in_text(json.dumps(events)) == []
    assert hits_in_text("".join(capfd.readouterr()) + caplog.text) == []
    api.update(tmp_path / "catalog.yaml", options=HERE)
    assert hits_in_store(store.root) == []


PAGES = ("workers", "logs", "events")


def watch(client) -> str:
    """Everything that a cluster shows whoever can look at it."""
    info = client.scheduler_info(n_workers=-1)
    base = client.dashboard_link.rpartition("/")[0]
    said = [str(client.get_scheduler_logs()), str(client.get_worker_logs()), str(info)]
    said += [str(client.processing()), str(client.has_what()), str(client.call_stack())]
    said += [str(client.get_events()), str(client.futures)]
    said.append(
        str(
            client.run_on_scheduler(
                lambda dask_scheduler: (
                    list(dask_scheduler.transition_log),
                    {k: repr(t) for k, t in dask_scheduler.tasks.items()},
                    {k: str(t.run_spec) for k, t in dask_scheduler.tasks.items()},
                    [str(c) for c in dask_scheduler.computations],
                )
            )
        )
    )
    addresses = [urllib.request.quote(a, safe="") for a in info["workers"]]
    pages = [f"{base}/info/main/{page}.html" for page in PAGES] + [f"{base}/metrics"]
    pages += [f"{base}/info/logs.html", f"{base}/json/counts.json"]
    for address in addresses:
        pages += [
            f"{base}/info/{part}/{address}.html" for part in ("worker", "logs", "call-stacks")
        ]
    for page in pages:
        try:
            with urllib.request.urlopen(page, timeout=10) as answer:
                said.append(answer.read().decode())
        except urllib.error.HTTPError as error:
            assert error.code == 404, page  # noqa: PT017 - a page that this version lacks
    return "\n".join(said)


@pytest.mark.slow
@pytest.mark.cluster
def test_no_canary_is_in_what_a_cluster_logs_and_shows(tmp_path, capfd, caplog):
    seen: list[str] = []
    with connect(workers=2, memory=1 << 30) as client:

        def listen(event):
            if event["event"] in ("ingested", "done", "failed") and len(seen) < 12:
                seen.append(watch(client))

        store, events = run_all(canary.write_canaries(tmp_path), client, listen)
        seen.append(watch(client))
    check_all_stages_had_work(store, series=20, refused=8)
    assert hits_in_store(store.root) == []
    whole = "\n".join([*seen, json.dumps(events), *capfd.readouterr(), caplog.text])
    assert "cohort-ingest" in whole  # the tasks were seen
    assert len(whole) > 100_000
    assert hits_in_text(whole) == []


@pytest.mark.slow
def test_the_command_line_names_files_on_stderr_alone(tmp_path):
    catalog = canary.write_canaries(tmp_path, small=True)
    runner = CliRunner()
    update = runner.invoke(cli.app, ["update", str(catalog), "--workers", "0", "--json"])
    assert update.exit_code == 1
    assert "NII-GZIP" in update.stderr
    assert str(tmp_path / f"{WORD}_sources") in update.stderr
    outputs = [update.stdout]
    for command in (["status"], ["status", "--json"]):
        result = runner.invoke(cli.app, [command[0], str(catalog), *command[1:]])
        assert result.exit_code == 0
        outputs.append(result.stdout)
    assert all(outputs)
    assert hits_in_text("\n".join(outputs)) == []


# --- the search itself ---------------------------------------------------------------------------------------------------


def planted(root: Path, kind: str) -> None:
    """Put the word into one container of a store."""
    secret = f"{WORD} planted"
    scan = min((root / "scans").glob("*.json")).with_suffix(".zarr")
    match kind:
        case "JSON":
            (root / "tables" / "x.json").write_text(json.dumps({"a": secret}), "utf-8")
        case "escaped JSON":
            text = "".join(f"\\u{ord(c):04x}" for c in secret)
            (root / "tables" / "x.json").write_text(f'{{"a": "{text}"}}', "utf-8")
        case "events":
            with min((root / "runs").glob("*/events.jsonl")).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"event": secret}) + "\n")
        case "parquet":
            pd.DataFrame({"a": [f"{n} {secret}" for n in range(99)]}).to_parquet(
                root / "tables" / "x.parquet"
            )
        case "a column":
            pd.DataFrame({secret: [1.0]}).to_parquet(
                root / "tables" / "x.parquet", compression="zstd"
            )
        case "attributes of a table":
            table = pd.DataFrame({"a": [1.0]})
            table.attrs = {"note": secret}
            table.to_parquet(root / "tables" / "x.parquet")
        case "attributes of an array":
            array = zarr.open_array(scan / "image")
            array.attrs["descrip"] = secret
        case "voxels of one byte" | "voxels of two bytes" | "voxels of eight bytes":
            width = {"one": "u1", "two": "i2", "eight": "f8"}[kind.split()[2]]
            voxels = np.zeros((4, 5, 6), width)
            voxels.reshape(-1)[50:67] = np.frombuffer(secret.encode()[:17], "u1")
            zarr.save_array(scan / "image2", voxels)
        case "the report":
            with (root / "report" / "index.html").open("a", encoding="utf-8") as stream:
                stream.write(f"<!-- {secret.lower()} -->")
        case "a picture":
            text = base64.b64encode(b"\x89PNG tEXt" + secret.encode()).decode()
            with (root / "report" / "index.html").open("a", encoding="utf-8") as stream:
                stream.write(f'<img src="data:image/png;base64,{text}">')
        case "a folder's name":
            (root / "runs" / secret).mkdir()
        case "a birth date":
            (root / "models" / "size" / "tidy.csv").write_text("1947-04-13", "utf-8")
        case "a UID":
            (root / "quarantine" / "x.json").write_text(f'{{"uid": "{canary.UID}.5"}}', "utf-8")


CONTAINERS = (
    *("JSON", "escaped JSON", "events", "parquet", "a column", "attributes of a table"),
    *(
        "attributes of an array",
        "voxels of one byte",
        "voxels of two bytes",
        "voxels of eight bytes",
    ),
    *("the report", "a picture", "a folder's name", "a birth date", "a UID"),
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A store of the small cohort."""
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        catalog = canary.write_canaries(folder, small=True)
        return api.update(catalog, options=HERE).store.root


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_search_finds_what_is_planted_in_each_container(clean, tmp_path, kind):
    root = tmp_path / "store"
    subprocess.run(["cp", "-r", clean, root], check=True)
    assert hits_in_store(root) == []
    planted(root, kind)
    assert hits_in_store(root) != []


@pytest.mark.parametrize(
    "text", ["zq7canary", "x ZQ7CANARY-1 y", "1.2.826.0.1.3680043.9.77777.2", "b'ZQ7CANARY'"]
)
def test_the_search_finds_words_in_what_was_said(text):
    assert hits_in_text(text) != []
    assert hits_in_bytes(text.encode("utf-16-le")) != []
    assert hits_in_text("file a5xq7canary") == []


def test_an_audit_of_the_canaries_store_is_clean(clean):
    assert list(audit(Store(clean), ids="token")) == []


# --- hostile ids -----------------------------------------------------------------------------------------------------------

HOSTILE = (
    *("../../x", "..", ".", "/etc/passwd", "a/b", "a\\b", r"C:\x", "CON", "nul.txt", "a:b", "*", "%00"),
    *("~root", "$(touch x)", "`id`", "a;b", "-rf", "a'b\"c", "<img src=x onerror=alert(1)>", "=1+1"),
    *("a\0b", "x" * 10_000, "\u202egpj.exe", "\U0001f9e0", "\u00e9", "e\u0301x", "a\nb", " ", "\ufeffa", "a^b^c"),
)  # fmt: skip
SAFE = re.compile(r"[A-Za-z0-9_.-]{1,255}")


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.mark.parametrize("ids", ["token", "keep"])
@pytest.mark.filterwarnings("ignore:(Invalid value|The value|A value|The PN|.*exceeds the maximum)")
def test_an_id_is_never_a_path(tmp_path, ids):
    sources = tmp_path / "w" / "scans"
    volume, affine = phantom((4, 6, 5))
    for number, hostile in enumerate(HOSTILE):
        tags = {"SpecificCharacterSet": "ISO_IR 192", "PatientID": hostile}
        write_series(
            sources / f"{number}", volume + number, affine, StudyDescription=hostile, **tags
        )
    catalog = tmp_path / "w" / "catalog.yaml"
    catalog.write_text(
        f"cohort: c\nsources: [scans]\nstore: store\nkey: ../key\nids: {ids}\n", "utf-8"
    )
    before = tree(tmp_path)
    result = api.update(catalog, options=HERE)
    made = tree(tmp_path) - before
    assert {name for name in made if not name.startswith("w/store")} <= {"key"}
    assert all(SAFE.fullmatch(part) for name in made for part in name.split("/"))
    # Each ends in one state; distinct ids stay distinct.
    ended = result.store.scan_ids() + [e["series"] for e in result.store.quarantine()]
    assert len(ended) == len(HOSTILE)
    subjects = [scan_id.partition("_")[0] for scan_id in result.store.scan_ids()]
    assert len(set(subjects)) == len(subjects) > len(HOSTILE) - 5
    page = (result.store.root / "report" / "index.html").read_text("utf-8")
    assert "<img src=x" not in page
    if ids == "token":
        text = page + "".join(p.read_text("utf-8") for p in result.store.root.rglob("*.json*"))
        for told in ("passwd", "onerror", "touch", "x" * 100, "gpj.exe", "\U0001f9e0"):
            assert told not in text


# --- ports, modes, keys --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.cluster
def test_nothing_of_a_local_cluster_can_be_reached_from_another_machine():
    with connect(workers=2, memory=1 << 30) as client:
        time.sleep(0.5)
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        ports = {
            (c.laddr.ip, c.laddr.port)
            for process in processes
            for c in process.net_connections(kind="inet")
            if c.status == psutil.CONN_LISTEN
        }
        scheduler = int(client.scheduler.address.rpartition(":")[2])
        dashboard = int(client.dashboard_link.rpartition(":")[2].partition("/")[0])
        assert {scheduler, dashboard} <= {port for _, port in ports}
        assert len(ports) >= 4  # two workers, too
        assert {ip for ip, _ in ports} <= {"127.0.0.1", "::1"}


def test_a_key_in_the_store_is_refused_through_a_link_too(tmp_path):
    catalog = canary.write_canaries(tmp_path / "w", small=True)
    text = catalog.read_text("utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "w" / f"{WORD}_place" / "store" / "keys")
    for key in (f"{WORD}_place/store/key", "../link/key"):
        catalog.write_text(text.replace("key: keys/key", f"key: {key}"), "utf-8")
        with pytest.raises(CatalogError, match="lies in the store"):
            api.ingest(catalog, options=HERE)
    assert not (tmp_path / "w" / f"{WORD}_place").exists()


def modes(folder: Path) -> dict[str, int]:
    return {
        p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_private_files_are_their_owners_alone_whatever_the_umask(tmp_path, monkeypatch):
    for name in ("CONFIG", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / "home" / name.lower()))
    catalog = canary.write_canaries(tmp_path / "w", small=True)
    text = catalog.read_text("utf-8").replace("key: keys/key\n", "")
    catalog.write_text(text, "utf-8")
    before = os.umask(0)
    try:
        api.ingest(catalog, options=HERE)
    finally:
        os.umask(before)
    found = modes(tmp_path / "home")
    assert "config/cohort/key" in found
    assert len(found) >= 2
    assert set(found.values()) == {0o600}
    folders = {p for p in (tmp_path / "home").rglob("cohort") if p.is_dir()}
    assert {stat.S_IMODE(p.stat().st_mode) for p in folders} == {0o700}
