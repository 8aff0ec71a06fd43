"""Hard cases: series as scanners, archives and mishaps leave them, made on the spot, each with its truth."""

from hardcases import (
    dicom_archives,
    dicom_copies,
    dicom_damage,
    dicom_files,
    dicom_frames,
    dicom_groups,
    dicom_mosaics,
    dicom_pixels,
    dicom_stacks,
    dicom_times,
    dicom_torn,
    nifti,
    nifti_files,
    tables,
)
from hardcases.truth import cases_of

_MODULES = (
    dicom_stacks,
    dicom_copies,
    dicom_groups,
    dicom_frames,
    dicom_mosaics,
    dicom_times,
    dicom_torn,
    dicom_pixels,
    dicom_damage,
    dicom_files,
    dicom_archives,
    nifti,
    nifti_files,
    tables,
)
CASES = tuple(
    sorted(
        (case for module in _MODULES for case in cases_of(module)),
        key=lambda case: (case.row[0], int(case.row[1:])),
    )
)
"""Every case, by its row in the catalogue."""
