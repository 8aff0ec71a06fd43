"""The odd files that pydicom carries for its own tests: each is a scan, or refused, and its pixels are pydicom's."""

from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest

from cohort.io.dicom import read_series, read_slices
from cohort.io.policy import ACCEPTABLE, Policy
from cohort.io.refusal import Refused
from cohort.io.slices.pixels import read_frames

FOLDER = Path(pydicom.data.__file__).parent
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc")
LENIENT = Policy(accept=frozenset(ACCEPTABLE), min_slices=1)


def slices_of(path):
    with path.open("rb") as stream:
        return read_slices(stream, path)


def outcome(path, policy):
    """``scan``, ``none``, or the code of the refusal."""
    try:
        if slices_of(path) is None:
            return "none"
        read_series([path], policy=policy)
    except Refused as refused:
        return refused.code
    return "scan"


@pytest.mark.parametrize("policy", [Policy(), LENIENT], ids=["strict", "lenient"])
def test_each_file_is_a_scan_or_refused(policy):
    found = {path.relative_to(FOLDER).as_posix(): outcome(path, policy) for path in FILES}
    assert len(found) > 150
    scans = {name for name, what in found.items() if what == "scan"}
    if policy.min_slices > 1:
        assert not scans
    else:
        assert {"test_files/CT_small.dcm", "test_files/MR_small_bigendian.dcm"} <= scans
        assert found["test_files/MR_truncated.dcm"] == "DCM-TRUNCATED"
        assert found["test_files/image_dfl.dcm"] == "DCM-NO-GEOMETRY"


GREY = (
    "CT_small",
    "MR_small*",
    "J2K_pixelrep_mismatch",
    "693_J2KI",
    "JPEG2000",
    "JPEGLSNearLossless*",
    "image_dfl",
)


@pytest.mark.parametrize("pattern", GREY)
def test_pixels_are_those_that_pydicom_decodes(pattern):
    compared = 0
    for path in FOLDER.rglob(f"{pattern}.dcm"):
        (header,) = slices_of(path)
        if path.stem == "MR_small_padded":
            continue  # a row too many
        expected = pydicom.dcmread(path).pixel_array
        np.testing.assert_array_equal(next(read_frames(path, [header])), expected)
        compared += 1
    assert compared
