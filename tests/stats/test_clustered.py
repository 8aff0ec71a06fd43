"""A model whose rows go together: every verdict on every outcome is by the errors of clusters."""

import json

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from scipy import stats

from cohort.io.covariates import Model
from cohort.reporting import effects, modelparts
from cohort.stats import contrasts, equivalence, means, multiplicity, outcomes, regression, robust
from cohort.stats.analysis import analyse
from cohort.stats.clustering.headline import headline
from cohort.stats.columns import DesignError

UNITS = {"brain": "ml", "grey": "ml"}
KEYS = {
    "outcomes": ["brain", "grey", "white"],
    "formula": "dx + age",
    "group": "dx",
    "cluster": "family",
    "one_scan_per": "first",
    "contrasts": {"old": "dx + 10 * age"},
    "equivalence": {"dx": {"bound": 30}},
}


def families(seed=0, n=120, size=4, shared=30.0):
    """Members of a family have a group and an error in common."""
    rng = np.random.default_rng(np.random.Philox(key=seed))
    who = np.arange(n) // size
    table = pd.DataFrame({"scan_id": [f"s{i:03d}" for i in range(n)]})
    table["subject"], table["session"] = table["scan_id"], "1"
    table["family"] = [f"f{k:02d}" for k in who]
    table["dx"], table["age"] = who % 2, rng.uniform(50, 80, n)
    for name in ("brain", "grey", "white"):
        noise = rng.normal(0, shared, who.max() + 1)[who] + rng.normal(0, 10, n)
        table[name] = 900 - 2 * table["age"] - 20 * table["dx"] + noise
    table.loc[5:7, "grey"] = np.nan
    return table


def model(**keys):
    return Model.model_validate(KEYS | keys)


def clustered(table, outcome):
    fit = regression.fit(table, outcome=outcome, formula="dx + age", units=UNITS)
    return robust.clustered(fit, table.set_index("scan_id")["family"], UNITS)


def test_every_outcome_has_errors_of_clusters_and_is_corrected_by_them():
    table = families()
    found = analyse(table, model(), UNITS)
    tested = found.tidy[found.tidy["term"] == "dx"]
    assert tested["outcome"].tolist() == ["brain", "grey", "white"]
    for row in tested.to_dict("records"):
        expected = clustered(table, row["outcome"]).tidy.set_index("term").loc["dx"]
        for column in expected.index[expected.index.str.startswith("cluster_")]:
            if column == "cluster_kind":
                assert row[column] == expected[column]
            else:
                assert row[column] == pytest.approx(expected[column], rel=1e-9)
    assert set(tested["cluster_family_n"]) == {3}
    holm = multiplicity.adjust(tested["cluster_p"], "holm")
    np.testing.assert_allclose(tested["cluster_p_holm"], holm, rtol=1e-14)
    assert (tested["cluster_p_holm"] > tested["cluster_p"]).any()


def test_scans_of_one_person_count_for_every_outcome_too():
    table = families().assign(subject=lambda t: t["family"])
    found = analyse(table, model(cluster=None, one_scan_per="all"), UNITS).tidy
    assert found["cluster_p"].notna().all()
    assert set(found.loc[found["term"] == "dx", "cluster_family_n"]) == {3}


def test_an_outcome_within_one_cluster_has_no_such_error_and_is_named():
    table = families()
    table.loc[table["family"] != "f00", "white"] = np.nan
    table.loc[0:1, "dx"] = 1  # family f00 holds both groups
    found = analyse(table, model(formula="dx", contrasts={}, equivalence={}), UNITS)
    assert found.tidy.set_index(["outcome", "term"]).loc[("white", "dx"), "p"] > 0
    assert np.isnan(found.tidy.set_index(["outcome", "term"]).loc[("white", "dx"), "cluster_p"])
    assert any(w.startswith("white: no cluster-robust errors: 1 cluster") for w in found.warnings)


def test_contrasts_have_the_errors_of_the_term_that_they_are():
    table = families()
    fit = clustered(table, "brain")
    found = contrasts.estimates(fit, ["dx", "dx + 10 * age"])
    row = fit.tidy.set_index("term").loc["dx"]
    for column in ("se", "statistic", "df", "p", "ci_low", "ci_high"):
        expected = row[f"cluster_{column}"]
        assert found.loc[0, f"cluster_{column}"] == pytest.approx(expected, rel=1e-10)
    L = np.array([0.0, 1, 10])
    se = np.sqrt(L @ fit.clusters.covariance.to_numpy() @ L)
    assert found.loc[1, "cluster_se"] == pytest.approx(se, rel=1e-12)
    tested = analyse(table, model(), UNITS).tables["contrasts"]
    assert tested["outcome"].tolist() == ["brain", "grey", "white"]
    assert tested["cluster_p"].notna().all()
    assert set(tested["cluster_family_n"]) == {3}


def test_bounds_means_and_what_can_be_detected_are_by_clusters():
    table = families()
    fit = clustered(table, "brain")
    row = fit.tidy.set_index("term").loc["dx"]
    bound = equivalence.term(fit, "dx", bound=30).iloc[0]
    half = stats.t.ppf(0.95, row["cluster_df"]) * row["cluster_se"]
    assert bound["ci_high"] - bound["estimate"] == pytest.approx(half, rel=1e-10)
    assert bound["errors"] == row["cluster_kind"] == "CR2"
    least = equivalence.detectable(fit, "dx").iloc[0]
    assert least["effect"] == pytest.approx(
        equivalence.noncentrality(row["cluster_df"]) * row["cluster_se"], rel=1e-10
    )
    two = means.adjusted_means(fit, "dx")
    assert set(two["errors"]) == {"CR2"}
    # The mean of the reference is the intercept once age is centred.
    centred = table.assign(age=table["age"] - table["age"].mean())
    intercept = clustered(centred, "brain").tidy.iloc[0]
    for column in ("se", "df"):
        assert two.loc[0, column] == pytest.approx(intercept[f"cluster_{column}"], rel=1e-6)
    plain = regression.fit(table, outcome="brain", formula="dx + age")
    assert (two["se"] > 1.2 * means.adjusted_means(plain, "dx")["se"]).all()


def test_what_is_shown_and_said_is_by_clusters():
    found = analyse(families(), model(), UNITS)
    row = found.fit.tidy.set_index("term").loc["dx"]
    sentence = next(line for line in found.reading if "dx = 1" in line)
    assert f"p = {row['cluster_p']:.2g}, CR2 by 30 clusters of family" in sentence
    text = found.summary()
    shown = next(line for line in text.splitlines() if line.split()[:1] == ["dx"])
    assert f"{row['cluster_p']:.2g}" in shown
    assert f"{row['p']:.2g}" in shown
    family = next(line for line in text.splitlines() if line.split()[:2] == ["brain", "dx"])
    held = found.tidy.set_index(["outcome", "term"]).loc[("brain", "dx")]
    assert f"{held['cluster_p_bonferroni']:.2g}" in family
    said = found.to_json()
    assert said["clusters"] == {"by": "family", "kind": "CR2", "n_clusters": 30, "largest": 4}
    json.dumps(said, allow_nan=False)


def test_what_takes_rows_for_independent_is_named():
    found = analyse(families(), model(formula="dx + bs(age, df=3)", contrasts={}), UNITS)
    told = [w for w in found.warnings if "take each row for independent" in w]
    assert told == [
        "joint, slopes, ladder, comparison: their errors take each row for independent, also those of one family"
    ]
    plain = analyse(families(), model(cluster=None), UNITS)
    assert not any("take each row for independent" in w for w in plain.warnings)


def test_the_page_is_by_clusters():
    found = analyse(families(), model(), UNITS)
    said = found.to_json() | {"outcome": "brain", "declared": KEYS, "one_scan_per": "first"}
    own = modelparts.own(said, found.tidy)
    line = next(x for x in effects.coefficients(said, own) if x["term"] == "dx")
    row = own.set_index("term").loc["dx"]
    assert float(line["ci_low"].exact) == row["cluster_ci_low"]
    assert line["cluster_p"].exact == f"p = {float(row['cluster_p'])!r}"
    first = modelparts.family(found.tidy)["lines"][0]
    assert first["p_holm"].exact == f"p = {float(row['cluster_p_holm'])!r}"
    text = modelparts.methods(said)
    assert "CR2, 30 clusters of family" in text
    assert "Bell and McCaffrey" in text


def test_a_verdict_is_that_of_the_interval_of_clusters():
    row = {"estimate": 1.0, "ci_low": 0.5, "ci_high": 1.5, "p": 0.01, "hc3_p": 0.01}
    more = {"cluster_ci_low": -1.0, "cluster_ci_high": 3.0, "cluster_p": 0.2, "cluster_se": 1.0}
    assert effects.verdict(row).startswith("Clear")
    said = effects.verdict(row | more)
    assert said.startswith("Not clear: the interval includes 0.")
    assert "go together" in said


def test_intervals_of_effect_sizes_agree_with_that_of_the_estimate():
    tidy = analyse(families(), model(), UNITS).tidy
    rows = tidy[tidy["term"] != "Intercept"]
    for scale in ("partial_r", "d_adj"):
        known = rows[rows[scale].notna()]
        for end in ("low", "high"):
            signs = np.sign(known[f"cluster_{scale}_{end}"]) == np.sign(known[f"cluster_ci_{end}"])
            assert signs.all()
    dx = rows[rows["term"] == "dx"]
    half = dx["cluster_d_adj_high"] - dx["d_adj"]
    np.testing.assert_allclose(
        half * dx["estimate"] / dx["d_adj"], dx["cluster_ci_high"] - dx["estimate"], rtol=1e-9
    )


def test_without_clusters_nothing_is_replaced():
    table = families()
    tidy = outcomes.fit(table, outcomes=["brain"], formula="dx + age").tidy
    assert_frame_equal(headline(tidy), tidy)
    found = analyse(table, model(cluster=None), UNITS)
    assert not [c for c in found.tidy if c.startswith("cluster_")]
    assert found.to_json()["clusters"] is None


def test_a_row_without_cluster_is_one_line():
    table = families()
    table.loc[3, "family"] = None
    with pytest.raises(DesignError, match=r"'family' is missing in row s003 \(1 of 120 rows\)"):
        analyse(table, model(), UNITS)


@pytest.mark.slow
def test_equivalence_at_the_bound_is_shown_in_few_samples():
    """The truth lies on the bound: at 5 %, equivalence may be shown in one of twenty samples, not in one of seven."""
    shown = {"clusters": 0, "alone": 0}
    for seed in range(100):
        table = families(seed + 1)
        fits = {
            "clusters": clustered(table, "brain"),
            "alone": regression.fit(table, outcome="brain", formula="dx + age"),
        }
        for name, fit in fits.items():
            shown[name] += equivalence.term(fit, "dx", bound=(-20, 200))["equivalent"].item()
    assert shown["clusters"] <= stats.binom.ppf(0.995, 100, 0.05) < shown["alone"]
