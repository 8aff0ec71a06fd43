"""Scans in processes of their own: what ends one is named, and costs nothing else."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import poison
import psutil
import pytest

from cohort.pipeline.dispatch.crew import Batch, Crew, Gate

LIMIT = 700 << 20
"""Bytes for the scans of a worker: enough for the interpreter and NumPy."""


@pytest.fixture
def crew():
    own = psutil.Process().memory_info().rss  # of the worker, here of all the tests before
    made = Crew(own + LIMIT, 1)
    yield made
    made.close()


def batch(items: Iterable[object], *, function=poison.play, seconds: float = 60.0) -> Batch:
    items = list(items)
    return Batch("call", pickle.dumps((function, items)), len(items), seconds)


def results(crew: Crew, items: list, **given: float) -> list:
    return [answer.open() for answer in crew.run(batch(items, **given))]


def test_what_ends_its_process_is_named_and_every_other_scan_is_done(crew):
    items = [("square", n) for n in range(40)]
    for place, how in zip((0, 7, 8, 39), poison.ENDS, strict=True):
        items[place] = (how, place)
    found = results(crew, items)
    for (how, number), result in zip(items, found, strict=True):
        if how == "square":
            assert result == number * number
        elif how == "killed":
            assert (result.kind, result.lasting) == ("Killed", False)
            assert "SIGKILL" in result.message
        else:
            assert (result.kind, result.lasting) == ("Crashed", True)
            said = {"segfault": "SIGSEGV", "abort": "SIGABRT", "exit": "exit status 3"}[how]
            assert said in result.message
    assert "poison.py" in found[0].trace, "where it crashed"


@pytest.mark.slow
def test_a_scan_that_only_met_the_damage_of_another_is_done(crew, tmp_path):
    items = [(str(tmp_path), name) for name in "abc"]
    answers = crew.run(batch(items, function=poison.once))
    assert [answer.open() for answer in answers] == ["a", "b", "c"]


@pytest.mark.slow
def test_exits_and_errors_are_failures_and_keep_the_process(crew):
    before = crew.run(batch([0], function=poison.pids))[0].open()
    found = results(crew, [("sys.exit", 0), ("refuse", 0), ("io", 0)])
    assert crew.run(batch([0], function=poison.pids))[0].open() == before
    kinds = [(f.kind, f.message, f.lasting) for f in found]
    assert kinds == [
        ("SystemExit", "2", True),
        ("ValueError", "thirteen is refused", True),
        ("OSError", "seventeen is out of reach", False),
    ]


@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_a_scan_that_hangs_is_ended_at_its_limit_and_the_next_one_runs(crew, how):
    results(crew, [("square", 1)])  # the process is there: its start does not count
    started = time.monotonic()
    late, after = results(crew, [(how, 0), ("square", 5)], seconds=1.0)
    assert time.monotonic() - started < 30
    assert (late.kind, late.lasting, after) == ("TimeLimit", False, 25)
    assert "time limit of 1 s" in late.message


@pytest.mark.slow
@pytest.mark.parametrize("how", ["huge", "grow"])
def test_a_scan_too_large_is_tried_alone_and_refused_in_one_line(crew, how):
    before, large, after = crew.run(batch([("square", 2), (how, 0), ("square", 3)]))
    assert (before.open(), after.open()) == (4, 9)
    failure = large.open()
    assert failure.kind == "MemoryError"
    assert failure.message.startswith("OOM, peak 0.")
    assert "limit 0." in failure.message
    assert "--memory" in failure.message
    assert "\n" not in failure.message
    assert large.cost.peak_rss_bytes < 1.5 * LIMIT


@pytest.mark.slow
def test_the_function_that_cannot_be_found_is_a_failure_of_each(crew):
    load = pickle.dumps((poison.square, [1, 2])).replace(b"square", b"squire")
    found = [answer.open() for answer in crew.run(Batch("call", load, 2, 60.0))]
    assert [f.kind for f in found] == ["AttributeError"] * 2
    assert "squire" in found[0].message


def test_what_a_scan_takes_is_measured(crew, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"x" * (5 << 20))
    idle, busy = crew.run(batch([str(tmp_path / "none"), str(file)], function=poison.read_and_burn))
    assert idle.cost.read_bytes < 1 << 20
    assert 5 << 20 <= busy.cost.read_bytes < 7 << 20
    assert 0.2 <= busy.cost.cpu_seconds <= busy.cost.seconds + 0.1
    assert busy.cost.peak_rss_bytes - idle.cost.peak_rss_bytes > 4 << 20


def test_a_call_that_is_over_begins_nothing_and_ends_what_is_under_way(crew):
    asked = batch([("square", 1), ("sleep", 0), ("square", 2)], seconds=600.0)
    found: list = []
    thread = threading.Thread(target=lambda: found.extend(crew.run(asked)))
    thread.start()
    time.sleep(1.0)
    crew.finish("call", at_once=True)
    thread.join(30)
    assert not thread.is_alive()
    assert [answer.content is None for answer in found][1:] == [True, True]
    assert crew.run(asked)[0].content is None


@pytest.mark.slow
def test_the_processes_end_with_their_worker():
    code = (
        "import pickle, time, poison; from cohort.pipeline.dispatch.crew import Batch, Crew\n"
        "load = pickle.dumps((poison.pids, [0]))\n"
        "print(Crew(None, 1).run(Batch('c', load, 1, 60.0))[0].open()[0], flush=True)\n"
        "import threading; crew = Crew(None, 1)\n"
        "load = pickle.dumps((poison.play, [('spin', 0)]))\n"
        "threading.Thread(target=crew.run, args=(Batch('c', load, 1, 600.0),)).start()\n"
        "while not crew._busy: time.sleep(0.05)\n"
        "print(next(iter(crew._busy))._popen.pid, flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as worker:  # fmt: skip
        pids = [int(worker.stdout.readline()) for _ in range(2)]
        time.sleep(0.5)
        worker.kill()
    deadline = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_gate_never_lets_in_more_than_fits_and_lets_all_through():
    gate, sizes, used, most = Gate(10), [3, 9, 1, 10, 25, 4, 4, 4, 2, 7] * 8, [0], [0]
    lock = threading.Lock()

    def go(size: int) -> None:
        with gate.hold(size):
            with lock:
                used[0] += min(size, 10)
                most[0] = max(most[0], used[0])
            time.sleep(0.001)
            with lock:
                used[0] -= min(size, 10)

    threads = [threading.Thread(target=go, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert 5 < most[0] <= 10
