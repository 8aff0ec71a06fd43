"""Brain and intracranial space of a whole head in a T1-weighted image, measured against a template, or refused.

A head is registered to the `template` once; `skull_distance_mm` holds what came of it, and everything else stands on it::

    corrected = correct_bias(image)
    distance = skull_distance_mm(corrected)
    intracranial = intracranial_mask(corrected, distance=distance)
    tissues = brain_tissues(corrected, distance=distance)
    brain = brain_mask(corrected, tissues=tissues)

Each of them does by itself what it is not given. A head that cannot be measured, or whose measure is not to be believed, raises
`HeadError`: there is no silent wrong number. Everything runs whole, at once, and gives the same bits for any chunking.
"""

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import skull
from cohort.ops import measure, partial_volume, space
from cohort.ops.bias import correct_bias
from cohort.ops.layout import check_image, check_mask, layout_of
from cohort.ops.register import Registration, register
from cohort.ops.template import CENTER_MM, template

LEAST_EXTENT_MM = 120.0
"""Of a field of view that may hold a whole head."""
WORST_METRIC = -0.45
"""Mutual information, counted negative, above which a registration is not believed. Synthetic heads that were measured well
lie below -0.5, those in a wrong pose or cut at the top above -0.4."""
LEAST_SCALP = 0.1
"""Share of bright voxels around the vault below which there is no scalp."""
INTRACRANIAL_ML = (1000.0, 2100.0)

_LEVELS_MM = (8.0, 4.0)
_NEAR_MM = 9.0
"""Around the intracranial space of the template that registration looks at: bone and the inside of the scalp."""
_SCALE_RANGE = (0.7, 1.6)
_START_SCALE = 0.93
"""Of an ordinary head to the template."""
_START_PITCH = (0.0, -35.0, 35.0)
"""Degrees by which the chin may be lifted or lowered at the starts."""
_TOP_MM = 80.0
"""From the top of a head down to the middle of its skull."""
_WORKING_MM = 2.0
"""Voxels in which the surface is refined, where the image has smaller ones."""


class HeadError(ValueError):
    """An image that holds no whole head, or one that cannot be measured."""


def skull_distance_mm(image: xr.DataArray) -> xr.DataArray:
    """Signed distance to the intracranial surface of a head: negative inside.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        T1-weighted whole head with scalp, without strong bias (see `bias.correct_bias`). Lazy ones are computed.

    Returns
    -------
    DataArray, shape (z, y, x), float32, mm
        On the grid of `image`, in memory. Attributes: ``template_matrix``, 16 floats, row by row, world of the image -> world of the
        template; ``registration_metric`` (Mattes mutual information, counted negative: lower is better); ``affine_volume_ml``, the
        intracranial volume of the template over the matrix's determinant.

    Raises
    ------
    HeadError
        If the image has leading dims, values that are not finite or one value only, shows less than 120 mm along an axis, lacks a
        scalp or the dark bone under it; or the registration is not to be believed.
    GridError
        If a coordinate is missing or irregular.
    ModuleNotFoundError
        Without nilearn; the message says what to install.

    Notes
    -----
    A similarity, then an affine transform by mutual information onto the template with rings of bone and scalp, started from the top of the
    head. Skull and template differ from there by some mm; the surface moves to where half of the voxels around it are brighter than the
    middle of fluid and bone, within 5 mm outwards, 2 mm at the base, where no bone parts the brain from muscle and nerves.
    """
    head = _whole_head(image)
    matrix, found = _placed(head)
    view = _working(head)
    atlas = template()
    above = atlas.skull_mm.coords["z"].broadcast_like(atlas.skull_mm)
    values, start, height = (
        np.asarray(a.values, np.float32)
        for a in (view, *(_from_template(f, matrix, view) for f in (atlas.skull_mm, above)))
    )
    bone, fluid, white = skull.intensities(values, start)
    if not bone < 0.75 * fluid < white:
        raise HeadError(
            f"no dark skull around the brain: bone is {bone:.4g}, fluid {fluid:.4g}, white matter {white:.4g}; expected "
            "a T1-weighted head, bone clearly darker than fluid"
        )
    level = (bone + fluid) / 2
    _check_scalp(values, start, height, level)
    # No bone, or bone too thin to be seen, holds the surface at the base.
    reach = np.clip(2 + np.float32(0.06) * (height + 40), 2, 5)
    spacing = [float(mm) for mm in grid.spacing_mm(view).values()]
    surface = skull.refined(values, start, reach, level=level, spacing=spacing)
    distance = view.copy(deep=False, data=surface)
    if view is not head:
        distance = space.resample(distance, like=head, fill=float(surface.max()))
    distance = distance.astype(np.float32)
    distance.attrs = {
        "units": "mm",
        "template_matrix": matrix.ravel().tolist(),
        "registration_metric": found.metric,
        "affine_volume_ml": atlas.intracranial_ml / found.determinant,
    }
    return distance.rename("skull_distance_mm")


def intracranial_mask(image: xr.DataArray, *, distance: xr.DataArray | None = None) -> xr.DataArray:
    """Everything inside of the skull: brain, ventricles, the fluid and the membranes around.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        T1-weighted whole head. Lazy ones are computed.
    distance : DataArray, optional
        What `skull_distance_mm` gave for it; without, it is corrected for bias and registered here.

    Returns
    -------
    DataArray, shape (z, y, x), bool
        On the grid of `image`, in memory.

    Raises
    ------
    HeadError
        As `skull_distance_mm`; or if the mask touches the border of the image, or its volume lies outside of 1000 to 2100 ml.
    GridError
        If `distance` lies on another grid.
    """
    _, distance = _begun(image, distance)
    mask = distance.copy(deep=False, data=distance.values < 0).rename("intracranial")
    mask.attrs = {}
    volume, (low, high) = float(measure.volume_ml(mask)), INTRACRANIAL_ML
    if cut := int(_border(mask.values)):
        raise HeadError(
            f"the head is cut: its intracranial space ({volume:.0f} ml of it in view) touches the border of the image with "
            f"{cut} voxels"
        )
    if not low <= volume <= high:
        raise HeadError(
            f"the intracranial volume is {volume:.0f} ml, expected {low:.0f} to {high:.0f} ml: the head was not found where it is, "
            "or it is not an adult's"
        )
    return mask


def brain_tissues(
    image: xr.DataArray,
    *,
    distance: xr.DataArray | None = None,
    intracranial: xr.DataArray | None = None,
    atlas: bool = False,
) -> xr.DataArray:
    """Fluid, grey and white matter inside of the skull, as fractions of each voxel.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        T1-weighted whole head. Lazy ones are computed.
    distance : DataArray, optional
        What `skull_distance_mm` gave for it; without, it is corrected for bias and registered here.
    intracranial : DataArray, bool, optional
        Where to look; by default `intracranial_mask`.
    atlas : bool
        Whether grey and white matter of the template say what to expect where. On synthetic heads, which are bent from the same
        template, that helps; on real ones it draws every brain towards the average, atrophied ones most.

    Returns
    -------
    DataArray, shape (tissue, z, y, x), float32, unit 1
        As `partial_volume.head_tissues`, which finds them.

    Raises
    ------
    HeadError
        As `intracranial_mask`.
    ValueError
        If the tissues are not fluid < grey < white, as in T1-weighted images.
    GridError
        If the grids differ.
    """
    image, distance = _begun(image, distance)
    if intracranial is None:
        intracranial = intracranial_mask(image, distance=distance)
    check_mask("intracranial", intracranial)
    maps = atlas_on(distance) if atlas else None
    return partial_volume.head_tissues(image, intracranial.compute(), maps)


def brain_mask(image: xr.DataArray, *, tissues: xr.DataArray | None = None) -> xr.DataArray:
    """Voxels that are at least half grey or white matter.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        T1-weighted whole head. Lazy ones are computed.
    tissues : DataArray, shape (tissue, z, y, x), optional
        What `brain_tissues` gave for it; it is called by default.

    Returns
    -------
    DataArray, shape (z, y, x), bool
        On the grid of `image`; lazy if `tissues` is. The sum of fractions (`tissue.volumes_ml`) tells the volume more precisely.

    Raises
    ------
    HeadError
        As `brain_tissues`.
    """
    found = brain_tissues(image) if tissues is None else tissues
    grid.check_same_grid(image=image, tissues=found)
    matter = found.sel(tissue=["grey", "white"]).sum("tissue")
    brain = (matter >= 0.5).rename("brain")
    brain.attrs = {}
    return brain


def atlas_on(distance: xr.DataArray) -> dict[str, xr.DataArray]:
    """Maps of the template's fluid, grey and white matter on the grid of a head, for `partial_volume.head_tissues`."""
    matrix, atlas = _matrix_of(distance), template()
    grey, white = (_from_template(field, matrix, distance) for field in (atlas.grey, atlas.white))
    return {"csf": (1 - grey - white).clip(0, 1), "grey": grey, "white": white}


def registration_metric(distance: xr.DataArray) -> xr.DataArray:
    """Mutual information of head and template, counted negative: lower is better; nats. Of what `skull_distance_mm` gave.

    Raises
    ------
    ValueError
        If `distance` is none of these.
    """
    return _said(distance, "registration_metric", "1")


def affine_volume_ml(distance: xr.DataArray) -> xr.DataArray:
    """Intracranial volume from the determinant of the affine transform alone, not calibrated, of what `skull_distance_mm` gave.

    As FreeSurfer's eTIV [Buckner et al. 2004, doi:10.1016/j.neuroimage.2004.06.018].

    Raises
    ------
    ValueError
        If `distance` is none of these.
    """
    return _said(distance, "affine_volume_ml", "ml")


def touches_border(mask: xr.DataArray) -> xr.DataArray:
    """Number of voxels of a mask (z, y, x) that lie in an outermost plane of the image. Raises ValueError if it is not bool."""
    check_mask("mask", mask)
    return xr.DataArray(_border(mask.compute().values), attrs={"units": "voxel"})


def _border(mask: np.ndarray) -> int:
    inner = mask[tuple(slice(1, -1) for _ in mask.shape)]
    return int(mask.sum()) - int(inner.sum())


def _said(distance: xr.DataArray, name: str, units: str) -> xr.DataArray:
    _matrix_of(distance)
    return xr.DataArray(float(distance.attrs[name]), attrs={"units": units})


def _begun(image: xr.DataArray, distance: xr.DataArray | None) -> tuple[xr.DataArray, xr.DataArray]:
    """The image, corrected for bias unless there is a distance, and the distance."""
    if distance is None:
        head = _whole_head(image)
        smallest = min(float(mm) for mm in grid.spacing_mm(head).values())
        image = correct_bias(head, shrink=max(1, round(8 / smallest)))
        distance = skull_distance_mm(image)
    _matrix_of(distance)
    grid.check_same_grid(image=image, distance=distance)
    return image.compute(), distance.compute()


def _matrix_of(distance: xr.DataArray) -> np.ndarray:
    """Transform to the template, 4x4, that a distance carries."""
    try:
        return np.reshape(distance.attrs["template_matrix"], (4, 4)).astype(np.float64)
    except KeyError:
        raise HeadError(
            "distance does not say how the head lies in the template: give what skull_distance_mm(image) returned"
        ) from None


def _whole_head(image: xr.DataArray) -> xr.DataArray:
    """An image in memory that may hold a whole head."""
    check_image("image", image)
    layout = layout_of("image", image)
    if layout.lead or layout.space != grid.SPACE:
        first = f": image.isel({layout.lead[0]}=0)" if layout.lead else ""
        raise HeadError(
            f"image has dims {image.dims}, expected ('z', 'y', 'x'); a head is measured in one image of three dims{first}"
        )
    extent = {d: image.sizes[str(d)] * float(mm) for d, mm in grid.spacing_mm(image).items()}
    if min(extent.values()) < LEAST_EXTENT_MM:
        raise HeadError(
            f"image shows {' x '.join(f'{mm:.0f}' for mm in extent.values())} mm (z, y, x), expected a whole head: at least "
            f"{LEAST_EXTENT_MM:.0f} mm along each axis"
        )
    image = image.compute()
    if strays := int((~np.isfinite(image.values)).sum()):
        raise HeadError(
            f"image has {strays} voxels that are not finite; replace them, as with image.fillna(0)"
        )
    if np.ptp(image.values) == 0:
        raise HeadError(f"image is {image.values.flat[0]:g} everywhere: there is no head")
    return image


def _working(image: xr.DataArray) -> xr.DataArray:
    """The image in voxels of 2 mm along axes where it has smaller ones."""
    own = {str(d): float(mm) for d, mm in grid.spacing_mm(image).items()}
    if min(own.values()) > 0.75 * _WORKING_MM:
        return image
    return space.resample(image, spacing_mm={d: max(mm, _WORKING_MM) for d, mm in own.items()})


def _placed(head: xr.DataArray) -> tuple[np.ndarray, Registration]:
    """Transform to the template, and how it was found."""
    atlas = template()
    found = register(
        head,
        atlas.head,
        transform="affine",
        fixed_mask=atlas.skull_mm < _NEAR_MM,
        start=_from_the_top(head),
        levels_mm=_LEVELS_MM,
        scale_range=_SCALE_RANGE,
        check_turns=False,  # the gate below is stricter: it knows how well a head fits
    )
    if not found.accepted:
        raise HeadError(f"the head does not fit the template: {found.reason}")
    if found.metric > WORST_METRIC:
        raise HeadError(
            f"the head does not fit the template: the registration ends with a metric of {found.metric:.3f}, expected "
            f"{WORST_METRIC:g} or less; it may lie upside down or be cut, lack skull and scalp, or be no T1-weighted head"
        )
    return found.matrix, found


def _from_the_top(head: xr.DataArray) -> list[np.ndarray]:
    """Where to begin: the middle of the skull lies so far under the top of the head, and in the middle of what is above the neck."""
    view = space.reorient(head)
    thin = {
        d: slice(None, None, max(1, round(4 / float(mm))))
        for d, mm in grid.spacing_mm(view).items()
    }
    affine, solid = grid.affine_of(view), skull.solid(view.isel(thin).values)
    if not solid.any():
        raise HeadError("image has no head: nothing in it stands out from its background")
    steps = [thin[d].step for d in reversed(grid.SPACE)]
    points = (np.argwhere(solid)[:, ::-1] * steps) @ affine[:3, :3].T + affine[:3, 3]
    top = np.percentile(points[:, 2], 99.9)
    above = points[points[:, 2] > top - 130]
    front, back = np.percentile(above[:, 1], [99, 1])
    middle = np.array([np.median(above[:, 0]), (front + back) / 2, top - _TOP_MM])
    starts = []
    for degrees in _START_PITCH:
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        matrix = np.eye(4)
        matrix[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
        matrix[:3, :3] /= _START_SCALE
        matrix[:3, 3] = CENTER_MM - matrix[:3, :3] @ middle
        starts.append(matrix)
    return starts


def _from_template(field: xr.DataArray, matrix: np.ndarray, like: xr.DataArray) -> xr.DataArray:
    """A field of the template on the grid of a head; far outside what it is at the template's corner."""
    far = float(field.values.flat[0])
    return space.affine(field, np.linalg.inv(matrix), like=like, order=1, fill=far)


def _check_scalp(
    values: np.ndarray, distance: np.ndarray, height: np.ndarray, level: float
) -> None:
    """Raise HeadError if nothing shines around the vault."""
    around = (distance > 4) & (distance < 20) & (height > 0)
    share = float((values[around] > level).mean()) if around.any() else 0.0
    if share < LEAST_SCALP:
        raise HeadError(
            f"there is no scalp around the brain: {share:.1%} of the voxels 4 to 20 mm outside of it are bright, expected at least "
            f"{LEAST_SCALP:.0%}; the image seems to be skull-stripped already, and the skull cannot be measured"
        )
