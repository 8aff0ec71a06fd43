"""Plans: what is stale and why, and how much memory a scan takes, from tables alone."""

import cohorts
import pytest
import yaml

from cohort.pipeline.memory import peak_bytes
from cohort.pipeline.plan import WORKER_BASE_BYTES, PlanError, order
from cohort.pipeline.plan import make_plan as make_plan_of_pairs
from cohort.pipeline.recipe import RecipeError, bind

HERE = {"numpy": "2.4.6", "scipy": "1.17.1"}


def make_plan(recipe, scans, derivatives, **wishes):
    """Plan for scans whose derivatives are given by scan_id, with the libraries of `HERE`."""
    pairs = ((scan, derivatives.get(scan["scan_id"])) for scan in scans)
    return make_plan_of_pairs(recipe, pairs, **{"versions": HERE} | wishes)


def recipe(text=cohorts.RECIPE, variables=("image",)):
    return bind(yaml.safe_load(text), where="ball.yaml", variables=variables)


def scan(scan_id="a", content="c1", shape=(10, 10, 10), **more):
    return {
        "scan_id": scan_id,
        "contents": {"image": content, **more},
        "shape": list(shape),
        "spacing_mm": {"z": 1.0, "y": 1.0, "x": 1.0},
        "axcodes": "RAS",
        "variables": {"image": {"dtype": "int16", "shape": list(shape)}},
    }


def done(recipe, content="c1"):
    return {
        "state": "done",
        "keys": dict(recipe.keys),
        "contents": {"image": content},
        "kept": list(recipe.keep),
        "versions": HERE,
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
        "versions": HERE,
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
    assert {t.scan_id: t.grain for t in plan.tasks} == {"small": "scan", "large": "block"}
    for grain in ("scan", "block"):
        plan = make_plan(recipe(), [small, large], {}, grain=grain, worker_bytes=32 << 30)
        assert {t.grain for t in plan.tasks} == {grain}
    assert peak_bytes(recipe(), large) == 512**3 * peak_bytes(recipe(), scan(shape=(1, 1, 1)))
    assert WORKER_BASE_BYTES < 1 << 30


def test_another_version_of_a_library_makes_all_of_a_result_stale_and_is_named():
    before = done(recipe()) | {"versions": {"numpy": "2.4.6", "scipy": "1.16.0"}}
    (task,) = make_plan(recipe(), [scan()], {"a": before}).tasks
    assert (task.reason, task.stale) == ("library: scipy 1.16.0 -> 1.17.1", tuple(recipe().keys))
    assert make_plan(recipe(), [scan()], {"a": before}, accept_versions=True).fresh == ("a",)


def test_a_result_whose_versions_nobody_noted_may_be_of_any():
    before = {k: v for k, v in done(recipe()).items() if k != "versions"}
    (task,) = make_plan(recipe(), [scan()], {"a": before}).tasks
    assert task.reason == "library: numpy not noted -> 2.4.6, scipy not noted -> 1.17.1"


def test_accepted_versions_are_never_mixed_within_one_scan():
    before = done(recipe()) | {"versions": {"numpy": "1.0", "scipy": "1.17.1"}, "kept": []}
    (task,) = make_plan(recipe(), [scan()], {"a": before}, accept_versions=True).tasks
    assert (task.kind, task.stale) == ("missing", tuple(recipe().keys))
    new = recipe(cohorts.RECIPE.replace("iterations: 1", "iterations: 2"))
    (task,) = make_plan(new, [scan()], {"a": before}, accept_versions=True).tasks
    assert (task.kind, task.stale) == ("recipe", tuple(new.keys))


def test_urgent_scans_come_first_and_the_order_does_not_depend_on_how_they_are_listed():
    old = {**done(recipe()), "versions": {"numpy": "1.0"}}
    other = recipe(cohorts.RECIPE.replace("iterations: 1", "iterations: 2"))
    scans = [scan(f"{kind}{n}") for kind in ("library", "recipe", "input", "new") for n in range(9)]
    found = {
        s["scan_id"]: {
            "library": old,
            "recipe": done(other),
            "input": done(recipe(), "another"),
            "new": None,
        }[s["scan_id"][:-1]]
        for s in scans
    }
    names = [t.scan_id for t in make_plan(recipe(), scans, found).tasks]
    assert [n[:-1] for n in names[::9]] == ["new", "input", "recipe", "library"]
    assert [t.scan_id for t in make_plan(recipe(), scans[::-1], found).tasks] == names
    assert names[:9] != sorted(names[:9])


def test_what_a_budget_takes_of_many_sites_is_a_fair_sample_of_them():
    scans = [scan(f"site{n % 4}-{n:04d}") for n in range(2000)]
    tasks = make_plan(recipe(), sorted(scans, key=lambda s: s["scan_id"]), {}).tasks[:400]
    counts = [sum(t.scan_id.startswith(f"site{site}") for t in tasks) for site in range(4)]
    # Hypergeometric: 100 of each site are expected, with a standard deviation of 7.7.
    assert all(abs(n - 100) < 5 * 7.7 for n in counts)
    assert order(reversed(tasks)) == tasks


def test_bytes_are_those_of_the_variables_that_are_read_and_at_most_those_that_are_kept():
    chunks = {"image/c/0": ["d", 700], "image/zarr.json": ["d", 30], "labels/c/0": ["d", 9]}
    (task,) = make_plan(recipe(), [{**scan(), "chunks": chunks}], {}).tasks
    assert (task.read_bytes, task.write_bytes) == (730, 10**3)  # `big` is one byte a voxel
    before = done(recipe(), "c0") | {"chunks": {"big/c/0": ["d", 41], "affine/c/0": ["d", 4]}}
    (task,) = make_plan(recipe(), [scan()], {"a": before}).tasks
    assert task.write_bytes == 45


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
