"""What SimpleITK does for us: one level of a registration, and images to hand to it.

ITK takes the world as it is given: no axis of it means right or left to its algorithms. So images are handed over in
RAS+, and no coordinate is ever turned to LPS and back.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cohort.ops.pyramid import Level

METRICS = ("mutual_information", "correlation", "mean_squares")
TRANSFORMS = ("rigid", "similarity", "affine")

_BINS = 32
_SAMPLES = 30_000
"""A level with more voxels than that is sampled at random."""
_SEED = 7
_ITERATIONS = 200
_FIRST_STEP = 1.0
"""Of a search, in voxels of the level: so far points move, in the root mean square."""
_LAST_STEP = 0.005
"""The search ends when steps are shorter."""
_RELAXATION = 0.6
"""Each time the search turns round, its steps become shorter by this."""
_NOTHING = 1e300
"""A metric above is ITK's word for images that have no voxel in common."""

_TURN = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """ITK computes on one thread in here, so that sums have the same bits whatever the number of cores; and prints no warnings.

    How many threads it takes is a number of the process: ``SetNumberOfThreads`` of a registration does not reach its metric.
    Threads that want ITK at the same time take turns.
    """
    import SimpleITK as sitk

    with _TURN:
        process = sitk.ProcessObject
        threads, warns = (
            process.GetGlobalDefaultNumberOfThreads(),
            process.GetGlobalWarningDisplay(),
        )
        process.SetGlobalDefaultNumberOfThreads(1)
        process.GlobalWarningDisplayOff()
        try:
            yield
        finally:
            process.SetGlobalDefaultNumberOfThreads(threads)
            process.SetGlobalWarningDisplay(warns)


def image_of(values: np.ndarray, affine: np.ndarray) -> Any:
    """SimpleITK image of an array on any grid, sheared ones too: it is its files that cannot hold these.

    Parameters
    ----------
    values : (z, y, x) array
        Copied.
    affine : (4, 4) array
        Voxel indices (x, y, z) -> any world.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(values))
    steps = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    image.SetSpacing(steps.tolist())
    image.SetDirection((affine[:3, :3] / steps).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def affine_transform(matrix: np.ndarray) -> Any:
    """SimpleITK transform that takes points as a 4x4 matrix does."""
    import SimpleITK as sitk

    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def matrix_of(transform: Any) -> np.ndarray:
    """4x4 matrix of a linear SimpleITK transform about the origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.GetTranslation()
    return matrix


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    matrix: np.ndarray
    metric: float
    iterations: int
    stop: str
    broken: bool = False
    """Whether it broke off; the matrix is that of its start."""


class Pair:
    """Two images of one level, as SimpleITK compares them.

    ITK's steps mix turns and shifts, so lengths are counted in root mean square radii of the fixed image about its middle: a
    turn by one radian and a shift by one unit move points equally far.
    """

    def __init__(self, moving: Level, fixed: Level, metric: str) -> None:
        import SimpleITK as sitk

        points = fixed.points()
        middle = points.mean(axis=0)
        radius = float(np.sqrt(((points - middle) ** 2).sum(axis=1).mean()))
        self._unit = np.diag([1 / radius] * 3 + [1.0])
        self._unit[:3, 3] = -middle / radius
        self._step = float(np.cbrt(abs(np.linalg.det(fixed.affine[:3, :3])))) / radius
        self._moving, self._fixed = (
            image_of(side.values, self._unit @ side.affine) for side in (moving, fixed)
        )
        self._method = method = sitk.ImageRegistrationMethod()
        method.SetInterpolator(sitk.sitkLinear)
        if metric == "mutual_information":
            method.SetMetricAsMattesMutualInformation(_BINS)
        elif metric == "correlation":
            method.SetMetricAsCorrelation()
        else:
            method.SetMetricAsMeanSquares()
        # Differences of neighbours at the points sampled: the default filters both images whole, for no better a gradient.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        if not moving.inside.all():
            inside = image_of(moving.inside.astype(np.uint8), self._unit @ moving.affine)
            method.SetMetricMovingMask(inside)
        if not fixed.inside.all():
            inside = image_of(fixed.inside.astype(np.uint8), self._unit @ fixed.affine)
            method.SetMetricFixedMask(inside)
        if fixed.values.size > _SAMPLES:
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentage(_SAMPLES / fixed.values.size, _SEED)

    def metric_at(self, matrix: np.ndarray) -> float:
        """Metric over all voxels when the moving image is moved by a matrix, world -> world; infinite if none is in both."""
        import SimpleITK as sitk

        self._method.SetMovingInitialTransform(self._back(matrix))
        self._method.SetInitialTransform(sitk.Transform(3, sitk.sitkIdentity))
        try:
            found = float(self._method.MetricEvaluate(self._fixed, self._moving))
        except RuntimeError:  # so ITK says of mutual information; of the others, the largest float
            return math.inf
        return found if found < _NOTHING else math.inf

    def search(self, matrix: np.ndarray, transform: str) -> Found:
        """Search for a better matrix from one on."""
        import SimpleITK as sitk

        # What is searched for is a correction of the start, so that its parameters begin at 0.
        step: Any
        if transform == "rigid":
            step = sitk.Euler3DTransform()
        elif transform == "similarity":
            step = sitk.Similarity3DTransform()
        else:
            step = sitk.AffineTransform(3)
        method = self._method
        method.SetMovingInitialTransform(self._back(matrix))
        method.SetInitialTransform(step, inPlace=True)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=_FIRST_STEP * self._step,
            minStep=_LAST_STEP * self._step,
            numberOfIterations=_ITERATIONS,
            relaxationFactor=_RELAXATION,
            gradientMagnitudeTolerance=1e-9,
        )
        try:
            method.Execute(self._fixed, self._moving)
        except RuntimeError as error:
            said = str(error).split("): ")[-1].strip()
            return Found(matrix, math.nan, 0, said, broken=True)
        iterations = int(method.GetOptimizerIteration())
        if not method.GetMetricValue() < _NOTHING:
            said = "No voxel of one image lies within the other."
            return Found(matrix, math.nan, iterations, said, broken=True)
        # ITK leads from the fixed image to the moving one, first by the correction.
        back = np.linalg.inv(self._unit) @ matrix_of(step) @ self._unit
        return Found(
            matrix=np.linalg.inv(np.linalg.inv(matrix) @ back),
            metric=float(method.GetMetricValue()),
            iterations=iterations,
            stop=str(method.GetOptimizerStopConditionDescription()),
        )

    def _back(self, matrix: np.ndarray) -> Any:
        """The start as ITK takes it: fixed -> moving, in its units."""
        return affine_transform(self._unit @ np.linalg.inv(matrix) @ np.linalg.inv(self._unit))
