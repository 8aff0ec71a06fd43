"""Cohorts of very many very small scans, made fast: what a cohort costs where its images cost nothing.

The sources are real NIfTI files, found, digested and named by the real ingest; only how one file becomes a Dataset is
simulated: its voxels are put into a Dataset that was read once. `tests/pipeline/test_scale.py` holds the store that comes
of it against one that was ingested, byte for byte.
"""

import struct
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np

SHAPE = (6, 5, 4)
"""Voxels along z, y, x of every scan."""

PER_FOLDER = 1000

RECIPE = """\
recipe: noop
steps: {}
measure:
  fov: {call: field_of_view_mm, image: image}
"""

CATALOG = """\
cohort: many
sources: [scans]
store: store
ids: keep
subject: "(?P<subject>\\\\d+)_v(?P<session>\\\\d)"
recipes: [noop]
"""


def template() -> bytes:
    """Header of every scan: voxels of 2 x 2 x 3 mm, axes as they are stored."""
    image = nib.Nifti1Image(
        np.zeros(SHAPE[::-1], np.int16),
        np.array([[2.0, 0, 0, -4], [0, 2, 0, -5], [0, 0, 3, -9], [0, 0, 0, 1]]),
    )
    image.header.set_xyzt_units("mm", "sec")
    return image.to_bytes()[:352]


def voxels(number: int) -> np.ndarray:
    """Voxels of a scan, like those of no other: no two people have one image."""
    found = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    found[0, 0, :2] = struct.unpack("<2h", struct.pack("<i", number))
    return found


def write_many_scans(folder: Path, n: int, *, start: int = 0) -> Path:
    """Write the files of `n` scans, a catalog and a recipe that does next to nothing; return the catalog."""
    header = template()
    for number in range(start, start + n):
        place = folder / "scans" / f"{number // PER_FOLDER:04d}"
        if number == start or number % PER_FOLDER == 0:
            place.mkdir(parents=True, exist_ok=True)
        content = header + voxels(number).tobytes()
        (place / f"{number:07d}_v1.nii").write_bytes(content)
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes/noop.yaml").write_text(RECIPE, encoding="utf-8")
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    return catalog


@contextmanager
def simulated_reading():
    """Within: a file's voxels become a scan without nibabel, and nothing waits for the disk. For `workers=0`."""
    from cohort.io import nifti
    from cohort.pipeline.intake import reading

    read: dict[str, object] = {}

    def fast(job):
        (path,) = job.unit.series.files
        dataset = read.setdefault("dataset", None)
        if dataset is None:
            dataset = read["dataset"] = nifti.read_image(path)
        image = dataset["image"].copy(
            data=np.frombuffer(path.read_bytes(), np.int16, offset=352).reshape(SHAPE)
        )
        scan = dataset.assign(image=image)
        return job.store.write_scan(job.unit.scan_id, scan, reading._said(job.unit, scan))

    with (
        patch("cohort.pipeline.ingest.read_and_write", fast),
        patch("cohort.io.storage.disk.sync", lambda path: None),
    ):
        yield


def measure_like_the_first(store, recipe: str) -> int:
    """Give every scan the record that the recipe left of the first, with the scan's own content; return how many."""
    ids = store.scan_ids()
    first = next(d for d in store.derivatives(recipe, ids) if d is not None)
    shared = {k: v for k, v in first.items() if k not in ("format", "scan_id", "recipe", "chunks")}
    made = 0
    with patch("cohort.io.storage.disk.sync", lambda path: None):
        for scan in store.records(ids):
            record = {**shared, "contents": {"image": scan["contents"]["image"]}}
            store.write_derivative(recipe, scan["scan_id"], None, record)
            made += 1
    return made
