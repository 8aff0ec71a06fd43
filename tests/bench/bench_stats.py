"""Statistics of many outcomes against a loop of single fits, results equal.

Threads follow the environment; the loop of single fits has nothing to gain from them.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from run import Row, best

OUTCOMES, SUBJECTS = 1_000, 400


def people(n: int = SUBJECTS) -> pd.DataFrame:
    """Made-up subjects: a group, an age, a sex and the volume of the skull."""
    rng = np.random.Generator(np.random.Philox(key=6))
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(n)],
            "subject": [f"P{i}" for i in range(n)],
            "session": "1",
            "dx": rng.permutation(np.arange(n) % 2).astype(float),
            "age": rng.uniform(55, 90, n),
            "male": rng.permutation(np.arange(n) % 2).astype(float),
            "skull": rng.normal(1500, 120, n),
        }
    )


def regions(table: pd.DataFrame, m: int = OUTCOMES) -> pd.DataFrame:
    """Volumes of `m` regions that follow age and skull, with errors that grow with age."""
    rng = np.random.Generator(np.random.Philox(key=7))
    noise = rng.normal(0, 1, (len(table), m)) * (table[["age"]].to_numpy() - 45)
    fixed = 400 - 4 * table["age"] + 0.5 * table["skull"] - 10 * table["dx"]
    return pd.DataFrame(
        fixed.to_numpy()[:, None] + noise, columns=[f"region{k:04d}" for k in range(m)]
    )


def bench_ols() -> Iterator[Row]:
    """Classical and HC3 errors of 1,000 outcomes.

    The rival is given the design matrix and makes no table; so ours is timed three times: from the design to the table of
    effects, from the table of subjects to that of effects, and the arithmetic alone.
    """
    from scipy import stats
    from statsmodels.regression.linear_model import OLS

    from cohort.stats import outcomes
    from cohort.stats.design import prepare

    table, made = people(), regions(people())
    names = list(made.columns)
    whole = pd.concat([table, made], axis=1)
    terms = ["dx", "age", "male", "skull"]
    X, Y = np.column_stack([np.ones(SUBJECTS), table[terms]]), made.to_numpy()

    def ours():
        return outcomes.fit(whole, outcomes=names, formula=" + ".join(terms)).tidy

    def loop():
        found = []
        for y in Y.T:
            fitted = OLS(y, X).fit()
            se, t, df = fitted.HC3_se, fitted.tvalues, fitted.df_resid
            hc3_t = fitted.params / se
            low, high = fitted.conf_int().T
            half = stats.t.ppf(0.975, df) * se
            p, partial_r = 2 * stats.t.sf(np.abs(hc3_t), df), t / np.sqrt(t**2 + df)
            row = [fitted.params, fitted.bse, t, fitted.pvalues, low, high, se, hc3_t, p]
            found.append([*row, fitted.params - half, fitted.params + half, partial_r])
        return np.array(found)

    columns = ["estimate", "se", "statistic", "p", "ci_low", "ci_high"]
    columns += ["hc3_se", "hc3_statistic", "hc3_p", "hc3_ci_low", "hc3_ci_high", "partial_r"]
    found = ours()[columns].to_numpy().reshape(OUTCOMES, 1 + len(terms), -1).transpose(0, 2, 1)
    expected = loop()
    np.testing.assert_allclose(found[:, :-1], expected[:, :-1], rtol=1e-10)
    # the intercept has no partial correlation
    np.testing.assert_allclose(found[:, -1, 1:], expected[:, -1, 1:], rtol=1e-10)
    rival = best(loop)
    what = "a loop of statsmodels OLS, HC3"
    design = prepare(whole[[*table.columns, names[0]]], outcome=names[0], formula=" + ".join(terms))
    given = best(lambda: outcomes.tables(design, made.set_axis(design.X.index)))
    yield Row("stats/ols-hc3-1000-outcomes", given, what, rival, 20.0, "design to table")
    yield Row("stats/ols-hc3-with-design", best(ours), what, rival, 10.0, "table to table")
    sums = best(lambda: outcomes.solve(X, Y))
    yield Row("stats/ols-hc3-arithmetic", sums, what, rival, 50.0, "errors only")


def bench_random_intercepts() -> Iterator[Row]:
    """Random-intercept REML of 1,000 outcomes, 400 subjects of two visits, tables not counted on either side.

    `MixedLM` takes some 50 ms an outcome, so that 20 of the 1,000 are timed and their time scaled. Its estimates are equal as
    far as its optimiser goes; its errors are not compared, because they are of the joint Hessian.
    """
    import warnings

    from statsmodels.regression.mixed_linear_model import MixedLM

    from cohort.stats.mixed import fit_many

    sample, rng = 20, np.random.Generator(np.random.Philox(key=8))
    table = people()
    codes = np.repeat(np.arange(SUBJECTS), 2)
    years = np.tile([0.0, 2.0], SUBJECTS) + rng.uniform(0, 0.5, 2 * SUBJECTS)
    twice = table[["dx", "age", "male", "skull"]].to_numpy()[codes]
    X = np.column_stack([np.ones(len(codes)), years, years * twice[:, 0], twice])
    Y = regions(table).to_numpy()[codes] - 0.5 * years[:, None]
    Y += rng.normal(0, 5, Y.shape)

    def ours():
        return fit_many(X, Y, codes)

    def loop():
        found = []
        for y in Y[:, :sample].T:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its optimiser, which it tries again by itself
                found.append(MixedLM(y, X, codes).fit(reml=True).fe_params)
        return np.array(found).T

    np.testing.assert_allclose(ours().estimate[:, :sample], loop(), rtol=1e-3, atol=1e-4)
    rival = best(loop, repeat=1) * OUTCOMES / sample
    what = f"a loop of MixedLM, {sample} of the {OUTCOMES:,} timed and scaled"
    yield Row("stats/random-intercept-1000-outcomes", best(ours), what, rival, 50.0, "REML")
