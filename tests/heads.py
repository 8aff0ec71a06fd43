"""Whole heads of known truth, ordinary and hard, and what the product measures on them."""

from collections.abc import Callable
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from nibabel.funcs import as_closest_canonical
from scipy.spatial.transform import Rotation

from cohort import grid
from cohort.ops import compare, heads, tissue
from cohort.ops.bias import correct_bias
from cohort.ops.template import CENTER_MM
from cohort.phantom import Head, Tissue, head

BIAS = 0.15
"""Of ordinary heads here: twice as strong as in the demo."""
VOLUMES = ("intracranial_ml", "brain_ml", "grey_ml", "white_ml", "csf_ml")


@dataclass(frozen=True)
class Measured:
    """What came out of one head."""

    volumes: dict[str, float]
    masks: dict[str, xr.DataArray]
    """intracranial, brain, grey, white; bool."""
    distance: xr.DataArray
    tissues: xr.DataArray
    corrected: xr.DataArray


def ordinary(seed: int) -> Head:
    """The head of a seed; a fourth of them are imaged in an oblique box."""
    return head(seed=seed, index=seed, bias=BIAS)


def measured(image: xr.DataArray) -> Measured:
    """Measure a head step by step, as a recipe does."""
    corrected = correct_bias(image)
    distance = heads.skull_distance_mm(corrected)
    intracranial = heads.intracranial_mask(corrected, distance=distance)
    tissues = heads.brain_tissues(corrected, distance=distance, intracranial=intracranial)
    brain = heads.brain_mask(corrected, tissues=tissues)
    parts = {
        str(t): float(v)
        for t, v in zip(tissues.tissue.values, tissue.volumes_ml(tissues), strict=True)
    }
    largest = tissues.argmax("tissue")
    named = {t: (largest == i) & intracranial for i, t in enumerate(("csf", "grey", "white"))}
    return Measured(
        volumes={
            "intracranial_ml": float(intracranial.sum()) * grid.voxel_volume_mm3(image) / 1000,
            "brain_ml": parts["grey"] + parts["white"],
            **{f"{name}_ml": ml for name, ml in parts.items()},
        },
        masks={
            "intracranial": intracranial,
            "brain": brain,
            "grey": named["grey"],
            "white": named["white"],
        },
        distance=distance,
        tissues=tissues,
        corrected=corrected,
    )


def true_masks(made: Head) -> dict[str, xr.DataArray]:
    """The labels of a head on the grid of its image: what most of a voxel is."""
    image, labels = made.scan["image"], made.labels
    to_image = np.linalg.inv(grid.affine_of(image)) @ grid.affine_of(labels)
    first = np.rint((to_image @ (0.5, 0.5, 0.5, 1.0))[:3]).astype(int)[::-1]
    shares = {}
    for kind in (Tissue.CSF, Tissue.GREY, Tissue.WHITE):
        z, y, x = (n // 2 for n in labels.shape)
        cubes = (labels.values == kind).reshape(z, 2, y, 2, x, 2).mean(axis=(1, 3, 5))
        share = np.zeros(image.shape, np.float32)
        share[tuple(slice(f, f + n) for f, n in zip(first, cubes.shape, strict=True))] = cubes
        shares[kind] = share
    inside = sum(shares.values()) >= 0.5
    matter = shares[Tissue.GREY] + shares[Tissue.WHITE]
    largest = np.stack(list(shares.values())).argmax(axis=0)
    masks = {
        "intracranial": inside,
        "brain": matter >= 0.5,
        "grey": inside & (largest == 1),
        "white": inside & (largest == 2),
    }
    return {name: image.copy(data=mask) for name, mask in masks.items()}


def table(seeds: range) -> pd.DataFrame:
    """Ordinary heads: truth (``true_*``), what was measured, Dice, and what is known of the person; one row a head."""
    rows = []
    for seed in seeds:
        made = ordinary(seed)
        found, truth = measured(made.scan["image"]), true_masks(made)
        rows.append(
            {f"true_{name}": made.truth[name] for name in VOLUMES}
            | found.volumes
            | {f"dice_{n}": float(compare.dice(m, truth[n])) for n, m in found.masks.items()}
            | {"affine_ml": float(heads.affine_volume_ml(found.distance))}
            | {
                "patient": float(made.subject["group"] == "patient"),
                "age": made.subject["age_years"],
            }
        )
    return pd.DataFrame(rows, index=seeds)


def moved(image: xr.DataArray, matrix: np.ndarray) -> xr.DataArray:
    """The head elsewhere in the world, its axes then brought as close to RAS+ as they can be, as a reader does."""
    affine = matrix @ grid.affine_of(image)
    turned = as_closest_canonical(nib.Nifti1Image(image.values.T.astype(np.float32), affine))
    data = np.asarray(turned.dataobj).T
    return xr.DataArray(data, dims=grid.SPACE, coords=grid.coordinates(turned.affine, data.shape))


def turned(image: xr.DataArray, axis: str, degrees: float) -> xr.DataArray:
    """The head turned about an axis of the world through the middle of its skull."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    matrix[:3, 3] = CENTER_MM - matrix[:3, :3] @ CENTER_MM
    return moved(image, matrix)


def swapped(image: xr.DataArray) -> xr.DataArray:
    """The head with left to right where its feet to head should be: a header that lies."""
    return moved(image, np.eye(4)[[2, 1, 0, 3]])


def cut(made: Head, mm: float) -> xr.DataArray:
    """The image of a head without what lies above `mm` under the top of its skull's bone."""
    bone = made.labels.z.values[(made.labels.values > 0).any(axis=(1, 2))].max()
    image = made.scan["image"]
    return image.isel(z=image.z.values < bone - mm)


def dimmed(made: Head, factor: float) -> xr.DataArray:
    """The image of a head under a coil that sees the top so many times brighter than the bottom."""
    image = made.scan["image"].astype(np.float32)
    along = np.linspace(-0.5, 0.5, image.sizes["z"], dtype=np.float32)
    return image * xr.DataArray(np.exp(np.float32(np.log(factor)) * along), dims="z")


HARD: dict[str, Callable[[int], xr.DataArray]] = {
    "pitch 25": lambda seed: turned(ordinary(seed).scan["image"], "x", 25),
    "pitch -25": lambda seed: turned(ordinary(seed).scan["image"], "x", -25),
    "pitch 45": lambda seed: turned(ordinary(seed).scan["image"], "x", 45),
    "pitch -45": lambda seed: turned(ordinary(seed).scan["image"], "x", -45),
    "upside down": lambda seed: turned(ordinary(seed).scan["image"], "x", 180),
    "on its head, face ahead": lambda seed: turned(ordinary(seed).scan["image"], "y", 180),
    "back to front": lambda seed: turned(ordinary(seed).scan["image"], "z", 180),
    "axes swapped": lambda seed: swapped(ordinary(seed).scan["image"]),
    "top cut by 5 mm": lambda seed: cut(ordinary(seed), 5),
    "top cut by 30 mm": lambda seed: cut(ordinary(seed), 30),
    "coil bias 0.35": lambda seed: head(seed=seed, index=seed, bias=0.35).scan["image"],
    "coil 5 times brighter above": lambda seed: dimmed(ordinary(seed), 5),
    "noise 6 %": lambda seed: head(seed=seed, index=seed, bias=BIAS, noise=0.06).scan["image"],
}
"""Heads that are hard to measure, by what is wrong with them. None changes the volumes."""


def hard(what: str, seed: int) -> dict[str, float] | str:
    """Relative errors of the volumes of a hard head, or why it was refused."""
    truth = ordinary(seed).truth
    try:
        volumes = measured(HARD[what](seed)).volumes
    except ValueError as error:
        return str(error)
    return {name: volumes[name] / truth[name] - 1 for name in VOLUMES}
