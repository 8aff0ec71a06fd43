"""Maps of a model: the same bytes however the cube is cut, p that mean what they say, and whatever is wrong by its name."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from scipy import stats

from cohort.io import cube
from cohort.io.storage.disk import LocalFiles
from cohort.stats import voxelwise
from cohort.stats.columns import DesignError
from cohort.stats.permutation import permute
from cohort.stats.voxels import peaks, pieces
from cohort.stats.voxelwise import Permutations

SHAPE = (6, 9, 8)
GROUP = {"group": np.array([0.0, 1, 0])}


def design(n, seed=0):
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.arange(n) % 2)
    return np.column_stack([np.ones(n), group, rng.uniform(50, 90, n)])


def images(X, seed=0, effect=0.0):
    rng = np.random.default_rng(seed + 1)
    noise = ndi.gaussian_filter(rng.normal(size=(len(X), *SHAPE)), (0, 0.8, 0.8, 0.8))
    made = noise / noise.std() + 5 + 0.02 * X[:, 2, None, None, None]
    made[:, 2:4, 2:5, 2:5] += effect * X[:, 1, None, None, None]
    return made.astype(np.float32)


def cut(folder, made, tile_bytes=cube.TILE_BYTES):
    scans = {f"s{i:03d}": "" for i in range(len(made))}
    place = f"cube{tile_bytes}"
    loader = cube.Loader(lambda s: made[int(s[1:])], lambda ids: [made.dtype])
    metadata = cube.write(folder / place, scans, loader, tile_bytes=tile_bytes)
    return cube.Cube(LocalFiles(folder), place, metadata, scans)


def everything(maps):
    """All numbers of a result as bytes."""
    parts = {**maps.by_contrast, **maps.by_group, **maps.by_voxel, "voxels": maps.voxels}
    for name, one in maps.arranged.items():
        parts |= {f"{name} {key}": values for key, values in one.maximum.items()}
    return {key: np.ascontiguousarray(values).tobytes() for key, values in parts.items()}


@pytest.mark.parametrize("scheme", ["freedman-lane", "huh-jhun"])
def test_the_same_bytes_for_any_cut_and_any_number_of_workers(tmp_path, scheme, monkeypatch):
    X = design(21)
    made = images(X, effect=1.0)
    made[3, 0] = np.nan
    asked = {
        "contrasts": {**GROUP, "age": np.array([0.0, 0, 1])},
        "joint": {"both": np.eye(3)[1:]},
        "permutations": Permutations(seed=7, n=150, scheme=scheme),
        "threshold": 2.0,
        "tfce": True,
    }
    expected = everything(voxelwise.fit(cut(tmp_path, made), X, **asked, workers=1))
    for tile_bytes, workers, block, maps, moves in (
        (21 * 4 * 13, 2, 1 << 20, 1, 1 << 20),
        (21 * 4 * 100, 3, 1, 1 << 20, 1),
    ):
        monkeypatch.setattr("cohort.stats.voxels.pieces.BLOCK_BYTES", block)
        monkeypatch.setattr("cohort.stats.voxels.arrangements.MAP_BYTES", maps)
        monkeypatch.setattr("cohort.stats.voxels.arrangements.MOVES_BYTES", moves)
        found = voxelwise.fit(cut(tmp_path, made, tile_bytes), X, **asked, workers=workers)
        assert everything(found) == expected


@pytest.mark.cluster
def test_workers_of_a_cluster_give_the_same_bytes(tmp_path):
    from distributed import Client, LocalCluster

    X = design(15)
    made = cut(tmp_path, images(X), 15 * 4 * 100)
    asked = {
        "contrasts": GROUP,
        "permutations": Permutations(seed=1, n=100),
        "threshold": 2.0,
        "tfce": True,
    }
    expected = everything(voxelwise.fit(made, X, **asked, workers=1))
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as local,
        Client(local) as client,
    ):
        assert everything(voxelwise.fit(made, X, **asked, client=client)) == expected


def test_arrangements_are_those_of_a_table(tmp_path):
    """Every voxel as an outcome of the test of tables; the table as it is has the t of least squares."""
    X = design(18)
    made = images(X, effect=0.5)
    maps = voxelwise.fit(cut(tmp_path, made), X, GROUP, permutations=Permutations(seed=3, n=200))
    table = permute(X, made.reshape(18, -1), term=1, n_permutations=200, seed=3).tidy
    np.testing.assert_array_equal(maps.by_contrast["fwe_p"][0], table["p_fwe"])
    np.testing.assert_array_equal(maps.by_contrast["p_permuted"][0], table["p"])
    np.testing.assert_allclose(
        maps.arranged["group"].t, maps.by_contrast["t"][0], rtol=1e-12, atol=1e-12
    )


def test_clusters_and_support_of_each_arrangement(tmp_path):
    """The largest of each arrangement, made again from the t of a table's arrangements."""
    from cohort.kernels import clusters, tfce
    from cohort.stats.exchanges.maximum import tally
    from cohort.stats.exchanges.scheme import scheme

    X = design(16)
    made = images(X, effect=1.5)
    maps = voxelwise.fit(
        cut(tmp_path, made, 2000), X, GROUP, permutations=Permutations(seed=5, n=120),
        threshold=1.5, tfce=True, neighbours=18, voxel_mm3=8.0,
    )  # fmt: skip
    out = np.empty((120, made[0].size), np.float32)
    plan = scheme(X, GROUP["group"], n_permutations=120, seed=5)
    tally(plan, made.reshape(16, -1), out=out)
    extent, mass, support = [], [], []
    for t in out.reshape(120, *SHAPE):
        both = [clusters.largest(s * t, above=1.5, connectivity=2) for s in (1, -1)]
        extent.append(max(size for size, _ in both))
        mass.append(max(m for _, m in both))
        support.append(
            max(tfce.enhance(s * t, connectivity=2, voxel_volume=8.0).max() for s in (1, -1))
        )
    found = maps.arranged["group"].maximum
    np.testing.assert_array_equal(found["extent"], extent)
    np.testing.assert_allclose(found["mass"], mass, rtol=1e-12)
    np.testing.assert_allclose(found["support"], support, rtol=1e-12)
    listed = maps.peaks(np.diag([-2.0, 2, 2, 1]))
    first = listed.iloc[0]
    assert listed[["extent_p", "mass_p", "fwe_p", "support_p"]].min().min() >= 1 / 120
    assert first["mass_p"] == np.mean(np.array(mass) >= first["mass"])
    assert first["extent_p"] == np.mean(np.array(extent) >= first["n_voxels"])
    best = np.nanargmax(np.abs(maps.volume(maps.by_contrast["t"][0])))
    z, y, x = np.unravel_index(best, SHAPE)
    assert (first["x_mm"], first["y_mm"], first["z_mm"]) == (-2.0 * x, 2.0 * y, 2.0 * z)
    assert first["volume_ml"] == first["n_voxels"] * 8 / 1000


@given(
    neighbours=st.sampled_from([6, 18, 26]), seed=st.integers(0, 1000), whole=st.booleans()
)  # fmt: skip
def test_every_cluster_is_listed_with_its_highest_voxel(neighbours, seed, whole):
    """Clusters are those of SciPy's `label`, also where one touches another by an edge or a corner."""
    rng = np.random.default_rng(seed)
    t = rng.normal(0, 2, rng.integers(1, 8, 3))
    t = np.round(t) if whole else t
    affine = np.diag([-3.0, 3, 3, 1])
    rank = {6: 1, 18: 2, 26: 3}[neighbours]
    listed = peaks.table(
        "c", {"t": t}, heights=t, affine=affine, threshold=2.0, neighbours=neighbours
    )
    shape = ndi.generate_binary_structure(3, rank)
    expected = []
    for sign in (1, -1):
        labels, n = ndi.label(sign * t > 2, shape)
        expected += [
            (sign, int((labels == i).sum()), t[labels == i][np.argmax(sign * t[labels == i])])
            for i in range(1, n + 1)
        ]
        own = listed[listed["sign"] == sign]
        places = (own[["z_mm", "y_mm", "x_mm"]].to_numpy(float) / [3, 3, -3]).round().astype(int)
        at = labels[tuple(places.T)]
        assert (at > 0).all()
        # A cluster's rows lie in that cluster, far enough from each other.
        for _, rows in own.assign(at=at).groupby("cluster"):
            assert rows["at"].nunique() == 1
            mm = rows[["x_mm", "y_mm", "z_mm"]].to_numpy(float)
            apart = np.linalg.norm(mm[:, None] - mm, axis=-1)[np.triu_indices(len(mm), 1)]
            assert (apart >= 8).all()
    first = listed[listed["peak"] == 1]
    found = list(zip(first["sign"], first["n_voxels"], first["t"], strict=True))
    assert sorted(found) == sorted(expected)


def test_an_effect_is_found_where_it_is(tmp_path):
    X = design(30)
    maps = voxelwise.fit(
        cut(tmp_path, images(X, effect=2.5)), X, GROUP, permutations=Permutations(seed=2, n=200)
    )
    hit = maps.volume(maps.by_contrast["fwe_p"][0]) <= 0.05
    inside = np.zeros(SHAPE, bool)
    inside[2:4, 2:5, 2:5] = True
    assert hit[inside].all()
    assert not hit[~ndi.binary_dilation(inside, iterations=2)].any()


@pytest.mark.slow
def test_familywise_error_over_200_data_sets_without_an_effect(tmp_path):
    hits = {"t": 0, "extent": 0, "support": 0}
    for seed in range(200):
        X = design(20, seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        maps = voxelwise.fit(
            cut(folder, images(X, seed)), X, GROUP, permutations=Permutations(seed=seed, n=199 + 1),
            threshold=2.5, tfce=True, workers=1,
        )  # fmt: skip
        one = maps.arranged["group"]
        for name in hits:
            hits[name] += np.mean(one.maximum[name] >= one.maximum[name][0]) <= 0.05
    low, high = stats.binom.interval(0.99, 200, 0.05)
    assert all(n <= high for n in hits.values()), hits
    assert low <= hits["t"], hits
    assert low <= hits["support"], hits


def test_voxels_that_are_left_out_are_counted_with_the_reason(tmp_path):
    X = design(14)
    made = images(X)
    made[:, 0] = 3.0
    made[:, 1, 0] = np.nan
    made[3:, 1, 1] = np.nan
    made[X[:, 1] == 1, 1, 2] = np.nan
    made[5, 1, 3] = np.nan
    maps = voxelwise.fit(cut(tmp_path, made), X, GROUP, permutations=Permutations(seed=1, n=100))
    plane, row = SHAPE[1] * SHAPE[2], SHAPE[2]
    assert maps.left_out == {
        voxelwise.WHY[1]: row,
        voxelwise.WHY[2]: row,
        voxelwise.WHY[3]: row,
        voxelwise.WHY[4]: plane,
    }
    assert maps.n_grid == maps.n_mask == made[0].size
    assert len(maps.voxels) == made[0].size - plane - 3 * row
    assert set(maps.by_voxel["n"]) == {13, 14}
    lacking = maps.by_voxel["n"] == 13
    assert np.isnan(maps.by_contrast["fwe_p"][0, lacking]).all()
    assert np.isfinite(maps.by_contrast["fwe_p"][0, ~lacking]).all()


def test_a_scan_without_a_number_is_left_out_and_named_by_its_row(tmp_path):
    X = design(15)
    made = images(X)
    made[6] = np.nan
    found = voxelwise.fit(cut(tmp_path, made), X, GROUP, permutations=Permutations(seed=1, n=100))
    assert found.empty == (6,)
    others = np.arange(15) != 6
    folder = tmp_path / "others"
    folder.mkdir()
    expected = voxelwise.fit(
        cut(folder, made[others]), X[others], GROUP, permutations=Permutations(seed=1, n=100)
    )
    assert everything(found) == everything(expected)


def test_masks(tmp_path):
    X = design(12)
    made = images(X) - 6.0
    whole = cut(tmp_path, made, 1000)
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 2:4] = True
    maps = voxelwise.fit(whole, X, GROUP, mask=mask)
    np.testing.assert_array_equal(np.isfinite(maps.volume(maps.by_contrast["t"][0])), mask)
    enough = (made > 0).sum(axis=0) >= 6
    maps = voxelwise.fit(whole, X, GROUP, above=0.0, share=0.5)
    np.testing.assert_array_equal(np.isfinite(maps.volume(maps.by_contrast["t"][0])), enough)
    with pytest.raises(DesignError, match=r"found none \(50% of 12 scans above 99\)"):
        voxelwise.fit(whole, X, GROUP, above=99.0, share=0.5)
    with pytest.raises(DesignError, match="no voxel"):
        voxelwise.fit(whole, X, GROUP, mask=~np.ones(SHAPE, bool))


def test_designs_without_an_answer_are_refused(tmp_path):
    X = design(12)
    whole = cut(tmp_path, images(X))
    with pytest.raises(DesignError, match=r"expected 4 independent columns .*found 3 in 12 rows"):
        voxelwise.fit(whole, np.column_stack([X, X[:, 1]]), {"group": np.eye(4)[1]})
    with pytest.raises(DesignError, match=r"none of the 432 voxels .* same in all scans"):
        voxelwise.fit(cut(tmp_path, np.ones((12, *SHAPE)), 999), X, GROUP)


@given(n=st.integers(1, 3000), hundredths=st.integers(1, 100))
def test_a_share_is_that_which_is_written(n, hundredths):
    whole = Fraction(hundredths, 100) * n
    assert pieces.needed(hundredths / 100, n) == math.ceil(whole)


@pytest.mark.parametrize("share", [0.28, 0.56])
def test_a_share_of_the_scans_that_is_a_whole_number_of_them_suffices(tmp_path, share):
    X = design(25)
    made = images(X) - 5.5
    made[:, 0] = -1
    made[: round(share * 25), 0] = 0.1 + np.abs(made[: round(share * 25), 0])
    enough = 25 * (made > 0).mean(axis=0) >= round(share * 25) - 0.5
    assert enough[0].all()
    found = voxelwise.fit(cut(tmp_path, made, 3000), X, GROUP, above=0.0, share=share)
    assert found.n_mask == enough.sum()


BLOCKS = Permutations(seed=1, n=20, blocks=np.zeros(11))
"""One block too few."""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"X": design(12)[:11]}, r"X: expected \(n, p\) with the 12 rows of the cube, found \(11, 3\)"),
        ({"X": design(13)}, r"X: expected \(n, p\) with the 12 rows of the cube, found \(13, 3\)"),
        ({"X": design(12)[:, 1]}, r"X: expected \(n, p\) with the 12 rows of the cube, found \(12,\)"),
        ({"X": np.where(np.arange(12)[:, None] == [12, 12, 4], np.nan, design(12))}, "X: expected finite numbers, found nan in row 4, column 2; leave"),
        ({"contrasts": {}}, "contrasts: expected one or more, found none"),
        ({"contrasts": {"c": np.ones(2)}}, r"contrast 'c': expected \(3,\) numbers for the 3 columns of X, found \(2,\)"),
        ({"contrasts": {"c": np.zeros(3)}}, r"contrast 'c': expected finite weights of which one is not 0, found \[0.0, 0.0, 0.0\]"),
        ({"joint": {"j": np.ones(3)}}, r"joint 'j': expected \(q, 3\) numbers for the 3 columns of X, found \(3,\)"),
        ({"mask": np.ones(SHAPE[::-1], bool)}, r"mask: expected the \(6, 9, 8\) voxels of the cube, found \(8, 9, 6\)"),
        ({"share": 1.5, "above": 0.0}, "share: expected above 0, up to 1, found 1.5"),
        ({"threshold": -1.0}, "threshold: expected a t of 0 or more, found -1.0"),
        ({"neighbours": 7}, "neighbours: expected 6, 18, 26, found 7"),
        ({"permutations": BLOCKS}, r"blocks: expected one for each of 12 scans, found \(11,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_in_one_line(tmp_path, asked, said):
    made = cut(tmp_path, images(design(12)))
    with pytest.raises(DesignError, match=said) as refused:
        voxelwise.fit(made, **{"X": design(12), "contrasts": GROUP, **asked})
    assert "\n" not in str(refused.value)


def test_clusters_above_zero_are_those_that_arrangements_are_labelled_for(tmp_path):
    X = design(14)
    maps = voxelwise.fit(
        cut(tmp_path, images(X)), X, GROUP, threshold=0.0, permutations=Permutations(seed=1, n=50)
    )
    assert maps.threshold == 0.0
    listed = maps.peaks(np.diag([2.0, 2, 2, 1]))
    most = maps.arranged["group"].maximum
    assert listed["n_voxels"].max() == most["extent"][0]
    np.testing.assert_allclose(listed["mass"].max(), most["mass"][0], rtol=1e-6)
    assert listed["n_voxels"].groupby([listed["sign"], listed["cluster"]]).first().sum() == made_of(maps)  # fmt: skip


def made_of(maps):
    """Voxels whose t is not 0."""
    return np.count_nonzero(maps.arranged["group"].t)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_scan_without_a_number_does_not_empty_a_mask_of_what_scans_exceed(tmp_path, share):
    X = design(15)
    made = images(X)
    made[:, 0] = -1.0
    made[6] = np.nan
    found = voxelwise.fit(cut(tmp_path, made, 3000), X, GROUP, above=0.0, share=share)
    assert found.empty == (6,)
    others = np.arange(15) != 6
    folder = tmp_path / "others"
    folder.mkdir()
    left = cut(folder, made[others], 3000)
    assert everything(found) == everything(
        voxelwise.fit(left, X[others], GROUP, above=0.0, share=share)
    )


def test_what_is_infinite_is_no_number(tmp_path):
    """Else one voxel would be the most extreme of every arrangement, or make it NaN."""
    X = design(15)
    made = images(X)
    made[2, 1, 3, 4], made[9, 3, 0, 0] = np.inf, -np.inf
    as_nan = np.where(np.isfinite(made), made, np.nan)
    asked = {"permutations": Permutations(seed=1, n=100), "threshold": 2.0, "tfce": True}
    found = voxelwise.fit(cut(tmp_path, made), X, GROUP, **asked)
    assert (found.by_voxel["n"] == 14).sum() == 2
    assert np.isfinite(found.by_contrast["fwe_p"]).sum() == made[0].size - 2
    folder = tmp_path / "nan"
    folder.mkdir()
    assert everything(found) == everything(voxelwise.fit(cut(folder, as_nan), X, GROUP, **asked))
