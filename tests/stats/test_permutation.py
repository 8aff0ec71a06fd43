"""Permutation tests against refits, exact enumeration, published p, and every way to divide the work."""

import itertools
import json
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from threadpoolctl import threadpool_limits

from cohort.stats.design import prepare
from cohort.stats.exchanges import exchange as arrangements
from cohort.stats.permutation import (
    ALTERNATIVES,
    METHODS,
    DesignError,
    after,
    beside,
    permute,
    probabilities,
    scheme,
    tally,
    working_bytes,
)


def simulated(seed=0, n=30, v=5, effect=0.0):
    """A group, two numbers that go with it, and correlated outcomes far from zero."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(n) % 2).astype(float)
    age = 70 + 5 * group + rng.normal(0, 6, n)
    X = np.column_stack([np.ones(n), group, age, rng.normal(1500, 120, n)])
    Y = 1000 + 0.3 * X[:, 3:] - 3 * X[:, 2:3] + effect * group[:, None]
    return X, Y + rng.normal(0, 20, (n, 1)) + rng.normal(0, 30, (n, v))


def t_of(X, y, term=1):
    fit = sm.OLS(y, X).fit()
    return fit.params[term] / fit.bse[term]


def applied(plan, weights, number):
    """Weights as one arrangement gives them to the rows."""
    return plan.moved(weights, plan.moves(number, number + 1))[:, 0]


GROUP = np.array([0.0, 1, 0, 0])
"""Contrast of the group."""

PAIRED = np.column_stack([np.ones(30), np.arange(30) % 2])
"""Fifteen people, each before and after."""


@given(seed=st.integers(0, 10_000), n=st.integers(8, 60), method=st.sampled_from(METHODS))
def test_the_first_arrangement_is_ordinary_least_squares(seed, n, method):
    X, Y = simulated(seed, n)
    found = permute(X, Y, term=1, n_permutations=3, seed=seed, method=method)
    for j, row in enumerate(found.tidy.itertuples()):
        plain = sm.OLS(Y[:, j], X / [1, 1, 70, 1500]).fit()
        assert row.statistic == pytest.approx(plain.tvalues[1], rel=1e-11, abs=1e-12)
        assert row.estimate == pytest.approx(plain.params[1], rel=1e-9)
        assert row.se == pytest.approx(plain.bse[1], rel=1e-10)
        assert row.p_parametric == pytest.approx(plain.pvalues[1], rel=1e-9)
    assert found.maximum[0] == np.abs(found.tidy["statistic"]).max()


@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(["freedman-lane", "sign-flip"]),
    blocks=st.sampled_from([None, "within", "whole"]),
)
def test_each_arrangement_is_a_refit_of_the_arranged_residuals(seed, method, blocks):
    X, Y = simulated(seed, n=24, v=1)
    labels = np.random.default_rng(seed).permutation(np.arange(24) // 4)
    kind = {} if blocks is None else {"blocks": labels, "exchange": blocks}
    plan = scheme(X, GROUP, n_permutations=6, seed=seed, method=method, **kind)
    nuisance = np.delete(X, 1, axis=1)
    inside = nuisance @ np.linalg.lstsq(nuisance, Y[:, 0], rcond=None)[0]
    residual = Y[:, 0] - inside
    for number in range(6):
        if method == "sign-flip":
            arranged = residual * applied(plan.exchange, np.ones((1, 24)), number)[0]
        else:
            arranged = np.empty(24)
            arranged[applied(plan.exchange, np.arange(24)[None], number)[0]] = residual
        expected = t_of(X / [1, 1, 70, 1500], inside + arranged)
        for alternative, sign in (("two-sided", np.sign(expected)), ("greater", 1), ("less", -1)):
            side = replace(plan, alternative=alternative)
            one = tally(side, Y, start=number, stop=number + 1)
            assert one.maximum[0] == pytest.approx(sign * expected, rel=1e-9, abs=1e-10)


def test_huh_jhun_permutes_what_is_left_of_rows_and_design():
    X, Y = simulated(3, n=20, v=1)
    plan = scheme(X, GROUP, n_permutations=5, seed=1, method="huh-jhun")
    x, y = plan.weights[0], plan.basis.T @ Y[:, 0]
    found = tally(plan, Y)
    assert plan.basis.shape == (20, 17)
    for number in range(5):
        moved = applied(plan.exchange, x[None], number)[0]
        r = moved @ y / math.sqrt(y @ y)
        expected = abs(r) * math.sqrt(16 / (1 - r * r))
        assert found.maximum[number] == pytest.approx(expected, rel=1e-10)


@given(data=st.data(), method=st.sampled_from(METHODS), seed=st.integers(0, 1_000))
def test_any_division_of_the_work_gives_the_same_bytes(data, method, seed):
    n_permutations, v = 150, data.draw(st.integers(1, 300), label="outcomes")
    X, Y = simulated(seed, n=25, v=v)
    plan = scheme(X, GROUP, n_permutations=n_permutations, seed=seed, method=method)
    whole = tally(plan, Y)

    def cuts(size, label):
        inner = data.draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=5), label=label)
        return list(itertools.pairwise(sorted({0, size} | {c for c in inner if c < size})))

    ranges, columns = cuts(n_permutations, "ranges"), cuts(v, "columns")
    with threadpool_limits(data.draw(st.sampled_from([1, 2]), label="threads")):
        parts = [
            after([tally(plan, Y[:, a:b], start=start, stop=stop) for start, stop in ranges[::-1]])
            for a, b in columns
        ]
    joined = beside(parts)
    for name in ("t", "exceeded", "maximum"):
        assert getattr(joined, name).tobytes() == getattr(whole, name).tobytes(), name
    other = tally(plan, np.asfortranarray(Y)[:, ::-1])
    assert other.maximum.tobytes() == whole.maximum.tobytes()
    assert other.exceeded[::-1].tobytes() == whole.exceeded.tobytes()


def test_few_people_are_enumerated():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 3), rng.normal(1, 1, 4)
    X = np.column_stack([np.ones(7), [0, 0, 0, 1, 1, 1, 1]])
    y = np.concatenate([a, b])
    for alternative in ("two-sided", "greater", "less"):
        found = permute(X, y, term=1, n_permutations=6000, seed=0, alternative=alternative)
        exact = stats.permutation_test(
            (b, a),
            lambda x, y: stats.ttest_ind(x, y).statistic,
            alternative=alternative,
            n_resamples=np.inf,
        )
        assert found.model["exhaustive"]
        assert found.model["n_permutations"] == math.factorial(7)
        if alternative == "two-sided":  # scipy doubles the smaller tail; |t| counts both
            null = np.abs(exact.null_distribution)
            expected = (null >= abs(exact.statistic) - 1e-9).mean()
        else:
            expected = exact.pvalue
        assert found.tidy["p"][0] == pytest.approx(expected, rel=1e-12)
        assert found.tidy["p_se"][0] == 0


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_few_signs_are_enumerated(alternative):
    y = np.random.default_rng(1).normal(0.5, 1, 9)
    found = permute(
        np.ones((9, 1)),
        y,
        term=0,
        n_permutations=1000,
        seed=0,
        method="sign-flip",
        alternative=alternative,
    )
    means = [np.mean(y * signs) for signs in itertools.product([1, -1], repeat=9)]
    side = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
    expected = (side(means) >= side(np.mean(y)) - 1e-12).mean()
    assert found.tidy["p"][0] == pytest.approx(expected, rel=1e-12)
    assert found.model["n_permutations"] == 512


def test_drawing_agrees_with_enumeration():
    X, Y = simulated(5, n=7, v=1)
    X = X[:, :3]
    exact = permute(X, Y, term=1, n_permutations=5040, seed=0)
    drawn = permute(X, Y, term=1, n_permutations=5039, seed=0)
    assert exact.model["exhaustive"]
    assert not drawn.model["exhaustive"]
    p = exact.tidy["p"][0]
    assert abs(drawn.tidy["p"][0] - p) < 4 * math.sqrt(p * (1 - p) / 5039)
    assert drawn.tidy["p_se"][0] == pytest.approx(math.sqrt(p * (1 - p) / 5039), rel=0.1)


@pytest.mark.parametrize(
    ("blocks", "exchange", "flips", "count"),
    [
        (None, "within", False, 720),
        ([0, 0, 1, 1, 1, 2], "within", False, 12),
        ([0, 0, 1, 1, 2, 2], "whole", False, 6),
        ([0, 0, 1, 1, 2, 3], "whole", False, 4),
        (None, "within", True, 64),
        ([0, 0, 1, 1, 1, 2], "whole", True, 8),
    ],
)
def test_every_arrangement_comes_once(blocks, exchange, flips, count):
    blocks = None if blocks is None else np.array(blocks)
    plan = arrangements.arrange(
        6, n_permutations=10_000, seed=0, blocks=blocks, exchange=exchange, flips=flips
    )
    assert (plan.n_permutations, plan.exhaustive) == (count, True)
    base = np.ones((1, 6)) if flips else np.arange(6)[None]
    seen = [tuple(applied(plan, base, number)[0]) for number in range(count)]
    assert len(set(seen)) == count
    assert seen[0] == tuple(base[0])


@given(
    seed=st.integers(0, 2**64 - 1),
    number=st.integers(1, 10**9),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=8),
    shuffled=st.booleans(),
)
def test_arrangements_keep_blocks(seed, number, sizes, shuffled):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if shuffled:
        labels = np.random.default_rng(0).permutation(labels)
    n, base = len(labels), np.arange(len(labels))[None]
    options = {"n_permutations": 1, "seed": seed, "blocks": labels}
    within = applied(arrangements.arrange(n, **options), base, number)[0]
    assert sorted(within) == list(range(n))
    assert (labels[within] == labels).all()
    flips = arrangements.arrange(n, **options, exchange="whole", flips=True)
    signs = applied(flips, np.ones((1, n)), number)[0]
    assert set(signs) <= {1.0, -1.0}
    assert all(len(set(signs[labels == block])) == 1 for block in range(len(sizes)))
    if len(set(sizes)) < len(sizes):
        whole = applied(arrangements.arrange(n, **options, exchange="whole"), base, number)[0]
        assert sorted(whole) == list(range(n))
        for block in range(len(sizes)):
            moved = whole[labels == block]
            (other,) = set(labels[moved])
            assert (moved == np.flatnonzero(labels == other)).all()


def test_arrangements_are_uniform_and_follow_from_seed_and_number():
    plan = arrangements.arrange(4, n_permutations=10, seed=3)
    again = arrangements.arrange(4, n_permutations=20, seed=3)
    other = arrangements.arrange(4, n_permutations=10, seed=4)
    base = np.arange(4)[None]
    drawn = [tuple(applied(plan, base, number)[0]) for number in range(1, 4801)]
    assert drawn == [tuple(applied(again, base, number)[0]) for number in range(1, 4801)]
    assert drawn != [tuple(applied(other, base, number)[0]) for number in range(1, 4801)]
    counts = pd.Series(drawn).value_counts()
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4
    flips = arrangements.arrange(4, n_permutations=10, seed=3, flips=True)
    signs = [tuple(applied(flips, np.ones((1, 4)), number)[0]) for number in range(1, 3201)]
    counts = pd.Series(signs).value_counts()
    assert len(counts) == 16
    assert stats.chisquare(counts).pvalue > 1e-4


@given(
    half=st.sampled_from([3, 4]),
    effect=st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e5]),
    alternative=st.sampled_from(["two-sided", "greater", "less"]),
    seed=st.integers(0, 1000),
)
def test_groups_that_are_apart_have_the_p_of_combinatorics(half, effect, alternative, seed):
    """All arrangements of two groups: those that part them alike give one t, however large, whatever rounding makes of it."""
    n = 2 * half
    group = np.repeat([0.0, 1.0], half)
    X = np.column_stack([np.ones(n), group])
    Y = np.random.default_rng(seed).normal(1000, 1, (n, 12)) + effect * group[:, None]
    asked = {"term": 1, "n_permutations": 50_000, "seed": 0, "alternative": alternative}
    found, alone = permute(X, Y, **asked), permute(X, Y[:, 0], **asked)
    # The t of a partition rises with the difference of means.
    parts = [list(part) for part in itertools.combinations(range(n), half)]
    gaps = np.array([Y[p].mean(axis=0) - np.delete(Y, p, axis=0).mean(axis=0) for p in parts])
    own = Y[half:].mean(axis=0) - Y[:half].mean(axis=0)
    sides = {"two-sided": np.abs, "greater": np.asarray, "less": np.negative}
    oriented = sides[alternative]
    expected = np.mean(oriented(gaps) >= oriented(own) - 1e-9, axis=0)
    assert found.model["exhaustive"]
    np.testing.assert_allclose(found.tidy["p"], expected, rtol=1e-12)
    assert alone.tidy["p_fwe"][0] == pytest.approx(expected[0], abs=1e-12)


@given(
    n=st.integers(5, 30),
    scale=st.sampled_from([1.0, 1e2, 1e4, 1e6]),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 1000),
)
def test_the_table_as_it_is_always_counts(n, scale, method, seed):
    rng = np.random.default_rng(seed)
    x = np.ones(n) if method == "sign-flip" else np.arange(n) - n / 2
    X = x[:, None] if method == "sign-flip" else np.column_stack([np.ones(n), x])
    Y = scale * x[:, None] + rng.normal(0, 1, (n, 20))
    found = permute(X, Y, term=X.shape[1] - 1, n_permutations=70, seed=seed, method=method)
    smallest = 1 / found.model["n_permutations"]
    assert (found.tidy["p"] >= smallest).all()
    assert (found.tidy["p_fwe"] >= found.tidy["p"] - 1e-12).all()


def test_no_t_is_critical_that_ties_hold_above_the_level():
    """Two groups of three: no p below 0.1 is possible."""
    X = np.column_stack([np.ones(6), np.repeat([0.0, 1.0], 3)])
    found = permute(X, np.array([1.0, 2, 3, 11, 12, 13]), term=1, n_permutations=1000, seed=1)
    assert found.critical(0.05) == np.inf
    assert found.critical(0.1) == pytest.approx(found.tidy["statistic"][0])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_an_arrangement_of_which_nuisance_leaves_nothing_has_no_t(alternative):
    """Four rows, of which some arrangements are a nuisance column: t is 0 over 0, and counts as 0."""
    X = np.column_stack([np.ones(4), [0.0, 0, 1, 1], [0.0, 1, 0, 1]])
    y = np.array([0.0, 1, 0.2, 1.2])
    found = permute(X, y, term=2, n_permutations=1000, seed=0, alternative=alternative)
    assert np.isfinite(found.maximum).all()
    assert found.tidy["p"][0] >= 1 / 24


def test_ties_count_whatever_rounding_makes_of_them():
    X = np.column_stack([np.ones(12), np.arange(12) % 2])
    y = np.array([0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.1, 0.3, 0.1, 0.3])
    found = permute(X, y, term=1, n_permutations=4000, seed=2)
    # five of six against one of six is hypergeometric
    expected = 2 * stats.hypergeom.sf(4, 12, 6, 6)
    p = found.tidy["p"][0]
    assert found.tidy["p_fwe"][0] == p
    assert abs(p - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)
    exact = permute(X[:6], y[:6] + 0.2 * X[:6, 0], term=1, n_permutations=720, seed=2)
    assert exact.tidy["p"][0] == exact.tidy["p_fwe"][0] == pytest.approx(2 / math.comb(6, 3))


@given(seed=st.integers(0, 1_000), method=st.sampled_from(METHODS))
def test_sides_are_mirror_images(seed, method):
    X, Y = simulated(seed, effect=15)
    options = {"term": 1, "n_permutations": 120, "seed": seed, "method": method}
    greater = permute(X, Y, alternative="greater", **options)
    less = permute(X, -Y, alternative="less", **options)
    for name in ("p", "p_fwe", "p_parametric"):
        np.testing.assert_allclose(greater.tidy[name], less.tidy[name], rtol=1e-9)
    np.testing.assert_allclose(greater.maximum, less.maximum, rtol=1e-9)
    both = permute(X, Y, **options).tidy
    assert (both["p_fwe"] >= both["p"]).all()
    assert (greater.tidy["p_fwe"] >= greater.tidy["p"]).all()


def test_a_contrast_is_a_column_of_another_parametrisation():
    X, Y = simulated(4)
    cells = np.column_stack([1 - X[:, 1], X[:, 1], X[:, 2:]])
    options = {"n_permutations": 200, "seed": 9}
    first = permute(X, Y, term=1, **options)
    second = permute(cells, Y, contrast=[-1, 1, 0, 0], **options)
    np.testing.assert_allclose(first.tidy["statistic"], second.tidy["statistic"], rtol=1e-9)
    np.testing.assert_allclose(first.tidy["se"], second.tidy["se"], rtol=1e-9)
    np.testing.assert_allclose(first.maximum, second.maximum, rtol=1e-8)
    assert second.tidy["term"][0] == "-1 0 + 1 1"


def test_an_outcome_that_the_terms_explain_stands_aside():
    X, Y = simulated(6, v=3)
    with_flat = np.column_stack([Y[:, 0], X[:, 2] * 3, np.zeros(len(Y)), Y[:, 1:]])
    for alternative in ALTERNATIVES:
        plan = scheme(X, GROUP, n_permutations=99, seed=0, alternative=alternative)
        found, alone = tally(plan, with_flat), tally(plan, Y)
        assert np.isnan(found.t).tolist() == [False, True, True, False, False]
        assert found.maximum.tobytes() == alone.maximum.tobytes()
        p, p_fwe = probabilities(found, alternative)
        assert np.isnan(p).tolist() == np.isnan(p_fwe).tolist() == np.isnan(found.t).tolist()
        np.testing.assert_array_equal(p_fwe[[0, 3, 4]], probabilities(alone, alternative)[1])
    nothing = tally(plan, Y[:, :0])
    assert beside([alone, nothing]).maximum.tobytes() == alone.maximum.tobytes()
    with pytest.raises(DesignError, match="'1' is an exact combination of the other terms"):
        permute(X, with_flat, term=1, n_permutations=10, seed=0)


def test_memory_is_what_it_says():
    X, Y = simulated(1, n=300, v=2_000)
    for method in METHODS:
        plan = scheme(X, GROUP, n_permutations=1_000, seed=0, method=method)
        tally(plan, Y[:, :1], stop=1)  # what is compiled is not of this call
        tracemalloc.start()
        tally(plan, Y, start=0, stop=256)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < working_bytes(plan, 2_000)
        assert working_bytes(plan, 2_000) < 3 * peak


def elderly(shared):
    table = pd.read_csv(shared / "oasis" / "oasis_all_volumes.csv")
    table = table.assign(
        scan_id=table["ID"],
        subject=table["ID"].str[:9],
        session=table["ID"].str[-1],
        male=table["sex"] == "M",
    )
    formula = "alzheimers + age + male + skull_vol"
    return table, prepare(table, outcome="brain_vol", formula=formula, where="age >= 60")


def test_reference_p_of_freedman_and_lane(shared):
    table, design = elderly(shared)
    outcomes = table.set_index("scan_id")[["brain_vol", "csf_vol"]]
    found = permute(
        design, outcomes, term="alzheimers", n_permutations=20_000, seed=20261120
    ).tidy.set_index("outcome")
    assert found.loc["brain_vol", "statistic"] == pytest.approx(-5.917047586227, rel=1e-10)
    assert found.loc["csf_vol", "statistic"] == pytest.approx(2.533318515937, rel=1e-10)
    assert found.loc["brain_vol", "p"] == 5e-5
    # The published p is of other draws: both have an error of 0.00075, so they differ by less than 0.0035 (99.9 %).
    assert abs(found.loc["csf_vol", "p"] - 0.01145) < 3.3 * math.sqrt(2) * 0.00075
    assert found.loc["csf_vol", "p"] == pytest.approx(0.012133557780822, abs=0.0035)


def test_the_order_of_the_table_plays_no_part(shared):
    table, design = elderly(shared)
    shuffled = table.sample(frac=1, random_state=1)
    formula = "alzheimers + age + male + skull_vol"
    other = prepare(shuffled, outcome="brain_vol", formula=formula, where="age >= 60")
    assert list(other.X.index) != list(design.X.index)
    first, second = (
        permute(d, term="alzheimers", n_permutations=300, seed=4) for d in (design, other)
    )
    assert first.maximum.tobytes() == second.maximum.tobytes()
    pd.testing.assert_frame_equal(first.tidy, second.tidy, check_exact=True)


def test_blocks_of_a_design_are_named_by_its_columns():
    X, Y = simulated(2, n=40, v=1)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i:02d}" for i in range(40)],
            "subject": np.arange(40) // 2,
            "dx": X[:, 1],
            "volume": Y[:, 0],
        }
    )
    design = prepare(table, outcome="volume", formula="dx", one_scan_per="all")
    options = {"term": "dx", "n_permutations": 500, "seed": 1}
    named = permute(design, blocks="subject", **options)
    given_ = permute(design, blocks=table["subject"], **options)
    assert named.maximum.tobytes() == given_.maximum.tobytes()
    assert named.model["blocks"] == 20
    assert named.model["exchanged"] == "rows within blocks"
    free = permute(design, **options)
    assert free.maximum.tobytes() != named.maximum.tobytes()


def test_what_is_written_is_plain():
    X, Y = simulated(3)
    found = permute(X, Y, term=1, n_permutations=99, seed=0)
    saved = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert saved["seed"] == 0
    assert len(saved["results"]) == 5
    assert "99 arrangements of rows; 5 outcomes together" in found.reading[0]
    assert found.warnings == ()
    above = found.maximum >= found.critical()
    assert above.mean() <= 0.05 < (found.maximum >= np.nextafter(found.critical(), 0)).mean() + 0.02
    few = permute(
        X[:6, :2] + np.eye(6, 2),
        Y[:6],
        term=1,
        n_permutations=10,
        seed=0,
        blocks=[0, 0, 1, 1, 2, 2],
    )
    assert "only 8 arrangements are possible, so p cannot be below 0.12" in few.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"term": None}, "either term or contrast"),
        ({"contrast": [0, 1, 0, 0]}, "either term or contrast"),
        ({"term": "9"}, "no column '9'"),
        ({"term": None, "contrast": [1, 2]}, "the contrast has 2 numbers for 4 columns"),
        ({"method": "manly"}, "method is 'manly'; it takes freedman-lane, huh-jhun, sign-flip"),
        ({"alternative": "both"}, "alternative is 'both'"),
        ({"exchange": "free"}, "exchange is 'free'; it takes within, whole"),
        ({"exchange": "whole"}, "exchange 'whole' needs blocks"),
        ({"n_permutations": 0}, "n_permutations is 0"),
        ({"seed": -1}, "the seed is -1"),
        ({"blocks": [1, 2]}, "2 labels of blocks for 30 rows"),
        ({"blocks": "subject"}, "blocks is the text 'subject'"),
        ({"blocks": np.arange(30), "method": "huh-jhun"}, "huh-jhun mixes the rows"),
        (
            {"term": 0},
            "no exchange of rows changes 0: it is the same in all rows; sign-flip tests a mean",
        ),
        ({"blocks": simulated(8)[0][:, 1]}, "same in all rows of each block; exchange='whole' mov"),
        (
            {"design": PAIRED, "blocks": np.arange(30) // 2, "exchange": "whole"},
            "same in all blocks of one size; exchange='within' moves rows within",
        ),
        (
            {"blocks": np.repeat([0, 1], [10, 20]), "exchange": "whole"},
            "no two of the 2 blocks are of one size",
        ),
        ({"y": np.ones(3)}, "3 rows of outcomes for 30 rows"),
        ({"y": None}, "no outcome"),
        ({"y": np.full(30, np.nan)}, "the outcome '0' is missing in 30 of 30 rows"),
        ({"design": np.ones((30, 4))}, "30 rows for 4 columns, or columns that depend"),
    ],
)
def test_refusals_are_one_line(arguments, match):
    X, Y = simulated(8, v=1)
    given_ = {"design": X, "y": Y, "term": 1, "n_permutations": 50, "seed": 0, **arguments}
    with pytest.raises(DesignError, match=match) as refusal:
        permute(given_.pop("design"), given_.pop("y"), **given_)
    assert "\n" not in str(refusal.value)


def test_ranges_and_blocks_that_do_not_fit_are_refused():
    X, Y = simulated(8)
    plan = scheme(X, GROUP, n_permutations=50, seed=0)
    first, second, third = (
        tally(plan, Y, start=a, stop=b) for a, b in ((0, 10), (10, 20), (30, 50))
    )
    with pytest.raises(DesignError, match="without gap or overlap"):
        after([first, third])
    with pytest.raises(DesignError, match="one range of arrangements only"):
        beside([first, second])
    with pytest.raises(DesignError, match="arrangements 40 to 60 are asked of 50"):
        tally(plan, Y, start=40, stop=60)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_familywise_error_is_what_it_says(method):
    """200 null data sets of 40 correlated outcomes whose groups differ in age, at K = 199 and 5 %."""
    rejected = sum(
        permute(*simulated(seed, n=40, v=40), term=1, n_permutations=199, seed=seed, method=method)
        .tidy["p_fwe"]
        .min()
        <= 0.05
        for seed in range(200)
    )
    # 199 arrangements: p <= 0.05 holds for 9 of 199
    low, high = stats.binom.interval(0.99, 200, 9 / 199)
    assert low <= rejected <= high


@pytest.mark.slow
def test_subjects_scanned_twice_need_blocks():
    """Rows of a subject that are alike: whole blocks keep 5 %, free exchange does not."""
    rejected = {"whole": 0, "free": 0}
    for seed in range(200):
        rng = np.random.default_rng(seed)
        subject = np.repeat(np.arange(20), 3)
        group = rng.permutation(np.arange(20) % 2)[subject].astype(float)
        y = rng.normal(0, 2, 20)[subject] + rng.normal(0, 1, 60)
        X = np.column_stack([np.ones(60), group])
        options = {"term": 1, "n_permutations": 199, "seed": seed}
        blocked = permute(X, y, blocks=subject, exchange="whole", **options)
        rejected["whole"] += blocked.tidy["p"][0] <= 0.05
        rejected["free"] += permute(X, y, **options).tidy["p"][0] <= 0.05
    low, high = stats.binom.interval(0.99, 200, 9 / 199)
    assert low <= rejected["whole"] <= high
    assert rejected["free"] > 2 * high
