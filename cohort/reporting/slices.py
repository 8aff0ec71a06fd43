"""One slice of a scan as a person looks at it: oriented, at true aspect, with the outline of a mask.

The convention is the radiologists': the patient's right is on the left of the picture, the front (axial) or
the head (coronal, sagittal) is on top, and sagittal slices face left. Which array axis runs which way is read
from the affine, so a scan in any of the 48 axis orders is drawn the same way round.
"""

import base64
import io
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cohort import grid
from cohort.reporting.wording import number

VIEWS: Mapping[str, tuple[str, str, str]] = {
    "axial": ("SI", "A", "R"),
    "coronal": ("AP", "S", "R"),
    "sagittal": ("RL", "S", "A"),
}
"""Plane -> directions of its normal, direction on top of the picture, direction on its left."""

OPPOSITE: Mapping[str, str] = dict(zip("RLAPSI", "LRPAIS", strict=True))

CONVENTION = "Radiological convention: the patient's right side (R) is on the left of the picture."

OUTLINE_RGB = (255, 190, 11)
"""Amber: bright enough to stand out from tissue when printed in grey."""

NOTHING_RGB = (110, 168, 176)
"""Of pixels without a finite number, under stripes of white."""

SEARCH_VOXELS = 1 << 26
"""A mask of more voxels is not read whole to find the slice that shows most of it."""


@dataclass(frozen=True)
class Slice:
    """One slice, turned as it is looked at.

    Parameters
    ----------
    pixels : (rows, columns) float array
        Row 0 is the top of the picture.
    mask : (rows, columns) bool array, or None
    row_mm, column_mm : float
        Height and width of a pixel.
    top, left : str
        Anatomical direction at the upper and left edge (R, L, A, P, S, I).
    dim : str
        Dimension that the slice cuts.
    position_mm : float
        Coordinate of the slice along `dim`.
    labels : (rows, columns) int array, or None
        0 is background.
    """

    pixels: np.ndarray
    mask: np.ndarray | None
    row_mm: float
    column_mm: float
    top: str
    left: str
    dim: str
    position_mm: float
    labels: np.ndarray | None = None

    @property
    def aspect(self) -> float:
        """Height of a pixel over its width: what ``imshow(aspect=...)`` takes."""
        return self.row_mm / self.column_mm

    @property
    def bottom(self) -> str:
        """Anatomical direction at the lower edge."""
        return OPPOSITE[self.top]

    @property
    def right(self) -> str:
        """Anatomical direction at the right edge of the picture."""
        return OPPOSITE[self.left]


def take(
    image: xr.DataArray,
    *,
    plane: str = "axial",
    at_mm: float | None = None,
    mask: xr.DataArray | None = None,
    labels: xr.DataArray | None = None,
) -> Slice:
    """Cut one slice; only the chunks that hold it are read.

    Parameters
    ----------
    image : DataArray, shape (..., z, y, x), any real dtype
        One scan, lazy or in memory. Of leading dims (time, echo) the first entry is shown.
    plane : {"axial", "coronal", "sagittal"}
        The array axis closest to the plane's normal is cut.
    at_mm : float
        Coordinate, mm, along that axis; the nearest slice is taken. The middle one by default.
    mask : DataArray, shape (..., z, y, x), bool or labels
        On the grid of `image`; not 0 counts as inside.
    labels : DataArray, shape (..., z, y, x), bool or integer
        On the grid of `image`, 0 for background.

    Returns
    -------
    Slice
        In memory.

    Raises
    ------
    GridError
        If a dim or a coordinate is missing, `at_mm` lies outside the scan, or mask or labels have another grid.
    TypeError, ValueError
        As `checked`.
    """
    checked(*(each for each in (mask, labels) if each is not None))
    dims = axes_of(image)
    (normal, vertical, horizontal), (top, left) = _view(dims, plane)
    if mask is not None:
        grid.check_same_grid(image=image, mask=mask)
    if labels is not None:
        grid.check_same_grid(image=image, labels=labels)
    index = _index(image, normal, at_mm)
    rows, columns = (grid.spacing_mm(image, (d,))[d] for d in (vertical, horizontal))

    def cut(array: xr.DataArray) -> np.ndarray:
        first: dict[Hashable, int] = {d: 0 for d in array.dims if d not in grid.SPACE}
        flat = array.isel({**first, normal: index}).transpose(vertical, horizontal).to_numpy()
        # An axis whose index grows towards the top (left) of the picture has its last voxel there.
        flat = flat[::-1] if dims[vertical] == top else flat
        return flat[:, ::-1] if dims[horizontal] == left else flat

    return Slice(
        pixels=np.asarray(cut(image), np.float64),
        mask=None if mask is None else cut(mask) != 0,
        labels=None if labels is None else cut(labels).astype(np.int64),
        row_mm=rows,
        column_mm=columns,
        top=top,
        left=left,
        dim=normal,
        position_mm=float(image.coords[normal].values[index]),
    )


def checked(*images: xr.DataArray) -> None:
    """Refuse what is no picture.

    Raises
    ------
    TypeError
        If one is no DataArray.
    ValueError
        If one has no voxel, or complex ones.
    """
    for image in images:
        if not isinstance(image, xr.DataArray):
            raise TypeError(
                f"expected a DataArray with the dims z, y and x, found {type(image).__name__}; "
                "take a variable of a scan, such as scan['image'], or make one by cohort.schema.make_scan(voxels, affine)"
            )
        if not image.size:
            sizes = ", ".join(f"{d} {n}" for d, n in image.sizes.items())
            raise ValueError(f"expected at least one voxel along each dim, found {sizes}")
        if image.dtype.kind == "c":
            raise ValueError(
                f"expected real numbers, found {image.dtype}; draw a part, such as abs(image) or image.real"
            )


def axes_of(image: xr.DataArray) -> dict[str, str]:
    """Anatomical direction in which the index along z, y and x grows, such as ``{"z": "S", "y": "A", "x": "R"}``."""
    checked(image)
    absent = [d for d in grid.SPACE if d not in image.dims]
    if absent:
        dim = absent[0]
        raise grid.GridError(
            f"a scan has the dims z, y and x; this array has {tuple(image.dims)}: cut by a list, image.isel({dim}=[3]), "
            f"or give it back by image.expand_dims({dim!r})"
        )
    return dict(zip("xyz", grid.axis_codes(grid.affine_of(image)), strict=True))


def normal_of(image: xr.DataArray, plane: str) -> str:
    """Dimension that a slice of this plane cuts."""
    (normal, *_), _ = _view(axes_of(image), plane)
    return normal


def sides_of(image: xr.DataArray, plane: str) -> tuple[str, str]:
    """Dimensions that run down and across a picture of this plane."""
    (_, vertical, horizontal), _ = _view(axes_of(image), plane)
    return vertical, horizontal


def _view(dims: Mapping[str, str], plane: str) -> tuple[tuple[str, str, str], tuple[str, str]]:
    """Dims (normal, vertical, horizontal) and directions (top, left) of a plane."""
    if plane not in VIEWS:
        raise ValueError(f"no plane {plane!r}; there are {', '.join(VIEWS)}")
    across, top, left = VIEWS[plane]

    def along(*letters: str) -> str:
        return next(dim for dim, code in dims.items() if code in letters)

    return (along(*across), along(top, OPPOSITE[top]), along(left, OPPOSITE[left])), (top, left)


def _index(image: xr.DataArray, dim: str, at_mm: float | None) -> int:
    values = np.asarray(image.coords[dim].values, float)
    if at_mm is None:
        return values.size // 2
    half = grid.spacing_mm(image, (dim,))[dim] / 2
    if not values.min() - half <= at_mm <= values.max() + half:
        raise grid.GridError(
            f"{dim} = {at_mm:.6g} mm lies outside the scan, which reaches from {values.min():.6g} to {values.max():.6g} mm"
        )
    return int(np.argmin(np.abs(values - at_mm)))


def busiest_mm(mask: xr.DataArray, *, plane: str = "axial") -> float | None:
    """Coordinate, mm, of the slice that shows most of a mask; None if it is empty or too large to search.

    Reads the mask whole when it has at most `SEARCH_VOXELS` voxels, else nothing.
    """
    (normal, *_), _ = _view(axes_of(mask), plane)
    one = mask.isel({d: 0 for d in mask.dims if d not in grid.SPACE})
    if one.size > SEARCH_VOXELS:
        return None
    inside = one.transpose(normal, ...).to_numpy() != 0
    area = inside.sum(axis=(1, 2))
    return float(mask.coords[normal].values[int(area.argmax())]) if area.any() else None


def window(*pixels: np.ndarray) -> tuple[float, float]:
    """Intensities drawn black and white: the 1st and 99.5th percentile of all finite pixels; (0, 1) without any."""
    every = np.concatenate([p[np.isfinite(p)] for p in pixels] or [np.empty(0)])
    if not every.size:
        return 0.0, 1.0
    low, high = np.percentile(every, (1, 99.5))
    return float(low), float(high if high > low else low + max(1.0, 1e-6 * abs(low)))


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels of a 2-D mask that touch its outside (4 neighbours; the border of the picture is outside)."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def tile(cut: Slice, *, size: int) -> np.ndarray:
    """Draw a slice on square pixels, its longer side `size` pixels, with the mask's outline in amber; what is no number is striped.

    Parameters
    ----------
    cut : Slice
    size : int, pixels

    Returns
    -------
    (rows, columns, 3) uint8 array
        ``rows / columns`` is the slice's height over its width in mm, to the nearest pixel.
    """
    from PIL import Image

    height, width = cut.pixels.shape[0] * cut.row_mm, cut.pixels.shape[1] * cut.column_mm
    scale = size / max(height, width)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    low, high = window(cut.pixels)
    filled = np.nan_to_num(cut.pixels, nan=low, posinf=high, neginf=low)
    shades = np.clip((filled - low) / (high - low), 0, 1).astype(np.float32)
    grey = Image.fromarray(shades).resize(target, Image.Resampling.BILINEAR)
    picture = np.repeat((np.asarray(grey)[..., None] * 255).round().astype(np.uint8), 3, axis=2)
    if not (finite := np.isfinite(cut.pixels)).all():
        lacking = Image.fromarray((~finite).astype(np.float32)).resize(target, Image.Resampling.BOX)
        nothing, (rows, columns) = np.asarray(lacking) >= 0.5, np.indices(picture.shape[:2])
        picture[nothing] = NOTHING_RGB
        picture[nothing & ((rows + columns) % 8 < 2)] = 255
    if cut.mask is not None:
        # The outline is drawn on the picture's own pixels, so that it is one pixel wide at any voxel size.
        share = Image.fromarray(cut.mask.astype(np.float32)).resize(target, Image.Resampling.BOX)
        inside = np.asarray(share) >= 0.5
        edge = outline(inside)
        picture[outline(~inside) & ~_border(inside.shape)] //= 2
        picture[edge] = OUTLINE_RGB
    return picture


def place_of(cut: Slice) -> str:
    """Where a slice lies, in words, and whether it shows nothing."""
    where = f"{cut.dim} = {number(cut.position_mm, decimals=1).text} mm"
    return where if np.isfinite(cut.pixels).any() else f"{where}, no finite voxel"


def _border(shape: tuple[int, ...]) -> np.ndarray:
    border = np.ones(shape, bool)
    border[1:-1, 1:-1] = False
    return border


def jpeg_uri(picture: np.ndarray) -> str:
    """A picture, (rows, columns, 3) uint8, as a JPEG data URI (quality 88, colour at full resolution)."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=88, subsampling=0)
    return data_uri(stream.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of media type `kind` as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
