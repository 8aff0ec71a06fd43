"""Maps of a model to NIfTI files that say what they are, and their peaks to a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cohort import grid
from cohort.io import maps as stored
from cohort.io.exports.bids_names import label, labels
from cohort.io.exports.nifti import Intent, Version, write_nifti
from cohort.io.exports.place import ExportError
from cohort.io.exports.tables import write_json, write_tsv
from cohort.io.store import Store
from cohort.kernels import glm

MARKER = "maps.json"
"""By which a folder of exported maps is known."""

INTENTS = {
    **dict.fromkeys(("t", "hc3_t"), "t test"),
    **dict.fromkeys(
        ("p", "q", "hc3_p", "p_permuted", "fwe_p", "support_p", "F_p", "F_q"), "p value"
    ),
    **dict.fromkeys(("beta", "se", "d", "mean", "sigma"), "estimate"),
    "partial_r": "correlation",
    "F": "f test",
}
"""Map -> what NIfTI calls it (``intent_code``); maps that have no such name are left without one."""

OF_DOF = ("t test", "f test", "correlation")
"""Intents of which NIfTI wants the degrees of freedom."""

OF_PEAKS = {
    "contrast": "Contrast, or term of the model",
    "sign": "1 of voxels above the threshold, -1 of those below its negative",
    "cluster": "Number of the cluster; 1 holds the most extreme peak of its contrast",
    "peak": "Number of the peak within its cluster; 1 is the highest",
    "n_voxels": "Voxels of the cluster",
    "volume_ml": "Volume of the cluster",
    "mass": "Sum of what the cluster's voxels exceed the threshold by",
    "extent_p": "p of the cluster's voxels by arrangements of the scans, corrected for all clusters",
    "mass_p": "p of the cluster's mass by arrangements of the scans, corrected for all clusters",
}
"""Column of the table of peaks -> what it is, beside places and maps."""


def write_maps(
    store: Store,
    model: str,
    folder: Path,
    *,
    names: Sequence[str] = (),
    contrasts: Sequence[str] = (),
    version: Version = "1",
) -> list[str]:
    """Write maps of a model into a folder that is there: a NIfTI file each, ``peaks.tsv``, and ``maps.json``.

    Parameters
    ----------
    names : sequence of str
        Maps, such as ``t``, ``beta``, ``fwe_p``; all there are, if empty.
    contrasts : sequence of str
        Contrasts, and groups of terms that were tested together; all, if empty. Maps of the voxels alone (``n``, ``mean``)
        are written whatever is asked for here, where `names` does not leave them out.
    version : {"1", "2", "auto"}
        Of NIfTI. With 1 and 2 the file's axes are the map's; "auto" may turn them, see `write_nifti`.

    Returns
    -------
    list of str
        Files that were written.

    Raises
    ------
    StoreError
        If the model has no maps, or they are damaged.
    ExportError
        If there is no such map or contrast, with those there are.

    Notes
    -----
    Files are called as BIDS has it, ``contrast-<label>_stat-<label>_statmap.nii.gz``. Intents and their parameters are those
    of nifti1.h: the t of one voxel is told from its p by any viewer. Where voxels have different degrees of freedom (scans
    lack some) one number cannot say them: the intent is left out, and the map ``dof`` has them.
    """
    found = stored.open_maps(store, model)
    said = stored.record(store, model) or {}
    there = sorted(str(n) for n, v in found.data_vars.items() if v.dims[-3:] == grid.SPACE)
    groups = [*said["contrasts"], *said["joint"]]
    _known("map", names, there, model)
    _known("contrast", contrasts, groups, model)
    called = labels(
        [name for name in groups if not contrasts or name in contrasts],
        what=f"contrast of {model}",
        remedy="rename one in the model, or export them apart with `--contrast`",
    )
    dof = np.unique(found["dof"].to_numpy())
    dof = dof[dof > 0]
    files: dict[str, dict[str, Any]] = {}
    for name in names or there:
        values = found[name]
        lead = values.dims[:-3]
        for own in values[lead[0]].to_numpy().astype(str) if lead else (None,):
            if own is not None and contrasts and own not in contrasts:
                continue
            image = values if own is None else values.sel({lead[0]: own})
            # A joint test may be called like a contrast.
            tested = said["joint"][own] if lead[:1] == ("test",) else None
            intent = _intent(name, tested, dof)
            file = f"{'' if own is None else f'contrast-{called[own]}_'}stat-{label(name)}_statmap.nii.gz"
            write_nifti(image, folder / file, version=version, intent=intent)
            files[file] = {"map": name, "contrast": own, "what": stored.SAID[name]}
            files[file] |= {"intent": intent.code, "parameters": list(intent.parameters)}
    if not files:
        raise ExportError(
            f"{model}: {', '.join(names)} of {', '.join(contrasts)} is no map; `--map` alone writes it of all contrasts it has"
        )
    peaks = stored.peaks(store, model)
    shown = peaks[peaks["contrast"].isin(contrasts)] if contrasts else peaks
    described = {str(c): _described(str(c)) for c in peaks}
    write_tsv(shown.reset_index(drop=True), folder / "peaks.tsv", described)
    about = ("model", "outcome", "fitted", "confounds", "columns", "contrasts", "joint", "voxels")
    more = ("threshold", "permutations", "reading", "stamp", "versions")
    write_json(folder / MARKER, {**{key: said[key] for key in (*about, *more)}, "files": files})
    return [*files, "peaks.tsv"]


def _known(what: str, asked: Sequence[str], there: Sequence[str], model: str) -> None:
    if unknown := [name for name in asked if name not in there]:
        raise ExportError(f"{model} has no {what} {unknown[0]!r}; there are {', '.join(there)}")


def _intent(name: str, tested: list[Any] | None, dof: np.ndarray) -> Intent:
    code = INTENTS.get(name, "none")
    if code not in OF_DOF:
        return Intent(code, (), name, stored.SAID[name])
    if len(dof) != 1:
        return Intent("none", (), name, f"{stored.SAID[name]}; dof differ, see the map dof")
    before = () if tested is None else (float(len(glm.independent(np.array(tested)))),)
    return Intent(code, (*before, float(dof[0])), name, stored.SAID[name])


def _described(column: str) -> dict[str, Any]:
    if column in OF_PEAKS:
        said: dict[str, Any] = {"Description": OF_PEAKS[column]}
        return said | ({"Units": "ml"} if column.endswith("_ml") else {})
    if column.endswith("_mm"):
        return {"Description": f"Place along {column[0]} (RAS+)", "Units": "mm"}
    return {"Description": stored.SAID.get(column, column)}
