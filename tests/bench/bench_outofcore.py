"""The walk of `tests/pipeline/test_out_of_core.py` on eight times a worker's memory, and on as much by SciPy.

Takes long, and tens of GB where temporary files go, so `run.py` runs it only by name: ``make bench ONLY=outofcore``.
The rival is what one would write on a workstation: SciPy on a few planes at a time, with whole masks in memory, one thread, 10 GB.
It is the check as well: of the library it uses nothing but the compiled passes of the distance, and those plane by plane.
"""

import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import reduce
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from run import HERE, Row
from scipy import ndimage as ndi

sys.path.insert(0, str(HERE.parent / "pipeline"))

from test_out_of_core import WALK, block, peak_bytes, walk, write_volume

from cohort.io.store import Store
from cohort.kernels import envelopes

ONLY_BY_NAME = True

SHAPE = (1536, 1672, 1673)
"""8 GiB of int16, and more voxels than 32 bits count."""
LIMIT = 1 << 30
SPACING = (1.5, 1.0, 1.0)
PLANES = 32
"""In a slab."""
FAR = np.iinfo(np.int16).max


def bench_walk() -> Iterator[Row]:
    """Two workers of 1 GiB."""
    yield from rows(SHAPE, LIMIT)


def rows(shape: tuple[int, int, int], limit: int) -> Iterator[Row]:
    """Run the walk in block grain, then by slabs; what they found is equal."""
    from cohort.pipeline.cluster import connect

    folder = Path(tempfile.mkdtemp())
    try:
        store = Store(folder / "store")
        write_volume(store, shape)
        with connect(workers=2, memory=limit) as client:
            before = client.run(pid)
            started = time.perf_counter()
            record = walk(store, client, "block", limit)
            seconds = time.perf_counter() - started
            assert client.run(pid) == before, "a worker was restarted"
            peak, paused = max(client.run(peak_bytes).values()), pauses(client)
        events = (store.root / "runs" / store.runs()[-1] / "events.jsonl").read_text().splitlines()
        (used,) = (e["scratch_bytes"] for e in map(json.loads, events) if e["event"] == "done")
        image = write_plain(folder / "image.npy", shape)
        started = time.perf_counter()
        expected = by_slabs(image)
        rival = time.perf_counter() - started
        compare(record, store.open_derivative("walk", "head")["big"], expected)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    gib, mib, voxels = math.prod(shape) * 2 / 2**30, limit >> 20, math.prod(shape)
    yield Row(
        "outofcore/walk",
        seconds,
        "scipy by slabs, one thread, masks in memory",
        rival,
        1.0,
        f"equal; {gib:.2f} GiB of int16, 2 workers of {mib} MiB, none restarted",
    )
    note = f"MiB, not seconds; {len(paused)} pauses, the longest {max(paused, default=0):.1f} s"
    yield Row("outofcore/worker-peak-mib", peak / 2**20, f"{mib} MiB", mib, 1.0, note)
    plain = 8 * voxels / 1e9
    yield Row("outofcore/scratch-gb", used / 1e9, "float64 distances, plain", plain, 1.0, "GB")


def pid() -> int:
    """Of this process."""
    import os

    return os.getpid()


def pauses(client: Any) -> list[float]:
    """Seconds of each pause of a worker."""
    found = []
    for address in client.scheduler_info()["workers"]:
        since = None
        for when, event in client.get_events(address):
            if event.get("action") == "worker-status-change":
                if event["status"] == "paused":
                    since = when
                elif since is not None:
                    found.append(when - since)
                    since = None
    return found


def write_plain(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """The volume as one plain file, mapped."""
    image = np.lib.format.open_memmap(path, "w+", np.int16, shape)
    for start in range(0, shape[0], 8):
        part = image[start : start + 8]
        part[:] = block(part.shape, (start, 0, 0), shape)
    image.flush()
    return np.load(path, mmap_mode="r")


# The walk by slabs.


class Expected(NamedTuple):
    """What the walk should find."""

    numbers: dict[str, float]
    table: dict[str, list[float]]
    big: np.ndarray


class Components(NamedTuple):
    """Components over faces, numbered by their first voxels."""

    tables: list[np.ndarray]
    """Of each slab: what `scipy.ndimage.label` calls a component in it -> its number."""
    sizes: np.ndarray
    """Voxels of each; entry 0 is 0."""
    on_border: np.ndarray


def by_slabs(image: np.ndarray) -> Expected:
    """Everything that the recipe measures."""
    level = otsu(image)
    mask = np.empty(image.shape, bool)
    for own, smooth in smoothed(image):
        mask[own] = smooth > np.float64(level)
    mask = closed(mask, WALK["steps"]["closed"]["iterations"])
    fill_holes(mask)
    parts = components(mask, value=True)
    table = regions(image, mask, parts)
    keep_largest(mask, parts)
    n, (deepest, total) = int(parts.sizes.max()), depths(mask)
    numbers = {
        "level": level,
        "n_parts": parts.sizes.size - 1,
        "big_ml": n * math.prod(SPACING) / 1000,
        "deepest_mm": deepest,
        "mean_depth_mm": total / n,
    }
    return Expected(numbers, table, mask)


def slabs(n: int, halo: int = 0) -> Iterator[tuple[slice, slice, slice]]:
    """Slabs along z: with a halo, the slab within that, the slab itself."""
    for start in range(0, n, PLANES):
        stop = min(n, start + PLANES)
        low, high = max(0, start - halo), min(n, stop + halo)
        yield slice(low, high), slice(start - low, stop - low), slice(start, stop)


def smoothed(image: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Slabs of the smoothed image."""
    sigma = [WALK["steps"]["smooth"]["sigma_mm"] / mm for mm in SPACING]
    for outer, inner, own in slabs(len(image), int(4 * sigma[0] + 0.5)):
        yield own, ndi.gaussian_filter(image[outer].astype(np.float32), sigma)[inner]


def otsu(image: np.ndarray) -> float:
    """Threshold of the smoothed image, as scikit-image finds it from a histogram."""
    from skimage.filters import threshold_otsu

    ends = [(s.min(), s.max()) for _, s in smoothed(image)]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    counts = np.zeros(256, np.int64)
    for _, smooth in smoothed(image):
        found, edges = np.histogram(smooth, 256, (low, high))
        counts += found
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def closed(mask: np.ndarray, iterations: int) -> np.ndarray:
    """Closing; beyond the border of the volume is background."""
    out = np.empty_like(mask)
    for outer, inner, own in slabs(len(mask), 2 * iterations):
        out[own] = ndi.binary_closing(mask[outer], iterations=iterations)[inner]
    return out


def components(mask: np.ndarray, *, value: bool) -> Components:
    """Components of where `mask` is `value`: those of slabs, joined over the planes that face each other."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    counts, borders, pairs, before = [0], [np.empty(0, np.int64)], [], None
    sizes = [np.empty(0, np.int64)]
    for _, _, own in slabs(len(mask)):
        labels, n = ndi.label(mask[own] == value)
        sizes.append(np.bincount(labels.ravel(), minlength=n + 1)[1:])
        # Slabs follow each other in raster order, so components are counted on in the order of their first voxels.
        first, last = (np.where(labels[i] > 0, labels[i] + sum(counts), 0) for i in (0, -1))
        faces = [labels[:, [0, -1]], labels[:, :, [0, -1]]]
        faces += [labels[:1]] if own.start == 0 else []
        faces += [labels[-1:]] if own.stop == len(mask) else []
        touching = np.unique(np.concatenate([f.ravel() for f in faces]))
        borders.append(touching[touching > 0] + sum(counts) - 1)
        if before is not None:
            both = (before > 0) & (first > 0)
            pairs.append(np.unique(np.stack([before[both], first[both]]) - 1, axis=1))
        before, counts = last, [*counts, n]
    a, b = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    graph = coo_array((np.ones(a.size, bool), (a, b)), shape=(sum(counts),) * 2)
    _, roots = connected_components(graph, directed=False)
    _, first, inverse = np.unique(roots, return_index=True, return_inverse=True)
    rank = np.empty(first.size, np.int64)
    rank[np.argsort(first)] = np.arange(1, first.size + 1)
    numbers = rank[inverse]
    whole, border = np.zeros(first.size + 1, np.int64), np.zeros(first.size + 1, bool)
    np.add.at(whole, numbers, np.concatenate(sizes))
    border[numbers[np.concatenate(borders)]] = True
    tables = np.split(numbers, np.cumsum(counts)[1:-1])
    return Components([np.append(0, table) for table in tables], whole, border)


def fill_holes(mask: np.ndarray) -> None:
    """Fill background that does not reach the border, in place."""
    found = components(mask, value=False)
    enclosed = ~found.on_border
    enclosed[0] = False
    for (_, _, own), table in zip(slabs(len(mask)), found.tables, strict=True):
        mask[own] |= enclosed[table][ndi.label(~mask[own])[0]]


def keep_largest(mask: np.ndarray, parts: Components) -> None:
    """Keep the component with the most voxels, in place."""
    largest = np.arange(parts.sizes.size) == np.argmax(parts.sizes)
    for (_, _, own), table in zip(slabs(len(mask)), parts.tables, strict=True):
        mask[own] = largest[table][ndi.label(mask[own])[0]]


def regions(image: np.ndarray, mask: np.ndarray, parts: Components) -> dict[str, list[float]]:
    """Columns of the table of components, from whole numbers."""
    n = parts.sizes.size
    # Sums of values, of their squares, and of indices.
    totals = np.zeros((5, n), np.int64)
    low, high = np.full((n, 3), max(mask.shape)), np.zeros((n, 3), np.int64)
    for (_, _, own), table in zip(slabs(len(mask)), parts.tables, strict=True):
        labels, _ = ndi.label(mask[own])
        at = np.flatnonzero(labels)
        names, values = table[labels.ravel()[at]], image[own].ravel()[at].astype(np.int64)
        place = np.unravel_index(at, labels.shape)
        for row, weights in zip(
            totals, (values, values**2, place[0] + own.start, *place[1:]), strict=True
        ):
            row += np.bincount(names, weights, n).astype(np.int64)
        for number, box in zip(table[1:], ndi.find_objects(labels), strict=True):
            start = [s.start for s in box] + np.array([own.start, 0, 0])
            stop = [s.stop for s in box] + np.array([own.start, 0, 0])
            low[number] = np.minimum(low[number], start)
            high[number] = np.maximum(high[number], stop)
    columns = {"label": list(range(1, n)), "n_voxels": parts.sizes[1:].tolist()}
    exact = [[int(v) for v in row] for row in (parts.sizes, *totals)]
    measured = list(zip(*exact, strict=True))[1:]
    columns["mean"] = [float(Fraction(s, m)) for m, s, *_ in measured]
    columns["std"] = [math.sqrt(Fraction(m * q - s * s, m * m)) for m, s, q, *_ in measured]
    for i, (dim, mm) in enumerate(zip("zyx", SPACING, strict=True)):
        columns[f"centroid_mm_{dim}"] = [float(Fraction(r[3 + i], r[0])) * mm for r in measured]
        columns[f"bounding_box_{dim}_start"] = low[1:, i].tolist()
        columns[f"bounding_box_{dim}_stop"] = high[1:, i].tolist()
    return columns


def depths(mask: np.ndarray) -> tuple[float, float]:
    """Largest distance to the outside and the sum of all, mm: planes are counted along z, the rest is plane by plane."""
    above = np.full(mask.shape[1:], FAR, np.int16)
    parts = [own for _, _, own in slabs(len(mask))]
    starts = [above]
    for part in parts[:-1]:
        starts.append(reduce(further, mask[part], starts[-1]))
    deepest, sums = 0.0, []
    for part, start in zip(reversed(parts), reversed(starts), strict=True):
        counted = list(accumulate(mask[part], further, initial=start))[1:]
        for plane, below in zip(reversed(mask[part]), reversed(counted), strict=True):
            above = further(above, plane)
            nearest = np.minimum(above, below)
            away = np.where(nearest == FAR, np.inf, (nearest * SPACING[0]) ** 2)[None]
            for axis in (1, 2):
                (away,) = envelopes.to_outside(away, axis=axis, spacing=SPACING)
            deepest = max(deepest, float(away.max()))
            sums.append(float(away.sum()))
    return deepest, math.fsum(sums)


def further(steps: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """How many planes back the last voxel outside is; the border of the volume is no outside."""
    return np.where(plane, np.minimum(steps, FAR - 1) + 1, 0)


def compare(record: dict[str, Any], kept: xr.DataArray, expected: Expected) -> None:
    """Raise AssertionError unless counts, extremes, boxes and the mask are equal, and sums and what follows to 1e-12."""
    found = {**record["numbers"], **record["measurements"]}
    columns = record["tables"]["of_parts"]
    assert set(columns) == set(expected.table)
    exact = {"level", "n_parts", "deepest_mm"}
    for name, value in expected.numbers.items():
        np.testing.assert_allclose(found[name], value, rtol=0 if name in exact else 1e-12)
    for name, values in expected.table.items():
        sums = name in ("mean", "std") or name.startswith("centroid")
        np.testing.assert_allclose(columns[name], values, rtol=1e-12 if sums else 0, err_msg=name)
    for _, _, own in slabs(len(expected.big)):
        np.testing.assert_array_equal(kept[own].values, expected.big[own])
