"""Contrasts against statsmodels, and a grammar that reads what it should and nothing else."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cohort.stats import contrasts
from cohort.stats.regression import DesignError, fit

FORMULA = "dx * age + skull + C(site) + Q('left hand') + I(age**2)"


def simulated(seed=0, n=80):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "dx": rng.permutation(np.arange(n) % 2),
            "age": rng.uniform(55, 90, n),
            "skull": rng.normal(1500, 120, n),
            "site": rng.permutation(np.resize(list("abc"), n)),
            "left hand": rng.permutation(np.arange(n) % 2),
        }
    )
    noise = rng.normal(0, 1, n) * (table["age"] - 45)
    return table.assign(volume=500 - 30 * table["dx"] - 4 * table["age"] + noise)


def fitted(seed=0, formula=FORMULA):
    return fit(simulated(seed), outcome="volume", formula=formula, one_scan_per="all")


def oracle(result, kind):
    classical = sm.OLS(result.design.y.to_numpy(), result.design.X.to_numpy()).fit()
    return classical if kind == "" else classical.get_robustcov_results("HC3", use_t=True)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), data=st.data())
def test_a_contrast_equals_statsmodels(seed, data):
    result = fitted(seed, "dx * age + skull + C(site)")
    terms = list(result.tidy["term"])
    number = st.integers(-9, 9).map(lambda k: k / 4)
    L = np.array(data.draw(st.lists(number, min_size=len(terms), max_size=len(terms))))
    if not L.any():
        L[1] = 1.0
    found = contrasts.estimates(result, dict(zip(terms, L, strict=True))).iloc[0]
    for prefix in ("", "hc3_"):
        expected = oracle(result, prefix).t_test(L)
        se = expected.sd.item()
        low, high = expected.conf_int().ravel()
        for column, value in {"se": se, "ci_low": low, "ci_high": high}.items():
            assert found[prefix + column] == pytest.approx(value, rel=1e-9, abs=1e-9 * se), column
        assert found["estimate"] == pytest.approx(expected.effect.item(), rel=1e-9, abs=1e-9 * se)
        t, p = expected.tvalue.item(), expected.pvalue.item()
        assert found[f"{prefix}statistic"] == pytest.approx(t, rel=1e-9, abs=1e-9)
        assert found[f"{prefix}p"] == pytest.approx(p, rel=1e-7)
    assert (found["df"], found["n"]) == (73, 80)
    # the effect size is that of the one degree of freedom
    eta2 = contrasts.joint(result, dict(zip(terms, L, strict=True)))["partial_eta2"].item()
    assert found["partial_r"] ** 2 == pytest.approx(eta2, rel=1e-8, abs=1e-20)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), data=st.data())
def test_a_joint_test_equals_statsmodels(seed, data):
    result = fitted(seed, "dx * age + skull + C(site)")
    terms = list(result.tidy["term"])
    chosen = data.draw(st.lists(st.sampled_from(terms), min_size=1, max_size=5, unique=True))
    found = contrasts.joint(result, chosen).iloc[0]
    L = np.array([[float(term == name) for term in terms] for name in chosen])
    classical, robust = (oracle(result, kind).f_test(L) for kind in ("", "hc3_"))
    assert found["df"] == len(chosen)
    assert found["f"] == pytest.approx(classical.fvalue, rel=1e-7)
    assert found["p"] == pytest.approx(classical.pvalue, rel=1e-6)
    assert found["hc3_f"] == pytest.approx(robust.fvalue, rel=1e-7)
    assert found["hc3_p"] == pytest.approx(robust.pvalue, rel=1e-6)


def test_a_joint_test_is_the_fit_against_the_one_without_the_terms():
    whole, without = fitted(), fitted(formula="dx * age + skull + Q('left hand') + I(age**2)")
    found = contrasts.joint(whole, "C(site)").iloc[0]
    more, less = (r.augment["residual"] @ r.augment["residual"] for r in (whole, without))
    df = found["df_resid"]
    assert found["f"] == pytest.approx((less - more) / 2 / (more / df), rel=1e-8)
    assert found["partial_eta2"] == pytest.approx((less - more) / less, rel=1e-8)
    assert found["test"] == "C(site)"
    named = contrasts.joint(whole, ["C(site)[T.b]", "C(site)[T.c]"], name="sites").iloc[0]
    assert named["test"] == "sites"
    pd.testing.assert_series_equal(named.drop("test"), found.drop("test"))


def test_contrasts_that_follow_from_others_are_no_degrees_of_freedom():
    result = fitted()
    pairs = [
        "C(site)[T.b] - C(site)[T.a]",
        "C(site)[T.c] - C(site)[T.a]",
        "C(site)[T.c] - C(site)[T.b]",
    ]
    found, plain = (
        contrasts.joint(result, pairs).iloc[0],
        contrasts.joint(result, "C(site)").iloc[0],
    )
    assert found["df"] == 2
    for column in ("f", "p", "hc3_f", "hc3_p"):
        assert found[column] == pytest.approx(plain[column], rel=1e-8)


def test_one_term_alone_is_its_row_of_the_fit():
    result = fitted()
    found = contrasts.estimates(result, list(result.tidy["term"]))
    columns = ["estimate", "se", "statistic", "p", "ci_low", "ci_high", "hc3_se", "hc3_p"]
    pd.testing.assert_frame_equal(found[columns], result.tidy[columns], rtol=1e-12)
    np.testing.assert_allclose(found["partial_r"][1:], result.tidy["partial_r"][1:], rtol=1e-12)
    found = contrasts.joint(result, "dx:age").iloc[0]
    t = result.tidy.set_index("term").loc["dx:age", "statistic"]
    assert (found["f"], found["p"]) == (
        pytest.approx(t**2, rel=1e-8),
        pytest.approx(2 * stats.t.sf(abs(t), found["df_resid"]), rel=1e-8),
    )


# ---------------------------------------------------------------- the grammar


def linear(terms):
    """Texts of the grammar, each with the weights that it means."""
    leaf = st.sampled_from(terms).map(lambda name: (name, {name: 1.0}))
    number = st.integers(1, 999).map(lambda k: k / 8)

    def deeper(inner):
        def scale(pair, k, form):
            text, weight = pair
            shown = form.format(k=k, text=f"({text})")
            factor = {"/": 1 / k, "-": -1.0, "+": 1.0}.get(
                form[0] if form[0] in "-+" else form[-4], k
            )
            return shown, {name: w * factor for name, w in weight.items()}

        def add(one, two, sign):
            weight = dict(one[1])
            for name, w in two[1].items():
                weight[name] = weight.get(name, 0.0) + (w if sign == "+" else -w)
            return f"{one[0]} {sign} ({two[0]})", weight

        forms = st.sampled_from(
            ["{k} * {text}", "{text}*{k}", "{text} /{k}", "-{text}", "+ {text}"]
        )
        return st.builds(scale, inner, number, forms) | st.builds(
            add, inner, inner, st.sampled_from("+-")
        )

    return st.recursive(leaf, deeper, max_leaves=8)


RESULT = fitted()
TERMS = list(RESULT.tidy["term"])


@given(linear(TERMS))
def test_a_text_means_what_its_arithmetic_says(drawn):
    text, expected = drawn
    wanted = np.array([expected.get(name, 0.0) for name in TERMS])
    if not wanted.any():
        with pytest.raises(DesignError, match="no term with a weight other than 0"):
            contrasts.weights(RESULT, text)
    else:
        found = contrasts.weights(RESULT, text)
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-9)


def test_names_are_read_as_a_whole_and_blanks_play_no_part():
    def weight(text):
        found = contrasts.weights(RESULT, text)
        return {name: w for name, w in zip(TERMS, found, strict=True) if w}

    assert weight("dx + 70 * dx:age") == {"dx": 1, "dx:age": 70}
    assert weight("dx+70*dx : age") == {"dx": 1, "dx:age": 70}
    assert weight("I(age**2) - 2 * (age - left hand) / 4") == {
        "I(age ** 2)": 1,
        "age": -0.5,
        "left hand": 0.5,
    }
    assert weight("C(site)[T.c] - C(site)[T.b]") == {"C(site)[T.c]": 1, "C(site)[T.b]": -1}
    assert weight("C(site)[T.c] - C(site)[T.a]") == {"C(site)[T.c]": 1}, "a is the reference"
    assert weight("1.5e1 * dx") == {"dx": 15}
    assert weight("-(-dx)") == {"dx": 1}
    found = contrasts.estimates(RESULT, ["dx  +  70 * dx:age", {"dx": 1, "age": -2}])
    assert list(found["contrast"]) == ["dx + 70 * dx:age", "1 * dx + -2 * age"]
    assert list(contrasts.estimates(RESULT, "dx", names=["crude"])["contrast"]) == ["crude"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dx + agee", "no term 'agee'; did you mean 'age'"),
        ("dx:skull", "':skull' is not expected|no term 'dx:skull'"),
        ("dx * age", "a product of two terms"),
        ("dx / age", "must be a number other than 0"),
        ("dx / 0", "must be a number other than 0"),
        ("dx + 5", "the number 5 stands beside the terms"),
        ("5", "the number 5 stands beside"),
        ("dx - dx", "no term with a weight other than 0"),
        ("0 * dx", "no term with a weight other than 0"),
        ("", "ends where a term or a number is needed"),
        ("dx +", "ends where a term or a number is needed"),
        ("(dx + age", "a parenthesis is not closed"),
        ("dx)", "'\\)' is not expected here"),
        ("dx age", "'age' is not expected here"),
        ("2dx", "no term '2dx'"),
        ("dx ** 2", "no term"),
        ("__import__('os').system('true')", "no term '__import__'"),
        ("(lambda: 0)()", "no term 'lambda:'"),
        ("dx.__class__", "'.__class__' is not expected|no term 'dx.__class__'"),
        ("1e999 * dx", "the number 1e999 is too large"),
        ("9" * 400 + "*dx", "the number 9+ is too large"),
        ("(" * 60 + "dx" + ")" * 60, "nested more than 50 deep"),
        ("dx + " * 500 + "dx", "at most 2000 are allowed"),
    ],
)
def test_what_is_no_contrast_is_refused_in_one_line(text, message):
    with pytest.raises(DesignError, match=message) as caught:
        contrasts.weights(RESULT, text)
    assert "\n" not in str(caught.value)


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([*TERMS, *"+-*/() ", "2", "1e3", ".5", "[T.b]", ":"])).map("".join)
)
def test_any_text_is_a_contrast_or_refused(text):
    refusal = ""
    try:
        found = contrasts.weights(RESULT, text)
    except DesignError as error:
        refusal = str(error)
    assert "\n" not in refusal
    if not refusal:
        assert found.shape == (len(TERMS),)
        assert found.any()
        assert np.isfinite(found).all()


def test_mappings_and_lists_are_checked_too():
    with pytest.raises(DesignError, match="the weight of 'age' is 'much', not a number"):
        contrasts.weights(RESULT, {"age": "much"})
    with pytest.raises(DesignError, match="no term 'agee'; did you mean 'age'"):
        contrasts.weights(RESULT, {"agee": 1})
    with pytest.raises(DesignError, match="a weight is not finite"):
        contrasts.weights(RESULT, {"age": float("nan")})
    with pytest.raises(DesignError, match="no contrast is given"):
        contrasts.joint(RESULT, [])
    with pytest.raises(DesignError, match="1 names for 2 contrasts"):
        contrasts.estimates(RESULT, ["dx", "age"], names=["one"])


def test_a_term_without_hc3_error_has_none_in_contrasts_and_the_others_keep_theirs():
    table = simulated().assign(spike=np.where(np.arange(80) == 5, 2.5, 0.0))
    result = fit(table, outcome="volume", formula="dx + spike", one_scan_per="all")
    found = contrasts.estimates(result, ["dx", "dx + spike"])
    assert np.isfinite(found["hc3_se"]).tolist() == [True, False]
    assert np.isfinite(found["se"]).all()
    assert np.isnan(contrasts.joint(result, ["dx", "spike"])["hc3_p"].item())
    assert np.isfinite(contrasts.joint(result, ["dx", "spike"])["p"].item())


@settings(max_examples=10)
@given(tiny=st.integers(-12, 0), huge=st.integers(0, 12))
def test_units_play_no_part_in_a_joint_test(tiny, huge):
    table = simulated()
    other = table.assign(age=table["age"] * 10.0**tiny, skull=table["skull"] * 10.0**huge)
    one, two = (
        contrasts.joint(
            fit(t, outcome="volume", formula="dx + age + skull", one_scan_per="all"),
            ["dx", "age", "skull"],
        ).iloc[0]
        for t in (table, other)
    )
    assert one["df"] == two["df"] == 3
    for column in ("f", "hc3_f"):
        assert one[column] == pytest.approx(two[column], rel=1e-7)
