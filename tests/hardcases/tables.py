"""C1-C6: tables of participants, and scans that do not go with them."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np

from hardcases import nifti, phantom
from hardcases.dicom_files import small
from hardcases.dicom_pixels import PET, philips
from hardcases.dicom_stacks import write
from hardcases.truth import Refusal, Scan, Truth, case

PATTERN = r"(?P<subject>[^/_]+)_v(?P<session>\d)"
"""Subject and session in the name of a file, ``001_v1.nii``."""

SHAPE = (4, 5, 6)


def scans(folder, *names):
    """Write a small scan for each name; all differ."""
    found = []
    for number, name in enumerate(names):
        affine = phantom.grid("RAS", shape=SHAPE)
        values = phantom.fill(affine, SHAPE, time=number).astype(np.int16)
        nifti.put(folder, nifti.content(values, affine), f"{name}.nii")
        found.append(Scan(affine=affine, values=values.astype(float), subject=name.split("_")[0]))
    return found


def table(folder, text, name="people.csv"):
    """Write a table beside the folder of the scans."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / name).write_text(text, encoding="utf-8")


def people(**more):
    """Give the keys of a catalog with the table ``people.csv``."""
    return {"subject": PATTERN, "participants": {"table": "people.csv", "id": "ID", **more}}


def _refused_table(row, title, text, says, **more):
    def make(folder):
        scans(folder, "001_v1", "002_v1")
        table(folder, text)
        return Truth(raises=f"(?s)ParticipantsError: people.csv.*(?:{says})")

    return case(row, title, **people(**more))(make)


BAD_TABLES = (
    _refused_table("C1", "an id twice in the table", "ID,age\n001,30\n002,40\n001,31\n", "001"),
    _refused_table(
        "C1", "two ids that differ in their case alone", "ID,age\nab1,30\nAB1,40\n", "ab1.*AB1|AB1.*ab1"
    ),
    _refused_table("C3", "a column twice", "ID,age,age\n001,30,31\n002,40,41\n", "age"),
    _refused_table("C3", "a column twice but for its blanks", "ID,age, age \n001,30,31\n", "age"),
    _refused_table("C3", "a row with a cell too many", "ID,age\n001,30\n002,40,50\n", "line 3"),
    _refused_table("C4", "an age that is a range", "ID,age\n001,18-38\n002,40\n", "18-38"),
    _refused_table("C4", "an age of 90+ and no decision", "ID,age\n001,90+\n002,40\n", r"90\+"),
    _refused_table("C4", "ages in months and no unit", "ID,age\n001,420\n002,480\n", "420"),
)  # fmt: skip


@case("C1", "one scan under two subjects", subject=PATTERN)
def twice(folder):
    scans(folder, "001_v1", "003_v1")
    shutil.copy(folder / "001_v1.nii", folder / "002_v1.nii")
    one, other = folder / "001_v1.nii", folder / "002_v1.nii"
    third = _third(folder)
    return Truth(scans=[third], refused=[Refusal(("IMG-TWICE",), (one, other))])


def _third(folder):
    image = nib.load(folder / "003_v1.nii")
    values = np.asarray(image.dataobj).T.astype(float)
    return Scan(affine=image.affine, values=values, subject="003")


@case("C1", "one scan under two subjects, stored in another way", subject=PATTERN)
def twice_repacked(folder):
    (scan,) = scans(folder, "001_v1")
    values = scan.values.astype(np.int16)
    data = nifti.content(values, scan.affine, order=">", descrip=b"again")
    other = nifti.put(folder, data, "002_v1.nii.gz")
    return Truth(refused=[Refusal(("IMG-TWICE",), (folder / "001_v1.nii", other))])


@case("C1", "one scan under two subjects, accepted", subject=PATTERN, accept=["IMG-TWICE"])
def twice_accepted(folder):
    (scan,) = scans(folder, "001_v1")
    shutil.copy(folder / "001_v1.nii", folder / "002_v1.nii")
    return Truth(scans=[scan, replace(scan, subject="002")])


@case("C1", "one scan twice under one subject", subject=PATTERN)
def twice_one_subject(folder):
    (scan,) = scans(folder, "001_v1")
    shutil.copy(folder / "001_v1.nii", folder / "001_v2.nii")
    return Truth(scans=[scan, scan])


def _of(expected):
    def check(found):
        return sorted(str(f) for f in found or []) == sorted(expected)

    check.__name__ = str(expected)
    return check


def _starts(*expected):
    def check(found):
        return len(found or []) == len(expected) and all(
            any(str(f).startswith(f"sub-{e}_") for f in found) for e in expected
        )

    check.__name__ = f"scans of {expected}"
    return check


@case("C2", "zero padding lost", **people())
def padding(folder):
    found = scans(folder, "001_v1", "002_v1")
    table(folder, "ID,age\n1,30\n2,40\n")
    unmatched = {
        "rows_without_scan": _of(["1", "2"]),
        "scans_without_row": _starts("001", "002"),
    }
    return Truth(scans=found, call={"unmatched": unmatched})


@case("C2", "ids that a number or a gap could be taken for", **people())
def odd_ids(folder):
    names = ("001", "1e3", "NA", "None", "1.0")
    found = scans(folder, *(f"{name}_v1" for name in names))
    found = [replace(scan, subject=None) for scan in found]
    table(
        folder,
        "ID,dx\n" + "".join(f"{name},{dx}\n" for name, dx in zip(names, "abcde", strict=True)),
    )
    unmatched = {"rows_without_scan": _of([]), "scans_without_row": _of([])}
    return Truth(
        scans=found, call={"unmatched": unmatched}, participants={"participant": list(names), "dx": list("abcde")}
    )  # fmt: skip


@case("C2", "one row too many, one too few", **people())
def one_each(folder):
    found = scans(folder, "001_v1", "002_v1", "003_v1")
    table(folder, "ID,age\n001,30\n002,40\n004,50\n")
    unmatched = {"rows_without_scan": _of(["004"]), "scans_without_row": _starts("003")}
    return Truth(scans=found, call={"unmatched": unmatched})


@case("C2", "a table in tabs, with a mark and Windows lines, cells n/a",
      subject=PATTERN, participants={"table": "people.tsv", "id": "participant_id"})  # fmt: skip
def tsv(folder):
    found = scans(folder, "001_v1", "002_v1")
    table(folder, "\ufeffparticipant_id\tage\tsex\r\n001\tn/a\tF\r\n002\t41\tn/a\r\n", "people.tsv")
    return Truth(scans=found, participants={"age": [None, 41.0], "sex": ["F", None]})


@case("C4", "ages of 90+ and 95, capped", **people(cap_ages=True))
def capped(folder):
    found = scans(folder, "001_v1", "002_v1", "003_v1")
    table(folder, "ID,age\n001,90+\n002,95\n003,89\n")
    return Truth(
        scans=found, participants={"age": [90.0, 90.0, 89.0], "age_capped": [1.0, 1.0, 0.0]}
    )


@case("C4", "ages in months, so stated", **people(units={"age": "months"}))
def months(folder):
    found = scans(folder, "001_v1", "002_v1")
    table(folder, "ID,age\n001,420\n002,480\n")
    return Truth(scans=found, participants={"age": [420.0, 480.0]})


ROWS = 12
MODEL = {"outcome": "weight", "formula": "age", "one_scan_per": "error"}


@case("C5", "several scans of a subject in a model of one", **people(), models={"m": MODEL})
def several_scans(folder):
    names = [f"{n:03d}_v1" for n in range(ROWS)]
    found = scans(folder, *names, "000_v2")
    lines = [f"{n:03d},{30 + n},{60 + (n * 7) % 5}" for n in range(ROWS)]
    table(folder, "\n".join(["ID,age,weight", *lines]) + "\n")
    return Truth(scans=found, fits={"m": "000"})


@case("D46", "patients that a map names",
      participants={"table": "people.csv", "id": "ID",
                    "map": {"table": "map.csv", "subject": "patient", "id": "participant"}})  # fmt: skip
def mapped(folder):
    found = [
        small(folder / who, PatientID=who, time=n)[1] for n, who in enumerate(("H17", "H18", "H19"))
    ]
    found = [
        replace(scan, subject=who) for scan, who in zip(found, ("S1", "S2", "H19"), strict=True)
    ]
    table(folder, "ID,age\nS1,30\nS2,40\nS4,50\n")
    table(folder, "patient,participant\nH17,S1\nH18,S2\nH20,S4\n", "map.csv")
    unmatched = {
        "rows_without_scan": _of(["S4"]),
        "scans_without_row": _starts("H19"),
        "mapped_without_scan": _of(["H20"]),
    }
    return Truth(scans=found, call={"unmatched": unmatched})


def _says(*words):
    def check(found):
        return any(all(word in line for word in words) for line in found or [])

    check.__name__ = f"a line with {words}"
    return check


@case("C6", "PET in two units")
def two_units(folder):
    found = []
    for who, unit, name in (("A", "BQML", "Bq/ml"), ("B", "CNTS", "counts")):
        affine = phantom.grid("LPS", shape=SHAPE)
        values = phantom.fill(affine, SHAPE)
        _, scan = write(
            folder / who, affine, values, PatientID=who, SOPClassUID=PET, Modality="PT", Units=unit
        )
        found.append(replace(scan, units=name))
    return Truth(scans=found, call={"warnings": _says("PT", "unit of the voxels")})


@case("C6", "Philips in two scalings", series=[{"match": "precise", "philips_precise": True}])
def two_scalings(folder):
    _, shown, _ = philips(folder / "shown", phantom.grid("LPS"), PatientID="A")
    _, _, precise = philips(folder / "precise", phantom.grid("PIR"), PatientID="B")
    scans = [shown, replace(precise, dtype=None)]
    return Truth(scans=scans, call={"warnings": _says("MR", "Philips scaling")})


@case("D45", "header and table give ages more than a year apart",
      participants={"table": "people.csv", "id": "ID"})  # fmt: skip
def ages_conflict(folder):
    found = [
        small(folder / who, PatientID=who, PatientAge=age, time=n)[1]
        for n, (who, age) in enumerate((("A", "055Y"), ("B", "040Y"), ("C", "061Y")))
    ]
    table(folder, "ID,age\nA,70\nB,40.9\nC,n/a\n")
    found[0] = replace(found[0], flags=frozenset({"age_conflict"}))
    return Truth(scans=found, participants={"age": [70.0, 40.9, None]})
