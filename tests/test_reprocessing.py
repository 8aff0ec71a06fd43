"""The cohort of OASIS-1 as it changes: exactly what changed is done again, and `diff` says what and with what effect."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cohort import api
from cohort.io.storage import jsonfile
from cohort.io.store import Store

CATALOG = Path(__file__).resolve().parents[1] / "catalogs/cohorts/oasis1.yaml"
MODELS = ("dark-frac", "largest-dark")


def brighten(path: Path) -> None:
    """Make a tenth of the brightest voxels of a scan a little darker, as another reconstruction might."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    voxels = np.frombuffer(content, np.uint8, offset=352)
    above = np.flatnonzero(voxels > np.percentile(voxels[voxels > 0], 60))[::10]
    voxels[above] = voxels[above] // 3
    path.write_bytes(gzip.compress(bytes(content), mtime=0))


@pytest.mark.slow
@pytest.mark.cluster
def test_of_167_scans_3_replaced_2_added_1_withdrawn_exactly_5_are_processed(tmp_path, shared):
    files = sorted((shared / "oasis1-mni2mm/uint8").glob("*.nii.gz"))
    assert len(files) == 167
    source, store = tmp_path / "scans", tmp_path / "store"
    source.mkdir()
    late = [files[40], files[120]]
    for file in files:
        if file not in late:
            shutil.copy(file, source)
    # A notebook's options; the catalog's own store and sources stay untouched.
    options = api.Options(store=store, sources=[source], workers=2)
    first = api.update(CATALOG, options=options)
    assert first.manifest["counts"]["done"] == 165
    cohort = api.Cohort(Store(store), first.catalog)
    scans = cohort.scans.set_index("scan_id")
    before = {m: cohort.store.model_table(m, "tidy").set_index("term") for m in MODELS}
    table = cohort.measurements("oasis-csf").set_index("scan_id")

    replaced = [source / files[n].name for n in (3, 77, 150)]
    for path in replaced:
        brighten(path)
    for file in late:
        shutil.copy(file, source)
    (source / files[10].name).unlink()
    again = api.update(CATALOG, options=options)

    assert again.manifest["processed"] == 5
    assert again.manifest["counts"] == {"fresh": 161, "done": 5, "failed": 0, "quarantined": 0}
    assert (len(again.absent), again.alarms, again.newly_bad) == (1, [], False)
    found = api.diff(cohort, first.manifest["run_id"])
    who = {how: sorted(ids) for how, ids in found["scans"].items()}
    number = {path.name[5:9] for path in replaced}
    assert {s[4:8] for s in who["replaced"]} == number
    assert {s[4:8] for s in who["added"]} == {f.name[5:9] for f in late}
    assert [s[4:8] for s in who["withdrawn"]] == [files[10].name[5:9]]
    assert sum(map(len, who.values())) == 6

    now = cohort.measurements("oasis-csf").set_index("scan_id")
    assert (len(now), set(scans.index) - set(now.index)) == (166, set(who["withdrawn"]))
    same = [s for s in now.index if s in table.index and s not in who["replaced"]]
    pd.testing.assert_frame_equal(now.loc[same], table.loc[same], check_exact=True)
    assert (
        now.loc[who["replaced"], "mean_nonzero"] != table.loc[who["replaced"], "mean_nonzero"]
    ).all()
    moved = {(c["model"], c["term"]): c for c in found["coefficients"]}
    for model in MODELS:
        after = cohort.store.model_table(model, "tidy").set_index("term")
        changed = [
            t for t in after.index if after.loc[t, "estimate"] != before[model].loc[t, "estimate"]
        ]
        assert len(changed) >= 2
        for term in changed:
            shift = after.loc[term, "estimate"] - before[model].loc[term, "estimate"]
            said = moved[model, term]
            assert said["difference"] == pytest.approx(shift, rel=1e-9)
            assert said["standard_errors"] == pytest.approx(
                shift / before[model].loc[term, "se"], rel=1e-9
            )

    # Somebody else withdraws for good: gone, proven, and still out at the next call although the file is there.
    subject = str(scans.loc[same[5], "subject"])
    _, proof = api.withdraw(cohort, subject, proof=tmp_path / "proof.json")
    last = api.update(CATALOG, options=options)
    assert last.manifest["processed"] == 0
    assert last.manifest["found"]["withdrawn"] >= 1
    said = jsonfile.decode(proof.read_bytes())
    assert said["check"]["found"] == []
    assert subject not in set(cohort.scans["subject"])
    assert not any(
        f"sub-{subject}_".encode() in p.read_bytes() for p in store.rglob("*") if p.is_file()
    )
    assert api.diff(cohort, again.manifest["run_id"])["subjects_withdrawn"] == 1
    assert [str(p) for p in api.verify(cohort) if p.is_error] == []
