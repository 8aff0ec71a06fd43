"""Many slices tiled into one image: Siemens mosaics and United Imaging grids, tile by tile.

Where a tile lies does not stand in its file in so many words. It follows from how many tiles there are, how far apart
the slices are and to which side they run, which only private elements tell. Without them nothing is guessed.

Oracle: dcm2niix (affine and voxels of its own reference series); nibabel's notes on the mosaic and the CSA header.
"""

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement

from cohort.io.refusal import Refused
from cohort.io.slices import elements
from cohort.io.slices.elements import Elements

N_IN_GRID = 0x00651050
"""United Imaging's number of slices in a grid ..."""

_GRID_SLICES = 0x00651051
"""... and the sequence with the position of each."""

_N_IN_MOSAIC = 0x0019100A
_TYPE_TEXT = 0x00211175
"""Siemens' own image type, which says MOSAIC where the public one does not."""

_IMAGE_HEADER, _SERIES_HEADER = 0x10, 0x20
"""Low bytes of Siemens' CSA headers in group 0029, whatever block they are in."""

_PROTOCOL = 0x19
"""Low byte of the protocol in group 0021 of later software."""

_SLICES = re.compile(rb"sSliceArray\.lSize\s*=\s*(\d+)")
_CENTRE = re.compile(
    rb"sSliceArray\.asSlice\[(\d+)\]\.sPosition\.d(Sag|Cor|Tra)\s*=\s*([-+.\deE]+)"
)
_MOST = 4096
"""A protocol plans no more slices."""

_FIX = "export the series again with its private elements, or convert the mosaic on the scanner."


@dataclass(frozen=True)
class Tile:
    """One slice of a tiled image.

    Parameters
    ----------
    box : (top, left, rows, columns)
        Corner of the tile, pixels, and the size of the whole image.
    rows, columns : int
        Size of the tile.
    position : list of 3 floats
        Centre of its first pixel, LPS mm.
    own : Elements
        What stands in the header for this tile alone.
    """

    box: list[int]
    rows: int
    columns: int
    position: list[float]
    own: Elements


@dataclass(frozen=True)
class Image:
    """Geometry of the whole image, as its header gives it, LPS mm."""

    rows: int
    columns: int
    position: Sequence[float]
    orientation: Sequence[float]
    pixel_spacing: Sequence[float]
    slice_distance: float | None


def is_mosaic(root: Elements) -> bool:
    """Whether a header with one frame claims to be a Siemens mosaic."""
    types = [*elements.texts(root, "ImageType"), *elements.texts(root, _TYPE_TEXT)]
    return any("MOSAIC" in word for word in types)


def grid_tiles(image: Image, root: Elements, path: Path) -> list[Tile]:
    """Tiles of a United Imaging grid: as many columns as the root of their number, rounded up, and the rows it takes.

    Raises
    ------
    Refused
        ``DCM-MOSAIC``.
    """
    n = elements.integer(root, N_IN_GRID) or 0
    slices = elements.sequence(root, _GRID_SLICES)
    positions = [elements.numbers(own, "ImagePositionPatient", 3) for own in slices]
    known = [position for position in positions if position]
    if n < 1 or len(known) != n:
        raise _refused(f"a grid of {n} slices gives the positions of {len(known)}: {{0}}", path)
    across = math.ceil(math.sqrt(n))
    boxes = _boxes(image, n, across, -(-n // across), path)
    return [
        Tile(*box, position=position, own=own)
        for box, position, own in zip(boxes, known, slices, strict=True)
    ]


def siemens_tiles(image: Image, root: Elements, path: Path) -> list[Tile]:
    """Tiles of a Siemens mosaic: a square of as many tiles a side as the root of their number, rounded up.

    The position in the header is the corner of a slice as large as the mosaic about the centre of the first one. The
    others follow along the slice normal; to which side, the middle of the protocol's slices tells, or the CSA
    header's normal.

    Raises
    ------
    Refused
        ``DCM-MOSAIC``.
    """
    said = _Said.of(root)
    n = said.number(path)
    side = math.ceil(math.sqrt(n))
    boxes = _boxes(image, n, side, side, path)
    rows, columns = boxes[0][1:]
    row, column = np.reshape(np.asarray(image.orientation, float), (2, 3))
    row_mm, column_mm = image.pixel_spacing
    corner = (
        np.asarray(image.position, float)
        + row * column_mm * (image.columns - columns) / 2
        + column * row_mm * (image.rows - rows) / 2
    )
    centre = corner + row * column_mm * columns / 2 + column * row_mm * rows / 2
    distance = image.slice_distance or said.distance(n)
    if not distance or distance < 0:
        raise _refused("a mosaic whose header does not say how far apart its slices are: {0}", path)
    normal = np.cross(row, column)
    step = distance * said.side(normal, centre, (n - 1) * distance, path) * normal
    return [
        Tile(*box, position=(corner + k * step).tolist(), own={}) for k, box in enumerate(boxes)
    ]


@dataclass(frozen=True)
class _Said:
    """What Siemens' private elements say about the slices of a mosaic."""

    numbers: frozenset[int]
    normal: np.ndarray | None
    centres: np.ndarray
    """(slices, 3), LPS mm, of the slices, or of the one slab, that the protocol planned."""

    @classmethod
    def of(cls, root: Elements) -> "_Said":
        numbers: set[int] = set()
        normal, centres = None, np.empty((0, 3))
        for level in elements.walk(root):
            if n := elements.integer(level, _N_IN_MOSAIC):
                numbers.add(n)
            for group, low, value in _private(level):
                if (group, low) == (0x29, _IMAGE_HEADER):
                    tags = _csa(value)
                    numbers |= {int(n) for n in _items(tags, "NumberOfImagesInMosaic")}
                    vector = _items(tags, "SliceNormalVector")
                    normal = np.array(vector, float) if len(vector) == 3 else normal
                elif (group, low) in ((0x29, _SERIES_HEADER), (0x21, _PROTOCOL)):
                    centres = _planned(value) if not len(centres) else centres
        return cls(frozenset(numbers), normal, centres)

    def number(self, path: Path) -> int:
        """How many slices."""
        if not self.numbers and len(self.centres) > 1:
            return len(self.centres)
        if len(self.numbers) != 1:
            found = " and ".join(map(str, sorted(self.numbers))) or "no number"
            raise _refused(f"a mosaic whose header gives {found} of slices: {{0}}", path)
        return next(iter(self.numbers))

    def distance(self, n: int) -> float | None:
        """Between neighbouring slices, mm."""
        if len(self.centres) != n or n < 2:
            return None
        return float(np.linalg.norm(self.centres[-1] - self.centres[0])) / (n - 1)

    def side(self, normal: np.ndarray, centre: np.ndarray, length: float, path: Path) -> float:
        """Say whether the slices run along the normal, 1, or against it, -1, from the first one at `centre`."""
        if length == 0:
            return 1.0
        sides: set[float] = set()
        if len(self.centres):
            middle = float((self.centres.mean(axis=0) - centre) @ normal)
            # The protocol's slices have to be these; a middle elsewhere says nothing of them.
            if abs(abs(middle) - length / 2) < 0.05 * length:
                sides.add(math.copysign(1, middle))
        if self.normal is not None and (self.numbers or sides):
            sides.add(math.copysign(1, float(self.normal @ normal)))
        if len(sides) != 1:
            found = "both sides" if sides else "no side"
            raise _refused(
                f"a mosaic whose header gives {found} to which its slices run: {{0}}", path
            )
        return sides.pop()


def _private(level: Elements) -> Iterator[tuple[int, int, bytes]]:
    """Group, low byte of the element and value of what may be a CSA header or a protocol."""
    for tag in level.keys():  # noqa: SIM118 - a Dataset yields elements, converted
        if int(tag) >> 16 in (0x21, 0x29):
            found = elements.element(level, int(tag))
            if isinstance(found, RawDataElement) and isinstance(found.value, bytes):
                yield int(tag) >> 16, int(tag) & 0xFF, found.value


def _csa(value: bytes) -> dict[str, Any]:
    """Tags of a CSA header; none if it is damaged."""
    with warnings.catch_warnings():
        # nibabel says of the whole package that it is experimental; of it, only the parser of CSA headers is used.
        warnings.simplefilter("ignore")
        from nibabel.nicom import csareader
    try:
        return dict(csareader.read(value)["tags"])
    # The parser raises whatever the bytes lead it to; a header that cannot be read says nothing.
    except Exception:  # noqa: BLE001
        return {}


def _items(tags: dict[str, Any], name: str) -> list[float]:
    return [float(item) for item in tags.get(name, {}).get("items", []) if item != ""]


def _planned(protocol: bytes) -> np.ndarray:
    """Centres of the slices that a protocol plans; a component that is zero is left out there."""
    found = _SLICES.search(protocol)
    n = int(found[1]) if found else 0
    centres = np.full((n if n <= _MOST else 0, 3), np.nan)
    for match in _CENTRE.finditer(protocol):
        place = int(match[1]), (b"Sag", b"Cor", b"Tra").index(match[2])
        # A header may repeat its protocol; the first one counts.
        if place[0] < len(centres) and np.isnan(centres[place]):
            centres[place] = float(match[3])
    return np.nan_to_num(centres)


def _boxes(
    image: Image, n: int, across: int, down: int, path: Path
) -> list[tuple[list[int], int, int]]:
    """Corner, and rows and columns, of `n` tiles that lie row by row in an image."""
    if image.rows % down or image.columns % across:
        raise _refused(
            f"{image.rows} x {image.columns} pixels do not divide into {down} x {across} tiles for {n} slices: {{0}}",
            path,
        )
    rows, columns = image.rows // down, image.columns // across
    return [
        ([k // across * rows, k % across * columns, image.rows, image.columns], rows, columns)
        for k in range(n)
    ]


def _refused(what: str, path: Path) -> Refused:
    return Refused("DCM-MOSAIC", what, fix=_FIX, files=[path])
