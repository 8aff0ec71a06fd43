"""Where the voxels of a NIfTI file lie: what its sform, its qform and its voxel sizes say, and whether they agree."""

from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from cohort import grid
from cohort.io.policy import Notes
from cohort.io.refusal import Refused

FORMS_MM = 1.0
"""sform and qform may place a corner this far apart and still agree."""

CODES = range(6)
"""What a form may be coded: 0 is "not there"."""

SIZES_RELATIVE = 0.01
"""Voxel sizes may differ from those of the affine by this share of them."""

FARTHEST_MM = 1e5
"""No scanner is a hundred metres wide: such numbers are damage, and coordinates could not be told apart there."""

SMALLEST_MM = 1e-6
"""No voxel is a nanometre wide."""

Form = Literal["sform", "qform"]


def orientation(
    header: Any, shape: tuple[int, ...], path: Path, *, to_mm: float, notes: Notes
) -> tuple[np.ndarray, str]:
    """Affine of an image and what it comes from.

    Parameters
    ----------
    header : nibabel header
        Of NIfTI-1, NIfTI-2 or Analyze 7.5, which has no forms.
    shape : tuple of int
        (..., z, y, x), stored order.
    to_mm : float
        Length of the header's unit, mm.
    notes : Notes
        Its policy may prefer a form, or accept that there is none. Gets the flags ``odd_codes`` (a form's code or the
        handedness of the quaternion is none of those defined) and ``pixdim_wrong`` (voxel sizes of the affine and of the
        header differ by over 1 %).

    Returns
    -------
    affine : (4, 4) float64 array
        Stored indices (x, y, z) -> world RAS+ mm.
    source : {"sform", "qform", "none"}

    Raises
    ------
    Refused
        ``NII-NO-ORIENT``, ``NII-SINGULAR`` or ``NII-FORMS``.
    """
    with np.errstate(all="ignore"):  # what overflows or is no number is refused by `_valid`
        return _orientation(header, shape, path, to_mm, notes)


def _orientation(
    header: Any, shape: tuple[int, ...], path: Path, to_mm: float, notes: Notes
) -> tuple[np.ndarray, str]:
    sizes = np.array(header["pixdim"][1:4], float) * to_mm
    codes = _codes(header, notes)
    if not any(code > 0 for code in codes.values()):
        return _centred(sizes, shape, path, notes, analyze=not codes), "none"
    forms: dict[str, np.ndarray | None] = {}
    if codes["sform"] > 0:
        forms["sform"] = _valid(header.get_sform(), to_mm)
    if codes["qform"] > 0:
        # Beside an sform that it must agree with, the sign of a voxel size is a slip; alone, it is a riddle.
        forms["qform"] = _valid(_qform(header, signed="sform" not in forms), to_mm)
    if (prefer := notes.policy.prefer) in forms:
        forms = {prefer: forms[prefer]}
    names = list(forms)
    valid = [form for form in forms.values() if form is not None]
    if len(valid) < len(forms):
        raise Refused(
            "NII-SINGULAR",
            f"the {next(n for n, form in forms.items() if form is None)} spans no volume "
            f"(voxels of {_by(sizes)} mm), in {{0}}",
            fix="say which form to believe (prefer: sform or qform), or repair the header.",
            files=[path],
        )
    if len(valid) == 2:
        _check_agree(valid[0], valid[1], shape, path)
    lengths = np.sqrt((valid[0][:3, :3] ** 2).sum(axis=0))
    if not (np.abs(np.abs(sizes) - lengths) <= SIZES_RELATIVE * lengths).all() or sizes.min() < 0:
        notes.flags.add("pixdim_wrong")
    return valid[0], names[0]


def _codes(header: Any, notes: Notes) -> dict[str, int]:
    """Code of each form; none for Analyze."""
    if "sform_code" not in header.keys():  # noqa: SIM118 - nibabel's headers do not iterate over keys
        return {}
    codes = {form: int(header[f"{form}_code"]) for form in ("sform", "qform")}
    mirror = codes["qform"] > 0 and header["pixdim"][0] not in (-1, 1)
    if mirror or any(code not in CODES for code in codes.values()):
        notes.flags.add("odd_codes")
    return codes


def _centred(
    sizes: np.ndarray, shape: tuple[int, ...], path: Path, notes: Notes, *, analyze: bool
) -> np.ndarray:
    """RAS axes with the origin in the middle, if the policy accepts that nothing says where voxels lie."""
    what, fix = "neither sform nor qform is coded", "set sform_code or qform_code"
    if analyze:
        what, fix = "an Analyze 7.5 header", "convert the image to NIfTI"
    notes.refuse(
        Refused(
            "NII-NO-ORIENT",
            f"{what}, so left and right are unknown, in {{0}}",
            fix=f"{fix} by what its source says",
            files=[path],
        )
    )
    steps = np.abs(sizes)
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = -steps * (np.array(shape[:-4:-1]) - 1) / 2
    found = _valid(affine, 1.0)
    if found is None:
        raise Refused(
            "NII-SINGULAR",
            f"voxels of {_by(sizes)} mm span no volume, in {{0}}",
            fix="repair the header.",
            files=[path],
        )
    return found


def _qform(header: Any, *, signed: bool) -> np.ndarray | None:
    """Affine of the quaternion; None if it has none. As the standard says, only a qfac of -1 mirrors."""
    copy = header.copy()
    copy["pixdim"][0] = -1 if header["pixdim"][0] == -1 else 1
    if not signed:
        copy["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        form: np.ndarray = copy.get_qform()
    except (ValueError, nib.spatialimages.HeaderDataError):
        return None
    return form


def _valid(affine: np.ndarray | None, to_mm: float) -> np.ndarray | None:
    """Affine in mm; None if it spans no volume."""
    if affine is None or not (np.abs(affine) * to_mm <= FARTHEST_MM).all():  # NaN is not
        return None
    affine = np.diag([to_mm, to_mm, to_mm, 1.0]) @ np.asarray(affine, float)
    try:
        smallest = grid.steps_mm(affine).min()
    except grid.GridError:
        return None
    return affine if smallest >= SMALLEST_MM else None


def _check_agree(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...], path: Path) -> None:
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


def _by(sizes: np.ndarray) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
