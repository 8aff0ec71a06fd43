"""Labels, distances and measurements against SciPy and dask-image on a volume of the size of a head, results equal.

One thread but where it says otherwise. Rows against dask-image need the extra `bench`.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from bench_filters import head
from run import Row, best
from scipy import ndimage as ndi

from cohort.ops import filters, labels, levels, masks, measure

SPACING = (1.5, 1.0, 1.0)
CHUNKS = {"z": 64, "y": 128, "x": 128}
TISSUE = 300
DARK = 0.45 * 600

BY_SCIPY: dict[str, Callable[..., Any]] = {
    "sum": ndi.sum_labels,
    "mean": ndi.mean,
    "variance": ndi.variance,
    "std": ndi.standard_deviation,
    "minimum": ndi.minimum,
    "maximum": ndi.maximum,
    "minimum_position": ndi.minimum_position,
    "maximum_position": ndi.maximum_position,
    "median": ndi.median,
    "center_of_mass": ndi.center_of_mass,
}


def brain() -> xr.DataArray:
    """The head of the other benchmark with fluid in it: two ventricles, and furrows under the shell."""
    image = head()
    z, y, x = np.ogrid[-1:1:128j, -1:1:256j, -1:1:256j]
    ventricles = (z / 0.25) ** 2 + ((y + 0.1) / 0.4) ** 2 + ((abs(x) - 0.15) / 0.08) ** 2 < 1
    away = (z / 0.9) ** 2 + (y / 0.85) ** 2 + (x / 0.7) ** 2
    waves = np.sin(23 * z + 5 * y) + np.sin(31 * y - 7 * x) + np.sin(29 * x + 11 * z)
    furrows = (waves > 1.6) & (away > 0.35) & (away < 0.78)
    return xr.where(ventricles | furrows, image - 450, image).astype(np.int16)


def whole(image: xr.DataArray) -> np.ndarray:
    """The head without holes."""
    return ndi.binary_fill_holes(image.to_numpy() > TISSUE)


def like(image: xr.DataArray, data: np.ndarray) -> xr.DataArray:
    """Array on the grid of the image."""
    return image.copy(data=data)


def pieces(inside: np.ndarray) -> np.ndarray:
    """1,000 labels: the head cut into boxes, the largest of them."""
    z, y, x = np.indices(inside.shape, np.int16)
    names, numbers = np.unique(
        (z // 9 * 1000 + y // 17 * 30 + x // 14 + 1) * inside, return_inverse=True
    )
    sizes = np.bincount(numbers.ravel())
    kept = np.sort(np.argsort(-sizes[1:], kind="stable")[:1000] + 1)
    table = np.zeros(names.size, np.int32)
    table[kept] = np.arange(1, 1001)
    return table[numbers].reshape(inside.shape)


def regions_by_scipy(image: np.ndarray, numbers: np.ndarray, index: np.ndarray) -> dict[str, Any]:
    """Everything that `measure.regions` finds in one call."""
    found = {name: call(image, numbers, index) for name, call in BY_SCIPY.items()}
    found["n_voxels"] = np.bincount(numbers.ravel(), minlength=index[-1] + 1)[index]
    found["centroid"] = ndi.center_of_mass(np.ones_like(image), numbers, index)
    found["bounding_box"] = ndi.find_objects(numbers)
    return found


def check_regions(
    table: xr.Dataset, expected: dict[str, Any], image: xr.DataArray, index: np.ndarray
) -> None:
    """Raise AssertionError unless the two agree."""
    for name in ("n_voxels", "minimum", "maximum", "median"):
        np.testing.assert_array_equal(table[name], expected[name])
    for name in ("sum", "mean", "variance", "std"):
        # SciPy adds millions of voxels without compensation, so what differs beyond 1e-12 is its own.
        np.testing.assert_allclose(table[name], expected[name], rtol=1e-11)
    world = np.array([image[d].values[1] - image[d].values[0] for d in "zyx"])
    for name, of_scipy in (("centroid_mm", "centroid"), ("center_of_mass_mm", "center_of_mass")):
        actual = table[name].sel(axis=["z", "y", "x"])
        np.testing.assert_allclose(actual, np.array(expected[of_scipy]) * world, rtol=1e-11)
    boxes = [[[s.start, s.stop] for s in expected["bounding_box"][i - 1]] for i in index]
    np.testing.assert_array_equal(table["bounding_box"], boxes)
    for name in ("minimum", "maximum"):
        # Of equals SciPy takes any; ours is the first.
        at = tuple(table[f"{name}_position"].values.astype(int).T)
        np.testing.assert_array_equal(image.to_numpy()[at], table[name])


def timed(
    name: str, ours: Callable[[], object], rival: str, theirs: Callable[[], object], target: float
) -> Row:
    """One row, of results that were compared already."""
    return Row(f"ops/{name}", best(ours), rival, best(theirs, 2), target, "equal")


def bench_distance() -> Iterator[Row]:
    """Distance to the outside of a whole head."""
    image = brain()
    inside = whole(image)
    mask = like(image, inside)

    def ours() -> xr.DataArray:
        return measure.distance_mm(mask)

    theirs = partial(ndi.distance_transform_edt, inside, sampling=SPACING)
    np.testing.assert_array_equal(ours(), theirs())
    yield timed("distance_mm", ours, "scipy distance_transform_edt", theirs, 5.0)


def bench_components() -> Iterator[Row]:
    """Components of what is dark in a head, and the holes of its tissue."""
    image = brain()
    dark = (image.to_numpy() < DARK) & whole(image)
    tissue = image.to_numpy() > TISSUE
    np.testing.assert_array_equal(labels.label(like(image, dark)), ndi.label(dark)[0])
    yield timed(
        "label",
        partial(labels.label, like(image, dark)),
        "scipy label",
        partial(ndi.label, dark),
        3.0,
    )
    np.testing.assert_array_equal(
        masks.fill_holes(like(image, tissue)), ndi.binary_fill_holes(tissue)
    )
    yield timed(
        "fill_holes",
        partial(masks.fill_holes, like(image, tissue)),
        "scipy binary_fill_holes",
        partial(ndi.binary_fill_holes, tissue),
        3.0,
    )


def bench_regions() -> Iterator[Row]:
    """All quantities of one label and of a thousand, label numbers not given."""
    image = brain()
    inside = whole(image)
    for name, numbers in (
        ("1-label", inside.astype(np.int32)),
        ("1000-labels", pieces(inside)),
    ):
        index = np.arange(1, numbers.max() + 1)
        ours = partial(measure.regions, image, like(image, numbers))
        theirs = partial(regions_by_scipy, image.to_numpy(), numbers, index)
        check_regions(ours(), theirs(), image, index)
        yield timed(f"regions-{name}", ours, "the scipy.ndimage calls", theirs, 50.0)


def bench_chunked() -> Iterator[Row]:
    """The same in chunks of 64 x 128 x 128 on two threads, against dask-image."""
    if importlib.util.find_spec("dask_image") is None:
        print("ops/*-chunked: left out, the extra `bench` is not installed")
        return
    import dask
    from dask_image import ndmeasure

    image = brain()
    inside = whole(image)
    dark = like(image, (image.to_numpy() < DARK) & inside).chunk(CHUNKS)
    fifty = pieces(inside) % 51
    lazy, numbers, index = image.chunk(CHUNKS), like(image, fifty).chunk(CHUNKS), np.arange(1, 51)
    with dask.config.set(scheduler="threads", num_workers=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def ours() -> np.ndarray:
            return labels.label(dark).to_numpy()

        def theirs() -> np.ndarray:
            return ndmeasure.label(dark.data)[0].compute()

        # Its numbers are others: the same objects, each with one number.
        pairs = np.unique(np.stack([ours().ravel(), theirs().ravel()]), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
        yield timed("label-chunked", ours, "dask-image label, 2 threads", theirs, 10.0)

        def mean() -> np.ndarray:
            return measure.regions(lazy, numbers, index=index, quantities=["mean"])[
                "mean"
            ].to_numpy()

        def rival() -> np.ndarray:
            return ndmeasure.mean(lazy.data, numbers.data, index).compute()

        np.testing.assert_allclose(mean(), rival(), rtol=1e-12)
        yield timed("mean-50-labels-chunked", mean, "dask-image mean, 2 threads", rival, 50.0)


def walk(image: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, xr.Dataset]:
    """From an image to a table: the largest object, its distances, and all regions."""
    smooth = filters.gaussian(image, sigma=1.0)
    bright = masks.threshold(smooth, above=levels.otsu(smooth))
    filled = masks.fill_holes(masks.close(bright, iterations=5))
    numbers = labels.label(filled)
    largest = labels.select(numbers, largest=True)
    return largest, measure.distance_mm(largest), measure.regions(image, numbers)


def walk_by_scipy(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The same as one would write it in a script."""
    from skimage.filters import threshold_otsu

    smooth = ndi.gaussian_filter(image.astype(np.float32), 1.0)
    bright = smooth > threshold_otsu(smooth)
    filled = ndi.binary_fill_holes(ndi.binary_closing(bright, iterations=5))
    numbers, n = ndi.label(filled)
    largest = numbers == 1 + np.argmax(np.bincount(numbers.ravel())[1:])
    away = ndi.distance_transform_edt(largest, sampling=SPACING)
    return largest, away, regions_by_scipy(image, numbers, np.arange(1, n + 1))


def walk_in_worker(image: xr.DataArray, times: int) -> None:
    """Measure a few scans one after the other."""
    for _ in range(times):
        walk(image)


def bench_walk() -> Iterator[Row]:
    """Gaussian, otsu, close, fill, label, largest, distance, regions: one worker, and two that share the scans."""
    from cohort.pipeline.cluster import connect

    image = brain()
    data = image.to_numpy()
    (largest, away, table), expected = walk(image), walk_by_scipy(data)
    np.testing.assert_array_equal(largest, expected[0])
    np.testing.assert_array_equal(away, expected[1])
    check_regions(table, expected[2], image, table.label.values)
    alone, serial = best(lambda: walk(image)), best(lambda: walk_by_scipy(data), 2)
    yield Row("ops/walk-one-worker", alone, "scipy and scikit-image, serial", serial, 5.0, "equal")
    with connect(workers=2) as client:
        addresses, times = list(client.scheduler_info()["workers"]), 5
        (there,) = client.scatter([image], broadcast=True)

        def both(times: int) -> float:
            started = time.perf_counter()
            client.gather(
                [
                    client.submit(walk_in_worker, there, times, workers=[a], pure=False)
                    for a in addresses
                ]
            )
            return time.perf_counter() - started

        both(1)  # loads what is compiled
        shared = min(both(times) for _ in range(2)) / (2 * times)
    note = f"seconds a scan, {2 * times} scans"
    yield Row("ops/walk-two-workers", shared, "scipy and scikit-image, serial", serial, 9.0, note)
