"""The recipe `brain-volume` on a synthetic head at 2 mm, on one core, against what a night can afford and against nilearn."""

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from run import Row, best
from threadpoolctl import threadpool_limits

from cohort import grid
from cohort.phantom import head
from cohort.pipeline.execute import execute
from cohort.pipeline.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "catalogs/recipes/brain-volume.yaml"


def by_nilearn(image: nib.Nifti1Image) -> object:
    """The image and the average's brain mask on the average's grid: the anatomy of the scan itself is not looked at."""
    from nilearn.datasets import load_mni152_template
    from nilearn.image import resample_to_img
    from nilearn.masking import compute_brain_mask

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = resample_to_img(image, load_mni152_template(resolution=2))
        return compute_brain_mask(there)


def bench_brain_volume() -> Iterator[Row]:
    """Bias, registration, masks, tissues and quality, from voxels in memory to the last number."""
    made = head(seed=1, index=0)
    scan = made.scan.load()
    recipe = read_recipe(RECIPE)
    call = partial(execute, recipe, scan, scan_id="one", stale=recipe.keys)
    values = np.asarray(scan["image"].values, np.float32).transpose(2, 1, 0)
    image = nib.Nifti1Image(values, grid.affine_of(scan["image"]))
    with threadpool_limits(1):
        found = call().numbers  # the template and compiled kernels are loaded once a process
        by_nilearn(image)
        ours, theirs = best(call), best(partial(by_nilearn, image))
    off = found["brain_volume_ml"] / made.truth["brain_ml"] - 1
    note = f"{ours / theirs:.1f} times nilearn's resampling and compute_brain_mask, {theirs:.2f} s; brain {off:+.1%}"
    yield Row("heads/brain-volume-2mm", ours, "10 s a scan and core", 10.0, 1.0, note)
