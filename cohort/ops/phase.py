"""How far one image is shifted against another on the same grid."""

import math

import numpy as np
import xarray as xr

from cohort import grid
from cohort.ops.layout import check_image, layout_of
from cohort.ops.pyramid import RegistrationError, check_values


def phase_shift_mm(moving: xr.DataArray, fixed: xr.DataArray) -> dict[str, float]:
    """Find how far one image is shifted against another on the same grid, to a hundredth of a voxel.

    Parameters
    ----------
    moving, fixed : DataArray, one to three of the dims z, y, x, any real dtype
        Lazy ones are computed.

    Returns
    -------
    {dim: float}
        How far the moving image has to go, mm along each axis towards higher coordinates, less than half of the image:
        ``space.shift(moving, mm=...)`` lies on `fixed`, and `space.stack` takes it as a shift. On a straight grid, axes of the world.

    Raises
    ------
    RegistrationError
        If an image has leading dims, one value only, or values that are not finite.
    GridError
        If the grids differ, or a coordinate is missing or irregular.

    Notes
    -----
    ``skimage.registration.phase_cross_correlation(fixed, moving, upsample_factor=100, normalization=None)`` [Guizar-Sicairos et al.
    2008, doi:10.1364/OL.33.000156]: the highest cross-correlation, found on the phases of the two spectra. Without normalization,
    because that makes frequencies which a smooth image does not hold as loud as those it does: errors of 0.8 instead of 0.08 voxel. What enters or leaves at the borders pulls the shift
    towards 0, by some 0.3 voxel for a scene that fills the image, 0.05 for a head in air.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> y, x = np.ogrid[:30, :40]
    >>> blob = np.exp(-((y - 14) ** 2 + (x - 20) ** 2) / 20)
    >>> fixed = xr.DataArray(blob, coords={"y": 2.0 * np.arange(30), "x": 0.5 * np.arange(40)}, dims=["y", "x"])
    >>> phase_shift_mm(fixed.roll(y=-3, x=2), fixed)
    {'y': 6.0, 'x': -1.0}
    """
    from skimage.registration import phase_cross_correlation

    spectra = []
    for name, image in (("moving", moving), ("fixed", fixed)):
        check_image(name, image)
        if lead := layout_of(name, image).lead:
            raise RegistrationError(
                f"{name} has dims {image.dims}; compare one position along {lead[0]!r}: {name}.isel({lead[0]}=0)"
            )
    grid.check_same_grid(moving=moving, fixed=fixed)
    dims = layout_of("fixed", fixed).space
    if layout_of("moving", moving).space != dims:
        raise grid.GridError(f"moving has dims {moving.dims} but fixed has {fixed.dims}")
    spacing = grid.spacing_mm(fixed, dims)
    for name, image in (("moving", moving), ("fixed", fixed)):
        values = np.asarray(image.values, np.float64)
        check_values(name, values, np.ones(values.shape, np.bool_))
        spectra.append(np.fft.fftn(values))
    found, _, _ = phase_cross_correlation(
        spectra[1], spectra[0], space="fourier", upsample_factor=100, normalization=None
    )
    shift = {}
    for dim, voxels in zip(dims, found.tolist(), strict=True):
        ends = fixed.coords[dim].values[[0, -1]]
        shift[dim] = math.copysign(1.0, ends[1] - ends[0]) * voxels * float(spacing[dim]) + 0.0
    return shift
