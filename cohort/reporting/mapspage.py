"""A model of maps as a page shows it: what was found in words, peaks in mm, pictures; gathered from the store."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort.reporting import mapsplots, plots, slices
from cohort.reporting.facts import Source
from cohort.reporting.tableparts import Part, figure, part, probability, text
from cohort.reporting.wording import count

if TYPE_CHECKING:
    import xarray as xr

PEAKS = 2
"""Peaks of each contrast through which slices are drawn."""

LEVEL = 0.05
"""Of p of support, up to which voxels are coloured."""

LISTED = 20
"""Lines of the table of peaks."""


def contexts(store: Source) -> list[dict[str, Any]]:
    """Everything that the template shows of each model of maps; none of what is no store."""
    from cohort.io import maps
    from cohort.io.store import Store

    if not isinstance(store, Store):
        return []
    found = []
    for number, name in enumerate(store.mapped(), 1):
        said = maps.record(store, name)
        if said is not None:
            opened, peaks = maps.open_maps(store, name), maps.peaks(store, name)
            found.append(context(name, said, opened, peaks, anchor=f"maps-{number}"))
    return found


def context(
    name: str, said: Mapping[str, Any], maps: "xr.Dataset", peaks: pd.DataFrame, *, anchor: str
) -> dict[str, Any]:
    """One model; `said` is its ``maps.json``."""
    pictures = []
    mean = maps["mean"].load()
    for contrast in said["contrasts"]:
        t = maps["t"].sel(contrast=contrast).load()
        permuted = said["permutations"].get(contrast) or {}
        floor = float(permuted.get("critical_t") or said["threshold"])
        if permuted.get("critical_t") is not None:
            # A voxel that some scan lacks has a t but no corrected p, of which the colour would tell.
            lacking = np.isnan(maps["fwe_p"].sel(contrast=contrast).load()) & np.isfinite(t)
            t = t.where(~lacking, 0.0)
        pictures.append(
            {
                **plots.embedded(mapsplots.projections(t, floor=floor)),
                "caption": f"{contrast}: the whole map looked through; of each line of sight the most extreme t"
                f"{_judged(permuted)}. Red is higher, blue is lower. {slices.CONVENTION}",
                "is_broad": True,
            }
        )
        if "support_p" in maps:
            p = maps["support_p"].sel(contrast=contrast).load()
            drawn = mapsplots.projections(
                t, floor=0.0, judged=p <= LEVEL, rule="p of support <= 0.05"
            )
            pictures.append(
                {
                    **plots.embedded(drawn),
                    "caption": f"{contrast}: the same, coloured where the support of neighbours (threshold-free cluster"
                    f" enhancement) has p <= 0.05 corrected for all voxels, {int((p <= LEVEL).sum()):,} of them.",
                    "is_broad": True,
                }
            )
        own = peaks[(peaks["contrast"] == contrast) & (peaks["peak"] == 1)]
        for row in own.head(PEAKS).to_dict("records"):
            at = (float(row["x_mm"]), float(row["y_mm"]), float(row["z_mm"]))
            drawn = mapsplots.overlay(mean, t, at_mm=at, floor=floor)
            caption = f"{contrast}: t = {row['t']:.2f} at ({at[0]:g}, {at[1]:g}, {at[2]:g}) mm, over the mean of the scans"
            pictures.append(
                {
                    **plots.embedded(drawn),
                    "caption": f"{caption}{_judged(permuted)}.",
                    "is_broad": True,
                }
            )
    return {
        "name": name,
        "anchor": anchor,
        "formula": said["fitted"],
        "reading": said["reading"],
        "warnings": said["warnings"],
        "confounds": said["confounds"],
        "rows": _rows(said),
        "parts": [*_peaks(peaks, said), _voxels(said)],
        "pictures": pictures,
        "methods": methods(said),
    }


def _rows(said: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of the table, scans used, and those left out with the reason; a map without a number is no scan used."""
    rows, empty = said["rows"], said["empty"]
    dropped = [{"row": s, "reason": "the map holds no number in the mask"} for s in empty]
    return {
        "n_table": rows["n_table"],
        "n_used": rows["n_used"] - len(empty),
        "dropped": [*rows["dropped"], *dropped],
    }


def _judged(permuted: Mapping[str, Any]) -> str:
    if permuted.get("critical_t") is None:
        return ""
    return ", coloured where p <= 0.05 corrected for all voxels"


def _peaks(peaks: pd.DataFrame, said: Mapping[str, Any]) -> list[Part]:
    if peaks.empty:
        return []
    caption = (
        f"Clusters of voxels with |t| above {said['threshold']:.2f}, and up to three peaks of each, 8 mm apart. Places are in mm, to"
        " the right, to the front and upwards (RAS) of the scans' own space."
    )
    columns = [
        text("Contrast", "contrast"),
        figure("Cluster", "cluster", decimals=0),
        *(figure(f"{d} mm", f"{d}_mm", decimals=0) for d in "xyz"),
        figure("t", "t", decimals=2),
        figure("HC3 t", "hc3_t", decimals=2),
        probability("p", "p"),
        probability("p corrected", "fwe_p"),
        probability("p of support", "support_p"),
        figure("q", "q", digits=2),
        figure("Volume [ml]", "volume_ml", digits=3),
        probability("p of extent", "extent_p"),
        probability("p of mass", "mass_p"),
    ]
    made = part("Clusters and peaks", caption, peaks.head(LISTED), columns)
    made["more"] = len(peaks) - len(made["lines"])
    return [made]


def _voxels(said: Mapping[str, Any]) -> Part:
    voxels = said["voxels"]
    lines = [("fitted", voxels["fitted"])]
    lines += [(f"left out: {why}", n) for why, n in voxels["left_out"].items()]
    lines += [("in the mask", voxels["mask"]), ("in the grid", voxels["grid"])]
    table = pd.DataFrame(lines, columns=["what", "n"])
    columns = [text("Voxels", "what"), figure("Number", "n", decimals=0)]
    return part(
        "Voxels", "Every voxel of the mask is fitted or left out for a reason.", table, columns
    )


def methods(said: Mapping[str, Any]) -> str:
    """Write what was done as a methods section has it."""
    declared = said["declared"]["voxelwise"]
    used = _rows(said)["n_used"]
    told = [
        f"In each of {count(said['voxels']['fitted'], 'voxel')} {said['fitted']} was fitted by least squares."
    ]
    beside = "from sums over the scans" if "sums" in said else "and beside it robust (HC3)"
    told.append(f"Errors over {count(used, 'scan')} are classical, {beside}.")
    if width := declared.get("smooth_fwhm_mm"):
        told.append(
            f"Images were smoothed by a Gaussian of {width:g} mm (full width at half maximum)."
        )
    told += _masked(declared.get("mask") or {})
    asked = declared.get("permutations")
    n = {one["n"] for one in said["permutations"].values()}
    if asked and n:
        every = "all " if any(one["exhaustive"] for one in said["permutations"].values()) else ""
        told.append(
            f"Familywise error was controlled by the largest |t| of {every}{int(np.max(list(n))):,} arrangements of"
            f" {_exchanged(asked)} ({asked.get('scheme', 'freedman-lane')}, seed {asked['seed']}; Philox keyed by seed and arrangement), the data as"
            " they are counted as the first."
        )
        if any(one.get("tails") for one in said["permutations"].values()):
            told.append(
                "Corrected p below 0.1 were taken from a generalised Pareto tail fitted to the largest of them (Winkler et al. 2016),"
                " where the Anderson-Darling test let it pass."
            )
    if said["joint"]:
        told.append("Terms were tested together by F.")
    if n and (threshold := declared.get("cluster_threshold")):
        told.append(
            f"Clusters are voxels with |t| above {threshold:g}, connected over {declared.get('neighbours', 6)} neighbours; their extent and"
            " mass were compared with the largest of each arrangement."
        )
    told.append("False discovery rates are those of Benjamini and Hochberg.")
    if declared.get("tfce") and n:
        told.append(
            "Threshold-free cluster enhancement (E = 0.5, H = 2) was computed exactly, not in steps of the threshold."
        )
    return " ".join(told)


def _masked(mask: Mapping[str, Any]) -> list[str]:
    """Which voxels counted."""
    rules = ["within the mask that was given"] if mask.get("image") else []
    if (above := mask.get("above")) is not None:
        share = mask.get("share", 1)
        who = "all scans" if share == 1 else f"at least {share:.4g} of the scans"
        rules.append(f"where {who} exceed {above:g}")
    return [f"Voxels counted {', '.join(rules)}."] if rules else []


def _exchanged(asked: Mapping[str, Any]) -> str:
    """What changed places."""
    if (blocks := asked.get("blocks")) is None:
        return "the scans"
    if asked.get("exchange") == "whole":
        return f"the scans, whole blocks of {blocks} at a time"
    return f"the scans within blocks of {blocks}"
