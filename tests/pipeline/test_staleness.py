"""Why a result is stale, in full: which input, which step and what of it, which revision, which library."""

import cohorts
import yaml

from cohort.pipeline import recipe as recipe_module
from cohort.pipeline.recipe import bind
from cohort.pipeline.staleness import causes

HERE = {"numpy": "2.4.6", "scipy": "1.17.1"}


def recipe(*changes):
    text = cohorts.RECIPE
    for old, new in changes:
        assert text.count(old) == 1
        text = text.replace(old, new)
    return bind(yaml.safe_load(text), where="ball.yaml", variables=("image",))


def record(recipe, **more):
    before = {
        "state": "done",
        "keys": dict(recipe.keys),
        "contents": {"image": "a" * 64},
        "kept": list(recipe.keep),
        "versions": HERE,
    }
    return before | more


def said(recipe):
    """As the run notes it."""
    return {**recipe.content, "revisions": recipe.revisions()}


def told(recipe, found, said, content="a" * 64):
    return [
        (c.kind, c.text)
        for c in causes(recipe, {"image": content}, found, said=said, versions=HERE)
    ]


def test_a_changed_parameter_is_named_with_both_values_and_what_stands_on_it_is_not():
    old, new = recipe(), recipe(("iterations: 1", "iterations: 2"))
    assert told(new, record(old), said(old)) == [("recipe", "core: iterations 1 -> 2")]


def test_parameters_that_come_and_go_and_a_new_step_are_named():
    old = recipe()
    new = recipe(
        ("iterations: 1", "radius_mm: 2.5"),
        ("  n_head:", "  more: {call: n_voxels, mask: dark}\n  n_head:"),
    )
    assert told(new, record(old), said(old)) == [
        ("recipe", "core: iterations 1 -> none, radius_mm none -> 2.5"),
        ("recipe", "more: new"),
    ]


def test_a_raised_revision_is_named_with_the_operation(monkeypatch):
    old = recipe()
    before = record(old), said(old)
    steps = dict(recipe_module.STEPS)
    raised = steps["label"].revision + 1
    steps["label"] = steps["label"]._replace(revision=raised)
    monkeypatch.setattr(recipe_module, "STEPS", steps)
    assert told(recipe(), *before) == [
        ("revision", f"parts: revision of label {raised - 1} -> {raised}")
    ]


def test_input_recipe_and_library_are_all_named_at_once():
    old, new = recipe(), recipe(("n_big / n_head", "n_head / n_big"))
    found = record(old, versions={"numpy": "2.4.6", "scipy": "1.16.2"})
    assert told(new, found, said(old), content="b" * 64) == [
        ("input", "image: content aaaaaaaaaaaa -> bbbbbbbbbbbb"),
        ("recipe", "share: value n_big / n_head -> n_head / n_big"),
        ("library", "scipy 1.16.2 -> 1.17.1"),
    ]


def test_without_what_the_recipe_said_the_step_is_named_still():
    old, new = recipe(), recipe(("iterations: 1", "iterations: 2"))
    ((kind, text),) = told(new, record(old), {})
    assert (kind, text) == (
        "recipe",
        "core: not the call it was; what the recipe said was not kept",
    )


def test_nothing_there_nothing_kept_and_a_failure_that_may_pass():
    old = recipe()
    assert told(old, None, {}) == [("new", "nothing was measured on this scan yet")]
    assert told(old, record(old, kept=[]), said(old)) == [("missing", "not kept before: big")]
    failed = record(old, state="failed", type="MemoryError")
    assert told(old, failed, said(old)) == [("failed", "failed before: MemoryError")]
    assert told(old, record(old), said(old)) == []
