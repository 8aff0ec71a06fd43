"""The boundary: what is not on the list never reaches an evaluator; what is on it equals patsy."""

import ast
import re
import string
import time

import numpy as np
import pandas as pd
import patsy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.stats.columns import DesignError
from cohort.stats.formula import FormulaError, check_formula, design_matrix, parse

COLUMNS = ["dx", "age", "skull", "site", "M/F", "x", "y"]

TOUCH = "open('canary','w').write('x')"
HOSTILE = [
    "__import__('os').system('touch canary')",
    "dx + I(__import__('os').system('touch canary'))",
    f"I({TOUCH})",
    f"np.log({TOUCH})",
    f"C({TOUCH})",
    f"Q({TOUCH})",
    f"center({TOUCH})",
    f"{TOUCH} ~ age",
    f"I({TOUCH}) ~ age",
    "age.__class__.__bases__",
    "I(age.__class__)",
    "np.load('canary')",
    "np.log.__globals__",
    "np.fromfile('canary')",
    "I((lambda: 0)())",
    "lambda: age",
    f"I([{TOUCH} for _ in (1,)])",
    "I([i for i in (1, 2)])",
    "I({'a': 1})",
    "I(f'{age}')",
    f"Q(f'{{{TOUCH}}}')",
    "Q('age' + '')",
    "Q(age)",
    "Q('age', 'dx')",
    "Q(*['age'])",
    "Q(name='age')",
    "Q(\"Q('age')\")",
    'Q("""age\n""")',
    "I(age if dx else 0)",
    "I(age and dx)",
    "I(age == 3)",
    "I(age[0])",
    "age[0]",
    "I(age @ age)",
    "I(age // 2)",
    "I(age % 2)",
    "I(age << 9999999)",
    "I(~age)",
    "I(not age)",
    "I((z := age))",
    "I(await age)",
    "I((yield))",
    "I(*[age])",
    "I(**{})",
    "np.log(*age)",
    "np.log(age, out=age)",
    "np.log(age, age)",
    "log()",
    "eval('1')",
    "exec('1')",
    "getattr(age, '__class__')",
    "globals()",
    "builtins",
    "__builtins__",
    "I.__globals__",
    "I(I)",
    "I('text')",
    "I(True)",
    "I(None)",
    "I(1j)",
    "I(...)",
    "I(b'a')",
    "I(1)",
    "np.exp(1)",
    "'age'",
    # powers and sizes that never end
    "x**9**9**9",
    "x**2**2",
    "x**2",
    "I(x**9**9**9)",
    "I(9**9**9)",
    "I(x + 9**4)",
    "I(x + ((9**4)**4)**4)",
    "I(x**y)",
    "I(x**-5)",
    "I(x**True)",
    "I(2**x)",
    "(x + y)**99",
    "(x + y)**2**2",
    "(x + y)**y",
    "*".join(string.ascii_lowercase),
    ":".join(f"({'+'.join(string.ascii_lowercase)})" for _ in range(9)),
    f"({'+'.join(string.ascii_lowercase)})**4",
    "bs(age, df=999999999)",
    "bs(age, 10**9)",
    "bs(age, degree=99)",
    "bs(age, knots=[1, 2])",
    "bs(age, df=True)",
    "cr(age, df=4, constraints='__import__')",
    "poly(age, 100000)",
    "poly(age, degree=2, degree=2)",
    "poly(age, 2, degree=2)",
    "poly(age, 2, 3)",
    "te(cr(age, 3), cr(x, 3))",
    "patsy.dmatrix('x')",
    # categories
    "C(site, levels=['a'])",
    "C(site, Treatment('a', 'b'))",
    "C(site, Treatment(None))",
    "C(site, Treatment(reference=age))",
    "C(site, eval)",
    "C(site, Treatment, Sum)",
    "C(site + age)",
    "I(C(site))",
    "C()",
    "Treatment",
    "Sum",
    # the language of formulas
    "",
    "   ",
    "~",
    "dx ~",
    "dx + age ~ x",
    "I(dx) ~ age",
    "dx ~ age ~ x",
    "dx - 1",
    "0 + dx",
    "-1",
    "dx + 2",
    "dx +",
    "dx age",
    "dx; age",
    "dx\x00age",
    "dx # age",
    "dx + (age",
    "dx)",
    "dx + 'age",
    "Q('''age",
    "dx \\",
    "@dx",
    "dx $ age",
    "dx | age",
    "dx & age",
    "import os",
    # names
    "agee",
    "\N{CYRILLIC SMALL LETTER A}ge",
    "a\u200bge",
    "Q('a\u200bge')",
    "age\u0301",
    "dx\N{FULLWIDTH PLUS SIGN}age",
    # length and depth
    "+".join(["age"] * 700),
    "I(" * 600 + "age" + ")" * 600,
    "I(" + "-" * 1500 + "age)",
    "[" * 999,
]


@pytest.mark.parametrize("text", HOSTILE, ids=[f"{i}-{t[:30]!a}" for i, t in enumerate(HOSTILE)])
def test_a_hostile_formula_is_refused_in_one_line_before_anything_is_evaluated(
    text, monkeypatch, tmp_path
):
    evaluated = []
    monkeypatch.setattr(patsy.EvalEnvironment, "eval", lambda *args, **_: evaluated.append(args))
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    with pytest.raises(FormulaError) as refusal:
        check_formula(text, COLUMNS)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000
    with pytest.raises(FormulaError):
        design_matrix(text, pd.DataFrame({name: [1.0, 2.0, 3.0] for name in COLUMNS}))
    assert evaluated == []
    assert list(tmp_path.iterdir()) == []
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("value", [None, 3, b"age", ["age"]])
def test_a_formula_is_text(value):
    with pytest.raises(FormulaError, match="a formula is text, not"):
        check_formula(value, COLUMNS)


def test_a_variable_of_the_caller_is_not_visible():
    secret = np.arange(5.0)
    table = pd.DataFrame({"age": np.arange(5.0)})
    with pytest.raises(FormulaError, match="no column 'secret'"):
        design_matrix("age + secret", table)
    assert secret.sum() == 10


def test_an_unknown_column_is_named_with_the_nearest_one():
    with pytest.raises(
        FormulaError, match=r"no column 'skul'; did you mean 'skull'\? \(columns: 'dx', 'age'"
    ):
        check_formula("dx + skul", COLUMNS)


@pytest.mark.parametrize("there", ["AGE", "Age_years", "age_at_scan"])
def test_the_nearest_column_is_the_one_of_other_capitals_or_with_a_unit(there):
    with pytest.raises(FormulaError, match=f"no column 'age'; did you mean '{there}'"):
        check_formula("dx + age", ["dx", "share", "stage", there, "page"])


def test_a_letter_that_looks_alike_is_shown_by_its_code_point():
    with pytest.raises(FormulaError, match=r"no column '\\u0430ge'; did you mean 'age'"):
        check_formula("\N{CYRILLIC SMALL LETTER A}ge", COLUMNS)


EVIL_NAMES = [
    "__import__('os').system('touch canary')",
    "C",
    "np",
    "v0",
    "c0",
    "log",
    "Intercept0",
    "lambda",
    "a' + 'b",
    'a"b',
    "a\nb",
    "a\\",
    "volume (cm³)",
    "__builtins__",
    "",
]


@pytest.mark.parametrize("name", EVIL_NAMES, ids=ascii)
def test_a_column_may_be_called_anything(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"v1": [5.0, 1, 7], "exp": [2.0, 2, 3], name: [1.0, 2, 4]})
    design = design_matrix(f"I(Q({name!r})*2) + Q({name!r})", table)
    assert list(design) == ["Intercept", f"I(Q({name!r}) * 2)", name]
    np.testing.assert_array_equal(design.to_numpy()[:, 1:], [[2, 1], [4, 2], [8, 4]])
    assert list(tmp_path.iterdir()) == []


PIECES = st.sampled_from(
    [
        *COLUMNS,
        *("Q('M/F')", "C(site)", "I(", "np.log(", "bs(", "center(", ")", "(", ",", "df=", "Sum"),
        *("+", "-", "*", ":", "/", "**", "~", "0", "1", "2", "4", "'", '"', " ", "="),
        *(".", "__class__", "[", "]", "lambda"),
    ]
)


@given(pieces=st.lists(PIECES, max_size=14) | st.lists(st.characters(), max_size=20))
def test_every_text_is_either_refused_or_rewritten_to_known_identifiers(pieces):
    try:
        parsed = parse("".join(pieces), COLUMNS)
    except FormulaError:
        return
    functions = {"C", "I", "center", "bs", "log", "Treatment"}
    for factor in (factor for term in parsed.terms for factor in term.factors):
        tree = ast.parse(factor.code)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert all(name in functions or re.fullmatch(r"[vc][0-6]", name) for name in names)
        assert not any(
            isinstance(node, ast.Attribute | ast.Subscript | ast.Lambda) for node in ast.walk(tree)
        )


LEGITIMATE = [
    "dx",
    "dx + age + skull",
    "dx * age",
    "dx:age + skull",
    "(dx + age + skull)**2",
    "(dx + age)**2 - dx:age",
    "dx / age",
    "C(site)",
    "C(site, Treatment('b'))",
    "C(site, Treatment(reference='c'))",
    "C(site, Sum)",
    "C(site, Helmert) + age",
    "C(site):age",
    "C(site) * dx + age",
    "site + age",
    "age + I(age**2)",
    "I(age**-1.5) + I(-age)",
    "np.log(skull) + np.sqrt(age)",
    "center(age) * standardize(skull)",
    "bs(age, df=4)",
    "bs(age, 5, degree=2)",
    "cr(age, df=4, constraints='center')",
    "I((age - 70) / 10)",
    "1",
    "age + 1",
    "+age",
]


def plain_table(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "dx": rng.integers(0, 2, rows).astype(float),
            "age": rng.uniform(60, 90, rows),
            "skull": rng.normal(1500, 100, rows),
            "site": rng.choice(list("abc"), rows),
        }
    )


@pytest.mark.parametrize("text", LEGITIMATE)
def test_an_allowed_formula_equals_patsy(text):
    table = plain_table()
    expected = patsy.dmatrix(text, table, return_type="dataframe")
    actual = design_matrix(text, table)
    assert set(actual) == set(expected)
    np.testing.assert_allclose(actual[list(expected)], expected, rtol=1e-12)
    assert actual.columns[0] == "Intercept"


@pytest.mark.parametrize("text", LEGITIMATE)
def test_a_table_of_text_gives_the_same_design(text):
    table = plain_table()
    as_text = table.map(lambda cell: cell if isinstance(cell, str) else repr(cell))
    pd.testing.assert_frame_equal(design_matrix(text, as_text), design_matrix(text, table))


def test_a_bool_column_keeps_its_name_and_counts_as_0_and_1():
    states = [True, False, True, True]
    for column in (
        states,
        [str(s) for s in states],
        pd.array(states, "boolean"),
        pd.Series(states, dtype=object),
    ):
        design = design_matrix("dx", pd.DataFrame({"dx": column}))
        assert list(design) == ["Intercept", "dx"]
        np.testing.assert_array_equal(design["dx"], [1.0, 0.0, 1.0, 1.0])


def test_numeric_categories_are_ordered_as_numbers_and_addressed_by_their_text():
    table = pd.DataFrame({"site": [10, 2, 1, 2, 10, 1]})
    assert list(design_matrix("C(site)", table)) == ["Intercept", "C(site)[T.2]", "C(site)[T.10]"]
    for reference in ("10", "'10'", "10.0"):
        design = design_matrix(f"C(site, Treatment({reference}))", table)
        assert [name.rpartition("[")[2] for name in design][1:] == ["T.1]", "T.2]"]


def test_poly_is_orthonormal_and_spans_the_powers():
    age = plain_table()["age"].to_numpy()
    design = design_matrix("poly(age, 3)", pd.DataFrame({"age": age})).to_numpy()
    np.testing.assert_allclose(design[:, 1:].T @ design[:, 1:], np.eye(3), atol=1e-12)
    np.testing.assert_allclose(design[:, 1:].sum(axis=0), 0, atol=1e-10)
    powers = np.vander((age - 75) / 15, 4)
    kept, *_ = np.linalg.lstsq(design, powers, rcond=None)
    np.testing.assert_allclose(design @ kept, powers, atol=1e-10)
    assert np.corrcoef(design[:, 1], age)[0, 1] == pytest.approx(1)


def test_the_outcome_may_stand_left_of_the_tilde():
    assert parse("Q('M/F') ~ age", COLUMNS).outcome == "M/F"
    assert parse("dx ~ age", COLUMNS).outcome == "dx"
    assert parse("~ age", COLUMNS).outcome is None


def test_terms_written_twice_are_one_term():
    parsed = parse("age + Q('age') + age:Q('dx') + dx:age", COLUMNS)
    assert [term.name for term in parsed.terms] == ["age", "age:dx"]


@pytest.mark.parametrize(
    ("text", "cells", "message"),
    [
        ("age", ["70", "abc", "80"], "column 'age' holds 'abc' in row 1, where a number is needed"),
        ("age", ["70", None, "80"], "column 'age' is missing in 1 of 3 rows"),
        ("age", ["70", " ", "80"], "column 'age' is missing in 1 of 3 rows"),
        ("age", ["70", "inf", "80"], "column 'age' is infinite in row 1"),
        ("age", ["7_0", "70", "80"], "holds '7_0' in row 0"),
        ("age", ["1,5", " 2,25", "3,0"], "'age' holds '1,5' and the like in all 3 rows"),
        ("np.log(age)", ["1", "0", "2"], r"np.log\(age\) is -inf in row 1"),
        ("np.sqrt(age)", ["1", "4", "-2"], r"np.sqrt\(age\) is nan in row 2"),
        ("I(age * 2)", ["a", "b", "c"], "column 'age' holds 'a' in row 0"),
        ("C(age, Treatment('z'))", ["a", "b", "c"], "cannot be evaluated"),
        ("poly(age, 3)", ["1", "2", "2"], "needs more than 3 different values"),
        ("bs(age, df=1)", ["1", "2", "2"], "cannot be evaluated"),
        ("age", [f"name {i}" for i in range(201)], "'age' has 201 categories; at most 200"),
    ],
)
def test_cells_that_a_term_cannot_use_are_named_in_one_line(text, cells, message):
    with pytest.raises(DesignError, match=message) as refusal:
        design_matrix(text, pd.DataFrame({"age": cells}))
    assert "\n" not in str(refusal.value)


def test_interactions_of_wide_categories_are_refused_before_they_are_built():
    names = [str(i) for i in range(150)]
    table = pd.DataFrame({"a": [f"a{n}" for n in names], "b": [f"b{n}" for n in names]})
    with pytest.raises(DesignError, match="up to 22800 columns of design; at most 2000"):
        design_matrix("a * b", table)


def test_two_columns_of_one_name_are_refused():
    table = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["age", "age"])
    with pytest.raises(DesignError, match="2 columns are called 'age'"):
        design_matrix("age", table)
    with pytest.raises(DesignError, match="a column of the table is called 'Intercept'; rename it"):
        design_matrix("Intercept", pd.DataFrame({"Intercept": [1.0, 2.0]}))
    clash = pd.DataFrame({"site": list("abab"), "site[T.b]": [1.0, 2.0, 3.0, 5.0]})
    with pytest.raises(DesignError, match="cannot be evaluated"):
        design_matrix("site + Q('site[T.b]')", clash)
