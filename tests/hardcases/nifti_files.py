"""N10-N21: NIfTI files as streams of bytes: cut, packed, of every type, in pairs, and with things behind them."""

import gzip
import struct
import zlib
from dataclasses import replace

import nibabel as nib
import numpy as np

from hardcases import phantom
from hardcases.nifti import (
    AFFINE,
    FLAT,
    centred,
    content,
    header,
    image,
    one_field_wrong,
    put,
    stored,
    well,
)
from hardcases.truth import Refusal, Scan, Truth, case

DTYPES = (
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float32",
    "float64",
)


@case("N10", "voxels cut short")
def cut(folder):
    path, _ = image(folder)
    path.write_bytes(path.read_bytes()[:-1000])
    return Truth(refused=[Refusal(("NII-TRUNCATED",), (path,))])


@case("N10", "voxels cut short, gzipped whole")
def cut_gzip(folder):
    path = put(folder, content(stored(AFFINE), AFFINE)[:-1000], "scan.nii.gz")
    return Truth(refused=[Refusal(("NII-TRUNCATED",), (path,))])


@case("N10", "a header cut short")
def header_cut(folder):
    path, _ = image(folder)
    path.write_bytes(path.read_bytes()[:200])
    return Truth(refused=[Refusal(("NII-TRUNCATED",), (path,))])


OFFSETS = (
    one_field_wrong("vox_offset inside the header", "NII-HEADER", row="N10", vox_offset=100),
    one_field_wrong("vox_offset past the end", "NII-TRUNCATED", row="N10", vox_offset=1e9),
    one_field_wrong("vox_offset NaN", "NII-HEADER", row="N10", vox_offset=np.nan),
    one_field_wrong("vox_offset negative", "NII-HEADER", row="N10", vox_offset=-352),
)


@case("N10", "vox_offset beyond a gap")
def gap_before_voxels(folder):
    values = stored(AFFINE)
    head = header(values, AFFINE, vox_offset=1024)
    put(folder, head.binaryblock + bytes(1024 - 348) + values.tobytes())
    return Truth(scans=[Scan(affine=AFFINE, values=values.astype(float))])


def _dims(title, dim, *codes, row="N11", name="scan.nii"):
    def make(folder):
        head = header(stored(AFFINE), AFFINE)
        head["dim"] = dim
        path = put(folder, head.binaryblock + bytes(4 + 4000), name)
        return Truth(refused=[Refusal(codes, (path,))])

    return case(row, title)(make)


DIMS = (
    _dims("32767 along seven axes", [7] + [32767] * 7, "NII-5D"),
    _dims("2000 x 2000 x 2000", [3, 2000, 2000, 2000, 1, 1, 1, 1], "NII-TRUNCATED"),
    _dims("an axis of 0", [3, 14, 0, 10, 1, 1, 1, 1], "NII-DIMS"),
    _dims("a negative axis", [3, 14, -12, 10, 1, 1, 1, 1], "NII-DIMS"),
    _dims("no axes", [0, 14, 12, 10, 1, 1, 1, 1], "NII-DIMS"),
    _dims("nine axes", [9, 14, 12, 10, 1, 1, 1, 1], "NII-DIMS"),
    _dims(
        "a small gzip that claims 128 GB", [3, 32000, 32000, 64, 1, 1, 1, 1], "NII-TOO-LARGE",
        row="N12", name="scan.nii.gz",
    ),
)  # fmt: skip


@case("N12", "a gzip that goes on for 256 MB behind the voxels")
def gzip_tail(folder):
    values = stored(AFFINE)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "scan.nii.gz"
    scan = Scan(affine=AFFINE, values=values.astype(float))
    packer = zlib.compressobj(1, wbits=31)
    block = bytes(1 << 24)
    parts = [packer.compress(content(values, AFFINE)), *(packer.compress(block) for _ in range(16))]
    path.write_bytes(b"".join(parts) + packer.flush())
    return Truth(refused=[Refusal(("NII-DIMS",), (path,))], also=[[scan]])


def _gz(folder, change):
    """Write a gzipped scan whose packed bytes `change` spoils."""
    path, scan = image(folder, name="scan.nii.gz")
    raw = bytearray(path.read_bytes())
    path.write_bytes(bytes(change(raw)))
    return path, scan


def _flip(place):
    def change(raw):
        raw[place(len(raw))] ^= 1
        return raw

    return change


def _bad_gzip(row, title, change, *, harmless=False):
    def make(folder):
        path, scan = _gz(folder, change)
        return Truth(refused=[Refusal(("NII-GZIP",), (path,))], also=[[scan]] if harmless else [])

    return case(row, title)(make)


def _stored_flip(raw):
    """One bit of one voxel: the stream inflates as before, only its checksum knows."""
    data = bytearray(gzip.decompress(raw))
    crc = raw[-8:]
    data[1000] ^= 4
    return gzip.compress(bytes(data), mtime=0)[:-8] + crc


GZIPS = (
    _bad_gzip("N13", "a gzip cut in the middle", lambda raw: raw[: len(raw) // 2]),
    _bad_gzip("N13", "a gzip without its last bytes", lambda raw: raw[:-5], harmless=True),
    _bad_gzip("N14", "a gzip with a wrong checksum", _flip(lambda n: n - 7), harmless=True),
    _bad_gzip("N14", "a gzip with a wrong length", _flip(lambda n: n - 2), harmless=True),
    _bad_gzip("N14", "a gzip with a flipped bit in its voxels", _stored_flip),
    _bad_gzip("N14", "a gzip with a flipped bit in the middle", _flip(lambda n: n // 2)),
)


@case("N14", "a gzip with junk behind its end")
def gzip_junk(folder):
    _, scan = _gz(folder, lambda raw: raw + b"junk behind the end")
    return Truth(scans=[replace(scan, flags=frozenset({"trailing_bytes"}))])


@case("N14", "a file with junk behind its voxels")
def junk(folder):
    path, scan = image(folder)
    path.write_bytes(path.read_bytes() + bytes(100))
    return Truth(scans=[replace(scan, flags=frozenset({"trailing_bytes"}))])


@case("N14", "a gzip of two members")
def gzip_members(folder):
    data = content(stored(AFFINE), AFFINE)
    path, scan = image(folder, name="scan.nii.gz")
    path.write_bytes(gzip.compress(data[:900]) + gzip.compress(data[900:]))
    return Truth(scans=[scan])


def _typed(dtype):
    def make(folder):
        values = stored(AFFINE, dtype=dtype)
        if np.dtype(dtype).kind == "f":
            values = values + np.asarray(0.25, dtype)
        put(folder, content(values, AFFINE))
        return Truth(scans=[Scan(affine=AFFINE, values=values.astype(float), dtype=dtype)])

    return case("N15", dtype)(make)


TYPES = tuple(_typed(dtype) for dtype in DTYPES)


@case("N15", "big endian")
def big_endian(folder):
    _, scan = image(folder, order=">")
    return Truth(scans=[scan])


def _strange(title, code, bits, says):
    def make(folder):
        head = header(stored(AFFINE), AFFINE, datatype=code, bitpix=bits)
        path = put(folder, head.binaryblock + bytes(4 + 1680 * bits // 8))
        return Truth(refused=[Refusal(("NII-DTYPE",), (path,), says=says)])

    return case("N16", title)(make)


STRANGE = (
    _strange("complex", 32, 64, "complex"),
    _strange("RGB", 128, 24, "(?i)rgb"),
    _strange("one bit", 1, 1, "1"),
    _strange("float128", 1536, 128, ""),
    _strange("an unknown type", 999, 16, "999"),
)


def _holes(value):
    values = stored(AFFINE, dtype=np.float32)
    values[3:5, 2, 1:4] = value
    return values


@case("N17", "NaN voxels")
def nan(folder):
    put(folder, content(_holes(np.nan), AFFINE))
    scan = Scan(affine=AFFINE, values=_holes(np.nan).astype(float), flags=frozenset({"has_nan"}))
    return Truth(scans=[replace(scan, attrs={"n_nan": 6})])


@case("N17", "an infinite voxel")
def infinite(folder):
    path = put(folder, content(_holes(-np.inf), AFFINE))
    scan = Scan(affine=AFFINE, values=_holes(-np.inf).astype(float))
    return Truth(refused=[Refusal(("NII-INF",), (path,), says="6")], also=[[scan]])


@case("N18", "NIfTI-2")
def nifti2(folder):
    _, scan = image(folder, kind=nib.Nifti2Header)
    return Truth(scans=[scan])


@case("N18", "NIfTI-2, big endian, gzipped")
def nifti2_big(folder):
    _, scan = image(folder, kind=nib.Nifti2Header, order=">", name="scan.nii.gz")
    return Truth(scans=[scan])


def pair(folder, *, end=""):
    """Write a header and its voxels in a file of their own."""
    values = stored(AFFINE)
    head = header(values, AFFINE, magic=b"ni1", vox_offset=0)
    path = put(folder, head.binaryblock + b"\0\0\0\0", f"scan.hdr{end}")
    voxels = put(folder, values.tobytes(), f"scan.img{end}")
    return path, voxels, Scan(affine=AFFINE, values=values.astype(float))


@case("N18", "a pair of files")
def two_files(folder):
    return Truth(scans=[pair(folder)[2]])


@case("N18", "a pair of gzipped files")
def two_gzips(folder):
    return Truth(scans=[pair(folder, end=".gz")[2]])


@case("N18", "a header without its voxels")
def no_voxels(folder):
    path, voxels, _ = pair(folder)
    voxels.unlink()
    return Truth(refused=[Refusal(("NII-NO-PAIR",), (path,), says=r"\.img")])


@case("N18", "voxels without their header")
def no_header(folder):
    path, _, _ = pair(folder)
    path.unlink()
    return Truth(skipped=1)


def _analyze(folder):
    values = stored(FLAT)
    head = nib.AnalyzeHeader()
    head.set_data_dtype(np.int16)
    head.set_data_shape(values.shape[::-1])
    head.set_zooms(phantom.SPACING)
    path = put(folder, head.binaryblock, "scan.hdr")
    put(folder, values.tobytes(), "scan.img")
    return path, Scan(affine=centred(), values=values.astype(float))


@case("N19", "Analyze 7.5")
def analyze(folder):
    path, _ = _analyze(folder)
    return Truth(refused=[Refusal(("NII-NO-ORIENT",), (path,))])


@case("N19", "Analyze 7.5, accepted", accept=["NII-NO-ORIENT", "NII-UNITS"])
def analyze_accepted(folder):
    _, scan = _analyze(folder)
    return Truth(scans=[replace(scan, flags=frozenset({"units_unknown"}))])


def _fifth(folder):
    values = np.stack([stored(AFFINE)[None], stored(AFFINE)[None] + np.int16(5)])
    return put(folder, content(values, AFFINE)), values


@case("N20", "five dimensions")
def five(folder):
    path, values = _fifth(folder)
    whole = Scan(affine=AFFINE, values=values.astype(float))
    return Truth(refused=[Refusal(("NII-5D",), (path,))], also=[[whole]])


@case("N20", "five dimensions, declared as echoes", fifth_axis="echo")
def five_echoes(folder):
    _, values = _fifth(folder)
    return Truth(scans=[Scan(affine=AFFINE, values=values[:, 0].astype(float))])


@case("N20", "five dimensions, the last two of one")
def five_of_one(folder):
    values = stored(AFFINE)
    put(folder, content(values[None, None], AFFINE))
    return Truth(scans=[Scan(affine=AFFINE, values=values.astype(float))])


@case("N21", "a .nii that is gzipped")
def named_plain(folder):
    path, scan = image(folder, name="scan.nii.gz")
    path.rename(folder / "scan.nii")
    return Truth(scans=[scan])


@case("N21", "a .nii.gz that is not")
def named_gzip(folder):
    path, scan = image(folder)
    path.rename(folder / "scan.nii.gz")
    return Truth(scans=[scan])


@case("N21", "an empty .nii")
def empty(folder):
    path = put(folder, b"")
    return Truth(refused=[Refusal(("SRC-EMPTY",), (path,))])


@case("N21", "a text that is called .nii")
def text(folder):
    put(folder, b"no image at all")
    return Truth(skipped=1)


ODD = (well("bitpix wrong", row="N21", bitpix=8, flags=["bitpix_wrong"]),)


@case("N21", "an extension that holds a DICOM header")
def extension(folder):
    values = stored(AFFINE)
    note = struct.pack("<ii", 2032, 2) + b"PATIENT^NAME".ljust(2024, b"\0")
    put(folder, content(values, AFFINE, extension=b"\1\0\0\0" + note, vox_offset=352 + len(note)))
    return Truth(scans=[Scan(affine=AFFINE, values=values.astype(float))])


@case("N21", "an extension whose length is nonsense")
def extension_length(folder):
    values = stored(AFFINE)
    note = struct.pack("<ii", 2**31 - 1, 6) + bytes(8)
    put(folder, content(values, AFFINE, extension=b"\1\0\0\0" + note, vox_offset=352 + len(note)))
    return Truth(scans=[Scan(affine=AFFINE, values=values.astype(float))])
