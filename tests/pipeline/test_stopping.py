"""Why a call ends before its work is done, and what it does then."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import cohorts
import psutil
import pytest
import typer
from typer.testing import CliRunner

from cohort import api, console
from cohort.call import Call
from cohort.cli import app
from cohort.io.store import Store, StoreError
from cohort.pipeline.dispatch import stopping
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.window import each


def wait(seconds: float) -> None:
    """Sleep in short naps: a signal is heard between two."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


def raised(kind: int) -> None:
    """Send this process a signal and give it time to be heard."""
    os.kill(os.getpid(), kind)
    wait(10)


SCANS = 40
"""More than are measured until a signal is heard."""


def a_worker_is_there(process: subprocess.Popen) -> None:
    while True:
        with suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            if any("--multiprocessing-fork" in child.cmdline() for child in children):
                return
        time.sleep(0.05)


def a_scan_is_done(process: subprocess.Popen) -> None:
    for line in process.stdout:
        if json.loads(line)["event"] == "ingested":
            return


@pytest.mark.slow
@pytest.mark.parametrize("moment", [a_worker_is_there, a_scan_is_done])
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_that_interrupts_everybody_interrupts_the_driver(tmp_path, moment, kind):
    """Ctrl-C reaches each process of the terminal: none of them may drop what it has in hand, or print its stack."""
    catalog = cohorts.write_cohort(tmp_path, SCANS)
    command = [sys.executable, "-m", "cohort.cli", "ingest", str(catalog), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    moment(process)
    if kind == signal.SIGINT:
        os.killpg(process.pid, kind)
    else:
        process.send_signal(kind)
    _, complained = process.communicate(timeout=120)
    assert process.returncode == 75, complained
    assert "Traceback" not in complained
    assert "stopped: signal" in complained
    manifest = Store(tmp_path / "store").manifest()
    assert manifest["stopped"] == "signal"
    kept = len(Store(tmp_path / "store").scan_ids())
    assert (kept > 0) == (moment is a_scan_is_done)
    again = api.ingest(catalog, options=api.Options(workers=0)).manifest
    assert again["processed"] == SCANS - kept
    assert len(Store(tmp_path / "store").scan_ids()) == SCANS


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_a_reason_and_the_second_interrupts(kind):
    before = signal.getsignal(kind)
    with Stop() as stop, stop.gently():
        assert stop.reason() is None
        os.kill(os.getpid(), kind)
        wait(0.1)
        assert stop.reason() == "signal"
        assert stop.is_final
        with pytest.raises(KeyboardInterrupt):
            raised(kind)
    assert signal.getsignal(kind) is before


def test_a_signal_where_nobody_asks_interrupts_at_once():
    with Stop(), pytest.raises(KeyboardInterrupt):
        raised(signal.SIGTERM)


def test_what_cannot_be_asked_is_interrupted_after_its_grace(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.2)
    with Stop() as stop, stop.gently():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
        assert stop.overdue


def test_who_came_to_an_end_in_time_is_not_interrupted(monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 0.1)
    with Stop() as stop:
        with stop.gently():
            os.kill(os.getpid(), signal.SIGTERM)
            wait(0.01)
        wait(0.5)


def test_a_file_that_cancels_is_looked_for_now_and_then(monkeypatch):
    asked = []
    stop = Stop(cancelled=lambda: asked.append(1) is None)
    assert [stop.reason() for _ in range(100)] == [None] * 100
    assert asked == []
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    assert stop.reason() == "cancelled"
    assert stop.is_final
    assert (stop.reason(), len(asked)) == ("cancelled", 1)


def test_a_budget_ends_what_is_begun_and_no_more():
    stop = Stop(budget_seconds=0.3)
    seen = [item for item, _, _ in each(time.sleep, [0.0, 0.0, 0.6, 0.0], client=None, name="t", stop=stop)]  # fmt: skip
    assert seen == [0.0, 0.0, 0.6]
    assert stop.because() == "budget"
    assert not stop.is_final


def test_signals_stay_as_they_are_outside_of_the_main_thread():
    found = []

    def run() -> None:
        with Stop() as stop:
            found.append(stop.reason())

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [None]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_call_works_on_so_many_scans_and_the_next_ones_on_the_rest(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 6)
    seen = []
    for _ in range(3):
        options = api.Options(workers=0, max_scans=2)
        manifest = api.update(catalog, options=options).manifest
        seen.append((manifest["processed"], manifest.get("stopped"), manifest.get("left")))
    # All of what is new comes in before anything is measured: two scans a call through every stage.
    assert seen == [(2, "max_scans", 4), (2, "max_scans", 2), (2, None, None)]
    store = Store(tmp_path / "store")
    assert set(store.table("ball")["state"]) == {"done"}
    assert len(store.table("ball")) == 6


@pytest.mark.slow
def test_a_call_that_is_cancelled_keeps_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    catalog = cohorts.write_cohort(tmp_path, 6)
    store = Store(tmp_path / "store")

    def cancel(event: dict) -> None:
        if event["event"] == "done" and event["done"] == 2:
            store.files.write(f"runs/{event['run']}/cancel", b"")

    result = api.update(catalog, options=api.Options(workers=0, listen=cancel))
    manifest = result.manifest
    assert (manifest["stopped"], manifest["left"]) == ("cancelled", 4)
    assert manifest["stages"]["run:ball"]["done"] == 2
    assert manifest["stages"]["run:ball"]["cost"]["scans"] == 2
    assert "fit" not in manifest["stages"]
    assert result.report is None
    again = api.update(catalog, options=api.Options(workers=0))
    assert again.manifest["stages"]["run:ball"]["done"] == 4
    assert again.manifest.get("stopped") is None


@pytest.mark.parametrize(
    "how", ["cancelled", "interrupted", "interrupted while it reads", "broken off"]
)
def test_what_a_call_that_was_stopped_could_not_say_the_next_one_says_once(
    tmp_path, monkeypatch, how
):
    """Its exit code is 75, or 2: that a scan was refused would come to nobody's ears."""
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    catalog = cohorts.write_cohort(tmp_path, 6)
    store, broken = Store(tmp_path / "store"), tmp_path / "scans/003_v1.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    ends = dict.fromkeys(("interrupted", "interrupted while it reads"), KeyboardInterrupt)
    ends |= {"broken off": OSError}
    # The last of the scans is read when the broken one was refused.
    when = ("ingested", 6) if how == "interrupted while it reads" else ("done", 1)

    def stop(event: dict) -> None:
        if (event["event"], event.get("done")) == when:
            if how in ends:
                raise ends[how]
            store.files.write(f"runs/{event['run']}/cancel", b"")

    def bring(options: api.Options):
        return Call(catalog, None, options).work("update", ["ingest", "run", "fit"])

    with suppress(*ends.values()):
        assert bring(api.Options(workers=0, listen=stop)).manifest["stopped"] == "cancelled"
    assert store.manifest()["unsaid"] == 1
    (store.root / "runs/20991231T000000.000000Z-abcdef").mkdir()  # killed: it leaves no word
    second = bring(api.Options(workers=0))
    assert (second.unsaid, second.newly_bad) == (1, True)
    assert not any(p.new for p in second.problems)
    third = bring(api.Options(workers=0))
    assert (third.unsaid, third.newly_bad) == (0, False)
    # Nor does a damaged manifest keep anybody from work.
    last = store.root / "runs" / store.runs()[-1] / "manifest.json"
    last.write_bytes(last.read_bytes().replace(b'"processed": 0', b'"processed": 1'))
    with pytest.raises(StoreError):
        store.manifest()
    assert bring(api.Options(workers=0)).manifest["processed"] == 0


@pytest.mark.parametrize(
    ("manifest", "said", "again"),
    [
        ({"counts": {}}, "", False),
        ({"stopped": "budget", "left": 7}, "stopped at the budget: 7 scans left for the next call", False),
        ({"stopped": "max_scans", "left": 2}, "stopped at --max-scans: 2 scans left for the next call", False),
        ({"stopped": "no worker is left, for 120 s", "left": 3}, "stopped: no worker is left, for 120 s, 3 scans left; resume with: cohort update 'my cohort.yaml' --workers 2", True),
        ({"stopped": "signal", "left": 0}, "stopped: signal, 0 scans left; resume with: cohort update 'my cohort.yaml' --workers 2", True),
    ],
)  # fmt: skip
def test_why_a_call_stopped_is_one_line_with_what_to_type(
    manifest, said, again, capsys, monkeypatch
):
    monkeypatch.setattr(
        sys, "argv", ["/opt/bin/cohort", "update", "my cohort.yaml", "--workers", "2"]
    )
    assert console.show_stop(manifest) is again
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("after", [console.KEPT, console.AGAIN])
def test_a_signal_outside_of_the_work_leaves_with_75_and_what_to_type(after, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cohort", "ingest", "c.yaml"])
    with pytest.raises(typer.Exit) as left, console.errors(after):
        raised(signal.SIGTERM)
    assert left.value.exit_code == 75
    assert f"stopped: signal; {after}: cohort ingest c.yaml" in capsys.readouterr().err


def test_a_limit_of_time_that_is_none_is_a_wrong_call(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 1)
    said = CliRunner().invoke(app, ["run", str(catalog), "--time-limit", "soon"])
    assert said.exit_code == 2
    assert "soon" in said.output
    assert not (tmp_path / "store").exists()
