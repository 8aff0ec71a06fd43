"""D37, D38, D40, D44, D45, D47, D48: what lies around the slices, and whose they are."""

import unicodedata
from dataclasses import replace

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid
from series import CT, MR, save, slice_of

from hardcases import phantom
from hardcases.dicom_frames import item
from hardcases.dicom_pixels import rewrite
from hardcases.dicom_stacks import write
from hardcases.truth import Refusal, Truth, case

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
WITHOUT_PIXELS = {
    "report": "1.2.840.10008.5.1.4.1.1.88.22",
    "structures": "1.2.840.10008.5.1.4.1.1.481.3",
    "plan": "1.2.840.10008.5.1.4.1.1.481.5",
    "presentation": "1.2.840.10008.5.1.4.1.1.11.1",
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",
    "raw": "1.2.840.10008.5.1.4.1.1.66",
}
SMALL = (4, 5, 6)


def small(folder, codes="LPS", *, time=0.0, **options):
    """Write a series of four slices."""
    affine = phantom.grid(codes, shape=SMALL)
    return write(folder, affine, phantom.fill(affine, SMALL, time=time), **options)


@case("D37", "no extensions, and other files in the folder")
def other_files(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    for path in files:
        path.rename(path.with_suffix(""))
    (folder / "notes.txt").write_text("slices of P1")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(2000))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000))
    (folder / "image.dcm").write_text("no image at all")
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n" + bytes(500))
    return Truth(scans=[scan], skipped=6)


@case("D37", "a text file whose 128th byte says DICM")
def impostor(folder):
    _, scan = write(folder, phantom.grid("LPS"))
    (folder / "impostor").write_bytes(b"x" * 128 + b"DICM" + b"no element follows" * 20)
    return Truth(scans=[scan], skipped=1)


@case("D38", "a DICOMDIR whose entries lead out of the folder")
def dicomdir(folder):
    _, scan = write(folder / "IMAGES", phantom.grid("LPS"))
    index = Dataset()
    index.SOPClassUID, index.SOPInstanceUID = MediaStorageDirectoryStorage, generate_uid()
    index.FileSetID = "MEDIA"
    with pydicom.config.disable_value_validation():
        records = [
            item(
                OffsetOfTheNextDirectoryRecord=0, RecordInUseFlag=0xFFFF,
                OffsetOfReferencedLowerLevelDirectoryEntity=0, DirectoryRecordType="IMAGE",
                ReferencedFileID=["..", "..", "OUTSIDE"], ReferencedSOPClassUIDInFile=MR,
            )
            for _ in range(10)
        ]  # fmt: skip
        index.DirectoryRecordSequence = Sequence(records)
        index.file_meta = FileMetaDataset()
        index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        index.file_meta.MediaStorageSOPInstanceUID = index.SOPInstanceUID
        index.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return Truth(scans=[scan], skipped=1)


@case("D40", "a colour capture beside a series")
def colour_capture(folder):
    _, scan = write(folder, phantom.grid("LPS"))
    pixels = np.zeros((12, 14 * 3), np.uint8)
    pixels[:] = np.arange(42)
    dataset = slice_of(
        pixels, np.eye(4), 0, SOPClassUID=SECONDARY_CAPTURE, Modality="OT", SamplesPerPixel=3, Columns=14,
        PhotometricInterpretation="RGB", PlanarConfiguration=0, SeriesInstanceUID=generate_uid(), PatientID="P1",
        StudyInstanceUID=generate_uid(), ImageOrientationPatient=None, ImagePositionPatient=None,
        PixelSpacing=None,
    )  # fmt: skip
    save(dataset, folder / "capture.dcm")
    return Truth(scans=[scan], skipped=1)


def _colour_series(folder):
    files, _ = write(
        folder, phantom.grid("LPS"), SOPClassUID=SECONDARY_CAPTURE, Modality="OT", BitsAllocated=8,
        BitsStored=8, HighBit=7,
    )  # fmt: skip
    for path in files:

        def change(dataset):
            dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
            dataset.PhotometricInterpretation = "RGB"
            dataset.PixelData = bytes(range(252)) * 2

        rewrite(path, change)
    return files


@case("D40", "a series of colour captures with positions")
def colour_series(folder):
    return Truth(skipped=len(_colour_series(folder)))


@case("D40", "a series of grey captures with positions")
def grey_captures(folder):
    files, scan = write(folder, phantom.grid("LPS"), SOPClassUID=SECONDARY_CAPTURE, Modality="OT")
    return Truth(skipped=len(files), also=[[scan]])


@case("D40", "grey captures, accepted", accept=["DCM-CAPTURE"])
def grey_captures_accepted(folder):
    _, scan = write(folder, phantom.grid("LPS"), SOPClassUID=SECONDARY_CAPTURE, Modality="OT")
    return Truth(scans=[scan])


MPR = ["DERIVED", "SECONDARY", "MPR"]


@case("D40", "a reformatted series beside its source")
def reformatted(folder):
    _, scan = write(folder / "a", phantom.grid("LPS"), SOPClassUID=CT, Modality="CT")
    files, again = write(
        folder / "b", phantom.grid("LIP"), SOPClassUID=CT, Modality="CT", ImageType=MPR
    )
    return Truth(scans=[scan], skipped=len(files), also=[[scan, again]])


@case("D40", "objects without pixels")
def without_pixels(folder):
    _, scan = write(folder, phantom.grid("LPS"))
    for name, sop_class in WITHOUT_PIXELS.items():
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = generate_uid(), generate_uid()
        dataset.PatientID, dataset.Modality = "P1", "SR"
        save(dataset, folder / f"{name}.dcm")
    return Truth(scans=[scan], skipped=len(WITHOUT_PIXELS))


@case("D40", "annotation burned in")
def burned_in(folder):
    files, scan = write(folder, phantom.grid("LPS"), BurnedInAnnotation="YES")
    return Truth(refused=[Refusal(("DCM-BURNED-IN",), (tuple(files),))], also=[[scan]])


@case("D40", "annotation burned in, accepted", accept=["DCM-BURNED-IN"])
def burned_in_accepted(folder):
    _, scan = write(folder, phantom.grid("LPS"), BurnedInAnnotation="YES")
    return Truth(scans=[scan])


def _years(expected):
    def check(found):
        return found is not None and abs(found - expected) < 0.006

    return check


def _absent(found):
    return found is None


BIRTH = {"PatientBirthDate": "19500615", "AcquisitionDate": "20200615", "StudyDate": "20220615"}
AGES = {
    "years": ({"PatientAge": "065Y"}, {"age_years": _years(65), "age_capped": False}),
    "months": ({"PatientAge": "018M"}, {"age_years": _years(1.5)}),
    "weeks": ({"PatientAge": "012W"}, {"age_years": _years(12 * 7 / 365.25)}),
    "days": ({"PatientAge": "003D"}, {"age_years": _years(3 / 365.25)}),
    "bare": ({"PatientAge": "65"}, {"age_years": _absent}),
    "blank": ({"PatientAge": " 65Y"}, {"age_years": _years(65)}),
    "none": ({}, {"age_years": _absent}),
    "birth": (BIRTH, {"age_years": _years(70)}),
    "barebirth": (BIRTH | {"PatientAge": "70"}, {"age_years": _years(70)}),
    "ninety": ({"PatientAge": "090Y"}, {"age_years": 90.0, "age_capped": True}),
    "old": ({"PatientAge": "101Y"}, {"age_years": 90.0, "age_capped": True}),
    "eightynine": ({"PatientAge": "089Y"}, {"age_years": _years(89), "age_capped": False}),
}
"""What the header says of the age -> what the scan says."""


@case("D44", "PatientAge in every form")
def ages(folder):
    scans = []
    for who, (tags, attrs) in AGES.items():

        def change(dataset, tags=tags):
            for keyword, value in tags.items():
                dataset.add_new(pydicom.datadict.tag_for_keyword(keyword), "LO", value)
                dataset[keyword].VR = pydicom.datadict.dictionary_VR(keyword)

        with pydicom.config.disable_value_validation():
            files, scan = small(folder / who, PatientID=who, time=len(scans))
            for path in files:
                rewrite(path, change)
        scans.append(replace(scan, attrs=attrs))
    return Truth(scans=scans)


@case("D45", "age and birth date in the header disagree")
def ages_disagree(folder):
    _, scan = small(folder, PatientAge="055Y", **BIRTH)
    return Truth(scans=[replace(scan, flags=frozenset({"age_conflict"}))])


@case("D47", "names in other character sets")
def character_sets(folder):
    scans = []
    for who, charset in (
        ("Müller", "ISO_IR 100"),
        ("Иванов", "ISO_IR 144"),
        ("山田", ["", "ISO 2022 IR 87"]),
        ("Ångström", "ISO_IR 192"),
    ):
        _, scan = small(
            folder / str(len(scans)), PatientID=who, PatientName=who, SpecificCharacterSet=charset,
            time=len(scans),
        )  # fmt: skip
        scans.append(replace(scan, subject=None))
    return Truth(scans=scans)


@case("D47", "one id composed and decomposed, and padded with blanks")
def normal_forms(folder):
    scans = []
    name = "Jose\u0301 1"
    for who in (
        unicodedata.normalize("NFC", name),
        unicodedata.normalize("NFD", name),
        name + "  ",
    ):
        _, scan = small(
            folder / str(len(scans)), PatientID=who, SpecificCharacterSet="ISO_IR 192", time=len(scans)
        )  # fmt: skip
        scans.append(replace(scan, subject=None))
    return Truth(scans=scans, subjects=1)


@case("D47", "two ids that differ in their case alone")
def case_only(folder):
    files, scans = [], []
    for number, who in enumerate(("abc1", "ABC1")):
        found, scan = small(folder / str(number), PatientID=who, time=number)
        files.append(tuple(found))
        scans.append(scan)
    return Truth(refused=[Refusal(("ID-ALIKE",), files)], also=[scans])


@case("D47", "an id that is a path")
def id_is_a_path(folder):
    scans = []
    for who in ("../../x", "CON", "a/b\\c", "\u202e321", "😀", "x" * 64):
        _, scan = small(
            folder / str(len(scans)), PatientID=who.replace("\\", "_"), SpecificCharacterSet="ISO_IR 192",
            time=len(scans),
        )  # fmt: skip
        scans.append(replace(scan, subject=None))
    return Truth(scans=scans, outside=[folder.parent.parent / "x", folder.parent / "x"])


@case("D48", "a link that leads round, one that leads out, one to a slice")
def links(folder):
    files, scan = write(folder, phantom.grid("LPS"))
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "again.dcm").symlink_to(files[3])
    outside = folder.parent / "elsewhere"
    _, other = small(outside, SOPClassUID=MR, PatientID="P2")
    (folder / "out").symlink_to(outside, target_is_directory=True)
    (folder / "broken").symlink_to(folder / "nothing")
    return Truth(scans=[scan], skipped=4, also=[[scan, other]])
