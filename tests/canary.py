"""A cohort in which every place that could name somebody holds a word of its own, and a search that looks everywhere.

Whatever of these words turns up in something that can be shared has leaked, and says from where.
"""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from cohorts import RECIPE, ball
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from series import phantom, write_series

WORD = "ZQ7CANARY"
"""Begins or makes up every planted text."""

UID = "1.2.826.0.1.3680043.9.77777"
"""Begins every planted UID."""

BORN, SEEN, TIME = "19470413", "20190723", "031415.926535"
NEEDLES = (
    "ZQ7CANARY",
    "3680043.9.77777",
    *("19470413", "1947-04-13", "20190723", "2019-07-23", "13.04.1947", "23.07.2019"),
    "031415.926",
)

TEXTS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
NEEDED = frozenset(
    (
        *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality"),
        *("PhotometricInterpretation", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"),
        *("PixelDataProviderURL", "BurnedInAnnotation", "PresentationLUTShape"),
        # Text that a reader may take for geometry, time or units: set to what a scanner writes.
        *("RescaleType", "VolumetricProperties", "VolumeBasedCalculationTechnique"),
    )
)
"""Left as they are, for the series would be refused for them: `REFUSING` has these."""

REFUSING = {
    "PhotometricInterpretation": WORD,
    "Modality": WORD[:16],
    "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", WORD],
    "SOPClassUID": f"{UID}.1",
    "BurnedInAnnotation": "YES",
    "RescaleType": WORD,
    "PixelSpacing": None,
    "ImagePositionPatient": None,
    "ImageOrientationPatient": None,
    "BitsStored": 7,
}
"""Tags, and values for which a series is refused, skipped or taken otherwise: whatever is said of it must not repeat them."""


def fill(dataset: Dataset, where: str, *, depth: int = 2) -> Dataset:
    """Put the word into every text tag of the dictionary that `dataset` lacks, private tags, sequences, overlay, icon."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword in NEEDED or not keyword or tag in dataset or tag >> 16 <= 2:
            continue
        if vr in TEXTS:
            dataset.add_new(tag, vr, f"{WORD}{where}"[:16])
        elif vr == "UI":
            dataset.add_new(tag, vr, f"{UID}.{tag}")
        elif vr in ("DA", "DT", "TM"):
            dataset.add_new(tag, vr, {"DA": SEEN, "DT": SEEN + TIME, "TM": TIME}[vr])
    dataset.PatientBirthDate = BORN
    for group, creator in ((0x0029, f"{WORD} BLOCK"), (0x0051, "SIEMENS CSA HEADER")):
        block = dataset.private_block(group, creator, create=True)
        block.add_new(1, "LO", f"{WORD} private")
        block.add_new(2, "UN", f"{WORD} bytes".encode())
        block.add_new(0x10, "OB", b"SV10\4\3\2\1" + f"{WORD} csa".encode() + bytes(64))
    pixels = np.frombuffer(f"{WORD} icon".encode().ljust(64, b"\0"), "u1")
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.SamplesPerPixel, icon.BitsAllocated, icon.BitsStored, icon.HighBit = 1, 8, 8, 7
    icon.PhotometricInterpretation, icon.PixelRepresentation = "MONOCHROME2", 0
    icon.PixelData = pixels.tobytes()
    dataset.IconImageSequence = Sequence([icon])
    dataset.add_new(0x60000010, "US", dataset.Rows)
    dataset.add_new(0x60000011, "US", dataset.Columns)
    dataset.add_new(0x60000022, "LO", f"{WORD} overlay")
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", f"{WORD} bits".encode().ljust(16, b"\0"))
    if depth:
        inner = Dataset()
        inner.Rows, inner.Columns = dataset.Rows, dataset.Columns
        dataset.RequestAttributesSequence = Sequence([fill(inner, "SQ", depth=depth - 1)])
    return dataset


def write_dicom(
    folder: Path, number: int, *, slices: int = 7, depth: int = 0, gap: bool = False, **tags
) -> None:
    """Write one series of a subject of its own, filled with the word; with a `gap`, one slice is missing."""
    volume, affine = phantom((slices, 6, 5), seed=number)
    folder, subject = folder / f"{WORD}-{number}", f"{WORD}-{number}"
    files = write_series(
        folder / f"{WORD}_dir{number}", volume, affine,
        PatientID=subject, StudyInstanceUID=f"{UID}.1.{number}", SeriesInstanceUID=f"{UID}.2.{number}",
        SeriesNumber=number, per_slice=lambda n: {"SOPInstanceUID": f"{UID}.3.{number}.{n}"}, **tags,
    )  # fmt: skip
    for path in files:
        dataset = pydicom.dcmread(path)
        fill(dataset, f"{number}", depth=depth)
        dataset.save_as(path)
        path.rename(path.with_name(f"{WORD}_im{path.name}"))
    if gap:
        sorted((folder / f"{WORD}_dir{number}").iterdir())[3].unlink()


def write_nifti(path: Path, data: np.ndarray) -> None:
    """Write a NIfTI file with the word in every text field and two extensions."""
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 3, 1]))
    header = image.header
    header.set_xyzt_units("mm", "sec")
    header["descrip"], header["aux_file"] = f"{WORD} descrip", f"{WORD} aux"
    header["db_name"], header["intent_name"] = f"{WORD} db", f"{WORD} intent"
    for code, text in ((6, f"{WORD} comment {SEEN}"), (4, f"<{WORD}/>")):
        header.extensions.append(nib.nifti1.Nifti1Extension(code, text.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


CATALOG = f"""\
cohort: canary
sources: [{WORD}_sources]
store: {WORD}_place/store
key: keys/key
subject: "(?P<subject>{WORD}-\\\\d+)"
participants: {{table: {WORD}_people.csv, id: ID}}
recipes: [ball]
models:
  size: {{outcome: head_ml, formula: age, confounds: [age]}}
"""


def write_canaries(folder: Path, *, small: bool = False) -> Path:
    """Write a cohort of good, refused and failing series, with its table and catalog; return the catalog.

    A `small` one has a single DICOM series.
    """
    sources = folder / f"{WORD}_sources"
    write_dicom(sources, 1, depth=2)
    if not small:
        write_dicom(sources, 2)
        write_dicom(sources, 3)
        write_dicom(sources, 4, depth=2, gap=True)
        for number, (keyword, value) in enumerate(REFUSING.items(), 10):
            write_dicom(sources, number, slices=4, **{keyword: value})
    for number in range(30, 34):
        write_nifti(sources / f"{WORD}-{number}_T1w.nii.gz", ball(number))
    # A recipe cannot measure where there is nothing, and fails.
    write_nifti(sources / f"{WORD}-34_T1w.nii.gz", np.zeros((19, 22, 17), np.int16))
    cut = sources / f"{WORD}-35_T1w.nii.gz"
    write_nifti(cut, ball(35))
    cut.write_bytes(cut.read_bytes()[:-30])
    (sources / f"{WORD}.txt").write_text(f"{WORD}\n", encoding="utf-8")
    people = [f"{WORD}-{n},{30 + n}" for n in (1, 2, 3, 4, 30, 31, 32, 33, 34, 99)]
    (folder / f"{WORD}_people.csv").write_text("\n".join(["ID,age", *people]) + "\n", "utf-8")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "ball.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "catalog.yaml").write_text(CATALOG, encoding="utf-8")
    return folder / "catalog.yaml"


# --- the search --------------------------------------------------------------------------------------------------------


def hits_in_bytes(data: bytes) -> list[str]:
    """Planted words in bytes: as they are, without regard to case, one character a byte or two."""
    plain = data.lower()
    return [
        needle
        for needle in NEEDLES
        if needle.lower().encode() in plain or needle.lower().encode("utf-16-le") in plain
    ]


def hits_in_text(text: str) -> list[str]:
    """Planted words in a text."""
    return hits_in_bytes(text.encode("utf-8", "surrogatepass"))


def hits_in_store(root: Path) -> list[tuple[str, str]]:
    """(file, word) for every planted word in a store: names, bytes, and what the bytes stand for."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        found += [(name, word) for word in hits_in_text(name)]
        if path.is_file():
            content = path.read_bytes()
            for part in (content, *_decoded(path, content)):
                found += [(name, word) for word in hits_in_bytes(part)]
    return found


def _decoded(path: Path, content: bytes) -> Iterator[bytes]:
    """What is written in another way than as plain bytes."""
    if path.suffix in (".json", ".jsonl"):
        for line in content.splitlines() if path.suffix == ".jsonl" else [content]:
            yield json.dumps(json.loads(line), ensure_ascii=False).encode()
    elif path.suffix == ".parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(content))
        yield str(table.schema.metadata).encode()
        for column in table.column_names:
            yield f"{column} {table[column].to_pylist()}".encode("utf-8", "surrogatepass")
    elif path.suffix == ".html":
        for picture in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
            yield base64.b64decode(picture)
    if path.name == "zarr.json" and b'"array"' in content:
        import zarr

        values = np.ascontiguousarray(zarr.open_array(path.parent, mode="r")[...])
        yield values.tobytes()
        if values.dtype.kind in "iuf" and values.dtype.itemsize > 2:
            yield np.clip(np.nan_to_num(values), 0, 255).astype("u1").tobytes()
