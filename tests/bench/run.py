"""`make bench`: every row a ratio against a named rival in the same run; larger is better.

Modules ``bench_*.py`` beside this file hold functions ``bench_*`` that yield rows. Timings on a shared machine are noisy,
so nothing here is a test: the figures of the last full run stand in README.md beside this file.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"


@dataclass
class Row:
    """One comparison."""

    name: str
    """Area and what is compared, ``pipeline/oasis-measure``."""
    ours_s: float
    rival: str
    rival_s: float
    target: float
    """Least ratio that counts as met."""
    note: str = ""
    ratio: float = field(init=False)
    met: bool = field(init=False)

    def __post_init__(self) -> None:
        """Derive the ratio."""
        self.ratio = self.rival_s / self.ours_s
        self.met = self.ratio >= self.target


def best(function: Callable[[], object], repeat: int = 3) -> float:
    """Shortest of several timings, seconds: the one that others disturbed least."""
    seconds = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def rows(only: str) -> Iterator[Row]:
    """Run the benchmarks whose name holds `only`; those of an area that takes long, if `only` names the area."""
    for path in sorted(HERE.glob("bench_*.py")):
        module = importlib.import_module(path.stem)
        area = path.stem.removeprefix("bench_")
        for name in sorted(n for n in dir(module) if n.startswith("bench_")):
            if only not in f"{area}/{name.removeprefix('bench_')}".replace("_", "-"):
                continue
            if getattr(module, "ONLY_BY_NAME", False) and area not in only:
                print(f"{area}: left out, it takes long; ONLY={area} runs it", flush=True)
                continue
            yield from getattr(module, name)()


def main() -> None:
    """Print the table as it grows and write results.json."""
    parser = argparse.ArgumentParser(description="Benchmarks as ratios against rivals")
    parser.add_argument(
        "--only", default="", help="part of a name, such as pipeline or ops/distance"
    )
    found = []
    print(
        f"{'name':44} {'ours':>10} {'rival':>10} {'ratio':>7} {'target':>7}      rival", flush=True
    )
    for row in rows(parser.parse_args().only):
        found.append(row)
        verdict = "met" if row.met else "NOT"
        print(
            f"{row.name:44} {row.ours_s:10.4g} {row.rival_s:10.4g} {row.ratio:7.2f} {row.target:7.2f} {verdict:>4} {row.rival}"
            + (f" ({row.note})" if row.note else ""),
            flush=True,
        )
    (HERE / "results.json").write_text(
        json.dumps([asdict(r) for r in found], indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    # One module under one name, for the benchmarks that import Row from here.
    sys.modules["run"] = sys.modules["__main__"]
    main()
