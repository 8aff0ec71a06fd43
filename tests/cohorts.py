"""Small cohorts on disk, made on the spot: balls of known size in NIfTI files, a table, a catalog, a recipe."""

from pathlib import Path

import nibabel as nib
import numpy as np

from cohort.io.store import Store

RECIPE = """\
recipe: ball
steps:
  head:  {call: threshold, image: image, above: 0}
  level: {call: median_in, image: image, mask: head}
  core:  {call: erode, mask: head, iterations: 1}
  dark:  {call: threshold, image: image, below: "0.9 * level"}
  spots: {call: intersect, mask: dark, other: core}
  parts: {call: label, mask: spots}
  big:   {call: largest_component, mask: spots}
measure:
  n_head:     {call: n_voxels, mask: head}
  head_ml:    {call: volume_ml, mask: head}
  mean_head:  {call: mean_in, image: image, mask: head}
  n_spots:    {call: count, labels: parts}
  n_big:      {call: n_voxels, mask: big}
  where:      {call: centroid_mm, mask: big}
  share:      {value: "n_big / n_head", unit: "1"}
  spots_of:   {call: regions, image: image, labels: parts, quantities: [n_voxels, mean]}
keep: [big]
"""

CATALOG = """\
cohort: balls
sources: [scans]
store: store
ids: keep
subject: "(?P<subject>\\\\d+)_v(?P<session>\\\\d)"
participants:
  table: people.csv
  id: ID
  derive: {old: "age > 50"}
recipes: [ball]
models:
  size: {outcome: head_ml, formula: "old + weight", confounds: [weight]}
"""


def ball(seed: int, shape: tuple[int, int, int] = (19, 22, 17)) -> np.ndarray:
    """A noisy ball, int16, (x, y, z), off centre, its size drawn from `seed`."""
    rng = np.random.default_rng(seed)
    radius = rng.uniform(5.0, 7.0)
    x, y, z = np.ogrid[: shape[0], : shape[1], : shape[2]]
    inside = (x - 9.3) ** 2 + (y - 10.1) ** 2 + (z - 8.4) ** 2 <= radius**2
    return np.where(inside, rng.integers(50, 150, shape), 0).astype(np.int16)


def write_scan(path: Path, data: np.ndarray, *, slope: float = 0.5) -> None:
    """Write a NIfTI file with 2 x 2 x 3 mm voxels, left-right flipped."""
    affine = np.array([[-2.0, 0, 0, 18], [0, 2, 0, -20], [0, 0, 3, -24], [0, 0, 0, 1]])
    image = nib.Nifti1Image(data, affine)
    image.header.set_slope_inter(slope, 0.0)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def write_cohort(folder: Path, scans: int = 6, *, rows: int | None = None) -> Path:
    """Write `scans` balls and a table of `rows` people (two more than scans by default); return the catalog."""
    for n in range(scans):
        write_scan(folder / "scans" / f"{n:03d}_v1.nii.gz", ball(n))
    rng = np.random.default_rng(99)
    lines = ["ID,age,weight"]
    lines += [
        f"{n:03d}_v1,{(30, 70)[n % 2] + n % 7},{rng.normal(70, 9):.1f}"
        for n in range(scans + 2 if rows is None else rows)
    ]
    (folder / "people.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / "ball.yaml").write_text(RECIPE, encoding="utf-8")
    catalog = folder / "catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    return catalog


def contents(store: Store) -> dict[str, bytes]:
    """Everything that counts in a store, by name."""
    parts = ("cohort.json", "scans/", "derivatives/", "tables/", "recipes/", "quarantine/")
    names = [name for name, _ in store.files.listing() if name.startswith(parts)]
    return dict(zip(names, store.files.each(store.files.read, names), strict=True))


def store_of(catalog: Path) -> Store:
    """The store of `write_cohort`."""
    return Store(catalog.parent / "store")
