"""Somebody withdraws: gone from everything, proven, never back by itself; and a kill at any point loses nothing of that."""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import cohorts
import pandas as pd
import pytest
from killing import killed_at

from cohort import api, overview
from cohort.call import Call
from cohort.io import private
from cohort.io.leaving import withdraw
from cohort.io.leaving.redact import Subject
from cohort.io.leaving.register import Register
from cohort.io.storage import jsonfile
from cohort.io.storage.backend import StoreError
from cohort.io.store import Store
from cohort.userfiles import cache_file, tokens_file

HERE = api.Options(workers=0)


def write(folder: Path, ids: str) -> Path:
    """Seven people, of whom 003 has two scans and a damaged third."""
    catalog = cohorts.write_cohort(folder, scans=7)
    catalog.write_text(cohorts.CATALOG.replace("ids: keep", f"ids: {ids}"), encoding="utf-8")
    scans = folder / "scans"
    cohorts.write_scan(scans / "003_v2.nii.gz", cohorts.ball(40))
    (scans / "003_v3.nii.gz").write_bytes((scans / "003_v1.nii.gz").read_bytes()[:300])
    people = folder / "people.csv"
    text = people.read_text(encoding="utf-8")
    people.write_text(text + "003_v2,44,71.0\n003_v3,45,71.5\n", encoding="utf-8")
    return catalog


def update(catalog: Path):
    """All but the report, which takes most of the time."""
    return Call(catalog, None, HERE).work("update", ["ingest", "run", "fit"])


def names_of(catalog: Path) -> list[str]:
    """Everything by which 003 is known: to the sources, to the store, to the operator."""
    cohort = api.open(catalog)
    scans = cohort.scans
    rows = list(private.everything(tokens_file(cohort.store)))
    mine = {r.token for r in rows if r.kind == "scan" and "003_v" in r.files[0]}
    subject = scans.loc[scans["scan_id"].isin(mine), "subject"].iloc[0]
    people = cohort.participants
    assert people is not None
    participants = people.loc[people["subject"] == subject, "participant"]
    assert len(mine) == 3
    assert len(participants) == 3
    return [f"sub-{subject}_", *mine, *participants, "003_v1", "003_v2", "003_v3"]


def holders(catalog: Path, names: list[str]) -> list[str]:
    """Files of the store, and of what is private beside it, that hold one of the names anywhere in their bytes or name."""
    store = Store(catalog.parent / "store")
    beside = [
        tokens_file(store),
        cache_file(store),
        *tokens_file(store).parent.glob("*.withdrawal"),
    ]
    files = [p for p in store.root.rglob("*") if p.is_file()] + [p for p in beside if p.exists()]
    return [
        str(p)
        for p in files
        for name in names
        if name.encode() in p.read_bytes()
        or name in str(p.relative_to(p.anchor)).split("store/")[-1]
    ]


@pytest.mark.parametrize("ids", ["keep", "token"])
def test_what_stands_under_an_earlier_name_goes_too(tmp_path, ids):
    """The pattern for subjects was mended: the store still holds each scan under the name it had without."""
    catalog = write(tmp_path, ids)
    mended = catalog.read_text(encoding="utf-8")
    catalog.write_text(re.sub("(?m)^subject:.*\n", "", mended), encoding="utf-8")
    api.ingest(catalog, options=HERE)
    store = Store(tmp_path / "store")
    catalog.write_text(mended, encoding="utf-8")
    update(catalog)
    rows = private.everything(tokens_file(store))
    names = [r.token for r in rows if r.kind == "scan" and "003_v" in r.files[0]]
    assert len(names) == 6
    names += ["003_v1", "003_v2", "003_v3", *(f"{name.split('_')[0]}_" for name in names)]
    before = set(store.scan_ids())
    said, _ = api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json", voxels=True)
    assert (len(said["scans"]), said["check"]["found"]) == (4, [])
    assert holders(catalog, names) == []
    assert set(store.scan_ids()) == before - set(said["scans"])
    assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []


def test_a_copy_under_the_name_of_somebody_else_goes_and_the_row_of_that_name_stays(tmp_path):
    catalog = write(tmp_path, "keep")
    scans = tmp_path / "scans"
    (scans / "006_v1.nii.gz").write_bytes((scans / "003_v1.nii.gz").read_bytes())
    with catalog.open("a", encoding="utf-8") as stream:
        stream.write("accept: [IMG-TWICE]\n")
    update(catalog)
    store = Store(tmp_path / "store")
    people = store.table("participants")
    assert people is not None
    cohorts.write_scan(scans / "006_v2.nii.gz", cohorts.ball(41))
    update(catalog)
    said, _ = api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json", voxels=True)
    assert "sub-006_ses-1_006v1" in said["scans"]
    assert said["check"]["found"] == []
    update(catalog)
    assert [s for s in store.scan_ids() if s.startswith("sub-006")] == ["sub-006_ses-2_006v2"]
    left = store.table("participants")
    assert left is not None
    assert set(left["participant"]) == {p for p in people["participant"] if "003" not in p}


@pytest.mark.parametrize("ids", ["keep", pytest.param("token", marks=pytest.mark.slow)])
def test_nothing_of_a_subject_is_left_and_the_proof_lists_what_went(tmp_path, ids):
    catalog = write(tmp_path, ids)
    api.update(catalog, options=HERE)
    names = names_of(catalog)
    assert len(holders(catalog, names)) > 30
    store = Store(tmp_path / "store")
    before = {
        p.relative_to(store.root).as_posix(): p.read_bytes()
        for p in store.root.rglob("*")
        if p.is_file()
    }
    said, place = api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json", voxels=True)

    assert holders(catalog, names) == []
    assert said["check"] == {**said["check"], "found": [], "voxels": True}
    assert jsonfile.decode(place.read_bytes()) == said
    assert place.stat().st_mode & 0o077 == 0
    removed = {e["file"]: (e["sha256"], e["bytes"]) for e in said["removed"]}
    own = {
        n
        for n in before
        if n.split("/")[0] in ("scans", "derivatives", "quarantine") and any(x in n for x in names)
    }
    assert set(removed) == own
    assert len([n for n in own if n.endswith(".json") and n.startswith("quarantine")]) == 1
    for name, (digest, size) in removed.items():
        assert (hashlib.sha256(before[name]).hexdigest(), len(before[name])) == (digest, size)
    assert said["models_to_refit"] == ["size"]
    assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []
    # The page says how many went, and nothing of who; the sources are counted without them when they are looked at again.
    page = shown(catalog, "report")
    assert "Since the last report: 2 scans went (withdrawn)." in page
    assert "Found 6 series 1 subject withdrew since the sources were looked at; the next" in page
    assert "Ingested 6 scans" in page
    assert "In 9 files." not in page
    page = shown(catalog, "ingest", "report")
    assert "Found 6 series In 6 files. 3 series of subjects who withdrew left out." in page
    assert "withdrew since" not in page
    assert holders(catalog, names) == []


def numbers_in(store: Store) -> str:
    """Every number that the store keeps as text to compare with, or as a page."""
    parts = ("baseline/", "report/", "runs/")
    names = [n for n, _ in store.files.listing() if n.startswith(parts)]
    return " ".join(store.files.read(n).decode("utf-8", "replace") for n in names)


def test_coefficients_of_who_withdrew_are_kept_and_compared_nowhere(tmp_path):
    """With the person and without, a mean and its rows give back the person's value; so the first is nowhere."""
    catalog = write(tmp_path, "keep")
    api.update(catalog, options=HERE)
    opened = api.open(catalog)
    store = opened.store
    first = store.files.names("runs")[0]
    tidy = store.model_table("size", "tidy")
    told = [repr(float(v)) for v in tidy["estimate"]]
    assert all(text in numbers_in(store) for text in told), (
        "the state before is kept to compare with"
    )
    api.withdraw(opened, "003", proof=tmp_path / "proof.json")
    assert not [text for text in told if text in numbers_in(store)]
    page = shown(catalog, "report")
    assert "not compared across a withdrawal" in page
    assert overview.diff(store, first)["coefficients_withheld"]
    page = shown(catalog, "fit", "report")
    assert "not compared across a withdrawal" in page
    assert "Coefficients that moved" not in page
    assert "Nothing else changed" not in page
    assert not [text for text in told if text in numbers_in(store)]
    found = overview.diff(store, first)
    assert (found["coefficients"], found["coefficients_withheld"]) == ([], True)
    # From here on all stand on the same people, and what moves is said again.
    people = tmp_path / "people.csv"
    people.write_text(people.read_text().replace("000_v1,30,", "000_v1,71,"), encoding="utf-8")
    page = shown(catalog, "ingest", "run", "fit", "report")
    assert "not compared across a withdrawal" not in page
    assert "Coefficients that moved" in page


def shown(catalog: Path, *stages: str) -> str:
    """What a reader of the report sees."""
    page = Call(catalog, None, HERE).work("report", stages).report
    source = re.sub(r"<style>.*?</style>", "", Path(page).read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", source).split())


@pytest.mark.parametrize("ids", ["token", pytest.param("keep", marks=pytest.mark.slow)])
def test_a_subject_stays_out_until_it_is_readmitted_and_models_are_fitted_without_it(tmp_path, ids):
    catalog = write(tmp_path, ids)
    first = update(catalog)
    names = names_of(catalog)
    api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json")
    cohorts.write_scan(tmp_path / "scans/003_v4.nii.gz", cohorts.ball(41))
    again = update(catalog)
    assert again.manifest["processed"] == 0
    assert again.manifest["found"]["withdrawn"] >= 3
    assert again.manifest["counts"] == {"fresh": 6, "done": 0, "failed": 0, "quarantined": 0}
    assert again.problems == []
    assert holders(catalog, [*names, "003_v4"]) == []
    refitted = Store(tmp_path / "store").model_table("size", "augment")
    assert len(refitted) == 6
    # The same numbers as of a cohort of which the subject never was a part.
    other = write(tmp_path / "other", ids)
    for path in (tmp_path / "other/scans").glob("003*"):
        path.unlink()
    people = (tmp_path / "other/people.csv").read_text().splitlines()
    (tmp_path / "other/people.csv").write_text(
        "\n".join(r for r in people if "003_" not in r) + "\n"
    )
    found = {**update(other).manifest["found"], "withdrawn": again.manifest["found"]["withdrawn"]}
    assert found == again.manifest["found"]
    store, expected = Store(tmp_path / "store"), Store(tmp_path / "other/store")
    for table in (*expected.tables(),):
        left, right = store.table(table), expected.table(table)
        assert left is not None
        assert right is not None
        assert left.equals(right), table

    api.readmit(api.open(catalog), "003")
    back = update(catalog)
    assert back.manifest["processed"] == 4  # three scans and the damaged one
    assert first.manifest["counts"]["done"] + 1 == len(api.open(catalog).scans)


def test_files_of_who_withdrew_are_not_counted_wherever_what_is_attached_lies(tmp_path):
    for folder in (tmp_path, tmp_path / "never"):
        catalog = cohorts.write_cohort(folder, scans=3)
        attach = (
            "attach: {near: '{folder}/{stem}_near.nii.gz', far: '{folder}/../{stem}_far.nii.gz'}\n"
        )
        catalog.write_text(catalog.read_text() + attach, encoding="utf-8")
        for n in range(3):
            for place in (f"scans/{n:03d}_v1_near.nii.gz", f"{n:03d}_v1_far.nii.gz"):
                cohorts.write_scan(folder / place, cohorts.ball(n) // 50 * 2)
    for path in (tmp_path / "never").rglob("001_v1*"):
        path.unlink()
    catalog = tmp_path / "catalog.yaml"
    assert api.ingest(catalog, options=HERE).manifest["found"]["files"] == 6
    api.withdraw(api.open(catalog), "001", proof=tmp_path / "proof.json")
    found = api.ingest(catalog, options=HERE).manifest["found"]
    never = api.ingest(tmp_path / "never/catalog.yaml", options=HERE).manifest["found"]
    assert found == {**never, "withdrawn": 1}
    assert (never["files"], never["series"]) == (4, 2)


@pytest.mark.slow
def test_the_same_files_stay_out_under_another_name(tmp_path):
    catalog = write(tmp_path, "keep")
    update(catalog)
    api.withdraw(api.open(catalog), "sub-003", proof=tmp_path / "proof.json")
    (tmp_path / "scans/003_v1.nii.gz").rename(tmp_path / "scans/019_v1.nii.gz")
    result = update(catalog)
    assert result.manifest["processed"] == 0
    assert "019" not in set(api.open(catalog).scans["subject"])


WRONG = {
    ("042", "proof.json"): "no subject '042'",
    ("003", "store/proof.json"): "would lie in the store",
    ("003", "nowhere/proof.json"): "no such folder",
    ("003", "people.csv"): "is there already",
}


def test_a_withdrawal_that_cannot_be_removes_nothing(tmp_path):
    catalog = write(tmp_path, "keep")
    update(catalog)
    before = sorted(p for p in (tmp_path / "store").rglob("*"))
    for (subject, proof), message in WRONG.items():
        with pytest.raises(StoreError, match=message):
            api.withdraw(api.open(catalog), subject, proof=tmp_path / proof)
        assert sorted(p for p in (tmp_path / "store").rglob("*")) == before
    api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json")
    with pytest.raises(StoreError, match="has withdrawn already"):
        api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof2.json")
    register = tmp_path / "store/withdrawn.json"
    register.write_bytes(register.read_bytes().replace(b"salt", b"sale"))
    assert [p.file for p in api.verify(api.open(catalog))] == ["withdrawn.json"]
    with pytest.raises(StoreError, match="nobody knows who has to stay out"):
        api.ingest(catalog, options=HERE)


def test_a_register_names_nobody(tmp_path):
    store = Store(tmp_path)
    register = Register(store)
    register.add("jane", ["0" * 64])
    register.add("john", [])
    again = Register(store)
    assert (again.has_subject("jane"), again.has_subject("joan")) == (True, False)
    assert (again.has_content("0" * 64), again.has_content("1" * 64)) == (True, False)
    content = (tmp_path / "withdrawn.json").read_bytes()
    assert b"jane" not in content
    assert hashlib.sha256(b"jane").hexdigest().encode() not in content
    assert again.readmit("jane")
    assert not again.readmit("jane")
    assert [Register(store).has_subject(name) for name in ("jane", "john")] == [False, True]


def test_a_table_without_rows_names_nobody():
    table = pd.DataFrame({c: pd.Series(dtype=str) for c in ("scan_id", "participant", "subject")})
    assert Subject(["sub-anna_ses-1_T1"], exact=["anna"]).rows(table) is table


def test_only_whole_names_are_taken_out():
    who = Subject(["sub-12_ses-1_T1"], exact=["12"])
    value = {
        "failed": [{"scan_id": "sub-12_ses-1_T1"}, {"scan_id": "sub-12_ses-1_T12"}],
        "subjects": {"sub-12_ses-1_T1": 1, "sub-120_ses-1_T1": 2},
        "counts": [12, 12.0, "120"],
        "unit": "12",
        "rows": ["12", "13"],
        "text": "sub-12_ses-1_T1 has no row",
    }
    assert who.without(value) == (
        {
            "failed": [{"scan_id": "sub-12_ses-1_T12"}],
            "subjects": {"sub-120_ses-1_T1": 2},
            "counts": [12, 12.0, "120"],
            "unit": "12",
            "rows": ["13"],
            "text": "(withdrawn)",
        },
        4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("goes_on", ["withdraw", "update"])
def test_a_withdrawal_that_was_killed_is_carried_out_by_the_next_call(tmp_path, goes_on):
    catalog = write(tmp_path, "token")
    first = update(catalog).manifest["run_id"]
    names, proof = names_of(catalog), tmp_path / "proof.json"
    inventory = None
    for operation in (0, 1, 2, 3, 5, 8, 11, 14):
        assert killed_at(operation, lambda: api.withdraw(api.open(catalog), "003", proof=proof))
        assert not proof.exists()
        journal = tokens_file(Store(tmp_path / "store")).with_suffix(".withdrawal")
        if journal.is_file():
            found = json.loads(journal.read_bytes())["inventory"]["removed"]
            assert inventory in (None, found)  # what the proof will list is not forgotten
            inventory = found
    assert inventory
    if goes_on == "withdraw":
        api.withdraw(api.open(catalog), "003", proof=proof)
    update(catalog)
    assert holders(catalog, names) == []
    said = jsonfile.decode(proof.read_bytes())
    assert {e["file"] for e in said["removed"]} == set(inventory)
    assert said["check"]["found"] == []
    assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []
    assert len(api.open(catalog).scans) == 6
    api.collect(api.open(catalog))  # what was killed said something that is still to be read
    assert overview.diff(Store(tmp_path / "store"), first)["subjects_withdrawn"] == 1


def test_a_withdrawal_is_counted_once_whichever_call_carries_it_out(tmp_path, monkeypatch):
    catalog = write(tmp_path, "keep")
    first = update(catalog).manifest["run_id"]
    store = Store(tmp_path / "store")

    def counted() -> int:
        return overview.diff(store, first)["subjects_withdrawn"]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    goes_on = {
        "003": lambda: api.withdraw(api.open(catalog), "003", proof=tmp_path / "003.json"),
        "001": lambda: api.ingest(catalog, options=HERE),
        "002": lambda: api.readmit(api.open(catalog), "003"),
        "004": lambda: api.withdraw(api.open(catalog), "005", proof=tmp_path / "005.json"),
    }
    # Before it is counted (and listed in the manifest of what was interrupted), after, and when all is done but the proof.
    places = {"003": "_count", "001": "_count", "002": "_tables", "004": "_left"}
    n = 0
    for subject, go_on in goes_on.items():
        with monkeypatch.context() as patch:
            patch.setattr(withdraw, places[subject], stopped)
            with pytest.raises(KeyboardInterrupt):
                api.withdraw(api.open(catalog), subject, proof=tmp_path / f"{subject}.json")
        go_on()
        n += 1 if subject != "004" else 2
        assert counted() == n, subject
        assert [str(p) for p in api.verify(api.open(catalog)) if p.is_error] == []
        api.collect(api.open(catalog))
        assert counted() == n, subject


@pytest.mark.slow
def test_a_member_of_an_archive_leaves_the_cache_and_comes_back_when_readmitted(tmp_path):
    catalog = write(tmp_path, "token")
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in sorted((tmp_path / "scans").iterdir()):
            archive.write(path, f"all/{path.name}")
    catalog.write_text(catalog.read_text().replace("[scans]", "[study.zip]"), encoding="utf-8")
    update(catalog)
    names = names_of(catalog)
    assert len(api.open(catalog).scans) == 8
    api.withdraw(api.open(catalog), "003", proof=tmp_path / "proof.json")
    for _ in range(2):
        assert update(catalog).manifest["processed"] == 0
        assert holders(catalog, names) == []
        assert len(api.open(catalog).scans) == 6
    api.readmit(api.open(catalog), "003")
    update(catalog)
    assert len(api.open(catalog).scans) == 8
