"""The small grammar: what it computes, and that nothing else gets through."""

import numpy as np
import pandas as pd
import pytest

from cohort.expression import ExpressionError, check_columns, column, evaluate, parse

HOSTILE = [
    "__import__('os').system('true')", "open('x')", "x.__class__", "x[0]", "lambda: 1", "[i for i in x]", "f'{x}'",
    "x ** 9 ** 9", "x if y else z", "(x := 1)", "x @ y", "x // y", "x % 2", "~x", "x << 2", "{1: 2}", "{x}", "*x", "x; y",
    "import os", "x\ny", "...", "1j", "b'x'", "x is y", "x in y", "yield x", "await x", "print", "" , "(" * 300,
]  # fmt: skip


@pytest.mark.parametrize("text", [t for t in HOSTILE if t != "print"])
def test_anything_but_the_grammar_is_refused(text):
    with pytest.raises(ExpressionError):
        parse(text, comparisons=True)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(
        ExpressionError, match="no 'agee' here; known are age, sex; did you mean 'age'"
    ):
        check_columns("agee > 60", ["age", "sex"])


def test_a_long_text_is_refused():
    with pytest.raises(ExpressionError, match="at most 500"):
        parse("1 + " * 200 + "1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age >= 60", [0, 1, 1, np.nan]),
        ("age >= 60, missing false", [0, 1, 1, 0]),
        ("age > 60 and sex == M", [0, 0, 1, np.nan]),
        ("age > 60 or sex == 'F'", [1, 1, 1, np.nan]),
        ("not sex == M", [1, 1, 0, 1]),
        ("demented == True", [0, 1, 1, 0]),
        ("demented != True", [1, 0, 0, 1]),
        ("2 * age - 1", [39, 119, 141, np.nan]),
        ("-age / 2", [-10, -30, -35.5, np.nan]),
        ("50 < age <= 60", [0, 1, 0, np.nan]),
        ("score > 0", [0, 1, np.nan, 1]),
        ("code == 007", None),
    ],
)  # fmt: skip
def test_columns_follow_from_columns(text, expected):
    table = pd.DataFrame(
        {
            "age": [20.0, 60.0, 71.0, np.nan],
            "sex": ["F", "F", "M", "F"],
            "demented": ["False", "True", "True", "False"],
            "score": ["0", "0.5", None, "2"],
        }
    )
    if expected is None:
        with pytest.raises(ExpressionError):
            column(table, text)
    else:
        np.testing.assert_array_equal(column(table, text), expected)


def test_text_where_a_number_is_needed_is_named_with_its_row():
    table = pd.DataFrame({"age": ["20", "old"]}, index=["s1", "s2"])
    with pytest.raises(ExpressionError, match="column 'age' holds 'old' in row s2"):
        column(table, "age > 3")


def test_numbers_of_a_recipe_are_walked_over_any_operand():
    assert evaluate(parse("0.45 * level - (a + 2) / 4"), {"level": 2.0, "a": 6}) == pytest.approx(
        -1.1
    )
    np.testing.assert_array_equal(evaluate(parse("2 * x"), {"x": np.arange(3)}), [0, 2, 4])
