"""N1-N9, N20: what a NIfTI header says of scale, place and time."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np

from hardcases import phantom
from hardcases.truth import Refusal, Scan, Truth, case

AFFINE = phantom.grid("LAS", turn=(0.05, -0.1, 0.08))
"""Voxels (x, y, z) -> RAS mm of most files: oblique, and mirrored as most NIfTI files are."""

FLAT = phantom.grid("LAS")
MM, SECONDS, MILLISECONDS, MICROSECONDS, METRES, MICRONS = 2, 8, 16, 24, 1, 3


def header(
    values, affine, *, kind=nib.Nifti1Header, order="<", units=MM, sform=1, qform=1, **fields
):
    """Header for (..., z, y, x) `values`, every field as told."""
    made = kind(endianness=order)
    made.set_data_dtype(values.dtype)
    made.set_data_shape(values.shape[::-1])
    made.set_sform(affine)
    made.set_qform(affine)
    made["sform_code"], made["qform_code"] = sform, qform
    made["xyzt_units"] = units
    made["scl_slope"], made["scl_inter"] = 1, 0
    made["magic"] = {nib.Nifti1Header: b"n+1", nib.Nifti2Header: b"n+2\0\r\n\x1a\n"}[kind]
    made["vox_offset"] = made.single_vox_offset
    for name, value in fields.items():
        made[name] = value
    return made


def content(values, affine, *, extension=b"\0\0\0\0", order="<", **fields):
    """Bytes of a single file."""
    head = header(values, affine, order=order, **fields)
    return head.binaryblock + extension + values.astype(values.dtype.newbyteorder(order)).tobytes()


def stored(affine, shape=phantom.SHAPE, *, dtype=np.int16, times=None):
    """Values (z, y, x) or (time, z, y, x) in the type of the file."""
    if times is None:
        values = phantom.fill(affine, shape)
    else:
        values = np.stack([phantom.fill(affine, shape, time=t) for t in range(times)])
    return (values // 32 if np.dtype(dtype).itemsize == 1 else values).astype(dtype)


def put(folder, data, name="scan.nii"):
    """Write bytes to a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def image(folder, *, affine=AFFINE, name="scan.nii", dtype=np.int16, times=None, **fields):
    """Write a whole file with some fields changed; give its path and the scan it is."""
    values = stored(affine, dtype=dtype, times=times)
    path = put(folder, content(values, affine, **fields), name)
    return path, Scan(affine=affine, values=values.astype(float), dtype=np.dtype(dtype).name)


def well(title, *, flags=(), attrs=None, change=None, row, catalog=None, **fields):
    def make(folder):
        _, scan = image(folder, **fields)
        if change:
            scan = change(scan)
        return Truth(scans=[replace(scan, flags=frozenset(flags), attrs=attrs or {})])

    return case(row, title, **(catalog or {}))(make)


def one_field_wrong(title, *codes, row, says="", **fields):
    def make(folder):
        path, _ = image(folder, **fields)
        return Truth(refused=[Refusal(codes, (path,), says=says)])

    return case(row, title)(make)


def _scaled(slope, intercept):
    return lambda scan: replace(scan, values=scan.values * slope + intercept)


SLOPES = (
    well("a slope and an intercept", row="N1", scl_slope=0.5, scl_inter=-3, change=_scaled(0.5, -3)),
    well("slope 0", row="N1", scl_slope=0, scl_inter=7, flags=["unscaled_slope"]),
    well("slope NaN", row="N1", scl_slope=np.nan, scl_inter=np.nan, flags=["unscaled_slope"]),
    one_field_wrong("slope infinite", "NII-SLOPE", row="N1", scl_slope=np.inf),
    one_field_wrong("slope valid, intercept NaN", "NII-SLOPE", row="N2", scl_slope=2, scl_inter=np.nan),
    one_field_wrong("slope valid, intercept infinite", "NII-SLOPE", row="N2", scl_slope=2, scl_inter=np.inf),
    well(
        "slope negative", row="N2", scl_slope=-1, scl_inter=4096, change=_scaled(-1, 4096), flags=["negative_slope"]
    ),
)  # fmt: skip

MIRRORED = AFFINE @ np.diag([-1, 1, 1, 1])
NEAR = AFFINE + np.array([[0, 0, 0, 0.6], *np.zeros((3, 4))])
FAR = AFFINE + np.array([[0, 0, 0, 1.4], *np.zeros((3, 4))])


def two_forms(folder, sform, qform):
    """Write a file whose two affines differ; give a scan for each."""
    values = stored(sform)
    head = header(values, sform)
    head.set_qform(qform, code=1)
    path = put(folder, head.binaryblock + b"\0\0\0\0" + values.tobytes())
    real = values.astype(float)
    return path, Scan(affine=sform, values=real), Scan(affine=qform, values=real)


def _forms(title, other, *, prefer=None):
    def make(folder):
        path, sform, qform = two_forms(folder, AFFINE, other)
        if prefer:
            return Truth(scans=[{"sform": sform, "qform": qform}[prefer]])
        return Truth(refused=[Refusal(("NII-FORMS",), (path,))])

    return case("N3", title, **({"prefer": prefer} if prefer else {}))(make)


FORMS = (
    _forms("forms mirrored", MIRRORED),
    _forms("forms 1.4 mm apart", FAR),
    _forms("forms mirrored, sform preferred", MIRRORED, prefer="sform"),
    _forms("forms mirrored, qform preferred", MIRRORED, prefer="qform"),
)


@case("N3", "forms half a millimetre apart")
def near_forms(folder):
    _, sform, _ = two_forms(folder, AFFINE, NEAR)
    return Truth(scans=[sform])


def centred():
    """RAS with the origin in the middle of the volume."""
    affine = np.diag([*phantom.SPACING, 1.0])
    affine[:3, 3] = -(np.array(phantom.SHAPE[::-1]) - 1) / 2 * phantom.SPACING
    return affine


UNCODED = (
    one_field_wrong("neither form coded", "NII-NO-ORIENT", row="N4", sform=0, qform=0),
    well(
        "neither form coded, accepted", row="N4", sform=0, qform=0, catalog={"accept": ["NII-NO-ORIENT"]},
        change=lambda scan: replace(scan, affine=centred()),
    ),
    well("only the qform coded", row="N4", sform=0),
    well("only the sform coded", row="N4", qform=0),
    one_field_wrong("sform of zeros", "NII-SINGULAR", row="N5", srow_x=0, srow_y=0, srow_z=0),
    one_field_wrong("sform with NaN", "NII-SINGULAR", row="N5", srow_x=np.nan),
    one_field_wrong("sform of rank two", "NII-SINGULAR", row="N5", qform=0, srow_z=0),
    one_field_wrong("a quaternion that is none", "NII-SINGULAR", row="N5", sform=0, quatern_b=0.9, quatern_c=0.9),
    well(
        "sform of zeros, qform preferred", row="N5", srow_x=0, srow_y=0, srow_z=0, catalog={"prefer": "qform"}
    ),
)  # fmt: skip


@case("N6", "qfac -1 mirrors")
def qfac_mirrors(folder):
    affine = phantom.grid("RAI")
    _, scan = image(folder, affine=affine, sform=0)
    return Truth(scans=[scan])


def _qfac(value):
    def make(folder):
        affine = phantom.grid("RAS")
        values = stored(affine)
        head = header(values, affine, sform=0)
        head["pixdim"][0] = value
        put(folder, head.binaryblock + b"\0\0\0\0" + values.tobytes())
        scan = Scan(affine=affine, values=values.astype(float), flags=frozenset({"odd_codes"}))
        return Truth(scans=[scan])

    return case("N6", f"qfac {value:g}")(make)


QFAC = (_qfac(0.0), _qfac(7.0))
ODD_CODE = (well("sform_code 99", row="N6", sform=99, qform=0, flags=["odd_codes"]),)


def _pixdim(title, value, *, sform):
    def make(folder):
        values = stored(FLAT)
        head = header(values, FLAT, sform=sform, qform=1 - sform)
        head["pixdim"][3] = value
        path = put(folder, head.binaryblock + b"\0\0\0\0" + values.tobytes())
        if sform:
            flags = frozenset({"pixdim_wrong"})
            return Truth(scans=[Scan(affine=FLAT, values=values.astype(float), flags=flags)])
        return Truth(refused=[Refusal(("NII-SINGULAR",), (path,))])

    return case("N7", title)(make)


PIXDIM = (
    _pixdim("pixdim 0 beside an sform", 0.0, sform=1),
    _pixdim("pixdim NaN beside an sform", np.nan, sform=1),
    _pixdim("pixdim negative beside an sform", -3.0, sform=1),
    _pixdim("pixdim 0 with a qform alone", 0.0, sform=0),
    _pixdim("pixdim NaN with a qform alone", np.nan, sform=0),
)


def _in_unit(factor):
    """Affine whose numbers are in another unit."""
    return np.diag([factor, factor, factor, 1.0]) @ AFFINE


def _unit(title, code, factor, *, flags=(), catalog=None):
    def make(folder):
        values = stored(AFFINE)
        put(folder, content(values, _in_unit(factor), units=code))
        return Truth(
            scans=[Scan(affine=AFFINE, values=values.astype(float), flags=frozenset(flags))]
        )

    return case("N8", title, **(catalog or {}))(make)


UNITS = (
    _unit("microns", MICRONS, 1000.0),
    _unit("metres", METRES, 0.001),
    _unit("no unit, plausible as mm", 0, 1.0, flags=["units_unknown"]),
    _unit("a unit that is none, plausible as mm", 5, 1.0, flags=["units_unknown"]),
)


def _tiny_voxels(folder):
    values, affine = stored(AFFINE), _in_unit(0.001)
    return put(folder, content(values, affine, units=0)), Scan(affine=affine, values=values)


@case("N8", "no unit and voxels of a micron")
def implausible(folder):
    path, _ = _tiny_voxels(folder)
    return Truth(refused=[Refusal(("NII-UNITS",), (path,))])


@case("N8", "no unit and voxels of a micron, accepted", accept=["NII-UNITS"])
def implausible_accepted(folder):
    _, scan = _tiny_voxels(folder)
    return Truth(scans=[replace(scan, flags=frozenset({"units_unknown"}))])


def _repeated(title, code, step, *, row="N9", time=([0, 2.2, 4.4], "s"), flags=()):
    def make(folder):
        values = stored(AFFINE, times=3)
        head = header(values, AFFINE, units=MM + code)
        head["pixdim"][4] = step
        put(folder, head.binaryblock + b"\0\0\0\0" + values.tobytes())
        scan = Scan(
            affine=AFFINE, values=values.astype(float), time=time, dtype="int16", flags=frozenset(flags)
        )  # fmt: skip
        return Truth(scans=[scan])

    return case(row, title)(make)


TIMES = (
    _repeated("TR in seconds", SECONDS, 2.2),
    _repeated("TR in milliseconds", MILLISECONDS, 2200),
    _repeated("TR in microseconds", MICROSECONDS, 2.2e6),
    _repeated(
        "four dimensions, no unit of time", 0, 2.2, row="N20", time=([0, 1, 2], "frame")
    ),
    _repeated(
        "four dimensions, no step in time", SECONDS, 0, row="N20", time=([0, 1, 2], "frame"),
    ),
)  # fmt: skip
