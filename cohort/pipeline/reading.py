"""One series from its files to a scan in the store, on a worker; and what to say of an error that nobody foresaw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from cohort import grid
from cohort.io import dicom, nifti
from cohort.io.refusal import Refused
from cohort.io.sources import places
from cohort.io.store import Store
from cohort.pipeline.units import Unit
from cohort.pipeline.window import Failure


@dataclass(frozen=True)
class Job:
    """One series, and the store it goes to."""

    store: Store
    unit: Unit


def read_and_write(job: Job) -> dict[str, Any] | Refused:
    """Read one series and write its scan. Called on a worker.

    Returns
    -------
    dict or Refused
        The record, or why there is none; its files as the sources name them.
    """
    unit, series = job.unit, job.unit.series
    try:
        with places.local(series.files) as files:
            try:
                dataset = _read(unit, files)
            except Refused as refusal:
                return _renamed(refusal, dict(zip(files, series.files, strict=True)))
            for name, path in unit.attachments.items():
                dataset[name] = _attached(unit, name, path, dataset["image"])
            return job.store.write_scan(unit.scan_id, dataset, _said(unit, dataset))
    except Refused as refusal:
        return refusal


def _read(unit: Unit, files: Sequence[Path]) -> xr.Dataset:
    if unit.series.kind == "dicom":
        return dicom.read_series(files, frames=unit.series.frames, policy=unit.policy)
    return nifti.read_image(files[0], policy=unit.policy)


def _renamed(refusal: Refused, names: Mapping[Path, Path]) -> Refused:
    """The same refusal of the files that local copies stand for."""
    return Refused(
        refusal.code,
        refusal.what,
        fix=refusal.fix,
        files=[names.get(file, file) for file in refusal.files],
        state=refusal.state,
    )


def _said(unit: Unit, dataset: xr.Dataset) -> dict[str, Any]:
    """What the record of a scan holds beside what follows from its voxels."""
    return {
        "subject": unit.subject,
        "session": unit.session,
        "series": unit.name,
        "acquisition": unit.acquisition,
        "kind": unit.series.kind,
        "n_files": len(unit.series.parts.paths),
        "source": unit.series.digest,
        "stamp": unit.stamp,
        "policy": unit.policy.as_stamp(),
        "affine": grid.affine_of(dataset).ravel().tolist(),
        "units": dataset["image"].attrs.get("units", "1"),
    }


def _attached(unit: Unit, name: str, path: Path, image: xr.DataArray) -> xr.DataArray:
    """Mask or labels that belong to a scan, on its grid."""
    scan = unit.series.files[0]
    if not path.is_file():
        raise Refused(
            "ATT-MISSING",
            f"no {name} for {{0}}: expected a file {{1}}",
            fix=f"put the file there, or take {name!r} out of `attach`",
            files=(scan, path),
        )
    attached = nifti.read_labels(path, name=name, policy=unit.policy)
    try:
        grid.check_same_grid(**{"image": image, name: attached})
    except grid.GridError as error:
        raise Refused(
            "ATT-GRID",
            f"{name} in {{1}} does not lie on the grid of {{0}}: {error}",
            fix="resample it onto the scan's grid (order 0) and put that file there",
            files=(scan, path),
        ) from error
    # The same grid within a micrometre: from here on to the bit.
    return attached.assign_coords({d: image.coords[d] for d in (*grid.SPACE, "grid")})


def unexpected(failure: Failure, unit: Unit) -> Refused:
    """An error nobody foresaw: named with its type; the text may hold paths, so it stays with the operator."""
    message = failure.message.replace("{", "(").replace("}", ")")
    for file in unit.series.files:
        message = message.replace(
            str(file), file.name if len(unit.series.files) == 1 else "one of its files"
        )
    where = (
        "{0}"
        if len(unit.series.files) == 1
        else f"one of {len(unit.series.files)} files beside {{0}}"
    )
    return Refused(
        f"READ-{failure.kind.upper()}",
        f"{where} cannot be read: {message}",
        fix=_what_to_do(failure),
        files=unit.series.files[:1],
    )


def _what_to_do(failure: Failure) -> str:
    if failure.kind in ("KilledWorker", "MemoryError"):
        return "give workers more --memory, or look whether the file makes a library crash"
    if not failure.lasting:
        return "look after the disk and the rights; the next call tries again"
    return "check the file with the program that wrote it, or export it again"
