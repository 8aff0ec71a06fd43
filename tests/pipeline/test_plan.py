"""Plans: what is stale and why, and how much memory a scan takes, from tables alone."""

import cohorts
import pytest
import yaml

from cohort.pipeline.plan import WORKER_BASE_BYTES, PlanError, make_plan, peak_bytes
from cohort.pipeline.recipe import RecipeError, bind


def recipe(text=cohorts.RECIPE, variables=("image",)):
    return bind(yaml.safe_load(text), where="ball.yaml", variables=variables)


def scan(scan_id="a", content="c1", shape=(10, 10, 10), **more):
    return {
        "scan_id": scan_id,
        "contents": {"image": content, **more},
        "shape": list(shape),
        "variables": {"image": {"dtype": "int16"}},
    }


def done(recipe, content="c1"):
    return {
        "state": "done",
        "keys": dict(recipe.keys),
        "contents": {"image": content},
        "kept": list(recipe.keep),
    }


def test_nothing_changed_is_fresh():
    plan = make_plan(recipe(), [scan()], {"a": done(recipe())})
    assert (plan.fresh, plan.tasks) == (("a",), ())


def test_a_new_scan_needs_every_step():
    (task,) = make_plan(recipe(), [scan()], {}).tasks
    assert (task.reason, set(task.stale)) == ("new", set(recipe().keys))


def test_changed_content_makes_every_step_that_reads_it_stale():
    (task,) = make_plan(recipe(), [scan(content="c2")], {"a": done(recipe())}).tasks
    assert (task.reason, set(task.stale)) == ("image changed", set(recipe().keys))


def test_content_the_recipe_does_not_read_changes_nothing():
    before = done(recipe(variables=("image", "labels")))
    plan = make_plan(recipe(variables=("image", "labels")), [scan(labels="other")], {"a": before})
    assert plan.fresh == ("a",)


def test_only_what_stands_on_a_changed_step_is_stale():
    new = recipe(cohorts.RECIPE.replace("iterations: 1", "iterations: 2"))
    (task,) = make_plan(new, [scan()], {"a": done(recipe())}).tasks
    assert task.reason == "changed in the recipe: core"
    assert set(task.stale) == {
        "core",
        "spots",
        "parts",
        "big",
        "n_spots",
        "n_big",
        "where",
        "share",
        "spots_of",
    }


def test_renaming_a_step_changes_no_measurement():
    new = recipe(cohorts.RECIPE.replace("core", "inner"))
    (task,) = make_plan(new, [scan()], {"a": done(recipe())}).tasks
    assert task.stale == ("inner",)


def test_a_raised_revision_is_a_change(monkeypatch):
    from cohort.pipeline import recipe as module

    before = done(recipe())
    steps = dict(module.STEPS)
    steps["label"] = steps["label"]._replace(revision=steps["label"].revision + 1)
    monkeypatch.setattr(module, "STEPS", steps)
    (task,) = make_plan(recipe(), [scan()], {"a": before}).tasks
    assert set(task.stale) == {"parts", "n_spots", "spots_of"}


def test_a_lasting_failure_waits_for_a_change_and_another_is_tried_again():
    failed = {
        "state": "failed",
        "keys": dict(recipe().keys),
        "contents": {"image": "c1"},
        "lasting": True,
    }
    assert make_plan(recipe(), [scan()], {"a": failed}).failed == ("a",)
    for retried in (
        make_plan(recipe(), [scan()], {"a": failed}, retry=True),
        make_plan(recipe(), [scan()], {"a": {**failed, "lasting": False}}),
        make_plan(recipe(), [scan(content="c2")], {"a": failed}),
    ):
        assert [set(t.stale) for t in retried.tasks] == [set(recipe().keys)]


def test_a_variable_that_was_not_kept_before_is_made():
    (task,) = make_plan(recipe(), [scan()], {"a": done(recipe()) | {"kept": []}}).tasks
    assert (task.reason, task.stale) == ("not kept before: big", ("big",))


def test_what_does_not_fit_is_refused_with_what_would():
    large = [scan(shape=(512, 512, 512))]
    with pytest.raises(
        PlanError,
        match=r"takes \d+ MiB in memory, a worker may fill .* blocks of 128 voxels a side",
    ):
        make_plan(recipe(), large, {}, grain="scan", worker_bytes=1 << 30)
    (task,) = make_plan(recipe(), large, {}, worker_bytes=450 << 20).tasks
    assert (task.grain, task.block) == ("block", 64)
    with pytest.raises(
        PlanError, match=r"even in blocks of 32 voxels a side a worker needs 403 MiB"
    ):
        make_plan(recipe(), large, {}, worker_bytes=200 << 20)


def test_the_grain_follows_from_bytes():
    small, large = scan("small"), scan("large", shape=(512, 512, 512))
    plan = make_plan(recipe(), [small, large], {}, worker_bytes=2 << 30)
    assert [t.grain for t in plan.tasks] == ["scan", "block"]
    for grain in ("scan", "block"):
        plan = make_plan(recipe(), [small, large], {}, grain=grain, worker_bytes=32 << 30)
        assert {t.grain for t in plan.tasks} == {grain}
    assert peak_bytes(recipe(), large) == 512**3 * peak_bytes(recipe(), scan(shape=(1, 1, 1)))
    assert WORKER_BASE_BYTES < 1 << 30


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("recipe: ball", "recip: ball", "unknown key 'recip'; did you mean 'recipe'"),
        ("recipe: ball", "recipe: ../ball", "'recipe' is the name"),
        ("mask: head}\n  head_ml", "mask: parts, image: image}\n  head_ml", r"n_voxels\(\) has no parameter 'image'; it takes mask"),
        ("n_big / n_head", "n_big / n_hed", "no 'n_hed' here"),
        ("  level: {call: median_in, image: image, mask: head}", "  head: {call: invert, mask: head}", "twice|taken|level"),
        ("  n_spots:    {call: count, labels: parts}", "  n_spots:    {call: label, mask: spots}", "gives an image, not a number"),
        ("  parts: {call: label, mask: spots}", "  parts: {call: regions, image: image, labels: spots}", "gives a table; put it under 'measure'"),
        ("keep: [big]", "keep: [level]", "'level' is no step that gives an array"),
    ],
)  # fmt: skip
def test_every_mistake_of_a_recipe_is_named(old, new, message):
    text = cohorts.RECIPE.replace(old, new)
    assert text != cohorts.RECIPE
    with pytest.raises(RecipeError, match=message):
        recipe(text)
