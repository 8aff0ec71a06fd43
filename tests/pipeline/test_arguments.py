"""What a recipe gives to an operation: a value of the wrong kind is told as in a catalog."""

import inspect
import re

import pytest

from cohort.pipeline.arguments import sort_arguments
from cohort.pipeline.steps import STEPS

JUNK = ("zz z", -1, 1.5, True, None, [], ["zz z"], [1, 2, 3], {}, {"zz z": 1})


def problems(call, parameter, value):
    there = {"arrays": ["image"], "poses": [], "numbers": []}
    return sort_arguments(STEPS[call], {parameter: value}, **there).problems


@pytest.mark.parametrize(
    ("call", "parameter", "value", "said"),
    [
        ("register", "transform", "rigit", "expected one of rigid, similarity, affine; found 'rigit'; did you mean 'rigid'?"),
        ("dilate", "iterations", 1.5, "expected a whole number, found the number 1.5"),
        ("dilate", "iterations", "two", "expected a whole number, found 'two'"),
        ("threshold", "above", [1, 2], "expected a number, found a list"),
        ("select", "at_mm", -1, "expected a list, found the number -1"),
        ("select", "largest", "zz", "expected true or false, found 'zz'"),
        ("gaussian", "mode", 3, "expected text, found the number 3"),
        ("shift", "mm", [1], "expected a mapping (key: value), found a list"),
        ("register", "scale_range", [1.0], "expected one value more, found a list"),
        ("register", "scale_range", [1, 2, 3], "expected at most 2 values, found 3"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_was_expected(call, parameter, value, said):
    assert problems(call, parameter, value) == [f"{parameter}: {said}"]


@pytest.mark.parametrize("call", STEPS)
def test_no_mistake_is_told_in_the_words_of_pydantic(call):
    for parameter in inspect.signature(STEPS[call].function).parameters:
        for value in JUNK:
            for said in problems(call, parameter, value):
                assert not re.search(r"Input should|[a-z] error, |required|instances", said), said
