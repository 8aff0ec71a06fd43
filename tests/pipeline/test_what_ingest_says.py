"""What an operator learns of an ingest: what was lost, passed over, capped or is in doubt, and by which name to look for it."""

import nibabel as nib
import pytest
from series import phantom, write_series
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io.catalog import CatalogError, read_catalog
from cohort.io.store import Store
from cohort.pipeline import ingest as ingesting
from cohort.pipeline.intake import reading

HERE = api.Options(workers=0)


@pytest.fixture
def catalog(tmp_path):
    """A cohort of tokens whose sources hold nothing yet."""
    (tmp_path / "scans").mkdir()
    path = tmp_path / "catalog.yaml"
    path.write_text("cohort: c\nsources: [scans]\nstore: store\nids: token\n")
    return path


def series(catalog, name, *, seed=0):
    volume, affine = phantom(seed=seed)
    return write_series(catalog.parent / "scans" / name, volume, affine, PatientID=name)


def codes(catalog):
    return sorted(entry["code"] for entry in Store(catalog.parent / "store").quarantine())


def command(*words):
    return CliRunner().invoke(cli.app, list(map(str, words)))


def public(store):
    return b"".join(p.read_bytes() for p in store.rglob("*") if p.is_file())


def test_a_first_ingest_of_nothing_says_so(catalog):
    said = command("ingest", catalog, "--workers", 0)
    assert "warning: no scan in 1 sources, which hold 0 files" in said.output


def test_a_zeroed_slice_at_the_end_refuses_its_series(catalog):
    last = series(catalog, "a")[-1]
    series(catalog, "b", seed=1)
    last.write_bytes(bytes(900))
    result = api.ingest(catalog, options=HERE)
    assert codes(catalog) == ["DCM-BESIDE-DAMAGE", "SRC-DAMAGED"]
    assert all(str(last) in problem.text for problem in result.problems)
    assert result.newly_bad


def test_what_was_skipped_is_counted_for_all_and_named_for_the_operator(catalog):
    note = series(catalog, "a")[0].with_name("secretnote")
    note.write_text("a text")
    assert "1 files skipped: not an image" in command("ingest", catalog, "--workers", 0).output
    assert "1 files skipped: not an image" in command("status", catalog).output
    said = command("skipped", catalog)
    assert (said.exit_code, said.stdout) == (0, f"not an image: {note}\n")
    assert b"secretnote" not in public(catalog.parent / "store")


def test_scans_without_a_row_and_ages_that_were_capped_are_told(catalog):
    series(catalog, "a")
    series(catalog, "b", seed=1)
    (catalog.parent / "people.csv").write_text("ID,age_at_scan\n7,95\n007,30\nb,20\n")
    with catalog.open("a") as stream:
        stream.write("participants: {table: people.csv, id: ID, cap_ages: true}\n")
    said = command("ingest", catalog, "--workers", 0).output
    assert "ages over 89 became 90 in the columns age_at_scan (1)" in said
    assert "leading zeros alone, such as 7 and 007, count as different people: 1 such" in said
    assert "1 scans have no row in the participants table" in command("status", catalog).output


@pytest.mark.parametrize(
    ("ids", "n"), [("7 12", 2), ("7.0 0012", 2), ("007 12", 1), ("8 x7", 0), ("007 012", 0)]
)
def test_zeros_that_a_spreadsheet_dropped_are_told_and_nothing_is_matched_by_them(catalog, ids, n):
    series(catalog, "007")
    series(catalog, "012", seed=1)
    rows = "".join(f"{one},1\n" for one in ids.split())
    (catalog.parent / "people.csv").write_text(f"ID,score\n{rows}")
    with catalog.open("a") as stream:
        stream.write("participants: {table: people.csv, id: ID}\n")
    result = api.ingest(catalog, options=HERE)
    said = [text for text in result.manifest["warnings"] if "leading zeros" in text]
    assert [text.split()[0] for text in said] == ([str(n)] if n else [])
    assert all("write the ids as the sources do, or state participants.map" in s for s in said)
    met = {"007", "012"} & set(ids.split())
    assert Store(catalog.parent / "store").table("scans")["participant"].notna().sum() == len(met)


@pytest.mark.parametrize("place", ["store", "./store", "../{}/store/"])
def test_a_store_named_by_a_relative_path_has_the_same_originals(catalog, monkeypatch, place):
    series(catalog, "Meier")
    assert command("ingest", catalog, "--workers", 0).exit_code == 0
    scan = Store(catalog.parent / "store").scan_ids()[0]
    monkeypatch.chdir(catalog.parent)
    place = place.format(catalog.parent.name)
    assert command("which", place, scan).output == command("which", catalog, scan).output != ""
    (catalog.parent / "store/note.html").write_text("<p>Meier</p>")
    said = command("audit", place)
    assert said.exit_code == 1, said.output
    assert "note.html" in said.output
    assert "findings (originals and shapes)" in said.output


def test_an_audit_says_why_it_searches_for_shapes_only(catalog):
    series(catalog, "a")
    catalog.write_text(catalog.read_text().replace("token", "keep"))
    assert command("ingest", catalog, "--workers", 0).exit_code == 0
    said = command("audit", catalog)
    assert (
        "(shapes only: with ids: keep the sources' own ids stand in the store on purpose)"
        in said.output
    )
    # The store says so itself, to whoever has it without the catalog.
    alone = command("audit", catalog.parent / "store")
    assert (alone.exit_code, alone.output) == (said.exit_code, said.output)


def test_an_image_in_one_file_is_not_in_doubt_beside_what_cannot_be_read(catalog, monkeypatch):
    series(catalog, "a")
    volume, affine = phantom(seed=2)
    nib.save(nib.Nifti1Image(volume.T, affine), catalog.parent / "scans/a/t1.nii")
    locked = catalog.parent / "scans/a/locked"
    find = ingesting.discover

    def blind(*args, **options):
        found = find(*args, **options)
        found.unreadable.append(locked)
        return found

    monkeypatch.setattr(ingesting, "discover", blind)
    result = api.ingest(catalog, options=HERE)
    assert result.manifest["counts"]["done"] == 1
    assert codes(catalog) == ["SRC-UNREADABLE", "SRC-UNREADABLE"]


def test_a_file_that_went_away_is_named(catalog, monkeypatch):
    files = series(catalog, "a")
    read = reading.dicom.read_series

    def late(paths, **options):
        files[3].unlink(missing_ok=True)
        return read(paths, **options)

    monkeypatch.setattr(reading.dicom, "read_series", late)
    (problem,) = api.ingest(catalog, options=HERE).problems
    assert str(files[3]) in problem.text
    assert "went away" in problem.text


def test_all_codes_that_cannot_be_accepted_are_told_at_once(catalog):
    with catalog.open("a") as stream:
        stream.write("accept: [DCM-NOPE, DCM-GAP, ALL]\n")
    with pytest.raises(CatalogError, match=r"DCM-GAP cannot .*'DCM-NOPE'.*'ALL'"):
        read_catalog(catalog)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("people.csv", "ID;age\na;5\n", r"parted by semicolons, expected commas in a \.csv"),
        ("people.csv", "ID\tage\na\t5\n", r"parted by tabs, expected commas in a \.csv"),
        ("people.tsv", "ID,age\na,5\n", r"parted by commas, expected tabs in a \.tsv"),
    ],
)
def test_a_table_with_another_delimiter_says_which(name, text, said, catalog):
    series(catalog, "a")
    (catalog.parent / name).write_text(text)
    with catalog.open("a") as stream:
        stream.write(f"participants: {{table: {name}, id: ID}}\n")
    with pytest.raises(ValueError, match=said):
        api.ingest(catalog, options=HERE)


def test_the_doctor_tries_the_store_and_the_sources_of_a_catalog(catalog):
    series(catalog, "a")
    said = command("doctor", catalog)
    assert said.exit_code == 0
    assert ("fit for a store" in said.stdout, "fit for a source" in said.stdout) == (True, True)
    assert not (catalog.parent / "store").exists()
    missing = command("doctor", catalog.parent / "nowhere")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "no folder" in missing.output
    catalog.write_text(catalog.read_text().replace("[scans]", "[nowhere]"))
    assert command("doctor", catalog).exit_code == 2
