"""ComBat against published numbers, against the algorithm written out cell by cell, and what it must not change."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.stats.harmonize import Combat, DesignError, fit_combat

COLUMNS = ["a", "b", "c", "d", "e"]


def simulated(seed=0, per_site=25, sites=3, effect=1.0):
    """Five volumes with age and diagnosis in them, and a shift and a spread of each site times `effect`."""
    rng = np.random.default_rng(seed)
    n = per_site * sites
    site = rng.permutation(np.arange(n) % sites)
    dx = np.where(rng.random(n) < 0.5, "AD", "CN")
    for each in range(sites):  # a site that holds one group by chance would be refused
        dx[np.flatnonzero(site == each)[:2]] = "AD", "CN"
    table = pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(n)],
            "site": np.array([f"site {i}" for i in range(sites)])[site],
            "dx": dx,
            "age": rng.uniform(55, 90, n),
        }
    )
    shift, spread = rng.normal(0, 30, (sites, 5)), np.exp(rng.normal(0, 0.5, (sites, 1)))
    base = 500 + 100 * np.arange(5) - 2 * table["age"].to_numpy()[:, None]
    base = base - 20 * (table["dx"] == "AD").to_numpy()[:, None]
    noise = rng.normal(0, 10, (n, 5))
    table[COLUMNS] = base + effect * shift[site] + noise * spread[site] ** effect
    return table


KEEP = {"keep_categorical": ["dx"], "keep_continuous": ["age"]}


def by_hand(table, *, parametric, reference=None):
    """The algorithm of the papers, a design matrix with a column a site and loops over columns and rows."""
    sites = sorted(set(table["site"]))
    one_hot = np.array([[float(s == label) for label in sites] for s in table["site"]])
    if reference is not None:
        one_hot[:, sites.index(reference)] = 1
    covariates = np.column_stack([table["dx"] == "CN", table["age"]]).astype(float)
    y = table[COLUMNS].to_numpy()
    design = np.column_stack([one_hot, covariates])
    b = np.linalg.solve(design.T @ design, design.T @ y)
    rows = np.ones(len(y), bool) if reference is None else (table["site"] == reference).to_numpy()
    level = (
        np.array([(table["site"] == s).mean() for s in sites]) @ b[: len(sites)]
        if reference is None
        else b[sites.index(reference)]
    )
    sd = np.sqrt(((y - design @ b)[rows] ** 2).mean(axis=0))
    kept = covariates @ b[len(sites) :]
    z = (y - level - kept) / sd
    result = y.copy()
    for label in sites:
        mine = (table["site"] == label).to_numpy()
        if label == reference:
            continue
        part = z[mine]
        shift, spread = part.mean(axis=0), part.var(axis=0, ddof=1)
        new = _iterate if parametric else _weigh
        new_shift, new_spread = new(part, shift, spread)
        result[mine] = (part - new_shift) / np.sqrt(new_spread) * sd + level + kept[mine]
    return result


def _iterate(part, shift, spread):
    n = len(part)
    m, s2 = spread.mean(), spread.var(ddof=1)
    a, b = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    tau = shift.var(ddof=1)
    now = shift.copy(), spread.copy()
    while True:
        g = (tau * n * shift + now[1] * shift.mean()) / (tau * n + now[1])
        d = (((part - g) ** 2).sum(axis=0) / 2 + b) / (n / 2 + a - 1)
        change = max((abs(g - now[0]) / now[0]).max(), (abs(d - now[1]) / now[1]).max())
        now = g, d
        if change <= 1e-4:
            return now


def _weigh(part, shift, spread):
    n, found = len(part), []
    for i in range(part.shape[1]):
        weight, total = np.longdouble(0), np.zeros(2, np.longdouble)  # doubles underflow here
        for j in range(part.shape[1]):
            if j != i:
                squares = ((part[:, i] - shift[j]) ** 2).sum()
                density = np.exp(np.longdouble(-squares / 2 / spread[j])) / spread[j] ** (n / 2)
                weight += density
                total += density * np.array([shift[j], spread[j]])
        found.append((total / weight).astype(float))
    return np.transpose(found)


@given(
    seed=st.integers(0, 10_000),
    parametric=st.booleans(),
    reference=st.sampled_from([None, "site 1"]),
)
def test_combat_equals_the_algorithm_written_out(seed, parametric, reference):
    table = simulated(seed, per_site=12)
    combat = fit_combat(
        table, columns=COLUMNS, site="site", **KEEP, parametric=parametric, reference=reference
    )
    found = combat.transform(table)[COLUMNS].to_numpy()
    expected = by_hand(table, parametric=parametric, reference=reference)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if reference:
        kept = table["site"] == reference
        assert (found[kept] == table.loc[kept, COLUMNS].to_numpy()).all()


def test_reference_numbers_of_neurocombat(shared):
    table = pd.read_csv(shared / "oasis" / "oasis_all_volumes.csv")
    number = table["ID"].str[5:9].astype(int)
    first = table.assign(site=number % 3)[~number.duplicated()]
    volumes = ["gray_matter_vol", "white_matter_vol", "csf_vol", "skull_vol"]
    combat = fit_combat(
        first,
        columns=volumes,
        site="site",
        keep_categorical=["alzheimers", "sex"],
        keep_continuous=["age"],
    )
    after = combat.transform(first)[volumes]
    np.testing.assert_allclose(
        after.iloc[0], [471.852857329, 338.215569980, 56.0195346685, 1346.44687767], rtol=1e-11
    )
    np.testing.assert_allclose(
        after.mean(), [552.568815566, 431.112174510, 30.4901332162, 1468.161229520], rtol=1e-11
    )
    assert sum(combat.n) == 406
    assert combat.warnings == ()


@given(seed=st.integers(0, 10_000), parametric=st.booleans(), holes=st.booleans())
def test_the_order_of_rows_changes_no_bit(seed, parametric, holes):
    table = simulated(seed)
    rng = np.random.default_rng(seed)
    if holes:
        table[COLUMNS] = table[COLUMNS].mask(rng.random((len(table), 5)) < 0.1)
    order = rng.permutation(len(table))
    options = {"columns": COLUMNS, "site": "site", **KEEP, "parametric": parametric}
    first, again = fit_combat(table, **options), fit_combat(table.iloc[order], **options)
    assert first == again
    pd.testing.assert_frame_equal(
        first.transform(table).iloc[order], again.transform(table.iloc[order]), check_exact=True
    )


@given(seed=st.integers(0, 10_000), parametric=st.booleans(), reference=st.booleans())
def test_a_saved_model_is_the_same_model(seed, parametric, reference):
    table = simulated(seed)
    options = {"parametric": parametric, "reference": "site 2" if reference else None}
    combat = fit_combat(table, columns=COLUMNS, site="site", **KEEP, **options)
    saved = Combat.from_json(json.loads(json.dumps(combat.to_json(), allow_nan=False)))
    assert saved == combat
    whole = combat.transform(table)
    pd.testing.assert_frame_equal(whole, saved.transform(table), check_exact=True)
    rows = np.random.default_rng(seed).permutation(len(table))[:7]
    pd.testing.assert_frame_equal(
        whole.iloc[rows], saved.transform(table.iloc[rows]), check_exact=True
    )


@given(seed=st.integers(0, 10_000), parametric=st.booleans())
def test_names_of_sites_play_no_part(seed, parametric):
    table = simulated(seed)
    renamed = table.assign(site=table["site"].map({"site 0": "z", "site 1": "a", "site 2": "m"}))
    first, second = (
        fit_combat(t, columns=COLUMNS, site="site", **KEEP, parametric=parametric).transform(t)
        for t in (table, renamed)
    )
    np.testing.assert_allclose(first[COLUMNS], second[COLUMNS], rtol=1e-10)


def test_site_effects_go_and_what_is_kept_stays():
    table = simulated(1, per_site=400)
    after = fit_combat(table, columns=COLUMNS, site="site", **KEEP).transform(table)
    for name in COLUMNS:
        design = np.column_stack(
            [np.ones(len(table)), table["age"], table["dx"] == "AD", table["site"] == "site 1"]
        ).astype(float)
        before_b = np.linalg.lstsq(design, table[name], rcond=None)[0]
        after_b = np.linalg.lstsq(design, after[name], rcond=None)[0]
        assert abs(after_b[3]) < 1 < 10 * abs(before_b[3])
        assert after_b[1] == pytest.approx(-2, abs=0.15)
        assert after_b[2] == pytest.approx(-20, abs=2.5)
        rest = after[name] - design @ after_b
        spreads = rest.groupby(table["site"]).std()
        assert spreads.max() / spreads.min() < 1.05


def test_without_site_effects_almost_nothing_changes():
    table = simulated(3, per_site=2_000, effect=0.0)
    for parametric in (True, False):
        combat = fit_combat(table, columns=COLUMNS, site="site", **KEEP, parametric=parametric)
        change = combat.transform(table)[COLUMNS] - table[COLUMNS]
        assert change.abs().to_numpy().max() < 2.5  # noise has a standard deviation of 10
        assert combat.tidy["shift"].abs().max() < 1
        assert combat.tidy["sd_ratio"].sub(1).abs().max() < 0.05


@given(seed=st.integers(0, 10_000))
def test_a_missing_cell_concerns_its_column_only(seed):
    table = simulated(seed)
    holes = table.copy()
    holes.loc[[1, 4], "c"] = np.nan
    combat = fit_combat(holes, columns=COLUMNS, site="site", **KEEP)
    after = combat.transform(holes)
    assert after["c"].isna().tolist() == holes["c"].isna().tolist()
    assert after.drop(columns="c").notna().all().all()
    without = fit_combat(holes.drop(index=[1, 4]), columns=COLUMNS, site="site", **KEEP)
    j = COLUMNS.index("c")
    for whole, part in ((combat.mean, without.mean), (combat.scale, without.scale)):
        assert whole[j] == pytest.approx(part[j], rel=1e-10)


def test_columns_that_say_the_same_share_one_shift():
    table = simulated(2).assign(b=lambda t: t["a"] * 2 + 1)
    combat = fit_combat(table, columns=["a", "b"], site="site", **KEEP)
    for shift, spread in zip(combat.shift, combat.spread, strict=True):
        assert shift[0] == pytest.approx(shift[1], rel=1e-6)
        assert spread[0] == pytest.approx(spread[1], rel=1e-6)


def test_large_sites_do_not_underflow_without_parameters():
    table = simulated(4, per_site=3_000)
    after = fit_combat(table, columns=COLUMNS, site="site", **KEEP, parametric=False)
    assert np.isfinite(after.shift).all()


def test_newcomers_of_an_unseen_site_are_refused_or_left_without_numbers():
    table = simulated()
    combat = fit_combat(table, columns=COLUMNS, site="site", **KEEP)
    new = table.copy()
    new.loc[[0, 2], "site"] = "site 9"
    with pytest.raises(DesignError, match=r"'site 9' \(2 rows\) was not fitted, only site 0, site"):
        combat.transform(new)
    after = combat.transform(new, unseen="missing")
    assert after.loc[[0, 2], COLUMNS].isna().all().all()
    pd.testing.assert_frame_equal(
        after.drop(index=[0, 2]), combat.transform(table).drop(index=[0, 2]), check_exact=True
    )
    with pytest.raises(DesignError, match="it takes refuse, missing"):
        combat.transform(new, unseen="mean")
    with pytest.raises(DesignError, match=r"dx: 'MCI' .* was not fitted, only AD, CN"):
        combat.transform(table.assign(dx="MCI"))
    with pytest.raises(DesignError, match="no column 'age'"):
        combat.transform(table.drop(columns="age"))
    with pytest.raises(DesignError, match="no saved ComBat of this version: slopes"):
        Combat.from_json({k: v for k, v in combat.to_json().items() if k != "slopes"})


def test_text_and_numbers_give_the_same_bits():
    table = simulated()
    text = table.map(lambda cell: cell if isinstance(cell, str) else repr(cell))
    first, second = (fit_combat(t, columns=COLUMNS, site="site", **KEEP) for t in (table, text))
    assert first == second
    assert (second.transform(text)["a"] == first.transform(table)["a"]).all()


@pytest.mark.parametrize(
    ("change", "arguments", "match"),
    [
        ({"site": lambda t: t["site"].where(t.index != 0, "x")}, {}, "site 'x' has one scan only"),
        ({"site": "x"}, {}, r"one site only \(x\): nothing to harmonise"),
        ({"a": 7.0}, {}, "column 'a' is 7 in all rows: leave it out"),
        (
            {"a": lambda t: t["a"].where(t["site"] != "site 1", 7)},
            {},
            "column 'a' is 7 in all 25 scans of site 'site 1'",
        ),
        ({"a": lambda t: t["age"] * 3}, {}, "column 'a' is an exact combination of site"),
        (
            {"dx": lambda t: t["dx"].where(t["site"] != "site 1", "CN")},
            {},
            r"site is confounded with dx: one level only at 'site 1' \(dx = CN\); leave such sites",
        ),
        ({"dx": "CN"}, {}, "keep_categorical: 'dx' is CN in all 75 rows"),
        (
            {"age": lambda t: t["site"].str[-1]},
            {},
            "'age' is the same in all rows of each site: site and age cannot be told apart",
        ),
        (
            {"iq": lambda t: 2 * t["age"] + (t["site"] == "site 1")},
            {"keep_continuous": ["age", "iq"]},
            r"what is kept \(dx, age, iq\) depends on itself and on site",
        ),
        ({"site": lambda t: t["site"].mask(t.index == 3)}, {}, "'site' is missing in 1 of 75 rows"),
        ({"age": lambda t: t["age"].mask(t.index == 3)}, {}, "'age' is missing in 1 of 75 rows"),
        (
            {"a": lambda t: t["a"].mask((t["site"] == "site 2") & (t["a"] != t["a"].max()))},
            {},
            r"column 'a' has [01] of the 25 scans of site 'site 2'; at least 2",
        ),
        (
            {"a": lambda t: t["a"].mask(t["dx"] == "AD")},
            {},
            r"in the rows that hold 'a': what is kept \(dx, age\) depends",
        ),
        ({"a": "large"}, {}, "holds 'large' in row 0, where a number is needed"),
        ({}, {"columns": ["a"]}, "several columns together; 1 given"),
        ({}, {"columns": ["a", "b", "a"]}, "'a' is named twice"),
        ({}, {"columns": "ab"}, "columns is the text 'ab'"),
        ({}, {"site": "sight"}, "no column 'sight'; did you mean 'site'"),
        ({}, {"reference": "x"}, "reference site 'x' is none of the sites site 0, site 1, site 2"),
    ],
)
def test_refusals_are_one_line(change, arguments, match):
    table = simulated().assign(**change)
    with pytest.raises(DesignError, match=match) as refusal:
        fit_combat(table, **{"columns": COLUMNS, "site": "site", **KEEP, **arguments})
    assert "\n" not in str(refusal.value)


def test_few_scans_and_little_overlap_are_warned_of():
    table = simulated(5)
    far = table["site"] == "site 1"
    table.loc[far, "age"] += 60
    small = table.drop(index=table.index[table["site"] == "site 2"][5:])
    warnings = fit_combat(small, columns=COLUMNS, site="site", **KEEP).warnings
    assert any("site 'site 2' has 5 scans, fewer than 10" in text for text in warnings)
    assert any("age of site 'site 1' barely overlaps" in text for text in warnings)
