"""Questions in SQL: what there is to ask, that nothing else can be reached, and the forms of an answer."""

import json

import cohorts
import pandas as pd
import pytest
from typer.testing import CliRunner

from cohort import api, cli
from cohort.io.store import Store
from cohort.query import QueryError, query, views

SECOND = (
    cohorts.RECIPE.replace("recipe: ball", "recipe: other")
    .replace("n_big:", "n_other:")
    .replace("head_ml:", "other_ml:")
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    catalog = cohorts.write_cohort(folder, 4)
    (folder / "recipes/other.yaml").write_text(SECOND.replace("n_big /", "n_other /"))
    catalog.write_text(catalog.read_text().replace("recipes: [ball]", "recipes: [ball, other]"))
    api.update(catalog, options=api.Options(workers=0))
    return catalog


@pytest.fixture(scope="module")
def store(catalog):
    return Store(catalog.parent / "store")


def call(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_long_is_every_measurement_of_every_recipe_with_its_unit(store):
    found = query(store, "FROM measurements")
    for recipe in ("ball", "other"):
        wide = store.table(recipe).set_index("scan_id")
        quantities = [c for c in wide if c in store.units(recipe)]
        assert len(quantities) > 5
        for quantity in quantities:
            rows = found[(found.recipe == recipe) & (found.quantity == quantity)]
            assert set(rows.unit) == {store.units(recipe)[quantity]}
            pd.testing.assert_series_equal(
                rows.set_index("scan_id")["value"].sort_index(),
                wide[quantity].sort_index(),
                check_names=False,
                check_index_type=False,
            )
    assert len(found) == sum(
        len(store.table(r)) * len(store.units(r).keys() & set(store.table(r)))
        for r in ("ball", "other")
    )


def test_wide_is_a_row_a_scan_with_its_covariates_and_tells_recipes_apart(store):
    found = query(store, "SELECT * FROM wide ORDER BY scan_id")
    assert list(found.scan_id) == sorted(store.table("scans").scan_id)
    people = store.table("participants").set_index("participant")
    assert list(found.weight) == list(people.weight.reindex(found.participant))
    assert list(found.head_ml) == list(store.table("ball").sort_values("scan_id").head_ml)
    assert list(found["other.mean_head"]) == list(found.mean_head)
    assert "n_other" in found, "what one recipe alone measures keeps its name"


def test_fits_are_the_terms_of_every_model(store):
    found = query(store, "SELECT term, estimate FROM fits WHERE model = 'size'")
    tidy = store.model_table("size", "tidy")
    pd.testing.assert_frame_equal(found, tidy[["term", "estimate"]], check_dtype=False)


def test_there_is_to_ask_what_the_store_has(store):
    assert set(views(store)) == {"measurements", "wide", "fits", "outliers", *store.tables()}
    assert set(query(store, "SHOW TABLES")["name"]) == set(views(store))
    assert query(store, 'SELECT count(*) AS n FROM "ball.spots_of"').n[0] == len(
        store.table("ball.spots_of")
    )
    assert "head_ml" in set(query(store, "DESCRIBE ball")["column_name"])


def test_a_store_without_models_and_recipes_has_them_empty(tmp_path):
    catalog = cohorts.write_cohort(tmp_path, 2)
    api.ingest(catalog, options=api.Options(workers=0))
    store = Store(tmp_path / "store")
    assert query(store, "SELECT estimate FROM fits").empty
    assert query(store, "SELECT value FROM measurements").empty
    assert query(store, "SELECT count(*) AS n FROM wide").n[0] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "FROM mesurements",
            r"no table 'mesurements', did you mean 'measurements'; there are ball, ball\.spots_of, fits",
        ),
        ("SELECT nope FROM scans", 'column "nope" not found'),
        ("selec 1", 'syntax error at or near "selec"'),
        ("", "expected one statement of SQL, found 0"),
        ("SELECT 1; SELECT 2", "expected one statement of SQL, found 2"),
        ("CREATE TABLE t AS SELECT 1", "expected SELECT, found CREATE"),
        ("COPY scans TO 'x.csv'", "expected SELECT, found COPY"),
        ("SET enable_external_access = true", "expected SELECT, found SET"),
        ("ATTACH 'x.db'", "expected SELECT, found ATTACH"),
        ("INSTALL httpfs", "expected SELECT, found"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(store, text, says):
    with pytest.raises(QueryError, match=says) as caught:
        query(store, text)
    assert "\n" not in str(caught.value)


def test_nothing_but_the_tables_can_be_read(store, catalog):
    secret = pd.DataFrame({"a": [1]})
    assert len(secret) == 1
    for source in (
        f"'{catalog}'",
        f"read_csv('{catalog}')",
        f"read_text('{catalog}')",
        "glob('/*')",
    ):
        with pytest.raises(QueryError, match=r"disabled by configuration|no table"):
            query(store, f"SELECT * FROM {source}")
    with pytest.raises(QueryError, match="no table 'secret'"):
        query(store, "SELECT * FROM secret")


def test_an_answer_comes_in_every_form_with_all_its_bits(catalog, store, tmp_path):
    asked = "SELECT scan_id, head_ml, NULL AS nothing, 1.0 / 0 AS endless FROM ball ORDER BY 1"
    expected = query(store, asked)
    for name in ("a.csv", "a.json", "a.parquet"):
        done = call("query", catalog, asked, "--output", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        assert f"4 rows in {tmp_path / name}" in done.stderr
    assert list(pd.read_csv(tmp_path / "a.csv").head_ml) == list(expected.head_ml)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), expected)
    rows = [json.loads(line) for line in (tmp_path / "a.json").read_text().splitlines()]
    assert [row["head_ml"] for row in rows] == list(expected.head_ml)
    assert rows[0]["nothing"] is None
    assert rows[0]["endless"] is None
    assert (
        call("query", catalog, asked, "--format", "csv").stdout == (tmp_path / "a.csv").read_text()
    )
    shown = call("query", catalog, asked).stdout.splitlines()
    assert shown[0].split() == ["scan_id", "head_ml", "nothing", "endless"]
    assert len(shown) == 5


def test_a_long_answer_is_cut_on_a_terminal_and_says_so(catalog):
    done = call("query", catalog, "SELECT range AS n FROM range(1234)")
    assert done.stdout.split()[1:3] == ["0", "1"]
    assert "the first 50 of 1,234 rows; --output FILE writes all" in done.stderr


def test_without_a_question_it_says_what_there_is(catalog):
    shown = call("query", catalog).stdout
    assert "head_ml [ml]" in shown
    assert all(name in shown for name in ("fits", "measurements", "wide", "ball.spots_of"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("FROM scans", "--output", "a.txt"),
            "expected a name that ends in .csv, .json, .jsonl, .parquet, or --format",
        ),
        (("FROM nowhere",), "no table 'nowhere'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_exit_2(catalog, arguments, says):
    done = call("query", catalog, *arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_file_is_written_over(catalog, tmp_path):
    kept = tmp_path / "kept.csv"
    kept.write_text("mine")
    done = call("query", catalog, "FROM scans", "--output", kept)
    assert done.exit_code == 2
    assert "expected a new file, and it is there already" in done.stderr
    assert kept.read_text() == "mine"


ODD = """SELECT * FROM (VALUES
  (1::BIGINT, true, [1, NULL], {'a': 1.5, 'b': [DATE '2020-01-02']}, 'ab'::BLOB, TIMESTAMP '2020-01-02 03:04:05'),
  (NULL, NULL, NULL, NULL, NULL, NULL)
) t(n, yes, items, parts, raw, moment) ORDER BY n NULLS LAST"""


def test_what_is_not_known_and_what_has_parts_is_json_that_another_program_reads(catalog):
    for form in ("json", "jsonl"):
        done = call("query", catalog, ODD, "--format", form)
        assert done.exit_code == 0, done.stderr
        first, second = (json.loads(line) for line in done.stdout.splitlines())
        assert first["n"] == 1
        assert first["yes"] is True
        assert first["items"] == [1, None]
        assert first["parts"]["a"] == 1.5
        assert first["parts"]["b"][0].startswith("2020-01-02")
        assert bytes.fromhex(first["raw"]) == b"ab"
        assert first["moment"] == "2020-01-02 03:04:05"
        assert set(second.values()) == {None}
    shown = call("query", catalog, ODD)
    assert shown.exit_code == 0, shown.stderr
    assert "[1, null]" in shown.stdout
    left = "SELECT scan_id, n FROM scans LEFT JOIN (SELECT scan_id, count(*) n FROM scans WHERE scan_id LIKE '%001%' GROUP BY 1) USING (scan_id)"
    shown = call("query", catalog, left)
    assert shown.exit_code == 0, shown.stderr
    assert sorted(line.split()[1:] for line in shown.stdout.splitlines()[1:]) == [[], [], [], ["1"]]


def test_no_spreadsheet_computes_what_a_query_wrote(catalog, tmp_path):
    path = tmp_path / "s.csv"
    done = call("query", catalog, """SELECT '=1+1' AS "=cmd()", -1 AS n""", "--output", path)
    assert done.exit_code == 0, done.stderr
    assert f"1 row in {path}" in done.stderr
    assert path.read_text().splitlines() == ["'=cmd(),n", "'=1+1,-1"]


def test_a_folder_that_is_not_there_is_named(catalog, tmp_path):
    done = call("query", catalog, "FROM scans", "--output", tmp_path / "nowhere/s.csv")
    assert done.exit_code == 2
    assert f"there is no folder {tmp_path / 'nowhere'}; make it first" in done.stderr
