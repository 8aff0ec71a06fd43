"""Headers of NIfTI files, checked: shape, type, scale, place and time of the voxels, which stay where they are."""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import nibabel as nib
import numpy as np
import xarray as xr

from cohort import grid
from cohort.io.gunzip import DamagedGzipError, Gunzip
from cohort.io.refusal import Refused

GZIP = b"\x1f\x8b"
_MAGIC_1 = (b"n+1\0", b"ni1\0")
_MAGIC_2 = (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")
_HEADER_BYTES = 544
"""Enough for either header and the flag of extensions."""

FORMS_MM = 1.0
"""sform and qform may place a corner this far apart and still agree."""

MAX_BYTES = 64 << 30
"""Largest volume taken, uncompressed."""

_TO_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of the unit of length -> mm."""

_TO_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
"""Code of the unit of time -> s."""

_PLAUSIBLE_MM = (0.1, 10.0)
"""Without a unit, voxel sizes in this range are taken as mm."""

Form = Literal["sform", "qform"]


@dataclass(frozen=True)
class Volume:
    """What the header of a file says, checked.

    Parameters
    ----------
    shape : tuple of int
        (z, y, x) or (time, z, y, x), stored order.
    dtype : dtype
        In the byte order of the file.
    offset : int
        Of the first voxel, in the uncompressed data.
    affine : (4, 4) array
        Stored indices (x, y, z) -> world RAS+ mm.
    scale, intercept : float
        Real value = stored * scale + intercept.
    time : Variable, optional
        Of the fourth axis.
    attrs : dict
        What may be stored of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    affine: np.ndarray
    scale: float
    intercept: float
    time: xr.Variable | None
    attrs: dict[str, Any]

    @property
    def n_bytes(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins with `head` is NIfTI-1 or -2, gzipped or not; 1 kB is enough.

    Examples
    --------
    >>> is_nifti(b"not an image")
    False
    """
    return _version(_inflated(head)) > 0


def is_pair(head: bytes) -> bool:
    """Whether a NIfTI header says that its voxels are in a file of their own."""
    head = _inflated(head)
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


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
    if head[344:348] in _MAGIC_1 and head[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return 1
    return 2 if head[4:12] in _MAGIC_2 and head[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c") else 0


def data_file(path: Path) -> Path:
    """File that holds the voxels of the image with header `path`.

    Raises
    ------
    Refused
        ``NII-NO-PAIR`` if the header says the voxels are elsewhere and they are not there.
    """
    with opened(path) as stream:
        return voxels_beside(path) if is_pair(stream.read(_HEADER_BYTES)) else path


def voxels_beside(path: Path) -> Path:
    """Find the ``.img`` (or ``.img.gz``) that belongs to a ``.hdr``."""
    stem = path.name.removesuffix(".gz").removesuffix(".hdr")
    beside = (path.with_name(stem + end) for end in (".img", ".img.gz"))
    found = next((other for other in beside if other.is_file()), None)
    if found is None:
        raise Refused(
            "NII-NO-PAIR",
            "a header without its voxels: no .img beside {0}",
            fix="copy the .img file beside the .hdr.",
            files=[path],
        )
    return found


def read_volume(path: Path, *, prefer: Form | None = None, max_bytes: int = MAX_BYTES) -> Volume:
    """Read and check the header of a NIfTI file; the voxels stay where they are."""
    with opened(path) as stream:
        head = stream.read(_HEADER_BYTES)
    version = _version(head)
    if not version:
        raise Refused(
            "NII-HEADER",
            f"no NIfTI header ({len(head)} bytes) in {{0}}",
            fix="copy the file again; Analyze 7.5 files have no orientation, convert them first.",
            files=[path],
        )
    kind: Any = (nib.Nifti1Header, nib.Nifti2Header)[version - 1]
    header = kind(head[: 348 if version == 1 else 540], check=False)
    dtype = _dtype(header, path)
    shape = _shape(header, path)
    if math.prod(shape) * dtype.itemsize > max_bytes:
        raise Refused(
            "NII-TOO-LARGE",
            f"{' x '.join(map(str, shape[::-1]))} voxels of {dtype.itemsize} bytes, limit {max_bytes} bytes, in {{0}}",
            fix="check the header; raise the limit if the volume is real.",
            files=[path],
        )
    scale, intercept = _slope(header, path)
    space, time = int(header["xyzt_units"]) & 7, int(header["xyzt_units"]) & 56
    affine, source = _orientation(header, shape, path, prefer=prefer, to_mm=_TO_MM.get(space, 1.0))
    attrs: dict[str, Any] = {"orientation_from": source}
    attrs["space_units"] = "mm" if space in _TO_MM else "unknown, taken as mm"
    steps = grid.steps_mm(affine)
    if space not in _TO_MM and not (
        _PLAUSIBLE_MM[0] <= steps.min() and steps.max() <= _PLAUSIBLE_MM[1]
    ):
        raise Refused(
            "NII-UNITS",
            f"no unit of length, and voxels of {' x '.join(f'{s:.4g}' for s in steps)} are not plausible in mm, in {{0}}",
            fix="set xyzt_units in the header.",
            files=[path],
        )
    offset = int(header["vox_offset"]) if header["magic"].tobytes()[:3] in (b"n+1", b"n+2") else 0
    axis = None
    if len(shape) == 4:
        # A float32 in its shortest form: 2.2, not 2.200000047683716.
        step = float(str(header["pixdim"][4]))
        axis = _time_axis(shape[0], step, time)
        if axis.attrs["units"] == "s":
            attrs["repetition_time_ms"] = round(step * _TO_SECONDS[time] * 1000, 6)
    return Volume(shape, dtype, offset, affine, scale, intercept, axis, attrs)


def _dtype(header: Any, path: Path) -> np.dtype:
    try:
        dtype: np.dtype = header.get_data_dtype()
    except (nib.spatialimages.HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        name = "complex" if dtype.kind == "c" else "RGB" if dtype.names else dtype.name
        raise Refused(
            "NII-DTYPE",
            f"voxels of type {name} (code {int(header['datatype'])}), expected integers or float32 or float64, in {{0}}",
            fix="convert the image, for example to its magnitude.",
            files=[path],
        )
    return dtype.newbyteorder(header.endianness)


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    """Stored order, (z, y, x) or (time, z, y, x); trailing axes of one voxel are dropped."""
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
    if len(dims) > 4:
        raise Refused(
            "NII-5D",
            f"{len(dims)} dimensions, {' x '.join(map(str, dims))}, expected 3 or 4, in {{0}}",
            fix="split the file into images of 3 or 4 dimensions.",
            files=[path],
        )
    return tuple((dims + [1] * (3 - len(dims)))[::-1])


def _slope(header: Any, path: Path) -> tuple[float, float]:
    """Slope 0 or NaN means: as stored."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not math.isfinite(slope) or not math.isfinite(intercept):
        raise Refused(
            "NII-SLOPE",
            f"scl_slope {slope} and scl_inter {intercept} give no numbers, in {{0}}",
            fix="set scl_slope to 1 and scl_inter to 0 if the voxels are unscaled.",
            files=[path],
        )
    return slope, intercept


def _orientation(
    header: Any, shape: tuple[int, ...], path: Path, *, prefer: Form | None, to_mm: float
) -> tuple[np.ndarray, str]:
    """Affine in mm and the name of the form it came from."""
    forms: dict[str, np.ndarray | None] = {}
    if header["sform_code"] > 0:
        forms["sform"] = _valid(header.get_sform(), to_mm)
    if header["qform_code"] > 0:
        forms["qform"] = _valid(_qform(header), to_mm)
    if not forms:
        raise Refused(
            "NII-NO-ORIENT",
            "neither sform nor qform is coded, so left and right are unknown, in {0}",
            fix="set sform_code or qform_code from the image's source.",
            files=[path],
        )
    if prefer in forms:
        forms = {prefer: forms[prefer]}
    names = list(forms)
    sform = forms[names[0]]
    if any(form is None for form in forms.values()):
        raise Refused(
            "NII-SINGULAR",
            f"the {next(n for n, form in forms.items() if form is None)} spans no volume, in {{0}}",
            fix="say which form to believe (prefer: sform or qform), or repair the header.",
            files=[path],
        )
    assert sform is not None  # narrowed above
    if len(forms) == 2 and (qform := forms["qform"]) is not None:
        apart = np.linalg.norm(
            grid.corners(sform, shape[-3:]) - grid.corners(qform, shape[-3:]), axis=1
        ).max()
        mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0
        if apart > FORMS_MM or mirrored:
            raise Refused(
                "NII-FORMS",
                f"sform and qform place a corner {apart:.2f} mm apart (tolerance {FORMS_MM:.0f} mm)"
                + (", one mirrored" if mirrored else "")
                + ", in {0}",
                fix="say which to believe (prefer: sform or qform).",
                files=[path],
            )
    return sform, names[0]


def _qform(header: Any) -> np.ndarray | None:
    """Affine of the quaternion; None if it has none. As the standard says, only a qfac of -1 mirrors."""
    header["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        form: np.ndarray = header.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None
    return form


def _valid(affine: np.ndarray | None, to_mm: float) -> np.ndarray | None:
    """Affine in mm; None if it spans no volume."""
    if affine is None or not np.isfinite(affine).all():
        return None
    affine = np.diag([to_mm, to_mm, to_mm, 1.0]) @ np.asarray(affine, float)
    try:
        grid.steps_mm(affine)
    except grid.GridError:
        return None
    return affine


def _time_axis(n: int, step: float, code: int) -> xr.Variable:
    """Seconds if the header has a unit and a step, else frames, and marked so."""
    if code in _TO_SECONDS and math.isfinite(step) and step > 0:
        return xr.Variable(
            "time", np.arange(n) * (step * _TO_SECONDS[code]), {"units": "s", "basis": "pixdim[4]"}
        )
    return xr.Variable("time", np.arange(n, dtype=float), {"units": "frame", "basis": "order"})


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO | Gunzip]:
    """The uncompressed bytes of a file."""
    with path.open("rb") as stream:
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
