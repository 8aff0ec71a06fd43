"""Many tasks on few workers: nothing is lost, a failure costs one task, arguments stay out of sight."""

import os
import time

import pytest

from cohort.pipeline.cluster import ClusterError, connect, parse_bytes
from cohort.pipeline.window import Failure, Sealed, each


def work(number: int) -> int:
    """Square; some numbers fail in some way."""
    if number == 13:
        raise ValueError("thirteen is refused")
    if number == 17:
        raise OSError("seventeen is out of reach")
    if number == 666:
        os._exit(1)
    return number * number


def collect(items, client):
    return dict(each(work, items, client=client, name="test"))


def check(found, numbers):
    assert set(found) == set(numbers)
    for number, result in found.items():
        if number == 13:
            assert (result.kind, result.message, result.lasting) == (
                "ValueError",
                "thirteen is refused",
                True,
            )
            assert "thirteen is refused" in result.trace
        elif number == 17:
            assert (result.kind, result.lasting) == ("OSError", False)
        elif number == 666:
            assert result.kind == "KilledWorker"
            assert "the worker died" in result.message
            assert not result.lasting
        else:
            assert result == number * number


def test_a_plain_loop_returns_every_result_and_every_failure():
    check(collect(range(40), None), range(40))


def test_items_are_taken_one_at_a_time_as_results_are_asked_for():
    taken = []

    def items():
        for number in range(5):
            taken.append(number)
            yield number

    results = each(work, items(), client=None, name="test")
    next(results)
    assert taken == [0]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_crash_of_the_worker_costs_the_one_item_at_fault():
    numbers = [*range(60), 666, *range(100, 160)]
    with connect(workers=2, memory=1 << 30) as client:
        check(collect(numbers, client), numbers)


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
    ((_, failure),) = each(work, [13], client=None, name="test")
    assert isinstance(failure, Failure)
