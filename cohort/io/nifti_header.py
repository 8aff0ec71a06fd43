"""Headers of NIfTI files, checked: shape, type, scale, place and time of the voxels, which stay where they are."""

import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import xarray as xr

from cohort import grid
from cohort.io import patience
from cohort.io.gunzip import DamagedGzipError, Gunzip
from cohort.io.nifti_forms import orientation
from cohort.io.nifti_units import Units
from cohort.io.policy import Notes
from cohort.io.refusal import Refused

GZIP = b"\x1f\x8b"
_MAGIC_1 = (b"n+1\0", b"ni1\0")
_MAGIC_2 = (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
_SIZE_1 = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
_SIZE_2 = (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
"""The size of a header, 348 or 540, with which it begins, in either byte order."""

_HEADER_BYTES = 544
"""Enough for any header and the flag of extensions."""

_EXTENSION_BYTES = 64 << 20
"""More than extensions of a header in a file of its own take."""

_ANALYZE_TYPES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Codes of data types that Analyze 7.5 knows."""

MAX_BYTES = 16 << 30
"""Largest volume read, uncompressed: it is held in memory whole, and a few MB of gzip can claim to be any."""

_MOST = float(np.finfo(np.float32).max)
"""What scaled voxels may reach: they are read as float32."""


@dataclass(frozen=True)
class Volume:
    """What the header of a file says, checked.

    Parameters
    ----------
    shape : tuple of int
        (..., z, y, x), stored order; leading axes as in `leading`.
    dtype : dtype
        In the byte order of the file.
    offset : int
        Of the first voxel, in the uncompressed data.
    affine : (4, 4) array
        Stored indices (x, y, z) -> world RAS+ mm.
    scale, intercept : float
        Real value = stored * scale + intercept.
    leading : mapping of dim -> Variable
        Of the axes before z, y, x: ``time``, ``echo``.
    attrs : dict
        What may be stored of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    affine: np.ndarray
    scale: float
    intercept: float
    leading: Mapping[str, xr.Variable]
    attrs: dict[str, Any]

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether stored numbers are not the real ones."""
        return (self.scale, self.intercept) != (1.0, 0.0)

    def check_peak(self, peak: float, path: Path) -> None:
        """Refuse a scale that takes stored numbers of this magnitude out of float32."""
        if (most := peak * abs(self.scale) + abs(self.intercept)) > _MOST:
            raise Refused(
                "NII-SLOPE",
                f"scl_slope {self.scale:.4g} and scl_inter {self.intercept:.4g} make voxels of up to {most:.3g}, "
                f"limit {_MOST:.3g}, in {{0}}",
                fix="repair the scale in the header, or store smaller numbers.",
                files=[path],
            )


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins with `head` is NIfTI-1 or -2, gzipped or not; 1 kB is enough.

    Examples
    --------
    >>> is_nifti(b"not an image")
    False
    """
    return _version(_inflated(head)) > 0


def is_analyze(head: bytes) -> bool:
    """Whether a file that begins with `head` is the header of an Analyze 7.5 image, gzipped or not."""
    head = _inflated(head)
    if len(head) < 348 or head[:4] not in _SIZE_1 or _version(head):
        return False
    order = "little" if head[:4] == _SIZE_1[0] else "big"
    n, code = (int.from_bytes(head[at : at + 2], order) for at in (40, 70))  # type: ignore[arg-type]
    return 1 <= n <= 7 and code in _ANALYZE_TYPES


def is_pair(head: bytes) -> bool:
    """Whether the header of an image says that its voxels are in a file of their own."""
    head = _inflated(head)
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0" or is_analyze(head)


def _inflated(head: bytes) -> bytes:
    """The first kB or less of what a gzip file holds; anything else unchanged."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return b""


def _version(head: bytes) -> int:
    """Version of the NIfTI header; 0 for anything else."""
    if head[344:348] in _MAGIC_1 and head[:4] in _SIZE_1:
        return 1
    return 2 if head[4:12] in _MAGIC_2 and head[:4] in _SIZE_2 else 0


def data_file(path: Path) -> Path:
    """File that holds the voxels of the image with header `path`.

    Raises
    ------
    Refused
        ``NII-NO-PAIR`` if the header says the voxels are elsewhere and they are not there.
    """
    with opened(path) as stream:
        return voxels_beside(path) if is_pair(stream.read(_HEADER_BYTES)) else path


def voxel_files(header: Path) -> list[Path]:
    """Where the voxels of a ``.hdr`` may be: ``.img`` or ``.img.gz``, in the case of its own ending first, then in any.

    Examples
    --------
    >>> [path.name for path in voxel_files(Path("A.HDR"))]
    ['A.IMG', 'A.IMG.GZ', 'A.IMG.gz', 'A.img', 'A.img.gz']
    """
    stem = header.name
    for end in (".gz", ".hdr"):
        if stem.lower().endswith(end):
            stem = stem[: -len(end)]
    lower, upper = [".img", ".img.gz"], [".IMG", ".IMG.GZ", ".IMG.gz"]
    ends = upper + lower if header.name[len(stem) :].startswith(".HDR") else lower + upper
    return [header.with_name(stem + end) for end in ends]


def voxels_beside(path: Path) -> Path:
    """Find the ``.img`` (or ``.img.gz``) that belongs to a ``.hdr``, whatever the case of the endings."""
    beside = voxel_files(path)
    found = next((other for other in beside if other.is_file()), None)
    if found is None:
        raise Refused(
            "NII-NO-PAIR",
            "a header without its voxels: {0} is there, {1} is not",
            fix="copy the .img file beside the .hdr.",
            files=[path, beside[0]],
        )
    return found


def read_volume(path: Path, *, notes: Notes, max_bytes: int = MAX_BYTES) -> Volume:
    """Read and check the header of a NIfTI or Analyze file; the voxels stay where they are."""
    header = _header(path)
    dtype = _dtype(header, path, notes)
    sizes = _sizes(header, path, notes)
    shape = tuple(sizes.values())
    if (n_bytes := math.prod(shape) * dtype.itemsize) > max_bytes:
        raise Refused(
            "NII-TOO-LARGE",
            f"{_by(shape)} voxels of {dtype.itemsize} bytes take {n_bytes / 2**30:.2f} GiB, "
            f"at most {max_bytes / 2**30:.2f} are read: {{0}}",
            fix="check the dimensions; if they are right, give workers more --memory, or crop or split the image.",
            files=[path],
        )
    scale, intercept = _slope(header, path, notes)
    units = Units.of(header)
    affine, source = orientation(header, shape, path, to_mm=units.mm or 1.0, notes=notes)
    units.check_lengths(grid.steps_mm(affine), path, notes)
    leading = _leading(sizes, units, notes)
    attrs: dict[str, Any] = {"orientation_from": source}
    if "time" in leading and units.step_seconds is not None:
        attrs["repetition_time_ms"] = round(units.step_seconds * 1000, 6)
    offset = _offset(header, path)
    volume = Volume(shape, dtype, offset, affine, scale, intercept, leading, attrs)
    if dtype.kind in "iu" and volume.is_scaled:
        volume.check_peak(
            float(max(abs(int(n)) for n in (np.iinfo(dtype).min, np.iinfo(dtype).max))), path
        )
    return volume


def _header(path: Path) -> Any:
    """The header as nibabel structures it, unchanged."""
    with opened(path) as stream:
        head = stream.read(_HEADER_BYTES)
        if is_pair(head):  # a short file of its own, whose checksum stands at its end
            stream.read(_EXTENSION_BYTES)
    version = _version(head)
    size = 540 if head[:4] in _SIZE_2 else 348
    if head[:4] in (*_SIZE_1, *_SIZE_2) and len(head) < size:
        raise Refused(
            "NII-TRUNCATED",
            f"{len(head)} bytes, expected a header of {size}, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    if not version and not is_analyze(head):
        raise Refused(
            "NII-HEADER",
            f"no NIfTI header ({len(head)} bytes) in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    # The order of bytes follows from the size with which a header begins, not from dimensions that may be wrong.
    order = "<" if head[:4] in (_SIZE_1[0], _SIZE_2[0]) else ">"
    kind: Any = (nib.Spm2AnalyzeHeader, nib.Nifti1Header, nib.Nifti2Header)[version]
    return kind(head[:size], endianness=order, check=False)


def _dtype(header: Any, path: Path, notes: Notes) -> np.dtype:
    code = int(header["datatype"])
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = "RGB" if dtype.names else {"V": "unknown"}.get(dtype.kind, dtype.name)
        raise Refused(
            "NII-DTYPE",
            f"voxels of type {'bit' if code == 1 else name} (code {code}), "
            "expected integers or float32 or float64, in {0}",
            fix="convert the image, for example to its magnitude.",
            files=[path],
        )
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        notes.flags.add("bitpix_wrong")
    return dtype.newbyteorder(header.endianness)


def _sizes(header: Any, path: Path, notes: Notes) -> dict[str, int]:
    """Axes in stored order, (..., z, y, x), and their sizes; a fourth or fifth axis of one voxel is dropped."""
    n, *sizes = (int(v) for v in header["dim"])
    dims = sizes[:n] if 1 <= n <= 7 else []
    if not dims or min(dims) < 1:
        raise Refused(
            "NII-DIMS",
            f"dimensions {[n, *sizes]} make no image, in {{0}}",
            fix="copy the file again from its source.",
            files=[path],
        )
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    fifth = notes.policy.fifth_axis
    if len(dims) > 5 or (len(dims) == 5 and fifth is None):
        raise Refused(
            "NII-5D",
            f"{len(dims)} dimensions, {' x '.join(map(str, dims))}, expected 3 or 4, in {{0}}",
            fix="split the file into images of 3 or 4 dimensions"
            + (
                ", or state fifth_axis: echo in the catalog if it is that."
                if len(dims) == 5
                else "."
            ),
            files=[path],
        )
    named = zip(("x", "y", "z", "time", str(fifth)), dims + [1] * (5 - len(dims)), strict=True)
    sizes_by_name = {name: size for name, size in named if name in grid.SPACE or size > 1}
    return dict(reversed(sizes_by_name.items()))


def _slope(header: Any, path: Path, notes: Notes) -> tuple[float, float]:
    """Slope 0 or NaN means: as stored."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        if "magic" in header.keys():  # noqa: SIM118 - not a mapping; Analyze has no slope to leave out
            notes.flags.add("unscaled_slope")
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise Refused(
            "NII-SLOPE",
            f"scl_slope {slope} and scl_inter {intercept} give no numbers, in {{0}}",
            fix="set scl_slope to 1 and scl_inter to 0 if the voxels are unscaled.",
            files=[path],
        )
    if slope < 0:
        notes.flags.add("negative_slope")
    return slope, intercept


def _offset(header: Any, path: Path) -> int:
    """Where the voxels begin: behind the header if that is in the same file."""
    given = float(header["vox_offset"])
    alone = "magic" in header.keys() and header["magic"].item()[:2] == b"n+"  # noqa: SIM118 - not a mapping
    least = header.single_vox_offset if alone else 0
    if not (given >= least and math.isfinite(given) and given == math.floor(given)):
        raise Refused(
            "NII-HEADER",
            f"voxels begin at byte {given:g}, expected a whole number, at least {least}, in {{0}}",
            fix="repair vox_offset in the header, or copy the file again from its source.",
            files=[path],
        )
    return int(header["vox_offset"])


def _leading(sizes: Mapping[str, int], units: Units, notes: Notes) -> dict[str, xr.Variable]:
    """Coordinates of the axes before z, y, x, in order."""
    return {
        name: units.time_axis(n, notes)
        if name == "time"
        else xr.Variable(name, np.arange(1, n + 1), {"units": "1", "basis": "order"})
        for name, n in sizes.items()
        if name not in grid.SPACE
    }


def _by(shape: tuple[int, ...]) -> str:
    """Sizes in the order of the file."""
    return " x ".join(map(str, shape[::-1]))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO | Gunzip]:
    """The uncompressed bytes of a file."""
    with patience.opened(path) as stream:
        gzipped = stream.read(2) == GZIP
        stream.seek(0)
        try:
            yield Gunzip(stream) if gzipped else stream
        except DamagedGzipError as error:
            raise Refused(
                "NII-GZIP",
                f"{error}, in {{0}}",
                fix="copy the file again from its source.",
                files=[path],
            ) from error
