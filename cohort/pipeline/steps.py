"""What a step of a recipe may call: the operations by name, each with its revision and what it takes in memory."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

from cohort.ops import (
    bias,
    compare,
    filters,
    heads,
    intensity,
    labels,
    masks,
    measure,
    motion,
    quality,
    register,
    space,
    synthesis,
    tissue,
)
from cohort.pipeline import extents

Gives = Literal["array", "number", "vector", "table", "pose"]
"""A pose is a 4x4 matrix, world -> world in mm, that later steps move images by. The operation returns a `Pose`."""


class Pose(Protocol):
    """What an operation returns that gives a pose; its attributes named in `Operation.parts` are numbers beside it."""

    def checked(self) -> Any:
        """The (4, 4) matrix; raises ValueError, with the reason, if it is not to be trusted."""


class Operation(NamedTuple):
    """A function that a step may call."""

    function: Callable[..., Any]
    revision: int
    """Raised, with the golden digest of the step, in the commit that changes the operation's numbers."""
    gives: Gives = "array"
    parts: tuple[str, ...] = ()
    """Names of a vector's components, or of the numbers that come with a pose."""
    unit: str | tuple[str, ...] = "1"
    """Unit of what it gives, of each of `parts` where they differ; ``{image}`` is the unit of that array it is given."""
    peak_bytes: float = 8
    """Bytes per voxel of a float32 image that the operation needs at its peak on top of its inputs, its result included."""
    result_bytes: float = 1
    """Bytes per voxel of the array it gives."""
    masked_bytes: float | None = None
    """`peak_bytes` when a mask is given, where that differs."""
    shape: extents.Shape | None = None
    """What it gives, where that is no array of `result_bytes` on the grid of its image."""
    work: extents.Work | None = None
    """What it needs at its peak, where that is no number of bytes a voxel."""
    is_view: bool = False
    """Whether its result shares the memory of what it is given."""
    onto: tuple[str, ...] = ()
    """Parameters that say on which grid the result lies, where that is not the grid of the image."""
    elsewhere: tuple[str, ...] = ()
    """Arrays that may lie on any grid."""
    seeded: bool = False
    """Whether it draws random numbers: of its own for every scan, from its `seed` and the scan's id."""
    whole: bool = False
    """Whether it cannot be cut into blocks: in block grain, too, it runs in one task, with all it is given in memory."""
    fixed: tuple[str, ...] = ()
    """Parameters that decide how large something becomes: written as numbers, because memory is known before a voxel is read."""


def _mask(function: Callable[..., Any], peak_bytes: float) -> Operation:
    return Operation(function, 1, peak_bytes=peak_bytes)


def _image(
    function: Callable[..., Any], peak_bytes: float, masked_bytes: float | None = None
) -> Operation:
    return Operation(
        function,
        1,
        unit="{image}",
        peak_bytes=peak_bytes,
        result_bytes=4,
        masked_bytes=masked_bytes,
    )


def _number(
    function: Callable[..., Any],
    peak_bytes: float,
    masked_bytes: float | None = None,
    *,
    unit: str = "1",
) -> Operation:
    return Operation(
        function, 1, "number", unit=unit, peak_bytes=peak_bytes, masked_bytes=masked_bytes
    )


def _of_heads(operation: Operation) -> Operation:
    """What looks at a whole head at once."""
    return operation._replace(whole=True)


def _moved(function: Callable[..., Any], *, work: extents.Work = extents.moving) -> Operation:
    return Operation(function, 1, unit="{image}", shape=extents.moved, work=work)


# Bytes were measured (tracemalloc, 128^3 voxels); tests/pipeline/test_memory.py holds the forecast against the peak of a process.
STEPS: Mapping[str, Operation] = {
    # masks
    "threshold": _mask(masks.threshold, 1)._replace(unit="{image}"),
    "intersect": _mask(masks.intersect, 1),
    "unite": _mask(masks.unite, 1),
    "subtract": _mask(masks.subtract, 1),
    "invert": _mask(masks.invert, 1),
    "dilate": _mask(masks.dilate, 1.4),
    "erode": _mask(masks.erode, 1.4),
    "open": _mask(masks.open, 1.4),
    "close": _mask(masks.close, 1.4),
    "fill_holes": _mask(masks.fill_holes, 6),
    "largest_component": _mask(masks.largest_component, 5),
    "remove_small": _mask(masks.remove_small, 5),
    "apply": _image(masks.apply, 4),
    "otsu": _number(masks.otsu, 2, unit="{image}"),
    "li": _number(masks.li, 6, unit="{image}"),
    "triangle": _number(masks.triangle, 2, unit="{image}"),
    # labels
    "label": Operation(labels.label, 1, peak_bytes=4, result_bytes=4, shape=extents.labelled),
    "select": _mask(labels.select, 1),
    "count": _number(labels.count, 0),
    # filters
    "gaussian": _image(filters.gaussian, 4, masked_bytes=16),
    "median": _image(filters.median, 4)._replace(revision=2),
    "minimum": _image(filters.minimum, 4)._replace(revision=2),
    "maximum": _image(filters.maximum, 4)._replace(revision=2),
    "percentile": _image(filters.percentile, 4)._replace(revision=2),
    "uniform": _image(filters.uniform, 4),
    "convolve": _image(filters.convolve, 8),
    "sharpen": _image(filters.sharpen, 8),
    "sobel": _image(filters.sobel, 4),
    "gradient_magnitude": _image(filters.gradient_magnitude, 8),
    "laplace": _image(filters.laplace, 8),
    # intensity
    "equalize": _image(intensity.equalize, 4.4),
    "gaussian_stretch": _image(intensity.gaussian_stretch, 5)._replace(unit="1"),
    "standardize": _image(intensity.standardize, 5)._replace(unit="1"),
    "match": _image(intensity.match, 6.4)._replace(unit="{reference}", elsewhere=("reference",)),
    "normalize": _image(intensity.normalize, 6.4)._replace(unit="1"),
    "whiten": _image(intensity.whiten_contrast, 5)._replace(unit="1"),
    # space
    "shift": _moved(space.shift),
    "rotate": _moved(space.rotate),
    "center": _moved(space.center, work=extents.centering),
    "affine": _moved(space.affine)._replace(onto=("like",), elsewhere=("like",)),
    "resample": Operation(
        space.resample,
        1,
        unit="{image}",
        shape=extents.resampled,
        work=extents.resampling,
        onto=("like", "spacing_mm"),
        elsewhere=("like",),
        fixed=("spacing_mm",),
    ),
    "reorient": Operation(
        space.reorient,
        1,
        unit="{image}",
        shape=extents.reoriented,
        peak_bytes=0,
        is_view=True,
        onto=("axcodes",),
    ),
    # registration: its images may lie on any grid, and masks on those of their images
    "register": Operation(
        register.register,
        1,
        "pose",
        ("metric_before", "metric", "quality", "overlap", "determinant"),
        peak_bytes=32,
        whole=True,
        elsewhere=("moving", "fixed", "moving_mask", "fixed_mask"),
    ),
    # mixtures
    "gmm": Operation(tissue.gmm_posteriors, 1, shape=extents.components, work=extents.mixing),
    "classify": Operation(tissue.likeliest, 1, shape=extents.likeliest, work=extents.labelling),
    "component_ml": _number(tissue.component_ml, 1, unit="ml"),
    "components": Operation(tissue.components, 1, "table", peak_bytes=1),
    # synthesis
    "noise": Operation(
        synthesis.noise,
        1,
        unit="{like}",
        shape=extents.noisy,
        work=extents.noising,
        seeded=True,
        fixed=("correlation_mm",),
    ),
    "rician": Operation(
        synthesis.rician, 1, unit="{image}", shape=extents.noisy, work=extents.rician, seeded=True
    ),
    "elastic": _moved(synthesis.elastic, work=extents.bending)._replace(
        seeded=True, fixed=("sigma_mm",)
    ),
    # comparisons
    "mae": _number(compare.mae, 16, unit="{a}"),
    "mse": _number(compare.mse, 9, unit="{a}^2"),
    "ncc": _number(compare.ncc, 16),
    "mutual_information": _number(compare.mutual_information, 4, unit="nat"),
    "ssim": _number(compare.ssim, 105),
    "iou": _number(compare.iou, 1),
    "dice": _number(compare.dice, 1),
    "hausdorff_mm": _number(compare.hausdorff_mm, 19, unit="mm"),
    "surface_distance_mm": _number(compare.surface_distance_mm, 19, unit="mm"),
    # measurements
    "volume_ml": _number(measure.volume_ml, 0, unit="ml"),
    "n_voxels": _number(measure.n_voxels, 0, unit="voxel"),
    "mean_in": _number(measure.mean_in, 1, masked_bytes=0, unit="{image}"),
    "std_in": _number(measure.std_in, 1, masked_bytes=0, unit="{image}"),
    "minimum_in": _number(measure.minimum_in, 1, masked_bytes=0, unit="{image}"),
    "maximum_in": _number(measure.maximum_in, 1, masked_bytes=0, unit="{image}"),
    "median_in": _number(measure.median_in, 5, masked_bytes=2.5, unit="{image}"),
    "field_of_view_mm": Operation(
        measure.field_of_view_mm, 1, "vector", ("z", "y", "x"), "mm", peak_bytes=0
    ),
    "centroid_mm": Operation(measure.centroid_mm, 1, "vector", ("x", "y", "z"), "mm", peak_bytes=0),
    "regions": Operation(measure.regions, 1, "table", peak_bytes=7),
    "distance_mm": Operation(measure.distance_mm, 1, unit="mm", peak_bytes=8, result_bytes=8),
    # whole heads
    "correct_bias": _of_heads(_image(bias.correct_bias, 24)),
    "skull_distance_mm": _of_heads(
        Operation(heads.skull_distance_mm, 1, unit="mm", result_bytes=4, work=extents.placing)
    ),
    "intracranial_mask": _of_heads(_mask(heads.intracranial_mask, 2)),
    "brain_tissues": _of_heads(
        Operation(heads.brain_tissues, 1, shape=extents.tissues, peak_bytes=32)
    ),
    "brain_mask": _of_heads(_mask(heads.brain_mask, 26)),
    "tissue_volumes_ml": Operation(
        tissue.volumes_ml, 1, "vector", ("csf", "grey", "white"), "ml", peak_bytes=1
    ),
    "affine_volume_ml": _of_heads(_number(heads.affine_volume_ml, 0, unit="ml")),
    "registration_metric": _of_heads(_number(heads.registration_metric, 0)),
    "touches_border": _of_heads(_number(heads.touches_border, 1, unit="voxel")),
    "head_mask": _of_heads(_mask(quality.head_mask, 12)),
    "snr": _of_heads(_number(quality.snr, 5)),
    "cnr": _of_heads(_number(quality.cnr, 13)),
    "efc": _of_heads(_number(quality.efc, 14)),
    "fber": _of_heads(_number(quality.fber, 18)),
    # motion
    "left_ventricle": Operation(motion.left_ventricle, 1, peak_bytes=6, whole=True),
    "volume_curve_ml": Operation(
        motion.volume_curve_ml, 1, unit="ml", peak_bytes=0, result_bytes=0
    ),
    "ejection_fraction": Operation(
        motion.ejection_fraction,
        1,
        "vector",
        motion.HEART,
        ("ml", "ml", "ml", "1", "1", "1", "l/min", "1"),
        peak_bytes=0,
    ),
    "heart_rate_bpm": _number(motion.heart_rate_bpm, 0, unit="1/min"),
    "ventricle_checks": Operation(
        motion.ventricle_checks,
        2,
        "vector",
        motion.CHECKS,
        ("1", "1", "voxel", "1", "1", "1"),
        peak_bytes=1,
    ),
}
