"""What a fit of maps found, in sentences: how many voxels, which were left out and why, where the peaks lie."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cohort.stats.exchanges.tail import LARGEST
from cohort.stats.voxelwise import Maps
from cohort.stats.wording import reading

LEVEL = 0.05


def sentences(record: Mapping[str, Any], maps: Maps, peaks: pd.DataFrame) -> list[str]:
    """Say what there was and what was found, a sentence or two a contrast."""
    voxels, rows = record["voxels"], record["rows"]
    used = rows["n_used"] - len(record["empty"])
    whole = f"{voxels['mask']:,} voxels of the mask fitted ({voxels['grid']:,} in the grid)."
    told = [f"{used} scans, {voxels['fitted']:,} of {whole}"]
    told += [f"{_voxels(n)} left out: {why}." for why, n in voxels["left_out"].items()]
    lacking = voxels["fitted"] - voxels["complete"]
    if maps.arranged and lacking:
        told.append(
            f"Voxels that some scan lacks are in the maps of t, and take no part in arrangements of the scans and in clusters: {lacking:,}."
        )
    for i, name in enumerate(maps.names):
        told.append(_found(i, name, record, maps, peaks))
    told += [_together(i, name, record, maps) for i, name in enumerate(maps.groups)]
    return told


def _found(i: int, name: str, record: Mapping[str, Any], maps: Maps, peaks: pd.DataFrame) -> str:
    t = maps.by_contrast["t"][i]
    one = maps.arranged.get(name)
    if one is not None:
        hit, how = maps.by_contrast["fwe_p"][i] <= LEVEL, f"p <= {LEVEL:g} corrected for all voxels"
        critical = record["permutations"][name]["critical_t"]
        how += f" by {one.count:,} arrangements"
        how += _tail(record, name)
        how += f" (|t| from {critical:.2f})" if critical is not None else ""
    else:
        hit, how = maps.by_contrast["q"][i] <= LEVEL, f"a false discovery rate of {LEVEL:g}"
    lower, higher = int((hit & (t < 0)).sum()), int((hit & (t > 0)).sum())
    said = f"{name}: {_voxels(lower + higher)} at {how}: {higher:,} higher, {lower:,} lower"
    own = peaks[peaks["contrast"] == name] if len(peaks) else peaks
    if not len(own):
        return f"{said}; no cluster beyond |t| = {record['threshold']:.2f}."
    best = own.iloc[0]
    complete = record["voxels"]["complete"] == record["voxels"]["fitted"]
    those = "" if one is None or complete else " that every scan has"
    said += (
        f". The most extreme voxel{those}, t = {reading.number(best['t'])}, lies at ({best['x_mm']:g}, {best['y_mm']:g},"
        f" {best['z_mm']:g}) mm, in a cluster of {reading.number(best['volume_ml'])} ml"
    )
    if "support_p" in maps.by_contrast:
        supported = int((maps.by_contrast["support_p"][i] <= LEVEL).sum())
        said += f"; with support of neighbours {_voxels(supported)} with a corrected p <= {LEVEL:g}"
    return f"{said}."


def _together(i: int, name: str, record: Mapping[str, Any], maps: Maps) -> str:
    """Terms that were tested together."""
    F, hit = maps.by_group["F"][i], int((maps.by_group["F_q"][i] <= LEVEL).sum())
    most = int(np.nanargmax(F))
    z, y, x = np.unravel_index(int(maps.voxels[most]), maps.shape)
    at = np.reshape(record["affine"], (4, 4)) @ [float(x), float(y), float(z), 1.0]
    terms = ", ".join(record["declared"]["voxelwise"]["joint"][name])
    return (
        f"{name} (F of {terms}): {_voxels(hit)} at a false discovery rate of {LEVEL:g}. The largest F,"
        f" {reading.number(F[most])}, lies at ({at[0]:g}, {at[1]:g}, {at[2]:g}) mm."
    )


def _voxels(n: int) -> str:
    return f"{n:,} voxel{'' if n == 1 else 's'}"


def _tail(record: Mapping[str, Any], name: str) -> str:
    """Where small p come from, if a tail was asked for."""
    if not record["declared"]["voxelwise"]["permutations"].get("tail"):
        return ""
    said = record["permutations"][name]
    if said["exhaustive"]:
        return ", which are all there are: p are counted, not taken from a tail"
    if "t" not in said["tails"]:
        return ", counted, because no generalised Pareto tail fits"
    one = said["tails"]["t"]
    return f" and a generalised Pareto tail of the {one['n_beyond']} largest, which gives p below {min(LARGEST, one['beyond']):g}"


def warnings(record: Mapping[str, Any], doubts: Sequence[str]) -> list[str]:
    """What to know before the maps."""
    told = list(doubts)
    if empty := record["empty"]:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        told.append(
            f"{empty[0]}{more}: the map holds no number in the mask; left out of everything"
        )
    permuted = record["permutations"]
    told += dict.fromkeys(doubt for one in permuted.values() for doubt in one.get("doubts", ()))
    for name, one in permuted.items():
        if one["critical_t"] is None and "smallest_p" in one:
            every = "all " if one["exhaustive"] else ""
            told.append(
                f"{name}: no voxel can have a corrected p <= {LEVEL:g}: {every}{one['n']:,} arrangements give"
                f" {one['smallest_p']:.2g} or more"
            )
    voxels = record["voxels"]
    share = 1 - voxels["fitted"] / voxels["mask"]
    if share > 0.5 and not np.isclose(share, 0.5):
        told.append(
            f"{share:.0%} of the mask could not be fitted; state a mask (mask: {{above: ...}}, or mask: {{image: ...}})"
        )
    return told
