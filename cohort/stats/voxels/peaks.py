"""A table of the clusters of a map and of their peaks, in mm."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cohort.grid import steps_mm
from cohort.kernels import clusters
from cohort.stats.voxels.arrangements import CONNECTIVITY, Arranged

APART_MM = 8.0
"""Peaks of one cluster that are listed lie at least so far apart."""

PEAKS = 3
"""Of one cluster that are listed."""


def table(
    name: str,
    maps: Mapping[str, np.ndarray],
    *,
    heights: np.ndarray,
    affine: np.ndarray,
    threshold: float,
    neighbours: int,
    arranged: Arranged | None = None,
) -> pd.DataFrame:
    """List the clusters of a contrast, positive and negative, the most extreme peak first.

    Parameters
    ----------
    name : str
        Of the contrast.
    maps : mapping of name -> (z, y, x) float64
        What is told of each peak, ``t`` among it; NaN outside.
    heights : (z, y, x) float
        t, whose clusters are listed, as `arranged` has it.
    affine : (4, 4) array
        Voxel indices (x, y, z) -> world RAS+ mm.
    threshold : float
        Voxels with t above it (or below its negative) form clusters.
    arranged : Arranged, optional
        For p of extent and mass.

    Returns
    -------
    DataFrame, one row a peak
        contrast, sign, cluster (1 is the one of the most extreme peak), peak (1 is its highest), x_mm, y_mm, z_mm (RAS+),
        one column for each of `maps`; of the cluster n_voxels, volume_ml, mass, extent_p, mass_p.
    """
    rows = []
    voxel_mm3 = float(steps_mm(affine).prod())
    t = maps["t"]
    for sign in (1, -1):
        signed = sign * heights
        found = clusters.clusters(signed, above=threshold, connectivity=CONNECTIVITY[neighbours])
        summits = clusters.peaks(signed, found.labels)
        member = found.labels.reshape(-1)[summits]
        for label in range(1, len(found.size) + 1):
            size, mass = int(found.size[label - 1]), float(found.mass[label - 1])
            whole = {
                "contrast": name,
                "sign": sign,
                "n_voxels": size,
                "volume_ml": size * voxel_mm3 / 1000,
                "mass": mass,
                "extent_p": _p(arranged, "extent", size),
                "mass_p": _p(arranged, "mass", mass),
            }
            own = summits[member == label]
            for number, flat in enumerate(_apart(own, t.shape, affine), 1):
                x, y, z = _mm(flat, t.shape, affine)
                values = {key: float(values.reshape(-1)[flat]) for key, values in maps.items()}
                rows.append(
                    {**whole, "peak": number, "x_mm": x, "y_mm": y, "z_mm": z, **values}
                    | {"_label": label, "_height": abs(values["t"])}
                )
    columns = ["contrast", "sign", "cluster", "peak", "x_mm", "y_mm", "z_mm", *maps]
    columns += ["n_voxels", "volume_ml", "mass", "extent_p", "mass_p"]
    if not rows:
        return pd.DataFrame(columns=columns)
    made = pd.DataFrame(rows)
    best = made.groupby(["sign", "_label"])["_height"].transform("max")
    made = made.assign(_best=best).sort_values(
        ["_best", "sign", "_label", "peak"], ascending=[False, False, True, True], kind="stable"
    )
    keys = list(zip(made["sign"], made["_label"], strict=True))
    order = {key: i for i, key in enumerate(dict.fromkeys(keys), 1)}
    made["cluster"] = [order[key] for key in keys]
    return made[columns].reset_index(drop=True)


def _p(arranged: Arranged | None, name: str, value: float) -> float:
    if arranged is None or name not in arranged.maximum:
        return float("nan")
    return float(arranged.corrected(name, np.array([float(value)]))[0])


def _mm(flat: int, shape: tuple[int, ...], affine: np.ndarray) -> tuple[float, float, float]:
    z, y, x = np.unravel_index(int(flat), shape)
    world = affine @ [float(x), float(y), float(z), 1.0]
    return float(world[0]), float(world[1]), float(world[2])


def _apart(flat: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> list[int]:
    """The first of peaks that lie apart from those before."""
    kept: list[int] = []
    for each in flat.tolist():
        here = np.array(_mm(each, shape, affine))
        far = all(np.linalg.norm(here - _mm(k, shape, affine)) >= APART_MM for k in kept)
        if far:
            kept.append(each)
        if len(kept) == PEAKS:
            break
    return kept
