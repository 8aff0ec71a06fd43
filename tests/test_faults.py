"""Fault day: whatever breaks, nothing is lost, nothing is wrong, nothing hangs, and no innocent scan fails."""

import os

import pytest
from faults.ground import Impossible
from faults.line import Line
from faults.register import FAULTS, SHORT, run

pytestmark = pytest.mark.cluster


def check(number, folder, scale):
    try:
        line = run(number, folder, scale)
    except Impossible as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{number} cannot be injected: {reason}")
        pytest.skip(f"{number} cannot be injected: {reason}")
    assert line.is_good, "\n".join([str(line), *line.broken])


# Seven faults in a short form on each change: seconds each, most of them for starting processes.
@pytest.mark.parametrize("number", SHORT)
def test_in_short(number, tmp_path):
    check(number, tmp_path, "short")


@pytest.mark.slow
@pytest.mark.parametrize("number", FAULTS)
def test_as_on_the_page_with_fewer_rounds(number, tmp_path):
    check(number, tmp_path, "usual")


def test_every_fault_of_the_page_is_there_in_its_order():
    assert list(FAULTS) == [f"F{n}" for n in range(1, 21)]


@pytest.mark.parametrize("cost", ["lost", "wrong", "innocents", "hung"])
def test_a_line_that_cost_anything_is_not_good(cost):
    line = Line("F0", "no fault", injected=1, scans=10)
    assert line.is_good
    setattr(line, cost, 1)
    assert not line.is_good
    assert not Line("F0", "that never came to pass", scans=10).is_good
    line = Line("F0", "no fault", injected=1, scans=10)
    line.expect(kept=True, promise="kept")
    assert line.is_good
    line.expect(kept=False, promise="broken")
    assert not line.is_good
