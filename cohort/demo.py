"""The demo: a synthetic cohort with planted damage, taken from raw files to a report, and checked against its truth."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from cohort import api
from cohort.api import Options, Result


def make_demo(folder: Path, *, scans: int, seed: int, options: Options) -> tuple[Result, list[str]]:
    """Write a synthetic cohort into `folder` and update it.

    Parameters
    ----------
    folder : Path
        Made if need be. What an earlier demo left there is used again where it is the same.
    scans, seed : int
        Good scans, and the seed of everything random.
    options : Options

    Returns
    -------
    Result
    list of str
        Where the outcome is not what the planted truth demands; empty when all is well.
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from cohort.phantom import write_cohort
    from cohort.pipeline.cluster import worker_count

    total = scans + 3  # the damaged ones too
    with ProcessPoolExecutor(
        options.workers or worker_count(), mp_context=get_context("spawn")
    ) as pool:

        def counted(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
            for number, value in enumerate(pool.map(function, items), 1):
                options.listen(
                    {"event": "made", "stage": "phantom", "done": number, "total": total}
                )
                yield value

        options.listen({"event": "stage", "stage": "phantom", "total": total})
        catalog = write_cohort(folder, scans=scans, seed=seed, map=counted)
    result = api.update(catalog, options=options)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    found = {
        e["subject"]: e["code"] for e in result.store.quarantine() if e["state"] == "quarantined"
    }
    problems = []
    if found != expected:
        problems.append(f"expected the planted damage {expected} in quarantine, found {found}")
    problems += [f"{f['scan_id']}: {f['recipe']} failed: {f['message']}" for f in result.failed]
    problems += [
        f"model {name}: {text}" for name, text in result.fits.items() if isinstance(text, str)
    ]
    return result, problems
