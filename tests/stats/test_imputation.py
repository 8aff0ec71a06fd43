"""Multiple imputation: the rules of pooling in closed form, what may be drawn, and truth that was simulated."""

import json
import math
import sys

import numpy as np
import oasis_tables
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cohort.stats.columns import DesignError
from cohort.stats.draws import chained
from cohort.stats.draws.chained import Chain, Variable
from cohort.stats.draws.pooling import pool
from cohort.stats.imputation import impute
from cohort.stats.regression import fit

MODEL = "volume ~ dx + age + C(site)"


def people(n=120, seed=0, *, missing=0.2):
    """Volumes from known coefficients; ages are missing more often where the volume is large."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i:04d}" for i in range(n)],
            "subject": [f"{i:04d}" for i in range(n)],
            "session": "1",
            "dx": rng.permutation(np.arange(n) % 2).astype(float),
            "site": rng.permutation(np.resize(list("abc"), n)),
        }
    )
    table["age"] = rng.normal(72, 8, n) + 5 * table["dx"]
    table["volume"] = 900 - 30 * table["dx"] - 3 * table["age"] + rng.normal(0, 20, n)
    if missing:
        rank = table["volume"].rank(pct=True)
        table.loc[rng.random(n) < 2 * missing * rank, "age"] = np.nan
        table.loc[rng.random(n) < missing / 2, "site"] = None
    return table


# ----------------------------------------------------------------------------- pooling


@given(
    seed=st.integers(0, 10_000),
    m=st.integers(2, 60),
    spread=st.floats(1e-3, 10),
    df=st.floats(1, 10_000),
)
def test_pooling_equals_rubins_rules_as_they_are_printed(seed, m, spread, df):
    rng = np.random.default_rng(seed)
    q, u = rng.normal(3, spread, (m, 1)), rng.uniform(0.5, 2, (m, 1))
    row = pool(q, u, df).iloc[0]
    w, b = np.mean(u**2), np.var(q, ddof=1)
    total = w + b + b / m
    share = (b + b / m) / total
    old, observed = (m - 1) / share**2, (df + 1) / (df + 3) * df * (1 - share)
    pooled = old * observed / (old + observed)
    r = (b + b / m) / w
    for name, expected in {
        "estimate": q.mean(),
        "se": math.sqrt(total),
        "df": pooled,
        "fmi": (r + 2 / (pooled + 3)) / (r + 1),
        "relative_increase": r,
        "between": b,
        "p": 2 * stats.t.sf(abs(q.mean()) / math.sqrt(total), pooled),
    }.items():
        assert row[name] == pytest.approx(expected, rel=1e-9), name
    half = stats.t.ppf(0.975, pooled) * math.sqrt(total)
    assert row["ci_high"] - row["estimate"] == pytest.approx(half, rel=1e-9)
    assert pooled < min(old, df) + 1e-9


def test_draws_that_agree_pool_to_one_of_them():
    row = pool(np.full((20, 1), 4.0), np.full((20, 1), 0.5), 100.0).iloc[0]
    assert (row["estimate"], row["se"], row["between"]) == (4.0, 0.5, 0.0)
    assert row["df"] == pytest.approx(100 * 101 / 103)


# --------------------------------------------------------------------------- what is drawn


@given(seed=st.integers(0, 10_000), n=st.integers(12, 60), q=st.integers(2, 4))
def test_only_values_that_occur_are_drawn_and_known_cells_stay(seed, n, q):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=n), rng.normal(size=n)
    z[rng.permutation(n)[: n // 3]] = np.nan
    labels = pd.Categorical(np.resize(list("abcd")[:q], n))
    holes = rng.permutation(n)[: n // 4]
    gaps = pd.Categorical(np.where(np.isin(np.arange(n), holes), None, labels.astype(object)))
    chain = Chain(
        {
            "x": Variable.of_numbers(x),
            "z": Variable.of_numbers(z),
            "site": Variable.of_labels(gaps),
        }
    )
    drawn = chain.draw(seed, 0, 3)
    assert set(drawn) == {"z", "site"}
    known = ~np.isnan(z)
    assert (drawn["z"][known] == z[known]).all()
    assert set(drawn["z"]) <= set(z[known])
    kept = ~np.isin(np.arange(n), holes)
    assert (drawn["site"][kept] == np.asarray(labels)[kept]).all()
    assert set(drawn["site"]) <= set(labels.categories)


@given(seed=st.integers(0, 10_000), n=st.integers(5, 80), q=st.integers(1, 3))
def test_the_donors_are_the_nearest_whatever_the_block(seed, n, q):
    rng = np.random.default_rng(seed)
    given_, wanted = rng.normal(size=(n, q)), rng.normal(size=(11, q))
    found = chained._nearest(given_, wanted)
    away = np.linalg.norm(given_[None] - wanted[:, None], axis=2)
    expected = np.argsort(away, axis=1)[:, : chained.DONORS]
    assert (found == expected).all()
    one_by_one = np.concatenate([chained._nearest(given_, wanted[i : i + 1]) for i in range(11)])
    assert (found == one_by_one).all()


def test_a_draw_keeps_the_relation_and_its_spread():
    rng = np.random.default_rng(3)
    n = 4_000
    x = rng.normal(size=n)
    z = 2 * x + rng.normal(0, 0.5, n)
    site = np.where(x + rng.normal(0, 0.3, n) > 0, "b", "a").astype(object)
    hidden = rng.random(n) < 0.4
    chain = Chain(
        {
            "x": Variable.of_numbers(x),
            "z": Variable.of_numbers(np.where(hidden, np.nan, z)),
            "site": Variable.of_labels(pd.Categorical(np.where(hidden, None, site))),
        }
    )
    drawn = chain.draw(1, 0, 5)
    slope = stats.linregress(x[hidden], drawn["z"][hidden])
    assert slope.slope == pytest.approx(2, abs=0.08)
    rest = drawn["z"][hidden] - slope.intercept - slope.slope * x[hidden]
    assert rest.std() == pytest.approx(0.5, abs=0.05)
    agree = (drawn["site"][hidden] == np.where(x[hidden] > 0, "b", "a")).mean()
    assert agree > 0.75  # a category follows its predictors


def test_draws_differ_by_what_the_known_rows_do_not_tell():
    """Few known rows: their own uncertainty must show between the draws.

    With one line for all draws a third of it is left. Matching costs some, as nothing outside the known is drawn.
    """
    rng = np.random.default_rng(9)
    known, hidden = 60, 300
    x = rng.normal(size=known + hidden)
    z = np.where(np.arange(len(x)) < known, x + rng.normal(0, 1, len(x)), np.nan)
    chain = Chain({"x": Variable.of_numbers(x), "z": Variable.of_numbers(z)})
    slopes = [
        stats.linregress(x[known:], chain.draw(1, i, 1)["z"][known:]).slope for i in range(100)
    ]
    line = stats.linregress(x[:known], z[:known])
    between = np.hypot(line.stderr, 1 / math.sqrt(hidden))
    assert 0.6 * between < np.std(slopes) < 1.25 * between


def test_the_same_seed_gives_the_same_bits_whatever_the_order_of_rows_and_the_number_of_draws():
    table = people(60)
    one = impute(table, formula=MODEL, seed=5)
    other = impute(table.sample(frac=1, random_state=1), formula=MODEL, seed=5)
    pd.testing.assert_frame_equal(one.tidy, other.tidy, check_exact=True)
    more = impute(table, formula=MODEL, seed=5, draws=22)
    pd.testing.assert_frame_equal(more.draws[more.draws["draw"] < 20], one.draws, check_exact=True)
    z = np.where(np.arange(30) % 3, np.arange(30.0), np.nan)
    chain = Chain({"x": Variable.of_numbers(np.sin(z + 1e3)), "z": Variable.of_numbers(z)})
    drawn = [chain.draw(*key, 2)["z"] for key in ((5, 0), (5, 1), (6, 0), (5, 0))]
    assert (drawn[0] == drawn[3]).all()
    assert not (drawn[0] == drawn[1]).all()
    assert not (drawn[0] == drawn[2]).all()


def test_pooled_numbers_are_those_of_the_fits_of_the_draws():
    table = people(60)
    found = impute(table, formula=MODEL, seed=2)
    assert found.draws["draw"].nunique() == found.n_draws == 20
    df = 60 - len(found.tidy)
    for row in found.tidy.to_dict("records"):
        draws = found.draws[found.draws["term"] == row["term"]]
        for prefix, se in (("", "se"), ("hc3_", "hc3_se")):
            expected = pool(draws[["estimate"]].to_numpy(), draws[[se]].to_numpy(), df).iloc[0]
            assert row[f"{prefix}se"] == pytest.approx(expected["se"], rel=1e-12)
            assert row[f"{prefix}p"] == pytest.approx(expected["p"], rel=1e-9)
        assert 0 < row["fmi"] < 1


# ----------------------------------------------------------------------------- which rows


def test_the_complete_cases_stand_beside_and_are_those_of_a_fit():
    table = people(80)
    found = impute(table, formula=MODEL, seed=1)
    complete = fit(table, formula=MODEL)
    rows = found.table[found.table["method"] == "complete case"].set_index("term")
    expected = complete.tidy.set_index("term")
    for name in ("estimate", "se", "p", "hc3_p", "n"):
        assert (rows[name] == expected[name]).all()
    assert found.table["method"].tolist() == ["complete case", "imputed"] * len(expected)
    imputed = found.table[found.table["method"] == "imputed"]
    assert set(imputed["n"]) == {80}
    missing = found.missing.set_index("column")["missing"]
    assert missing.to_dict() == {
        "age": int(table["age"].isna().sum()),
        "site": int(table["site"].isna().sum()),
    }


def test_a_missing_outcome_is_left_out_and_never_drawn():
    table = people(60)
    table.loc[:9, "volume"] = np.nan
    found = impute(table, formula=MODEL, seed=1)
    assert set(found.tidy["n"]) == {50}
    without = impute(table.iloc[10:], formula=MODEL, seed=1)
    pd.testing.assert_frame_equal(found.tidy, without.tidy, check_exact=True)


def test_a_scan_with_a_missing_covariate_is_still_the_first_of_its_subject():
    table = people(40)
    again = table.assign(session="2", scan_id=table["scan_id"] + "b", age=50.0, site="a")
    again["volume"] += 1000
    both = pd.concat([again, table], ignore_index=True)
    found = impute(both, formula=MODEL, seed=1)
    expected = impute(table, formula=MODEL, seed=1)
    pd.testing.assert_frame_equal(found.tidy, expected.tidy, check_exact=True)


@pytest.mark.slow
def test_a_column_beside_the_model_helps():
    table = people(160, missing=0.3)
    truth = people(160, missing=0.0)["age"]
    table["visit_age"] = truth + np.random.default_rng(1).normal(0, 0.5, 160)
    plain = impute(table, formula="volume ~ dx + age", seed=1)
    helped = impute(table, formula="volume ~ dx + age", seed=1, auxiliary=["visit_age"])
    fmi = [f.tidy.set_index("term").loc["age", "fmi"] for f in (plain, helped)]
    assert fmi[1] < fmi[0] / 2
    assert "visit_age" not in set(helped.tidy["term"])


def test_the_elderly_with_a_missing_ses_are_kept(shared):
    table = oasis_tables.cross_sectional(shared)
    model = {"formula": "nWBV ~ dx + Age + eTIV + male + SES", "where": "CDR >= 0"}
    found = impute(table, seed=20261121, **model)
    reference = oasis_tables.reference(shared)
    assert set(found.tidy["n"]) == {int(reference["CE.n"])}
    assert found.missing.set_index("column")["missing"].to_dict() == {
        "SES": int(reference["CE.n"] - reference["CE.n_ses"])
    }
    rows = found.table.set_index(["term", "method"])
    for method in ("complete case", "imputed"):
        assert abs(rows.loc[("dx", method), "statistic"]) > 4
    assert (
        found.tidy.set_index("term").loc["SES", "fmi"]
        > found.tidy.set_index("term").loc["dx", "fmi"]
    )


# --------------------------------------------------------------------- warnings and refusals


def test_what_to_know_is_told():
    table = people(80)
    table.loc[::5, "dx"] = np.nan
    told = "\n".join(impute(table, formula="volume ~ dx + age + dx:age", seed=1).warnings)
    assert "dx itself is drawn in 16 rows" in told
    assert "dx:age is computed from drawn cells" in told
    assert "% of the rows are incomplete: take at least" in told
    table.loc[10:60, "age"] = np.nan
    told = "\n".join(impute(table, formula="volume ~ dx + age", seed=1).warnings)
    assert "age is missing in" in told
    assert "intervals come out too narrow" in told
    few = people(80, missing=0.1)
    assert impute(few, formula="volume ~ dx + age", confounds=["site"], seed=1).warnings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 19}, "19 draws; multiple imputation takes at least 20"),
        ({"iterations": 0}, "0 iterations"),
        ({"seed": -1}, "seed is -1"),
        ({"one_scan_per": "mean"}, "first, last or error, not mean"),
        ({"formula": "volume ~ dx"}, "nothing is missing in dx"),
        (
            {"formula": "volume ~ dx + standardize(age)"},
            r"standardize\(age\) depends on all values",
        ),
        ({"formula": "volume ~ bs(age, df=4)"}, "depends on all values of 'age'"),
        ({"auxiliary": ["agee"]}, "auxiliary: no column 'agee'; did you mean 'age'"),
        ({"formula": "volume ~ dx + agee"}, "did you mean 'age'"),
    ],
)
def test_what_cannot_be_imputed_is_refused_in_one_line(options, message):
    with pytest.raises(DesignError, match=message) as found:
        impute(people(60), **({"formula": MODEL, "seed": 1} | options))
    assert "\n" not in str(found.value)


def test_a_column_known_in_too_few_rows_is_refused():
    z = np.full(30, np.nan)
    z[:4] = 1.0
    with pytest.raises(DesignError, match="'z' is known in 4 rows, too few or too alike"):
        Chain({"x": Variable.of_numbers(np.arange(30.0)), "z": Variable.of_numbers(z)})
    one = pd.Categorical(["a"] * 20 + [None] * 10)
    with pytest.raises(DesignError, match="'site' is known in 20 rows"):
        Chain({"x": Variable.of_numbers(np.arange(30.0)), "site": Variable.of_labels(one)})


def test_json_holds_the_tables():
    found = impute(people(60), formula=MODEL, seed=1)
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["seed"] == 1
    assert stored["tidy"][1]["estimate"] == found.tidy["estimate"].iloc[1]


@pytest.mark.slow
def test_intervals_of_drawn_data_hold_the_truth_where_those_of_complete_rows_do_not():
    """Ages missing by volume: complete rows are biased, imputation with the outcome among the predictors is not."""
    runs, n, inside, complete = 300, 150, 0, 0
    for seed in range(runs):
        rng = np.random.default_rng([seed, 11])
        x, z = rng.normal(size=(2, n))
        y = x + z + rng.normal(0, 1, n)
        holes = rng.random(n) < stats.norm.cdf(y - 1.6)  # a fifth
        chain = Chain(
            {
                "y": Variable.of_numbers(y),
                "x": Variable.of_numbers(np.where(holes, np.nan, x)),
                "z": Variable.of_numbers(z),
            }
        )
        estimates, errors = [], []
        for number in range(20):
            X = np.column_stack([np.ones(n), chain.draw(seed, number, 5)["x"], z])
            b, se = _slope(X, y)
            estimates.append([b])
            errors.append([se])
        row = pool(np.array(estimates), np.array(errors), n - 3).iloc[0]
        inside += row["ci_low"] < 1 < row["ci_high"]
        X = np.column_stack([np.ones(n), x, z])[~holes]
        b, se = _slope(X, y[~holes])
        complete += abs(b - 1) < stats.t.ppf(0.975, len(X) - 3) * se
    sys.stdout.write(
        f"\ncoverage of 95 % intervals over {runs} draws: imputed {inside / runs:.3f}, "
        f"complete rows {complete / runs:.3f}\n"
    )
    low, high = stats.binom.ppf([0.005, 0.995], runs, 0.95)
    assert low <= inside <= high
    assert complete < low


def _slope(X, y):
    b, rss, *_ = np.linalg.lstsq(X, y, rcond=None)
    return b[1], math.sqrt(rss[0] / (len(X) - X.shape[1]) * np.linalg.inv(X.T @ X)[1, 1])
