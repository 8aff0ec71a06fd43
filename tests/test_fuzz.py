"""Mutants of DICOM and NIfTI files end as a scan, a refusal or a skip: nothing else is raised, nothing hangs or dies."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from fuzz.__main__ import MAX_BYTES, end_of
from fuzz.archives import archive_seeds
from fuzz.mutants import Mutant, mutant
from fuzz.seeds import BUNDLED, seeds

SECONDS = 60.0
"""No mutant takes longer, on a machine that is busy with other things; alone, none takes ten."""

START_SECONDS = 120.0

PEAK_MB = (MAX_BYTES >> 20) + 300
"""No reader ever holds more, the interpreter and its libraries included."""

READ = (sys.executable, "-m", "fuzz", "read")
BATCH = 1_000
"""Mutants of one process: to start it costs as much as two hundred of them."""
ENOUGH = 20
"""Faults to mend before others are looked for."""


@dataclass(frozen=True)
class Fault:
    """A mutant that ended as none may."""

    number: int
    label: str
    what: str

    def __str__(self):
        again = f"in tests: python -m fuzz read {self.number}"
        return f"mutant {self.number} ({self.label}): {self.what}\n{again}"


def watched(start, stop, *, command=READ, seconds=SECONDS):
    """Have mutants read in a process of their own, a new one after every fault; how they ended, and the faults."""
    ends, faults = Counter(), []
    while start < stop and len(faults) < ENOUGH:
        last, what = {"number": start, "label": "the first"}, None
        with started([*command, str(start), str(stop)]) as process:
            try:
                for last in said(process.stdout.fileno(), seconds):
                    if what := wrong(last):
                        break
                    ends.update([last["end"]] if "end" in last else [])
                else:
                    what = died(process.wait(), whole=last["number"] == stop - 1 and "end" in last)
            except TimeoutError:
                what = f"no end within {seconds:g} s"
            process.kill()
        faults += [Fault(last["number"], last["label"], what)] if what else []
        start = last["number"] + 1
    return ends, faults


def started(command):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=quiet, env=os.environ | {"PYTHONPATH": path}
    )


def said(pipe, seconds):
    """Lines of JSON until the other side ends; a pause that is too long raises."""
    poll, rest = select.poll(), b""
    poll.register(pipe, select.POLLIN)
    patience = START_SECONDS
    while True:
        if not poll.poll(1000 * patience):
            raise TimeoutError
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)
        patience = seconds


def wrong(told):
    """What may not be in an answer."""
    if "error" in told:
        return told["error"]
    if told.get("peak_mb", 0) > PEAK_MB:
        return f"{told['peak_mb']} MB in memory, limit {PEAK_MB} MB"
    return None


def died(code, *, whole):
    """How a process ended that has nothing more to say; None if it had said everything."""
    if whole and code == 0:
        return None
    return f"the reader died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


def read_all(first, stop):
    """Read mutants in as many processes at a time as there are cores."""
    processes = os.cpu_count() or 1
    size = min(BATCH, -(-(stop - first) // processes))
    batches = [(start, min(start + size, stop)) for start in range(first, stop, size)]
    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(lambda batch: watched(*batch), batches))
    faults = [fault for _, found in results for fault in found]
    assert not faults, "\n\n".join(map(str, faults))
    return sum((ends for ends, _ in results), Counter())


def test_five_hundred_mutants_end_as_they_may():
    ends = read_all(0, 500)
    assert ends.total() == 500
    # They get deep: many are taken, and the others are refused for many reasons.
    assert ends["scan"] >= 50
    assert len([code for code in ends if code.startswith("DCM-")]) >= 8
    assert len([code for code in ends if code.startswith("NII-")]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20_000, 4_000))
def test_twenty_thousand_mutants_end_as_they_may(first):
    assert read_all(first, first + 4_000).total() == 4_000


@pytest.mark.parametrize(
    "seed", [s for s in (*seeds(), *archive_seeds()) if s.name not in BUNDLED], ids=lambda s: s.name
)
def test_what_mutants_are_made_of_is_sound(seed, tmp_path):
    name = "a.hdr" if "a.img" in seed.beside else "a"
    whole = Mutant(seed.name, {name: seed.pack(seed.data), **seed.beside})
    assert end_of(tmp_path, whole) == "scan"


def test_a_number_always_makes_the_same_mutant(tmp_path):
    labels = set()
    for number in range(60):
        case = mutant(number)
        assert mutant(number) == case
        labels.add(case.label.split(", ")[-1])
    assert len(labels) >= 12
    with started([sys.executable, "-m", "fuzz", "write", "1", str(tmp_path)]) as process:
        assert process.wait() == 0
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == mutant(1).files


FAKE = """
import json, os, sys, time
for number in range(int(sys.argv[1]), int(sys.argv[2])):
    told = {"number": number, "label": "fake"}
    print(json.dumps(told), flush=True)
    told |= {"end": "scan", "peak_mb": 100}
    if number == 3:
        SPOIL
    print(json.dumps(told), flush=True)
"""
SPOILS = {
    "os.abort()": "died .SIGABRT",
    "sys.exit(0)": "died .exit code 0",
    "time.sleep(60)": "no end within 0.5 s",
    "told['error'] = 'KeyError'; del told['end']": "KeyError",
    "told['peak_mb'] = 9999": "9999 MB in memory, limit 556 MB",
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_the_watch_sees_every_kind_of_fault_and_goes_on(spoil):
    command = [sys.executable, "-c", FAKE.replace("SPOIL", spoil)]
    ends, faults = watched(0, 8, command=command, seconds=0.5)
    assert ends == {"scan": 7}
    assert [fault.number for fault in faults] == [3]
    assert re.search(SPOILS[spoil], str(faults[0]))


def test_the_watch_sees_an_exception_of_a_reader():
    code = "import sys; from fuzz import __main__ as m; m.end_of = lambda *_: 1 / 0; sys.argv[1:1] = ['read']; m.main()"
    _, faults = watched(0, 1, command=[sys.executable, "-c", code])
    assert "ZeroDivisionError" in str(faults[0])
    assert "mutant 0" in str(faults[0])
