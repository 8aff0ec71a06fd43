"""How the scans were acquired, as the page says it."""

import pandas as pd

from cohort.io.store import Store
from cohort.pipeline.intake.protocols import protocols
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
    assert found["columns"] == ["repetition_time_ms"]
    assert [(row["n"], row["cells"]) for row in found["rows"]] == [(9, ["2,000"]), (1, ["2,500"])]
    assert found["warnings"] == ["scan s9 drifts"]


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
