"""DICOM series, made on the spot: slices of a known volume, written as a scanner would, and ways to spoil them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
CODECS = {
    "1.2.840.10008.1.2.4.70": (lambda m: m.ljpeg_encode, {}),
    "1.2.840.10008.1.2.4.90": (
        lambda m: m.jpeg2k_encode,
        {"level": 0, "reversible": True, "codecformat": "j2k"},
    ),
    "1.2.840.10008.1.2.4.201": (lambda m: m.htj2k_encode, {}),
}
"""Syntaxes that pydicom cannot write: encoder and its options, without loss."""

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")

SPACING = (3.0, 0.9, 1.2)
"""mm along z, y, x: never isotropic."""


def phantom(shape=(7, 6, 5), *, dtype=np.int16, seed=0):
    """Canonical volume (z, y, x) without any symmetry, and its affine (voxels x, y, z -> RAS mm)."""
    rng = np.random.default_rng(seed)
    high = min(np.iinfo(dtype).max, 2000)
    affine = np.diag([*SPACING[::-1], 1.0])
    affine[:3, 3] = (-11.0, 7.5, 20.25)
    return rng.integers(0, high, shape).astype(dtype), affine


def as_stored(canonical, affine, codes):
    """The same voxels in the order of a scanner whose columns, rows and slices run towards `codes`."""
    target = nib.orientations.axcodes2ornt(codes)
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target)
    xyz = nib.orientations.apply_orientation(canonical.T, change)
    shape = canonical.shape[::-1]
    return xyz.T, affine @ nib.orientations.inv_ornt_aff(change, shape)


def write_series(
    folder: Path,
    volume,
    affine,
    *,
    per_slice=lambda number: {},
    names=None,
    syntax=None,
    **tags: Any,
) -> list[Path]:
    """Write each slice of `volume` (slice, row, column) to a file.

    `affine` takes (column, row, slice) to RAS mm. `tags` go into every file, what `per_slice(number)` returns
    into that one; a value of None removes a tag. `names` orders the files' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    identity = {
        "SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "PatientID": "P1"
    }  # fmt: skip
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    names = range(len(volume)) if names is None else names
    files = []
    for number, (pixels, name) in enumerate(zip(volume, names, strict=True)):
        dataset = slice_of(pixels, lps, number, **(identity | tags | dict(per_slice(number))))
        files.append(save(dataset, folder / f"{name:03d}.dcm", syntax=syntax))
    return files


def slice_of(pixels, lps, number, **tags: Any) -> Dataset:
    """One slice as a Dataset; `lps` takes (column, row, slice) to LPS mm."""
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = np.concatenate([lps[:3, 0] / lengths[0], lps[:3, 1] / lengths[1]])
    bits = 8 * pixels.dtype.itemsize
    values: Mapping[str, Any] = {
        "SOPClassUID": MR,
        "SOPInstanceUID": generate_uid(),
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "SeriesNumber": 4,
        "InstanceNumber": number + 1,
        "ImageOrientationPatient": decimal(cosines),
        "ImagePositionPatient": decimal((lps @ [0, 0, number, 1])[:3]),
        "PixelSpacing": decimal([lengths[1], lengths[0]]),
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **tags,
    }
    dataset = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    return dataset


def decimal(values) -> list[str]:
    """Decimal strings of at most 16 characters, as the standard has them."""
    texts = [format_number_as_ds(float(value)) for value in values]
    # pydicom writes 17 of some numbers that are nearly nothing.
    return [t if len(t) <= 16 else f"{v:.8g}" for t, v in zip(texts, values, strict=True)]


def save(dataset: Dataset, path: Path, *, syntax=None) -> Path:
    """Write a Dataset whose pixels are little endian, in a native or compressed transfer syntax."""
    syntax = syntax or ExplicitVRLittleEndian
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if syntax == "1.2.840.10008.1.2.2":
        words = np.frombuffer(dataset.PixelData, "<u2" if dataset.BitsAllocated == 16 else "u1")
        dataset.PixelData = words.byteswap().tobytes()
    if syntax in NATIVE:
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax in CODECS:
        import imagecodecs

        dtype = f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}"
        pixels = np.frombuffer(dataset.PixelData, dtype)[: dataset.Rows * dataset.Columns]
        codec, options = CODECS[syntax]
        frame = codec(imagecodecs)(pixels.reshape(dataset.Rows, dataset.Columns), **options)
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(path, enforce_file_format=True)
    return path
