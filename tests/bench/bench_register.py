"""Registration and bias correction of a synthetic head at 2 mm against SimpleITK as its notebooks set it up, one thread each."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import xarray as xr
from run import Row, best

from cohort import grid
from cohort.ops import space
from cohort.ops.itk import image_of, one_thread
from cohort.ops.register import bias_field, register
from cohort.phantom import head


def by_sitk(moving: xr.DataArray, fixed: xr.DataArray) -> Any:
    """Centred, Mattes information with 50 bins on 1 % of the voxels, gradient descent over shrinks of 4, 2 and 1."""
    a, b = (image_of(image.values, grid.affine_of(image)) for image in (moving, fixed))
    start = sitk.CenteredTransformInitializer(
        b, a, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.01, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    with one_thread():
        return method.Execute(b, a)


def error_mm(back: np.ndarray, truth: np.ndarray, image: xr.DataArray) -> float:
    """Mean distance over the head between two transforms fixed -> moving."""
    affine = grid.affine_of(image)
    index = np.argwhere(image.values > float(image.mean()))[:, ::-1]
    where = index @ affine[:3, :3].T + affine[:3, 3]
    gap = where @ (back - truth)[:3, :3].T + (back - truth)[:3, 3]
    return float(np.linalg.norm(gap, axis=1).mean())


def bench_register() -> Iterator[Row]:
    """A head turned by 12 degrees and shifted by 13 mm."""
    moving = head(seed=1, index=0).scan["image"].astype(np.float32).compute()
    truth = space.translation(moving, mm={"x": 12.0, "z": -5.0}) @ space.rotation(
        moving, degrees=12.0, plane=("y", "z")
    )
    fixed = space.affine(moving, truth, order=3)
    ours, theirs = register(moving, fixed), by_sitk(moving, fixed)
    back = np.eye(4)
    back[:3, 3] = theirs.TransformPoint((0.0, 0.0, 0.0))
    for axis in range(3):
        back[:3, axis] = np.array(theirs.TransformPoint(np.eye(3)[axis].tolist())) - back[:3, 3]
    errors = [
        error_mm(found, np.linalg.inv(truth), fixed)
        for found in (np.linalg.inv(ours.checked()), back)
    ]
    note = f"off by {errors[0]:.3f} mm, the rival by {errors[1]:.3f} mm"
    seconds = best(partial(register, moving, fixed))
    rival = best(partial(by_sitk, moving, fixed))
    yield Row("register/rigid-2mm", seconds, "SimpleITK as in its notebooks", rival, 1.0, note)


def bench_bias() -> Iterator[Row]:
    """N4 at shrink 4 against the wish for a second."""
    image = head(seed=1, index=0).scan["image"].astype(np.float32).compute()
    yield Row("register/bias-2mm", best(partial(bias_field, image)), "1.5 s", 1.5, 1.0, "N4")
