"""Registration and bias correction of a synthetic head at 2 mm, one thread, against what a recipe can afford."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import xarray as xr
from run import Row, best

from cohort import grid
from cohort.ops import space
from cohort.ops.register import bias_field, register
from cohort.phantom import head


def error_mm(found: np.ndarray, truth: np.ndarray, image: xr.DataArray) -> float:
    """Mean distance over the head between two transforms."""
    affine = grid.affine_of(image)
    index = np.argwhere(image.values > float(image.mean()))[:, ::-1]
    where = index @ affine[:3, :3].T + affine[:3, 3]
    gap = where @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]
    return float(np.linalg.norm(gap, axis=1).mean())


def bench_register() -> Iterator[Row]:
    """A head turned by 12 degrees and shifted by 13 mm."""
    moving = head(seed=1, index=0).scan["image"].astype(np.float32).compute()
    truth = space.translation(moving, mm={"x": 12.0, "z": -5.0}) @ space.rotation(
        moving, degrees=12.0, plane=("y", "z")
    )
    fixed = space.affine(moving, truth, order=3)
    for transform in ("rigid", "affine"):
        call = partial(register, moving, fixed, transform=transform)
        note = f"off by {error_mm(call().checked(), truth, moving):.3f} mm"
        yield Row(f"register/{transform}-2mm", best(call), "3 s", 3.0, 1.0, note)


def bench_bias() -> Iterator[Row]:
    """N4 at shrink 4."""
    image = head(seed=1, index=0).scan["image"].astype(np.float32).compute()
    yield Row("register/bias-2mm", best(partial(bias_field, image)), "1.5 s", 1.5, 1.0, "N4")
