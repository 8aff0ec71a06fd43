"""Looking at a cohort while somebody else works on it, stopping and repeating that work, and rounds of updates."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import cohorts
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import api, cli, overview
from cohort.call import Call
from cohort.io.sources.files import SourceError
from cohort.io.storage.backend import Locked
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.papers import Papers
from cohort.io.store import Store
from cohort.pipeline.clusters import submit
from cohort.pipeline.intake import arrivals
from cohort.pipeline.ledger import Ledger
from cohort.rounds import deadline, rounds

HERE = api.Options(workers=0)
PROGRAM = [sys.executable, "-m", "cohort.cli"]
PATIENCE = 120
"""Seconds after which something hangs, on a machine however busy."""


def call(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def bring(catalog: Path):
    """All but the report, which takes most of the time."""
    return Call(catalog, None, HERE).work("update", ["ingest", "run", "fit"])


def wait_for(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextmanager
def taken(store: Store):
    """The lock of a store, as soon as it is free."""
    while True:
        try:
            with store.lock():
                yield
                return
        except Locked:
            time.sleep(0.02)


class Elsewhere:
    """A call that goes on elsewhere, step by step: it holds the lock and writes its log."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self._go, self._end, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.run_id = ""

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(self, *_):
        self._go.set()
        self._end.set()
        self._thread.join()

    def go_on(self):
        self._go.set()

    def end(self):
        self._end.set()

    def _run(self):
        with self.store.lock(), Ledger(self.store, "update") as ledger:
            self.run_id = ledger.run_id
            ledger.event("stage", stage="run:ball", total=3, fresh=0)
            self._ready.set()
            self._go.wait(PATIENCE)
            for n in range(1, 4):
                ledger.event("done", stage="run:ball", scan_id=f"sub-{n}", done=n, total=3)
            self._end.wait(PATIENCE)


def test_status_counts_without_opening_a_scan_and_says_what_runs_and_what_was_killed(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=6)
    broken = tmp_path / "scans/003_v1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    bring(catalog)
    shutil.rmtree(tmp_path / "store/scans")  # what a status does not need
    shown = call("status", catalog)
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[:3] == ["balls: 5 scans", "  ball: 5 done", "  models: size"]
    assert "quarantined" in shown.stdout
    found = json.loads(call("status", tmp_path / "store", "--json").stdout)
    assert (found["scans"], found["recipes"], found["n_quarantine"]) == (
        5,
        {"ball": {"done": 5}},
        1,
    )
    assert (found["running"], found["killed"]) == (None, None)
    with Elsewhere(tmp_path / "store") as other:
        running = json.loads(call("status", catalog, "--json").stdout)["running"]
        assert running["run_id"] == other.run_id
        assert (running["stage"], running["total"]) == ("run:ball", 3)
        assert f"process {os.getpid()} on" in running["by"]
        with pytest.raises(Locked):  # a look keeps nobody out, and lets nobody in
            other.store.lock().__enter__()
    killed = "20991231T000000.000000Z-abcdef"
    (tmp_path / "store/runs" / killed).mkdir()
    (tmp_path / "store/runs" / killed / "events.jsonl").write_text('{"event": "start"}\n')
    assert f"{killed} was killed" in call("status", catalog).stdout


def test_status_says_who_was_submitted_and_that_a_run_broke_off_and_so_does_follow(
    tmp_path, monkeypatch
):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    bring(catalog)
    store, host = Store(tmp_path / "store"), os.uname().nodename
    assert "broke off" not in (before := call("status", catalog).stdout)
    assert "submitted" not in before
    born = submit._born(os.getpid()) or 0
    known = submit.Submission("process", "x", str(os.getpid()), str(tmp_path), host, born)
    submit.remember(store, known)
    shown = call("status", catalog).stdout
    assert f"  submitted: job {os.getpid()} is RUNNING {host}\n" in shown
    submit.remember(store, replace(known, born=born - 1))  # it has ended
    assert call("status", catalog).stdout == before

    begun, goes_on, follow = threading.Event(), threading.Event(), overview.follow

    def break_off() -> None:
        with suppress(OSError), store.lock(), Ledger(store, "update"):
            begun.set()
            assert goes_on.wait(PATIENCE)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def followed(*given):
        goes_on.set()
        return follow(*given)

    monkeypatch.setattr(overview, "follow", followed)
    other = threading.Thread(target=break_off)
    other.start()
    assert begun.wait(PATIENCE)
    ended = call("status", catalog, "--follow")
    other.join(PATIENCE)
    assert ended.exit_code == 1
    assert re.search(r"error: \S+ broke off with OSError; `cohort update` says why", ended.stderr)
    assert "  it broke off with OSError; `cohort update`" in call("status", catalog).stdout


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "other bytes": lambda content: b"PAR1" + bytes(len(content) - 8) + b"PAR1",
    "no column": lambda content: table_of(scan_id=["a"]),
}


def table_of(**columns: list[str]) -> bytes:
    return pd.DataFrame(columns).to_parquet(None, index=False)


def test_a_damaged_file_is_named_with_what_to_do_and_that_mends_it(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=6)
    broken = tmp_path / "scans/003_v1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    bring(catalog)
    store, sound = tmp_path / "store", call("status", catalog).stdout
    (refusal,) = (store / "quarantine").iterdir()
    for file in (store / "tables/scans.parquet", store / "tables/ball.parquet", refusal):
        whole = file.read_bytes()
        for how, damage in DAMAGE.items():
            if how == "no column" and file.name != "ball.parquet":
                continue  # rows are counted without reading one
            file.write_bytes(damage(whole))
            if file.suffix == ".json":  # without its digest it would be nobody's
                file.write_bytes(whole.replace(b"003", b"004"))
            shown = call("status", catalog)
            assert (shown.exit_code, shown.stdout) == (2, ""), (file, how)
            (line,) = shown.stderr.splitlines()
            name = re.escape(str(file.relative_to(store)))
            assert re.fullmatch(
                rf"error: \S+/store: {name} is damaged \(.+\); remove it and call `cohort update`",
                line,
            ), line
        file.unlink()
        bring(catalog)
        assert file.read_bytes() == whole
    shown = call("status", catalog).stdout
    assert shown.split("  last:")[0] == sound.split("  last:")[0]


def test_follow_shows_every_event_of_a_run_that_goes_on_elsewhere_and_ends_with_it(tmp_path):
    papers = Papers(LocalFiles(tmp_path))
    assert overview.follow(papers, print) == {}
    heard: list[dict] = []
    with Elsewhere(tmp_path) as other:
        follower = threading.Thread(
            target=lambda: heard.append(overview.follow(papers, heard.append, wait_seconds=0.02))
        )
        follower.start()
        wait_for(lambda: len(heard) == 2)
        other.go_on()
        wait_for(lambda: sum(e["event"] == "done" for e in heard) >= 1)
        other.end()
        follower.join(PATIENCE)
    *events, manifest = heard
    log = Path(tmp_path, "runs", other.run_id, "events.jsonl").read_text().splitlines()
    assert events == [json.loads(line) for line in log]
    assert manifest["run_id"] == other.run_id


def test_follow_ends_when_the_run_is_killed(tmp_path):
    (tmp_path / "runs/20260101T0").mkdir(parents=True)
    log = tmp_path / "runs/20260101T0/events.jsonl"
    log.write_text('{"event": "start"}\n{"event": "do')
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import fcntl, time
stream = open({str(tmp_path / ".lock")!r}, "a+")
fcntl.flock(stream, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep({PATIENCE})"""],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    heard: list[dict] = []

    def listen(event):
        heard.append(event)
        holder.kill()
        holder.wait()

    assert overview.follow(Papers(LocalFiles(tmp_path)), listen, wait_seconds=0.02) is None
    assert heard == [{"event": "start"}]
    holder.stdout.close()


def test_cancel_leaves_word_for_the_run_and_signals_it_where_it_runs_here(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    bring(catalog)
    assert "nothing is running" in call("cancel", catalog).stdout
    before = signal.getsignal(signal.SIGTERM)
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with Elsewhere(tmp_path / "store") as other:
            found = api.cancel(api.open(catalog))
            assert (found.run_id, found.was_signalled) == (other.run_id, True)
            assert (tmp_path / "store/runs" / other.run_id / "cancel").is_file()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []


@pytest.mark.slow
def test_a_run_that_is_cancelled_from_another_process_exits_75_and_can_be_resumed(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=60)
    command = [*PROGRAM, "update", str(catalog), "--workers", "1", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if json.loads(line)["event"] in ("ingested", "done"):
                break
        done = call("cancel", catalog)
        assert done.exit_code == 0
        assert "told to stop" in done.stdout
        _, said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 75, said
    assert "resume with: cohort update" in said
    assert bring(catalog).manifest["counts"]["failed"] == 0
    assert len(api.open(catalog).scans) == 60


def test_retry_runs_again_what_failed_and_wants_to_be_told_what(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=4)
    recipe = tmp_path / "recipes/ball.yaml"
    good = recipe.read_text()
    bring(catalog)
    empty = cohorts.ball(1) * 0
    cohorts.write_scan(tmp_path / "scans/001_v1.nii.gz", empty)  # no head: no median of it
    bring(catalog)
    assert call("run", catalog, "--workers", 0).exit_code == 0
    assert json.loads(call("status", catalog, "--json").stdout)["recipes"]["ball"]["failed"] == 1
    again = call("retry", catalog, "--failed", "--workers", 0, "--memory", "8GiB", "--json")
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert [e["scan_id"] for e in events if e["event"] == "failed"] == ["sub-001_ses-1_001v1"]
    wrong = call("retry", catalog)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "expected what to retry: --failed" in wrong.stderr
    assert recipe.read_text() == good


# -- rounds ----------------------------------------------------------------------------------------


class Result:
    def __init__(self, **manifest):
        self.manifest = manifest


def play(outcomes, *, until=50):
    """Rounds with these outcomes: pauses, results, what went wrong."""
    waiting, pauses, wrong = iter(outcomes), [], []

    def one():
        outcome = next(waiting)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    found = rounds(
        one,
        every_seconds=600,
        is_over=lambda seconds: len(pauses) + 1 >= min(until, len(outcomes)),
        failed=lambda error, pause: wrong.append((type(error).__name__, pause)),
        pause=pauses.append,
    )
    return list(found), pauses, wrong


def test_rounds_go_on_through_locks_and_lost_sources_and_wait_longer_each_time():
    away = [Locked("held"), SourceError("gone"), OSError("no route"), ValueError("half a catalog")]
    good = Result(processed=1)
    results, pauses, wrong = play([good, *away, good, *away[:1], good])
    assert results == [good, good, good]
    assert pauses == [600, 15, 30, 60, 120, 600, 15]
    assert [kind for kind, _ in wrong] == [
        "Locked",
        "SourceError",
        "OSError",
        "ValueError",
        "Locked",
    ]
    _, pauses, _ = play([OSError("away")] * 12)
    assert max(pauses) == 3600


def test_rounds_end_with_a_call_that_was_stopped():
    stopped = Result(stopped="signal")
    assert play([Result(), stopped, Result()])[0][-1] is stopped
    assert len(play([Result(stopped="budget"), Result()])[0]) == 2
    with pytest.raises(KeyboardInterrupt):
        list(
            rounds(
                lambda: (_ for _ in ()).throw(KeyboardInterrupt),
                every_seconds=1,
                is_over=bool,
                failed=print,
            )
        )


def test_a_deadline_is_a_time_of_day_or_a_date():
    now = datetime(2026, 11, 21, 22, 30).astimezone()
    assert deadline("06:30", now=now).replace(tzinfo=None) == datetime(2026, 11, 22, 6, 30)
    assert deadline("2026-12-01T00:00", now=now).replace(tzinfo=None) == datetime(2026, 12, 1)
    for wrong, message in (
        ("soon", "expected a time"),
        ("25:00", "expected a time"),
        ("2020-01-01T00:00", "has passed"),
    ):
        with pytest.raises(ValueError, match=message):
            deadline(wrong, now=now)


def test_watch_takes_new_scans_once_they_have_settled_and_ends_when_nothing_is_left(
    tmp_path, monkeypatch
):
    catalog = cohorts.write_cohort(tmp_path, scans=6)
    asked: list[Path] = []

    def arrived(path: Path) -> float:
        asked.append(path)
        return time.time() - 1e6 * (asked.count(path) > 1)  # young in the first round alone

    monkeypatch.setattr(arrivals, "arrived", arrived)
    done = call(
        "watch", catalog, "--every", "1s", "--settle", "1h", "--until", "idle", "--workers", 0
    )
    assert done.exit_code == 0, done.stderr
    assert "6 series are still arriving" in done.stdout
    assert "6 done" in done.stdout
    assert len(api.open(catalog).scans) == 6
    for option in ("--until", "soon"), ("--every", "0s"):  # without a pause it would never rest
        wrong = call("watch", catalog, *option)
        assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert call("watch", tmp_path / "nowhere.yaml").exit_code == 2


def test_watch_exits_1_for_a_scan_that_failed_in_any_update_or_a_model_in_the_last(tmp_path):
    line = ("--every", "1s", "--settle", "0s", "--until", "idle", "--workers", 0)
    alone = cohorts.write_cohort(tmp_path / "alone", scans=1)
    unfitted = call("watch", alone, *line)
    assert (unfitted.exit_code, "failed model size" in unfitted.stderr) == (1, True)
    several = cohorts.write_cohort(tmp_path / "several", scans=7)
    torn = tmp_path / "several/scans/003_v1.nii.gz"
    torn.write_bytes(torn.read_bytes()[:300])
    refused = call("watch", several, *line)  # in the first update; the second finds nothing new
    assert (refused.exit_code, "003_v1.nii.gz" in refused.stderr) == (1, True)
    assert call("watch", several, *line).exit_code == 0


def test_watch_that_never_went_well_ends_as_its_last_update_did(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 1)
    soon = (datetime.now().astimezone() + timedelta(seconds=8)).isoformat()
    with Store(tmp_path / "store").lock():
        held = call("watch", catalog, "--workers", 0, "--until", soon)
    assert (held.exit_code, "waiting" in held.stderr) == (75, True)


@pytest.mark.slow
def test_watch_survives_a_lock_and_a_lost_source_and_leaves_with_75_when_told_to(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, scans=2)
    bring(catalog)
    command = [*PROGRAM, "watch", str(catalog), "--every", "1s", "--settle", "1s", "--workers", "0"]
    said: list[str] = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stderr is not None
        reader = threading.Thread(target=lambda: said.extend(run.stderr or ()))
        reader.start()
        store = Store(tmp_path / "store")
        wait_for(lambda: len(store.runs()) >= 2)
        wait_for(lambda: store.files.holder() is None)
        with taken(store):
            wait_for(lambda: any("locked by" in line for line in said))
        (tmp_path / "scans").rename(tmp_path / "away")
        wait_for(lambda: any("expected a folder or file" in line for line in said))
        (tmp_path / "away").rename(tmp_path / "scans")
        cohorts.write_scan(tmp_path / "scans/002_v1.nii.gz", cohorts.ball(2))
        wait_for(lambda: len(api.open(catalog).scans) == 3)
        run.send_signal(signal.SIGTERM)
        assert run.wait(PATIENCE) == 75
        reader.join()
