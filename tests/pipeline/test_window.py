"""Many scans on few workers: nothing is lost, a failure costs one scan, arguments stay out of sight."""

import os
import signal
import threading
import time
from collections import Counter

import poison
import pytest
from distributed.comm import CommClosedError

from cohort.pipeline.cluster import ClusterError, connect, parse_bytes
from cohort.pipeline.dispatch import window
from cohort.pipeline.dispatch.stopping import Stop
from cohort.pipeline.dispatch.window import Failure, Sealed, each

MEMORY = 1 << 30


def collect(items, client, function=poison.play, **given):
    return [
        (item, result)
        for item, result, _ in each(function, items, client=client, name="test", **given)
    ]


def check(found, items):
    """Every item once; squares, and failures that say what happened."""
    assert sorted(item for item, _ in found) == sorted(items)
    for (what, number), result in found:
        match what:
            case "square":
                assert result == number * number
            case "refuse":
                assert (result.kind, result.lasting) == ("ValueError", True)
                assert result.message == "thirteen is refused"
                assert "thirteen is refused" in result.trace
            case "io":
                assert (result.kind, result.lasting) == ("OSError", False)
            case "segfault" | "abort" | "exit":
                assert (result.kind, result.lasting) == ("Crashed", True)
            case "sleep" | "spin":
                assert result.kind == "TimeLimit"
            case "huge" | "grow":
                assert result.kind == "MemoryError"
                assert result.message.startswith("OOM, peak ")


def squares(n, *others):
    items = [("square", number) for number in range(n)]
    for number, what in enumerate(others):
        items.insert((number + 1) * n // (len(others) + 1), (what, number))
    return items


def test_a_plain_loop_returns_every_result_and_every_failure():
    items = squares(40, "refuse", "io")
    check(collect(items, None), items)


def _in_lines(item):
    raise RuntimeError(f"Exception thrown in a library: at line 77\n  ERROR: {item}\n")


def test_what_a_library_says_in_several_lines_is_one_line_and_stays_whole_in_the_trace():
    ((_, failed),) = collect([3], None, _in_lines)
    assert failed.message == "Exception thrown in a library: at line 77 ERROR: 3"
    assert "77\n  ERROR: 3" in failed.trace


def test_items_are_taken_one_at_a_time_as_results_are_asked_for():
    taken = []

    def items():
        for number in range(5):
            taken.append(number)
            yield number

    results = each(poison.square, items(), client=None, name="test")
    next(results)
    assert taken == [0]


@pytest.fixture(scope="module")
def client():
    with connect(workers=2, memory=MEMORY) as client:
        yield client


@pytest.mark.slow
@pytest.mark.cluster
def test_poison_is_named_and_no_innocent_fails(client):
    # F10: three of 83 end the process of whoever touches them.
    before = set(client.run(os.getpid).values())
    for _ in range(3):
        items = squares(80, "segfault", "abort", "exit")
        check(collect(items, client), items)
    assert set(client.run(os.getpid).values()) == before, "a worker died"


@pytest.mark.slow
@pytest.mark.cluster
def test_scans_that_hang_or_take_all_memory_cost_nothing_but_themselves(client):
    items = squares(40, "spin", "grow", "refuse", "sleep", "huge", "io")
    check(collect(items, client, seconds=12.0), items)


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_that_are_killed_from_outside_lose_nothing(client):
    # F1, over and over: workers die while their processes work.
    over = threading.Event()

    def kill() -> None:
        for _ in range(4):
            if over.wait(2.0):
                return
            for pid in list(client.run(os.getpid).values())[:1]:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = collect([0.15] * 80, client, function=time.sleep)
    finally:
        over.set()
        killer.join()
    assert found == [(0.15, None)] * 80


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("often", [False, True])
def test_an_answer_that_is_lost_on_its_way_is_no_failure_of_the_scan(client, monkeypatch, often):
    """As when the scheduler dies while a result is fetched: nothing is wrong with the scan."""
    fetch, lost = client.gather, Counter()

    async def breaks_off(futures, **given):
        found = await fetch(futures, **given)
        if often or sum(lost.values()) < 3:
            lost["all"] += 1
            raise CommClosedError("in <TCP (closed)>: Stream is closed")
        return found

    monkeypatch.setattr(client, "gather", breaks_off)
    items = squares(6 if often else 40, *(() if often else ("refuse",)))
    found = collect(items, client)
    if not often:
        check(found, items)
        assert lost["all"] == 3
        return
    assert sorted(item for item, _ in found) == items
    assert {result.kind for _, result in found} == {"CommClosedError"}
    assert lost["all"] <= window.TRIES * len(items)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_function_that_workers_cannot_import_fails_each_item_and_hangs_nothing(
    client, tmp_path, monkeypatch
):
    (tmp_path / "only_here.py").write_text("def work(n): return n\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    found = collect(range(3), client, function=only_here.work)
    assert [result.kind for _, result in found] == ["ModuleNotFoundError"] * 3
    assert "only_here" in found[0][1].message


@pytest.mark.slow
@pytest.mark.cluster
def test_what_is_in_flight_never_takes_more_than_the_workers_have(client, monkeypatch):
    taken: list[int] = []
    flying: list[int] = []
    monkeypatch.setattr(window, "MOST_A_BATCH", 1)

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    results = each(
        poison.square, items(), client=client, name="test", bytes_of=lambda _: MEMORY * 2 // 3
    )
    for n, _ in enumerate(results, 1):
        flying.append(len(taken) - n)
    # Two workers hold two of them, not three; one more may be drawn and wait. By number there would be six.
    assert max(flying) <= 3
    assert len(flying) == 30


@pytest.mark.slow
@pytest.mark.cluster
def test_a_stop_ends_what_is_begun_and_drops_what_takes_too_long(client, monkeypatch):
    from cohort.pipeline.dispatch import stopping

    monkeypatch.setattr(stopping, "GRACE_SECONDS", 1.0)
    stop = Stop()
    items = [0.05, 300.0, 0.05, 300.0, *[0.05] * 500]
    found = []
    started = time.monotonic()
    for item, result, _ in each(time.sleep, items, client=client, name="t", stop=stop):
        assert result is None
        found.append(item)
        stop.give_up("cancelled")
    assert time.monotonic() - started < 60
    assert 1 <= len(found) < 100
    assert 300.0 not in found
    # The workers are free again.
    check(collect(squares(5), client), squares(5))


@pytest.mark.slow
@pytest.mark.cluster
def test_threads_of_one_worker_share_its_memory(tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(1, processes=False, threads_per_worker=3, memory_limit="3GiB", dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        folder = str(tmp_path)
        items = [(folder, f"{n}") for n in range(6)]
        found = collect(items, client, function=poison.how_many, bytes_of=lambda _: 2 << 30)
        assert [most for _, most in found] == [1] * 6, "two of 2 GiB at once in 3"
        beside = collect([(folder, f"b{n}") for n in range(9)], client, function=poison.how_many)
        assert max(most for _, most in beside) > 1


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_without_workers_is_left_with_the_reason(monkeypatch):
    import dask

    stop = Stop()
    with dask.config.set({"distributed.scheduler.no-workers-timeout": "3s"}), connect(workers=2, memory=MEMORY) as client:  # fmt: skip
        found = []
        for item, _, _ in each(time.sleep, [0.1] * 400, client=client, name="t", stop=stop):
            if not found:
                client.cluster.scale(0)
            found.append(item)
    assert len(found) < 400
    assert stop.because().startswith("no worker is left")


@pytest.mark.slow
@pytest.mark.cluster
def test_a_cluster_listens_to_this_machine_only():
    import psutil

    with connect(workers=1, memory=1 << 30) as client:
        pids = [os.getpid(), *client.run(os.getpid).values()]
        time.sleep(0.5)
        places = {
            c.laddr.ip
            for pid in pids
            for c in psutil.Process(pid).net_connections(kind="tcp")
            if c.status == psutil.CONN_LISTEN
        }
        assert places <= {"127.0.0.1", "::1"}


def test_what_is_sealed_shows_nowhere():
    sealed = Sealed("/data/DOE^JANE/im1.dcm")
    assert "DOE" not in repr(sealed) + str(sealed)
    assert sealed.open() == "/data/DOE^JANE/im1.dcm"


def test_memory_is_read_with_its_unit():
    assert parse_bytes("2GiB") == 2 << 30
    for text in ("a lot", "12"):
        with pytest.raises(ClusterError, match=r"expected a number with a unit|needs at least"):
            parse_bytes(text)


@pytest.mark.slow
def test_a_scheduler_that_does_not_answer_is_named():
    with (
        pytest.raises(ClusterError, match="no scheduler answers at tcp"),
        connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_failure_is_plain_text():
    ((_, failure),) = collect([("refuse", 0)], None)
    assert isinstance(failure, Failure)
