"""Scans as scanners and converters leave them: DICOM series and NIfTI files in several orientations, intact or damaged."""

import gzip
import hashlib
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel import orientations
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from cohort import grid
from cohort.phantom.heads import Head

Damage = Literal["missing slice", "doubled slice", "truncated file"]

PATIENT_NAME = "DOE^NOBODY^REAL"
"""In every DICOM header, so that a test can look for it where it must not be."""

DICOM_AXES = ("LPS", "PIR", "LIA", "LPS")
"""Directions of rows, columns and slices: axial, sagittal, coronal, and axial again."""
NIFTI_AXES = ("RAS", "LAS", "PSR", "LPI")


def write_dicom(
    head: Head, folder: Path, *, axes: str, seed: int, damage: Damage | None = None
) -> None:
    """Write a head as one MR series, one file a slice, under names that mean nothing.

    Parameters
    ----------
    head : Head
    folder : Path
        Made here.
    axes : str
        Anatomical direction, such as ``PIR``, of growing column, row and slice number.
    seed : int
        With the participant's id, what the identifiers and file names are made of.
    damage : {"missing slice", "doubled slice"}, optional
        A slice near the middle is left out, or comes twice with different pixels.
    """
    folder.mkdir(parents=True)
    data, affine = _stored(head, axes)
    lps = grid.LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    identity = f"{seed} {head.subject['participant_id']}"
    common = _header(head, identity)
    common.Columns, common.Rows = data.shape[:2]
    common.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    common.SliceThickness = common.SpacingBetweenSlices = _decimal(spacing[2])
    common.ImageOrientationPatient = [_decimal(v) for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
    middle = data.shape[2] // 2
    numbers = list(range(data.shape[2]))
    if damage == "missing slice":
        numbers.remove(middle)
    for number in numbers:
        pixels = data[:, :, number].T
        _write_slice(folder, common, pixels, lps, number, identity)
        if damage == "doubled slice" and number == middle:
            _write_slice(folder, common, pixels[::-1], lps, number, f"{identity} again")


def _stored(head: Head, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (x, y, z) flipped and transposed to `axes`, and their affine; nothing is resampled."""
    image, affine = head.scan["image"].to_numpy().T, head.scan["affine"].to_numpy()
    turn = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(axes)
    )
    turned = orientations.apply_orientation(image, turn)
    return turned, affine @ orientations.inv_ornt_aff(turn, image.shape)


def _header(head: Head, identity: str) -> Dataset:
    """What all slices of a series share."""
    person, header = head.subject, Dataset()
    header.SOPClassUID = MRImageStorage
    header.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    header.Modality = "MR"
    header.Manufacturer = "cohort"
    header.ManufacturerModelName = "phantom"
    header.MagneticFieldStrength = "3"
    header.PatientName = PATIENT_NAME
    header.PatientID = person["participant_id"]
    header.PatientBirthDate = f"{2024 - int(person['age_years'])}0101"
    header.PatientAge = f"{int(person['age_years']):03d}Y"
    header.PatientSex = person["sex"]
    header.PatientPosition = "HFS"
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = "20240601"
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = "101500"
    header.AccessionNumber = "A0001"
    header.InstitutionName = "Nowhere General Hospital"
    header.StudyInstanceUID = _uid("study", identity)
    header.SeriesInstanceUID = _uid("series", identity)
    header.FrameOfReferenceUID = _uid("frame", identity)
    header.SeriesNumber = 2
    header.SeriesDescription = header.ProtocolName = "T1w head"
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "GR", "MP", ""
    header.MRAcquisitionType = "3D"
    header.RepetitionTime, header.EchoTime = "2300", "2.98"
    header.InversionTime, header.FlipAngle = "900", "9"
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    return header


def _write_slice(
    folder: Path, common: Dataset, pixels: np.ndarray, lps: np.ndarray, number: int, identity: str
) -> None:
    uid = _uid("slice", f"{identity} {number}")
    instance = Dataset(common)
    instance.SOPInstanceUID = uid
    instance.InstanceNumber = number + 1
    instance.ImagePositionPatient = [_decimal(v) for v in (lps @ [0, 0, number, 1])[:3]]
    instance.PixelData = pixels.astype("<u2").tobytes()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = MRImageStorage
    instance.file_meta.MediaStorageSOPInstanceUID = uid
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.save_as(
        folder / hashlib.sha256(uid.encode()).hexdigest()[:12], enforce_file_format=True
    )


def _uid(kind: str, text: str) -> UID:
    """A unique identifier made of 96 bits of a digest, under the root that needs no registration."""
    digest = hashlib.sha256(f"{kind} {text}".encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:12], 'big')}")


def _decimal(value: float) -> str:
    """A number as DICOM writes it, at most 16 characters; ten decimals place a voxel within a nanometre."""
    return f"{value:.10f}".rstrip("0").rstrip(".")


def write_nifti(head: Head, path: Path, *, axes: str, damage: Damage | None = None) -> None:
    """Write a head as one ``.nii.gz``, sform and qform set; with `damage` the last third of the file is missing."""
    path.parent.mkdir(parents=True)
    data, affine = _stored(head, axes)
    image: Any = nib.Nifti1Image(data.astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    content = gzip.compress(image.to_bytes(), compresslevel=3, mtime=0)
    if damage == "truncated file":
        content = content[: 2 * len(content) // 3]
    path.write_bytes(content)
