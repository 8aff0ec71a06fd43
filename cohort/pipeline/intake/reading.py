"""One series from its files to a scan in the store, on a worker; and what to say of an error that nobody foresaw."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from cohort import grid, schema
from cohort.io import dicom, nifti
from cohort.io.refusal import Refused
from cohort.io.sources import places
from cohort.io.sources.filecache import FileCache, state_key
from cohort.io.store import Store
from cohort.pipeline.dispatch.cost import Cost
from cohort.pipeline.dispatch.window import Failure
from cohort.pipeline.intake.units import Unit

CHANGED = "SRC-CHANGED"
"""Code of the refusal of a file that did not hold still; the next call reads it again."""


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
        with places.local(series.files, digests=series.digests) as files:
            try:
                dataset = _read(unit, files)
            except Refused as refusal:
                return _renamed(refusal, dict(zip(files, series.files, strict=True)))
            for name, path in unit.attachments.items():
                dataset[name] = _attached(unit, name, path, dataset["image"])
            return job.store.write_scan(unit.scan_id, dataset, _said(unit, dataset))
    except Refused as refusal:
        return refusal


def steady(
    results: Iterable[tuple[Job, Any, Cost]], cache: Path | None
) -> Iterator[tuple[Job, Any, Cost]]:
    """Let through what `read_and_write` made of files that are still those which were found and digested.

    Parameters
    ----------
    results : iterable of (job, result, cost)
    cache : Path, optional
        What `discover` remembered, with the state in which it met each file; without it nothing can be said.

    Yields
    ------
    (job, result, cost)
        In place of a scan whose file changed meanwhile a `Refused` with the code `CHANGED`, and the scan is removed: its
        stamp would be of one content, its voxels of another.
    """
    if cache is None:
        yield from results
        return
    with FileCache(cache) as seen:
        for job, result, cost in results:
            outcome = result
            if isinstance(result, dict) and (path := _changed(job.unit, seen)) is not None:
                job.store.remove_scan(job.unit.scan_id)
                outcome = Refused(
                    CHANGED,
                    "{0} changed while it was read",
                    fix="call again when nobody writes to it any more",
                    files=[path],
                )
            yield job, outcome, cost


def _changed(unit: Unit, seen: FileCache) -> Path | None:
    """A file on this machine that is not in the state in which it was digested; None if all are."""
    paths = list(unit.series.parts.paths)
    noted = seen.digests(paths)
    for path, digest, found in zip(paths, unit.series.digests, noted, strict=True):
        try:
            state = path.lstat()
        except NotADirectoryError:
            continue  # a member of an archive
        except FileNotFoundError:
            if path.is_absolute():
                return path
            continue  # an object in a bucket
        if found != (state_key(state), digest):
            return path
    return None


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
    """Mask, labels or a further contrast that belong to a scan, on its grid."""
    scan = unit.series.files[0]
    if not path.is_file():
        raise Refused(
            "ATT-MISSING",
            f"no {name} for {{0}}: expected a file {{1}}",
            fix=f"put the file there, or take {name!r} out of `attach`",
            files=(scan, path),
        )
    if name in unit.images:
        # As numbers: only `image` is kept as the scanner's integers with a scale.
        attached = schema.decode(nifti.read_image(path, policy=unit.policy)["image"].rename(name))
    else:
        attached = nifti.read_labels(path, name=name, policy=unit.policy)
    try:
        grid.check_same_grid(**{"image": image, name: attached})
    except grid.GridError as error:
        raise Refused(
            "ATT-GRID",
            f"{name} in {{1}} does not lie on the grid of {{0}}: {error}",
            fix=f"resample it onto the scan's grid (order {1 if name in unit.images else 0}) and put that file there",
            files=(scan, path),
        ) from error
    # The same grid within a micrometre: from here on to the bit.
    return attached.assign_coords({d: image.coords[d] for d in (*grid.SPACE, "grid")})


def unexpected(failure: Failure, unit: Unit) -> Refused:
    """An error nobody foresaw: named with its type; the text may hold paths, so it stays with the operator."""
    message = failure.message.replace("{", "(").replace("}", ")")
    if (gone := _gone(unit)) is not None:
        return Refused(
            f"READ-{failure.kind.upper()}",
            "{0} went away after the sources were looked through",
            fix="put it back, or call again when nobody moves files any more",
            files=[gone],
        )
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


def _gone(unit: Unit) -> Path | None:
    """A file of a series on this machine that is no more there."""
    return next(
        (
            path
            for path in unit.series.parts.paths
            if path.is_absolute() and not any(p.is_file() for p in (path, *path.parents))
        ),
        None,
    )


def _what_to_do(failure: Failure) -> str:
    if failure.kind in ("Killed", "KilledWorker", "MemoryError"):
        return "give workers more --memory"
    if not failure.lasting:
        return "look after the disk and the rights; the next call tries again"
    return "check the file with the program that wrote it, or export it again"
