"""Very many very small DICOM files, written fast: one slice patched over and over; and what finding them takes."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian
from series import phantom, slice_of

SERIES_UID, INSTANCE_UID = "1.2.826.0.1.3680043.8.498.1000000", "1.2.826.0.1.3680043.8.498.2000000"


def template() -> bytes:
    """A slice of 8 x 8 pixels whose UIDs, patient and position are to be patched, each of a fixed length."""
    volume, affine = phantom(shape=(1, 8, 8))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    dataset = slice_of(
        volume[0], lps, 0, PatientID="P1000000", SeriesInstanceUID=SERIES_UID, SOPInstanceUID=INSTANCE_UID,
        StudyInstanceUID="1.2.3", ImagePositionPatient=["11", "-7.5", "3000000"], EchoTime="10",
    )  # fmt: skip
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    whole = io.BytesIO()
    dcmwrite(whole, dataset, enforce_file_format=True)
    return whole.getvalue()


def write_many(folder: Path, n: int, *, per_series: int = 100) -> None:
    """Write `n` files, a folder a series."""
    raw = template()
    assert raw.count(SERIES_UID.encode()) == 1
    for number in range(n):
        series, place = divmod(number, per_series)
        if place == 0:
            (folder / f"patient-{series:07d}").mkdir(parents=True)
        content = raw.replace(SERIES_UID.encode(), SERIES_UID[:-6].encode() + b"%06d" % series)
        content = content.replace(
            INSTANCE_UID.encode(), INSTANCE_UID[:-6].encode() + b"%06d" % number
        )
        content = content.replace(b"P1000000", b"P1%06d" % series)
        content = content.replace(b"3000000", b"3%06d" % (3 * place))
        with (folder / f"patient-{series:07d}" / f"IM-{number:08d}.dcm").open("wb") as file:
            file.write(content)


PEAK = """
import re, sys
from pathlib import Path
from cohort.io.discover import discover
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
discover([Path(sys.argv[1])])
before = peak()
found = discover([Path(sys.argv[2])])
print(peak() - before, found.n_files, len(found.series), ",".join(r.code for _, r in found.refused))
"""


def peak_bytes(source: Path, *, small: Path) -> tuple[int, int, int, str]:
    """What the discovery of a source takes at its worst, beyond that of a small one, in a process of its own.

    Returns
    -------
    peak : int
        Bytes.
    n_files, n_series : int
    codes : str
        Of the refusals.
    """
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(small), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, n_files, n_series, codes = done.stdout.rstrip("\n").split(" ")
    return int(peak), int(n_files), int(n_series), codes
