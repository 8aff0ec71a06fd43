"""How the scans were acquired, as the page says it."""

import re

import pandas as pd

from cohort.io.store import Store
from cohort.pipeline.intake.protocols import CATEGORIES, NUMBERS, TERMS, protocols
from cohort.reporting.acquisition import MAX_PROTOCOLS
from cohort.reporting.acquisition import protocols as shown
from cohort.reporting.facts import gather


def page(tmp_path, scans, warnings=()):
    store = Store(tmp_path)
    table = pd.DataFrame(scans)
    store.write_table("scans", table)
    store.write_table("protocols", protocols(table).classes)
    store.write_manifest("r1", {"run_id": "r1", "found": {"files": 1}, "warnings": list(warnings)})
    return shown(gather(store, []))


def scan(number, **more):
    return {
        "scan_id": f"s{number}", "modality": "MR", "units": "1", "repetition_time_ms": 2000.0,
        "shape_z": 8, "shape_y": 8, "shape_x": 8,
        "spacing_z_mm": 3.0, "spacing_y_mm": 1.0, "spacing_x_mm": 1.0, **more,
    }  # fmt: skip


def test_what_all_share_is_said_once_and_what_varies_in_columns(tmp_path):
    scans = [scan(n) for n in range(9)] + [scan(9, repetition_time_ms=2500.0)]
    found = page(tmp_path, scans, warnings=["scan s9 drifts"])
    assert ("modality", "MR") in found["shared"]
    assert ("voxel spacing along z", "3 mm") in found["shared"]
    assert found["columns"] == ["Repetition time (ms)"]
    assert [(row["n"], row["cells"]) for row in found["rows"]] == [(9, ["2,000"]), (1, ["2,500"])]
    assert found["warnings"] == ["scan s9 drifts"]


def test_no_internal_name_is_shown_of_any_parameter(tmp_path):
    """Two scans that differ in all that a header can say, one of which has a time axis: each parameter by its term."""
    assert set(TERMS) == {*CATEGORIES, *NUMBERS}
    said = {
        "kind": ("dicom", "nifti"), "modality": ("MR", "CT"), "units": ("1", "HU"), "field_strength_t": (3.0, 1.5),
        "photometric": ("MONOCHROME1", "MONOCHROME2"), "philips_precise": (True, None), "manufacturer": ("philips", "ge"),
        "shape_x": (8, 4), "spacing_x_mm": (3.0, 1.0), "spacing_z_mm": (1.0, 3.0), "spacing_y_mm": (1.0, 1.5), "n_time": (5, None),
    }  # fmt: skip
    names = [c for c in (*CATEGORIES, *NUMBERS) if c not in ("leading", "slices_along", "matrix")]
    rows = [{n: said.get(n, (f"{n[0]}A", f"{n[0]}B") if n in CATEGORIES else (8.0, 9.5))[k] for n in (*names, *said)} for k in (0, 1)]  # fmt: skip
    found = page(tmp_path, [scan(k, **row) for k, row in enumerate(rows)])
    assert not found["shared"]
    assert len(found["columns"]) == len(TERMS)
    told = " ".join([*found["columns"], *(cell for row in found["rows"] for cell in row["cells"])])
    assert "_" not in told
    for word in ("Slice orientation", "sagittal", "Dimensions besides space", "Echo time (ms)", "DICOM", "Flip angle (degrees)"):  # fmt: skip
        assert word in told, word
    assert not re.search(r"\b(leading|slices along|nifti|True)\b", told)


def test_one_protocol_needs_no_columns(tmp_path):
    found = page(tmp_path, [scan(n) for n in range(3)])
    assert found["columns"] == []
    assert [row["n"] for row in found["rows"]] == [3]


def test_many_protocols_are_counted_not_listed(tmp_path):
    found = page(tmp_path, [scan(n, repetition_time_ms=100.0 * (n + 1)) for n in range(20)])
    assert len(found["rows"]) == MAX_PROTOCOLS
    assert found["more"] == 20 - MAX_PROTOCOLS


def test_a_store_without_protocols_says_nothing(tmp_path):
    assert shown(gather(Store(tmp_path), []))["rows"] == []
