"""The table of faults: ``python -m faults [--full] [F1 F7 ...]``; exit 1 unless every line is what was promised."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from faults.ground import Impossible, own_home
from faults.line import Line, head
from faults.register import FAULTS, run


def _say(stream: TextIO, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


def main() -> int:
    """Inject the faults that are named, or all, and print a line each."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("fault", nargs="*", metavar="F1", help="all by default")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--full", dest="scale", action="store_const", const="full", help="all rounds")
    how.add_argument(
        "--short", dest="scale", action="store_const", const="short", help="few rounds"
    )
    given = parser.parse_args()
    if unknown := set(given.fault) - FAULTS.keys():
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    bad = 0
    _say(sys.stdout, head())
    for number in given.fault or FAULTS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
            os.environ |= own_home(Path(folder))
            try:
                line = run(number, Path(folder), given.scale or "usual")
            except Impossible as reason:
                line = Line(number, FAULTS[number].title)
                line.broken.append(f"cannot be injected here: {reason}")
        _say(sys.stdout, str(line))
        _say(sys.stderr, f"    took {time.monotonic() - started:.0f} s")
        for text in line.broken[:20]:
            _say(sys.stderr, f"    {text}")
        bad += not line.is_good
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
