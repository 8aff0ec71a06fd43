"""The demo's cohort as a folder: scans, participants, truth, catalog, and three series damaged on purpose."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cohort.io.catalog import find_recipe
from cohort.phantom import files, model
from cohort.phantom.heads import head

DAMAGE: tuple[tuple[files.Damage, str], ...] = (
    ("missing slice", "DCM-GAP"),
    ("doubled slice", "DCM-DUP-POS"),
    ("truncated file", "NII-GZIP"),
)
"""What is done to the series of the three subjects after the good ones, and the code with which each is refused."""

RECIPE = "head-volumes"
MADE = "phantom.json"
_STAGING = ".scans.partial"

Job = tuple[str, int, int, int]
"""Folder, seed, index, number of good scans: what a worker needs to write one subject."""


def write_cohort(
    folder: Path,
    *,
    scans: int = 24,
    seed: int = 0,
    map: Callable[[Callable[[Job], dict[str, Any]], Iterable[Job]], Iterable[dict[str, Any]]] = map,
) -> Path:
    """Write a synthetic cohort, ready to be ingested.

    Parameters
    ----------
    folder : Path
        Made if it is missing. Files that this function did not write are never replaced.
    scans : int, > 0
        Good scans, in turn DICOM and NIfTI; three damaged ones of further subjects come on top.
    seed : int
        Within 0..2**32 - 1; the cohort depends on `scans` and `seed` alone, to the byte.
    map : callable
        Maps a picklable function over jobs, as the builtin or an executor's ``map`` do: in parallel, or
        under a progress bar.

    Returns
    -------
    Path
        The catalog. Beside it lie ``scans/``, ``participants.csv``, ``truth.csv`` (the good scans' volumes),
        ``expected.json`` (damaged subject -> code of its refusal), ``phantom.json`` and ``recipes/``.

    Raises
    ------
    FileExistsError
        If the folder holds something else under one of these names. The same cohort, already written, is
        returned as it is.
    ModuleNotFoundError
        Without nilearn.
    """
    if scans < 1:
        raise ValueError(f"a cohort of {scans} scans; expected at least 1")
    catalog = folder / "catalog.yaml"
    if _is_written(folder, scans=scans, seed=seed):
        return catalog
    import pandas as pd

    people = model.subjects(scans + len(DAMAGE), seed=seed)
    staging = folder / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    jobs = [(str(staging), seed, index, scans) for index in range(len(people))]
    truth = list(map(write_subject, jobs))
    people[["participant_id", "age", "sex", "group"]].to_csv(
        folder / "participants.csv", index=False
    )
    pd.DataFrame(truth[:scans]).to_csv(folder / "truth.csv", index=False)
    (folder / "expected.json").write_text(_json(planted_damage(scans=scans)))
    (folder / MADE).write_text(_json({"scans": scans, "seed": seed}))
    (folder / "recipes").mkdir(exist_ok=True)
    recipe = find_recipe(RECIPE, folder=Path(__file__).parent)
    shutil.copyfile(recipe, folder / "recipes" / recipe.name)
    catalog.write_text(_catalog(), encoding="utf-8")
    staging.rename(folder / "scans")  # last: a folder with scans is complete
    return catalog


def planted_damage(*, scans: int) -> dict[str, str]:
    """The damaged subjects of a cohort of `scans` good scans -> the code with which each is refused."""
    return {f"phantom{scans + i:03d}": code for i, (_, code) in enumerate(DAMAGE)}


def write_subject(job: Job) -> dict[str, Any]:
    """Write one subject's scan; return its id and true volumes."""
    folder, seed, index, scans = job
    made = head(seed=seed, index=index)
    name = made.subject["participant_id"]
    damage = DAMAGE[index - scans][0] if index >= scans else None
    turn = index // 2 % 4
    if damage in ("missing slice", "doubled slice") or (damage is None and index % 2 == 0):
        axes = files.DICOM_AXES[turn]
        files.write_dicom(made, Path(folder, name), axes=axes, seed=seed, damage=damage)
    else:
        path = Path(folder, name, f"{name}_T1w.nii.gz")
        files.write_nifti(made, path, axes=files.NIFTI_AXES[turn], damage=damage)
    return {"participant_id": name} | made.truth


def _is_written(folder: Path, *, scans: int, seed: int) -> bool:
    """Whether the folder holds this very cohort; raise if it holds another, or something of somebody else."""
    names = [
        "scans",
        "catalog.yaml",
        "participants.csv",
        "truth.csv",
        "expected.json",
        MADE,
        "recipes",
    ]
    found = [name for name in names if (folder / name).exists()]
    if not found or ("scans" not in found and (folder / _STAGING).exists()):
        return False  # nothing there, or what an interrupted call left
    try:
        same = json.loads((folder / MADE).read_text()) == {"scans": scans, "seed": seed}
    except (OSError, ValueError):
        same = False
    if not same or len(found) < len(names):
        raise FileExistsError(
            f"{folder} already holds {', '.join(found)}, and not this cohort of {scans} scans, "
            f"seed {seed}; choose another folder or remove them"
        )
    return True


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _catalog() -> str:
    return f"""\
# A synthetic cohort whose true effects are known: heads bent from the MNI152 template, nobody's data.
cohort: demo
sources: [scans]
store: store
ids: keep                       # invented people have nothing to hide
subject: '(?P<subject>phantom\\d{{3,}})'
participants:
  table: participants.csv
  id: participant_id
  derive: {{patient: group == patient, male: sex == M}}
recipes: [{RECIPE}]
models:
  brain-by-group:
    outcome: brain_ml
    formula: patient + age + intracranial_ml
    confounds: [age, intracranial_ml]
    one_scan_per: first
    group: patient
    truth: {{patient: {model.PATIENT_ML}, age: {model.AGE_ML}, intracranial_ml: {model.SKULL_ML}}}
"""
