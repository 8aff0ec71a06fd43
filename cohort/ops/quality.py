"""How good an image of a head is: signal, contrast, ghosts and what shines outside of the head.

Defined as in MRIQC [Esteban et al. 2017, doi:10.1371/journal.pone.0184661]. Numbers of one image; compare them over a cohort.
"""

import numpy as np
import xarray as xr
from scipy import ndimage as ndi

from cohort import grid
from cohort.kernels import skull
from cohort.ops.layout import check_image, check_mask, layout_of

_LEAST_SHARE = 0.9
"""Of a tissue in voxels that count as pure."""


def head_mask(image: xr.DataArray) -> xr.DataArray:
    """The head: the largest thing that stands out from the background, its holes filled.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        Brighter than its background. Lazy ones are computed.

    Returns
    -------
    DataArray, shape (z, y, x), bool
        In memory; empty if nothing stands out.

    Raises
    ------
    ValueError
        If the image has other dims than z, y and x.
    """
    mask = ndi.binary_fill_holes(skull.solid(_values(image)))
    found = image.copy(deep=False, data=mask).rename("head")
    found.attrs = {}
    return found


def snr(image: xr.DataArray, tissues: xr.DataArray) -> xr.DataArray:
    """Signal to noise: mean over standard deviation within a tissue, averaged over fluid, grey and white matter.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        Corrected for bias, which counts as noise otherwise.
    tissues : DataArray, shape (tissue, z, y, x)
        Fractions, as `heads.brain_tissues` gives them; voxels of at least 90 % count.

    Returns
    -------
    DataArray, no dims, float64, unit 1
        NaN if a tissue has fewer than two voxels, or no spread.

    Raises
    ------
    ValueError
        If the image has other dims than z, y and x, or `tissues` lacks csf, grey or white.
    GridError
        If the grids differ.

    Notes
    -----
    MRIQC's ``snr_total``: the mean of ``mean / (std sqrt(n / (n - 1)))``.
    """
    found = _by_tissue(image, tissues)
    ratios = [
        mean / (std * np.sqrt(n / (n - 1))) if n > 1 and std > 0 else np.nan
        for n, mean, std in found.values()
    ]
    return _number(np.mean(ratios))


def cnr(
    image: xr.DataArray, tissues: xr.DataArray, *, head: xr.DataArray | None = None
) -> xr.DataArray:
    """Contrast to noise: how far apart grey and white matter are, by their spread and that of the air.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        Corrected for bias, which counts as noise otherwise.
    tissues : DataArray, shape (tissue, z, y, x)
        Fractions, as `heads.brain_tissues` gives them; voxels of at least 90 % count.
    head : DataArray, bool, optional
        Outside of it is air; `head_mask` by default.

    Returns
    -------
    DataArray, no dims, float64, unit 1
        NaN if a tissue has no voxels. Without air around the head, its spread is left out.

    Raises
    ------
    ValueError
        As `snr`; or if `head` is not bool.
    GridError
        If the grids differ.

    Notes
    -----
    ``|m_w - m_g| / sqrt(s_air^2 + s_w^2 + s_g^2)`` [Magnotta and Friedman 2006, doi:10.1007/s10278-006-0264-x], in MRIQC since 0.9.
    """
    found = _by_tissue(image, tissues)
    air = _values(image)[~_inside(image, head)]
    (n_grey, grey, grey_std), (n_white, white, white_std) = found["grey"], found["white"]
    if not (n_grey and n_white):
        return _number(np.nan)
    noise = (air.std(dtype=np.float64) ** 2 if air.size else 0.0) + grey_std**2 + white_std**2
    return _number(abs(white - grey) / np.sqrt(noise) if noise > 0 else np.nan)


def efc(image: xr.DataArray) -> xr.DataArray:
    """Entropy focus criterion: 0 if all energy is in one voxel, 1 if it is everywhere alike; ghosts and blur raise it.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        As scanned. What is below 0 counts as 0.

    Returns
    -------
    DataArray, no dims, float64, unit 1
        NaN if nothing is above 0.

    Raises
    ------
    ValueError
        If the image has other dims than z, y and x.

    Notes
    -----
    Entropy of ``x / sqrt(sum(x^2))`` over its maximum, ``sqrt(N) log(sqrt(N))`` [Atkinson et al. 1997, doi:10.1109/42.650886].
    """
    values = np.maximum(_values(image).astype(np.float64), 0).ravel()
    energy = np.sqrt((values**2).sum())
    if not energy > 0 or values.size < 2:
        return _number(np.nan)
    share = values[values > 0] / energy
    root = np.sqrt(values.size)
    return _number(-(share * np.log(share)).sum() / (root * np.log(root)))


def fber(image: xr.DataArray, *, head: xr.DataArray | None = None) -> xr.DataArray:
    """Foreground to background energy ratio: the median of squares in the head over that outside; ghosts lower it.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        As scanned.
    head : DataArray, bool, optional
        `head_mask` by default.

    Returns
    -------
    DataArray, no dims, float64, unit 1
        NaN if there is no head, no air, or no energy in half of the air (it was set to 0, or to within 1e-9 of it), for which
        MRIQC says -1.

    Raises
    ------
    ValueError
        If the image has other dims than z, y and x, or `head` is not bool.
    GridError
        If the grids differ.

    Notes
    -----
    [Shehzad et al. 2015, doi:10.3389/conf.fnins.2015.91.00047], with MRIQC's medians.
    """
    squares, inside = _values(image).astype(np.float64) ** 2, _inside(image, head)
    if inside.all() or not inside.any():
        return _number(np.nan)
    air, within = np.median(squares[~inside]), np.median(squares[inside])
    return _number(within / air if air > 1e-9 * within else np.nan)


def _values(image: xr.DataArray) -> np.ndarray:
    """Voxels in memory."""
    check_image("image", image)
    layout = layout_of("image", image)
    if layout.dims != grid.SPACE:
        raise ValueError(
            f"image has dims {image.dims}, expected ('z', 'y', 'x'): quality is a number of one image of three dims"
        )
    return image.compute().values


def _inside(image: xr.DataArray, head: xr.DataArray | None) -> np.ndarray:
    if head is None:
        return head_mask(image).values
    check_mask("head", head)
    grid.check_same_grid(image=image, head=head)
    return head.compute().values


def _by_tissue(image: xr.DataArray, tissues: xr.DataArray) -> dict[str, tuple[int, float, float]]:
    """Of each tissue: voxels that are nearly pure, and mean and standard deviation of the image in them."""
    values = _values(image)
    grid.check_same_grid(image=image, tissues=tissues)
    names = [str(name) for name in np.atleast_1d(tissues.coords.get("tissue", ()))]
    if not {"csf", "grey", "white"} <= set(names):
        raise ValueError(
            f"tissues has {', '.join(names) or 'no coordinate tissue'}, expected csf, grey and white, as heads.brain_tissues gives"
        )
    found = {}
    for name in ("csf", "grey", "white"):
        part = values[tissues.sel(tissue=name).compute().values >= _LEAST_SHARE].astype(np.float64)
        found[name] = (
            (part.size, float(part.mean()), float(part.std())) if part.size else (0, np.nan, np.nan)
        )
    return found


def _number(value: object) -> xr.DataArray:
    return xr.DataArray(float(np.asarray(value)), attrs={"units": "1"})
