"""How far a filter looks along each dim, and how a kernel of three axes comes to look along any of them."""

import math
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import halo, stencils
from cohort.kernels.lines import window
from cohort.ops import graph
from cohort.ops.layout import layout_of

FWHM_PER_SIGMA = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


@dataclass(frozen=True)
class Extent:
    """A parameter of a kernel that has a number for each axis. Dims along which the kernel does nothing are left out."""

    parameter: str
    values: Mapping[Hashable, float]
    reach: Mapping[Hashable, int]
    """Voxels that the kernel looks to either side."""
    nothing: float
    """Number that makes the kernel do nothing along an axis."""

    def only(self, dims: Collection[Hashable]) -> "Extent":
        """The same along some dims, nothing along others."""
        values = {d: v for d, v in self.values.items() if d in dims}
        reach = {d: n for d, n in self.reach.items() if d in dims}
        return Extent(self.parameter, values, reach, self.nothing)

    def along(self, axes: Collection[Hashable]) -> tuple[float, ...]:
        """The parameter for a kernel with these axes."""
        return tuple(self.values.get(d, self.nothing) for d in axes)


def check_mode(mode: str) -> None:
    """Raise ValueError unless it says what lies beyond the border."""
    if mode not in halo.MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(halo.MODES)}")


def box(image: xr.DataArray, size: int | Mapping[str, int]) -> Extent:
    """A box of `size` voxels: one number for all spatial dims, or a mapping for the dims it names.

    Raises
    ------
    ValueError
        If a size is no whole number of at least 1, or names a dim that the image lacks.
    """
    sizes = _by_dim(image, "size", size)
    for dim, n in sizes.items():
        if isinstance(n, bool) or not float(n).is_integer() or n < 1:
            raise ValueError(f"size is {n!r} along {dim}, expected a whole number of at least 1")
    far = {d: int(n) for d, n in sizes.items() if n > 1}
    return Extent("size", far, {d: max(window(n)) for d, n in far.items()}, 1)


def weights_box(image: xr.DataArray, shape: tuple[int, ...]) -> Extent:
    """The box that weights of some shape cover: an axis for each spatial dim."""
    space = layout_of("image", image).space
    return box(image, dict(zip(space, shape, strict=True)))


def gaussian_extent(image: xr.DataArray, widths: Mapping[str, Any], truncate: float) -> Extent:
    """Standard deviation in voxels from the one width given of sigma_mm, fwhm_mm and sigma.

    Raises
    ------
    GridError
        If the width is in mm and a coordinate is missing or irregular.
    ValueError
        If there is not exactly one width, or one is negative or not finite, or names a dim that the image lacks or that is not
        in mm; or `truncate` is not positive.
    """
    if not 0 < truncate < math.inf:
        raise ValueError(f"truncate is {truncate}, expected a positive number of sigmas")
    given = {name: value for name, value in widths.items() if value is not None}
    if len(given) != 1:
        listed = " and ".join(f"{name}={value}" for name, value in given.items()) or "none"
        raise ValueError(f"gaussian() takes exactly one of {', '.join(widths)}; found {listed}")
    ((name, value),) = given.items()
    sigma = _by_dim(image, name, value)
    for dim, width in sigma.items():
        if not 0 <= width < math.inf:
            raise ValueError(
                f"{name} is {width} along {dim}, expected a finite number of at least 0"
            )
    if name != "sigma":
        if frames := [d for d in sigma if d not in grid.SPACE]:
            raise ValueError(
                f"{name} names {frames[0]!r}, which is not in mm: give sigma={{{frames[0]!r}: ...}}, in frames"
            )
        spacing = grid.spacing_mm(image, [d for d, width in sigma.items() if width])
        per = FWHM_PER_SIGMA if name == "fwhm_mm" else 1.0
        sigma = {d: sigma[d] / per / mm for d, mm in spacing.items()}
    reach = {d: stencils.gaussian_radius(width, truncate) for d, width in sigma.items()}
    far = {d: n for d, n in reach.items() if n}
    return Extent("sigma", {d: sigma[d] for d in far}, far, 0.0)


def _by_dim(image: xr.DataArray, name: str, value: Any) -> dict[Hashable, Any]:
    """Number for each dim that has one."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(layout_of("image", image).space, value)
    if unknown := [d for d in value if d not in image.dims]:
        raise ValueError(f"{name} names {unknown[0]!r}, but the dims of the image are {image.dims}")
    return {d: value[d] for d in image.dims if d in value}


def stencil(
    kernel: Callable[..., np.ndarray],
    image: xr.DataArray,
    reach: Mapping[Any, int],
    *,
    dtype: np.dtype,
    mode: str,
    mask: xr.DataArray | None = None,
    **params: Any,
) -> xr.DataArray:
    """Apply a kernel of space that sees to the border itself, in a mode that `check_mode` knows."""
    arrays = {"image": image} if mask is None else {"image": image, "mask": mask}
    return graph.map_stencil(
        kernel,
        arrays,
        halo_voxels={str(d): n for d, n in reach.items()},
        dtype=dtype,
        # A block knows what a border mirrors, but it does not have what lies at the far end.
        mode="wrap" if mode == "wrap" else None,
        params={**params, "mode": mode},
    )


def by_axis(
    kernel: Callable[..., np.ndarray], image: xr.DataArray, extent: Extent, **params: Any
) -> xr.DataArray:
    """Apply a kernel that works axis by axis: along leading dims, one after the other, then in space."""
    layout = layout_of("image", image)
    for dim in layout.lead:
        if dim in extent.reach:
            image = at_once(kernel, image, extent.only([dim]), **params)
    rest = extent.only(layout.space)
    return at_once(kernel, image, rest, **params) if rest.reach or not extent.reach else image


def at_once(
    kernel: Callable[..., np.ndarray], image: xr.DataArray, extent: Extent, **params: Any
) -> xr.DataArray:
    """Apply a kernel along all dims of the extent together.

    Raises
    ------
    ValueError
        If these are more than three, and one of them is not spatial.
    """
    layout = layout_of("image", image)
    far = list(extent.reach)
    if not any(d in layout.lead for d in far):
        params[extent.parameter] = extent.along(layout.space)
        return stencil(kernel, image, extent.reach, **params)
    if len(far) > 3:
        raise ValueError(f"the box covers the {len(far)} dims {tuple(far)}, expected at most three")
    # The graph knows three axes, by their names, and loops over all others: lend these names to the dims that matter.
    more = [d for d in reversed(image.dims) if d not in far][: 3 - len(far)]
    axes = [d for d in image.dims if d in (*far, *more)]
    rest = [d for d in image.dims if d not in axes]
    names = grid.SPACE[-len(axes) :]
    turned = xr.DataArray(
        image.variable.transpose(*rest, *axes).data, dims=(*(f"over {d}" for d in rest), *names)
    )
    reach = {name: extent.reach.get(d, 0) for name, d in zip(names, axes, strict=True)}
    params[extent.parameter] = extent.along(axes)
    result = stencil(kernel, turned, reach, **params)
    back = xr.Variable([*rest, *axes], result.data).transpose(*image.dims)
    return image.copy(deep=False, data=back.data)
