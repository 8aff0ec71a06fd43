"""What happens when nothing is there: how often the default model, and the ratio that it replaces, find an effect."""

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cohort.stats.regression import fit

pytestmark = pytest.mark.slow

ALPHA = 0.05
DRAWS = 500


def null_cohort(n, seed):
    """Volumes that depend on age, sex and head size and not on the group, whose members are older.

    Atrophy, scaling and spread are of the size of the OASIS volumes: -4 cm3 a year, a brain that grows slower than
    its skull, 55 cm3 around the line.
    """
    rng = np.random.Generator(np.random.Philox(key=np.array([20261121, seed], np.uint64)))
    dx = rng.permutation(np.arange(n) % 2)
    male = rng.integers(0, 2, n)
    age = rng.normal(68, 8, n) + 7 * dx
    skull = rng.normal(1400, 120, n) + 150 * male
    brain = 850 - 4 * (age - 70) + 0.4 * (skull - 1450) + rng.normal(0, 55, n)
    return pd.DataFrame({"dx": dx, "age": age, "male": male, "skull": skull, "brain": brain})


def band(draws):
    """How many of `draws` tests at 5 % reject a truth, in 99 of 100 cases."""
    return stats.binom.ppf([0.005, 0.995], draws, ALPHA)


def rejections(n, draws):
    """Of the default model by classical and HC3 errors, and of the t-test on the ratio."""
    counts = dict.fromkeys(("classical", "hc3", "ratio"), 0)
    for seed in range(draws):
        table = null_cohort(n, seed)
        model = fit(table, formula="brain ~ dx + age + male + skull", one_scan_per="all")
        row = model.tidy.set_index("term").loc["dx"]
        ratio = table["brain"] / table["skull"]
        counts["classical"] += row["p"] < ALPHA
        counts["hc3"] += row["hc3_p"] < ALPHA
        counts["ratio"] += (
            stats.ttest_ind(ratio[table["dx"] == 1], ratio[table["dx"] == 0]).pvalue < ALPHA
        )
    sys.stdout.write(
        f"\nno effect, {n} people, groups 7 years apart, {draws} draws: rejected at 5 % "
        + ", ".join(f"{name} {count / draws:.3f}" for name, count in counts.items())
        + "\n"
    )
    return counts


def test_the_default_model_rejects_a_true_null_as_often_as_it_says_and_the_ratio_far_more_often():
    counts = rejections(120, DRAWS)
    low, high = band(DRAWS)
    assert low <= counts["classical"] <= high
    assert low <= counts["hc3"] <= high
    assert counts["ratio"] > 5 * high


def test_hc3_keeps_its_level_with_25_people():
    counts = rejections(25, DRAWS)
    low, high = band(DRAWS)
    assert low <= counts["hc3"] <= high
    assert low <= counts["classical"] <= high


def test_hc3_keeps_its_level_where_errors_grow_and_classical_errors_do_not():
    """Errors that grow with the distance of a covariate from its middle, the case that classical errors get wrong."""
    draws, n = 200, 100
    counts = {"p": 0, "hc3_p": 0}
    for seed in range(draws):
        rng = np.random.Generator(np.random.Philox(key=np.array([7, seed], np.uint64)))
        x = rng.normal(size=n)
        table = pd.DataFrame({"x": x, "z": rng.normal(size=n)})
        table["y"] = table["z"] + rng.normal(size=n) * (0.2 + x**2)
        row = fit(table, formula="y ~ x + z", one_scan_per="all").tidy.set_index("term").loc["x"]
        for name in counts:
            counts[name] += row[name] < ALPHA
    low, high = band(draws)
    sys.stdout.write(
        f"\nerrors that grow, {n} people: { ({k: float(v) / draws for k, v in counts.items()}) }\n"
    )
    assert low <= counts["hc3_p"] <= high
    assert counts["p"] > 2 * high
