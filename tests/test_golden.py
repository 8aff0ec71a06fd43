"""Golden digests: an operation whose numbers change must raise its revision, or stores keep the old numbers unseen."""

import functools
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from cohort.grid import coordinates
from cohort.ops import heads
from cohort.ops.bias import correct_bias
from cohort.ops.quality import head_mask
from cohort.ops.register import Registration
from cohort.ops.space import shift
from cohort.ops.tissue import gmm_posteriors
from cohort.phantom import head
from cohort.phantom.hearts import Heart
from cohort.pipeline import quantities
from cohort.pipeline.recipe import STEPS
from cohort.provenance import digest

GOLDEN = json.loads((Path(__file__).parent / "golden/steps.json").read_text(encoding="utf-8"))
SHAPE = (9, 11, 13)
AFFINE = np.array([[1.5, 0, 0, -9], [0, 1, 0, 4], [0, 0, 3, 20], [0, 0, 0, 1.0]])


def scan():
    """An image of 101 grey values, a ragged mask and labels of it; no random numbers, so it is the same for ever."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    values = (7 * z * z + 13 * y * x + 31 * x * x + 5 * y + 3 * z) % 101
    near = (z - 4) ** 2 + (y - 5) ** 2 + (x - 5) ** 2 < 40
    labels = np.where(near & (values > 20), 1 + (x > 5) + 2 * (y > 6), 0)
    arrays = {
        "image": values.astype(np.float32),
        "mask": near & (values > 30),
        "other": values % 3 > 0,
        "labels": labels,
        "reference": np.sqrt(values).astype(np.float32),
    }
    return xr.Dataset(
        {name: (("z", "y", "x"), data) for name, data in arrays.items()},
        coords=coordinates(AFFINE, SHAPE),
    )


CASES = {
    "threshold": {"above": 20, "below": 60.5},
    "dilate": {"iterations": 2},
    "erode": {"iterations": 1},
    "open": {"radius_mm": 1.6},
    "close": {"iterations": 1},
    "remove_small": {"min_ml": 0.02},
    "apply": {"fill": -1},
    "label": {"connectivity": 1},
    "select": {"largest": True},
    "gaussian": {"sigma_mm": 1.2},
    "median": {"size": 3},
    "minimum": {"size": 3},
    "maximum": {"size": {"z": 3, "x": 2}},
    "percentile": {"size": 3, "percentile": 30},
    "uniform": {"size": 3},
    "convolve": {"weights": [[[0, 1, 0], [1, -6, 2], [0, 1, 1]]]},
    "sobel": {"dim": "y"},
    "equalize": {"exclude": (0, 100)},
    "gaussian_stretch": {"width": 1.5},
    "normalize": {"percentiles": (2, 50, 90), "values": (0, 40, 100)},
    "shift": {"mm": {"x": 2.2, "z": -1}},
    "rotate": {"degrees": 20, "plane": ["y", "x"]},
    "affine": {"matrix": [[1.1, 0.1, 0, 2], [0, 1, 0.2, 0], [0, 0, 0.9, 1], [0, 0, 0, 1]]},
    "resample": {"spacing_mm": 2},
    "reorient": {"axcodes": "PSL"},
    "noise": {"std": 3, "correlation_mm": 2, "seed": 7},
    "rician": {"std": 3, "seed": 7},
    "elastic": {"alpha_mm": 1, "sigma_mm": 4, "seed": 7},
    "gmm": {"n_components": 3, "seed": 7},
}
HEART = Heart(
    shape=(7, 70, 74), spacing=(10.0, 2.2, 2.0), length_mm=56.0, base_slice=6, n_frames=6, noise=0.0
)
CURVE = xr.DataArray([90.0, 120.0, 118.0, 60.0, 55.0], dims="time", attrs={"units": "ml"})
BEATING = xr.DataArray(HEART.truth(), dims=("time", "z", "y", "x")).assign_coords(
    {d: mm * np.arange(n) for d, mm, n in zip("zyx", HEART.spacing, HEART.shape, strict=True)}
)
CASES |= {
    "left_ventricle": {"cine": HEART.cine()},
    "volume_curve_ml": {"labels": BEATING},
    "ejection_fraction": {"curve": CURVE, "smooth": 3},
    "heart_rate_bpm": {"curve": HEART.cine()},
    "ventricle_checks": {"mask": BEATING},
}


def of_a_mixture():
    """Posteriors of three components in the mask, and what is told of them."""
    given = scan()
    parts = gmm_posteriors(given["image"], given["reference"], mask=given["mask"], n_components=3)
    here = {"posteriors": parts}
    return {
        "gmm": {"image": given["image"], "second": given["reference"], "mask": given["mask"]},
        "classify": here,
        "component_ml": here | {"component": 2},
        "components": here,
    }


def of_a_pair():
    """An image with one bright ball among waves, and the same a little elsewhere."""
    z, y, x = np.ogrid[:14, :16, :18]
    values = 60 * np.exp(-((z - 6) ** 2 / 20 + (y - 8) ** 2 / 9 + (x - 10) ** 2 / 30)) + np.sin(
        x + y
    )
    fixed = xr.DataArray(values, coords=coordinates(AFFINE, values.shape), dims=("z", "y", "x"))
    return {"moving": shift(fixed, mm={"x": 2.5, "z": -2}), "fixed": fixed}


@functools.cache
def of_a_head():
    """A whole head, which a few voxels are not, and what is found on it by and by."""
    image = head(seed=5, index=5).scan["image"]
    even = correct_bias(image)
    distance = heads.skull_distance_mm(even)
    mask = heads.intracranial_mask(even, distance=distance)
    tissues = heads.brain_tissues(even, distance=distance, intracranial=mask)
    here = {"image": even}
    return {
        "correct_bias": {"image": image},
        "skull_distance_mm": here,
        "intracranial_mask": here | {"distance": distance},
        "brain_tissues": here | {"distance": distance, "intracranial": mask},
        "brain_mask": here | {"tissues": tissues},
        "tissue_volumes_ml": {"fractions": tissues},
        "affine_volume_ml": {"distance": distance},
        "registration_metric": {"distance": distance},
        "touches_border": {"mask": mask},
        "head_mask": {"image": image},
        "snr": here | {"tissues": tissues},
        "cnr": here | {"tissues": tissues, "head": head_mask(image)},
        "efc": {"image": image},
        "fber": {"image": image, "head": head_mask(image)},
    }


OF_HEADS = {
    name
    for name, step in STEPS.items()
    if step.function.__module__ in ("cohort.ops.heads", "cohort.ops.quality", "cohort.ops.bias")
} | {"tissue_volumes_ml"}
IMAGES = ("image", "mask", "other", "labels", "reference")
MOST_CELLS = 1_000_000
"""Of larger results, every seventh along each axis."""
PAIRS = dict.fromkeys(("iou", "dice", "hausdorff_mm", "surface_distance_mm"), ("mask", "other"))
"""Of masks; all others compare images."""


def plain(value):
    """A result as text: every value to nine digits, so that libraries may differ in the last bits of a float."""
    if isinstance(value, Registration):
        parts = [getattr(value, part) for part in STEPS["register"].parts]
        value = xr.DataArray([*value.matrix.ravel(), *parts])
    if isinstance(value, xr.Dataset):
        return {str(name): plain(part) for name, part in value.data_vars.items()}
    if value.size > MOST_CELLS:
        value = value.isel({d: slice(None, None, 7) for d in "zyx"})
    flat = np.asarray(value.values).ravel()
    cells = [f"{v:.9g}" for v in flat] if flat.dtype.kind == "f" else [int(v) for v in flat]
    return {"dims": [str(d) for d in value.dims], "shape": list(value.shape), "values": cells}


def arrays_for(name):
    """What an operation is given here."""
    function = STEPS[name].function
    given = scan()
    parameters = inspect.signature(function).parameters
    arrays = {p: given[p] for p in IMAGES if p in parameters}
    if "a" in parameters:
        pair = PAIRS.get(name, ("image", "reference"))
        arrays = {p: given[source] for p, source in zip("ab", pair, strict=True)}
    if name == "noise":
        arrays = {"like": given["image"]}
    if name in (mixtures := of_a_mixture()):
        arrays = mixtures[name]
    if name == "register":
        arrays = of_a_pair()
    if name in OF_HEADS:
        arrays = of_a_head()[name]
    return arrays


@pytest.mark.parametrize("name", STEPS)
def test_the_numbers_of_an_operation_change_only_with_its_revision(name):
    function, revision, arrays = STEPS[name].function, STEPS[name].revision, arrays_for(name)
    found = {
        "revision": revision,
        "digest": digest(plain(function(**arrays | CASES.get(name, {}))))[:16],
    }
    assert GOLDEN.get(name) == found, (
        f"{name}: if its numbers are meant to change, raise its revision in STEPS and enter here what is found"
    )


@pytest.mark.parametrize("name", [n for n, step in STEPS.items() if step.gives != "table"])
def test_an_operation_gives_the_units_that_it_declares(name):
    """Of images with units of their own: what is declared is what a scan's record will say."""
    operation, arrays = STEPS[name], arrays_for(name)
    of_images = {"image": "HU", "like": "HU", "reference": "counts", "a": "HU", "b": "counts"}
    arrays = {
        key: a.assign_attrs(units=of_images[key])
        if isinstance(a, xr.DataArray) and key in of_images and a.dtype.kind == "f"
        else a
        for key, a in arrays.items()
    }
    if operation.gives == "pose":
        assert operation.unit == "1"
        return
    result = operation.function(**arrays | CASES.get(name, {}))
    each = result.data_vars.values() if isinstance(result, xr.Dataset) else [result]
    given = {key: str(getattr(a, "attrs", {}).get("units", "1")) for key, a in arrays.items()}
    declared = quantities.of_call(operation, given)
    told = [str(one.attrs.get("units", "1")) for one in each]
    # The components of a vector in one array have its unit.
    assert told * (len(declared) if len(told) == 1 else 1) == declared


def test_no_golden_digest_is_left_of_an_operation_that_is_gone():
    assert set(GOLDEN) == set(STEPS)
