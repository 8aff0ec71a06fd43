"""Fault day: whatever breaks, nothing is lost, nothing is wrong, nothing hangs, and no innocent scan fails."""

import os
import sys

import pytest
from faults.driver import Driver, Hung
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


SPEAKS = """\
#!/bin/sh
for n in 1 2 3 4 5; do echo '{"event": "done"}'; sleep 0.4; done
exec sleep 60
"""


def test_a_call_is_hung_when_it_falls_silent_and_not_while_it_speaks(tmp_path, monkeypatch):
    program = tmp_path / "speaks"
    program.write_text(SPEAKS)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with Driver("run") as driver:
        assert driver.until(lambda: driver.count("done") == 5, seconds=1.5)
        with pytest.raises(Hung, match=r"^nothing for 1 s: \{'event': 'done'"):
            driver.end(seconds=1.0)
    monkeypatch.setattr("faults.driver.LONGEST_S", 1.0)
    with Driver("run") as driver, pytest.raises(Hung, match=r"^no end after 1 s: "):
        driver.end()


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
