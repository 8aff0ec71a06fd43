"""Mixtures equal scikit-learn's from the same start, the same bits for every chunking; what cannot be fitted is refused."""

import warnings

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from cohort.grid import GridError
from cohort.kernels import mixture
from cohort.ops import graph, mixtures, tissue

SHAPE = (13, 70, 66)
"""More than one tile along two axes."""


def drawn(seed, *, n_contrasts=2, shape=SHAPE, dtype=np.float32):
    """Contrasts of three overlapping tissues, a mask, and the tissues."""
    random = np.random.default_rng(seed)
    tissues = random.choice(3, shape, p=random.dirichlet([8, 8, 8]))
    means = random.normal(0, 3, (3, n_contrasts))
    mixing = random.normal(0, 1, (3, n_contrasts, n_contrasts)) / 2 + np.eye(n_contrasts)
    noise = random.normal(size=(*shape, n_contrasts))
    values = means[tissues] + np.einsum("...i,...ij->...j", noise, mixing[tissues])
    values = 100 + 20 * values * 10.0 ** np.arange(n_contrasts)
    mask = random.random(shape) < 0.6
    images = [strategies.scan(values[..., i].astype(dtype)) for i in range(n_contrasts)]
    return images, strategies.scan(mask), tissues


def standardised(images, mask):
    """Values in the mask as scikit-learn wants them, (n, contrasts)."""
    values = np.stack([image.values[mask.values].astype(float) for image in images], axis=1)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def start(images, mask, n_components, seed):
    """Where `gmm` begins."""
    kept = graph.keep(
        mixture.pick, {"mask": mask, **{str(i): image for i, image in enumerate(images)}}
    )
    n, center, scale = mixtures._scores([kept], [str(i) for i in range(len(images))])
    return mixtures._start([kept], n, center, scale, n_components, seed, 1e-6)


def by_scikit_learn(values, begin, **more):
    """Its mixture from the same start."""
    model = GaussianMixture(
        len(begin.weights),
        weights_init=begin.weights,
        means_init=begin.means,
        precisions_init=np.linalg.inv(begin.covariances),
        **more,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(values)


@settings(max_examples=12, phases=[Phase.generate])
@given(
    seed=st.integers(0, 2**32 - 1),
    n_contrasts=st.integers(1, 3),
    n_components=st.integers(1, 4),
    tolerance=st.sampled_from([1e-2, 1e-3, 1e-5]),
)
def test_a_mixture_equals_that_of_scikit_learn(seed, n_contrasts, n_components, tolerance):
    images, mask, _ = drawn(seed, n_contrasts=n_contrasts)
    model = tissue.gmm(images, mask=mask, n_components=n_components, seed=seed, tolerance=tolerance)
    values = standardised(images, mask)
    oracle = by_scikit_learn(values, start(images, mask, n_components, seed), tol=tolerance)
    order = np.argsort(oracle.means_[:, 0])
    assert model.n_iterations == oracle.n_iter_
    assert model.converged == oracle.converged_
    assert model.n_voxels == mask.sum()
    np.testing.assert_allclose(model.log_likelihood, oracle.score(values), rtol=0, atol=1e-9)
    close = {"rtol": 1e-7, "atol": 1e-7}
    np.testing.assert_allclose(model.weights, oracle.weights_[order], **close)
    np.testing.assert_allclose(model.standardized_means, oracle.means_[order], **close)
    np.testing.assert_allclose(model.standardized_covariances, oracle.covariances_[order], **close)

    found = tissue.classify(images, model, mask=mask)
    posteriors = found.posteriors.values[:, mask.values].T
    np.testing.assert_allclose(posteriors, oracle.predict_proba(values)[:, order], atol=1e-6)
    np.testing.assert_array_equal(found.labels.values[mask.values], 1 + posteriors.argmax(axis=1))
    assert not found.labels.values[~mask.values].any()
    assert not found.posteriors.values[:, ~mask.values].any()


# Blocks of several tiles, in an order other than that of the tiles; thin ones; and such as differ from input to input.
CHUNKS = (
    ({"x": 65}, {"x": 65}, {"x": 65}),
    ({"z": 1, "y": 40}, {"x": 64}, {"z": 5}),
    ({"y": 70}, {"y": (3, 62, 5), "x": 50}, {"y": (69, 1), "x": 64}),
)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_any_chunks_give_the_same_bits(chunks, dtype):
    images, mask, _ = drawn(1, dtype=dtype)
    expected = tissue.gmm(images, mask=mask, n_components=3, seed=5)
    parts = tissue.classify(images, expected, mask=mask)
    *lazy, inside = (array.chunk(c) for array, c in zip((*images, mask), chunks, strict=True))
    for name in ("weights", "means", "covariances"):
        begun = (getattr(start(i, m, 3, 5), name) for i, m in ((lazy, inside), (images, mask)))
        np.testing.assert_array_equal(*begun)
    model = tissue.gmm(lazy, mask=inside, n_components=3, seed=5)
    assert model.to_json() == expected.to_json()
    with strategies.nothing_computed():
        found = tissue.classify(lazy, model, mask=inside)
    xr.testing.assert_identical(found.labels.compute(), parts.labels)
    xr.testing.assert_identical(found.posteriors.compute(), parts.posteriors)
    assert found.labels.chunks == found.posteriors.chunks[1:] == inside.chunks
    np.testing.assert_array_equal(found.volumes_ml, parts.volumes_ml)


def test_what_waits_in_files_gives_the_same_bits_and_leaves_none(tmp_path):
    images, mask, _ = drawn(2)
    expected = tissue.gmm(images, mask=mask, n_components=2)
    lazy = [image.chunk({"y": 30}) for image in images]
    with graph.scratch(tmp_path) as folder:
        found = tissue.gmm(lazy, mask=mask, n_components=2)
        assert list(folder.iterdir())
    assert found.to_json() == expected.to_json()
    assert not list(tmp_path.iterdir())


def test_tissues_that_lie_apart_are_found_whatever_the_seed():
    random = np.random.default_rng(0)
    truth = random.choice(3, SHAPE, p=[0.2, 0.3, 0.5])
    # The second contrast alone tells the second tissue from the third.
    t1 = np.array([10.0, 30, 31])[truth] + random.normal(0, 2, SHAPE)
    t2 = np.array([900.0, 400, 100])[truth] + random.normal(0, 30, SHAPE)
    images = {"t1": strategies.scan(t1), "t2": strategies.scan(t2)}
    everywhere = strategies.scan(np.ones(SHAPE, bool))
    for seed in range(5):
        model = tissue.gmm(images, mask=everywhere, n_components=3, seed=seed)
        found = tissue.classify(images, model)
        assert model.contrasts == ("t1", "t2")
        np.testing.assert_allclose(model.means, [[10, 900], [30, 400], [31, 100]], rtol=0.02)
        np.testing.assert_allclose(model.covariances, [np.diag([4, 900])] * 3, rtol=0.1, atol=3)
        assert (found.labels.values == truth + 1).mean() > 0.999
        counts = np.bincount(truth.ravel()) * 3.0 * 1.0 * 1.5 / 1000
        np.testing.assert_allclose(found.volumes_ml, counts, rtol=2e-3)


def test_a_model_returns_from_text_to_the_bit():
    images, mask, _ = drawn(3)
    model = tissue.gmm(images, mask=mask, n_components=3)
    read = tissue.Mixture.from_json(model.to_json())
    assert read.to_json() == model.to_json()
    expected = tissue.classify(images, model, mask=mask).posteriors
    xr.testing.assert_identical(tissue.classify(images, read, mask=mask).posteriors, expected)
    with pytest.raises(ValueError, match="it holds 'weights'; expected contrasts, units"):
        tissue.Mixture.from_json('{"weights": []}')


def test_a_mixture_of_many_scans_is_that_of_their_voxels_together():
    a, b = drawn(4), drawn(4, shape=(9, 20, 31))
    scans = [(dict(zip("ab", images, strict=True)), mask) for images, mask, _ in (a, b)]
    model = tissue.gmm_over(iter(scans), n_components=3, tolerance=1e-6, max_iterations=500)
    raw = [
        np.concatenate([scan[name].values[mask.values] for scan, mask in scans]) for name in "ab"
    ]
    values = np.stack(raw, axis=1).astype(float)
    np.testing.assert_allclose(model.center, values.mean(axis=0), rtol=1e-12)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    best = GaussianMixture(3, tol=1e-6, max_iter=500, random_state=0).fit(values)
    assert model.n_voxels == len(values)
    assert model.log_likelihood > best.score(values) - 1e-3
    with pytest.raises(ValueError, match="scan 2 has the contrasts a, the first has a, b"):
        tissue.gmm_over([scans[0], ({"a": b[0][0]}, b[1])], n_components=2)
    with pytest.raises(ValueError, match="no scans"):
        tissue.gmm_over([], n_components=2)


def test_no_number_of_a_voxel_outside_of_the_mask_matters():
    images, mask, _ = drawn(6)
    expected = tissue.gmm(images, mask=mask, n_components=3)
    spoiled = [image.where(mask) for image in images]
    assert tissue.gmm(spoiled, mask=mask, n_components=3).to_json() == expected.to_json()
    found = tissue.classify(spoiled, expected)
    assert not found.labels.values[~mask.values].any()
    assert (found.labels.values[mask.values] > 0).all()


def test_what_cannot_be_fitted_is_refused():
    (a, b), mask, _ = drawn(7, shape=(5, 6, 7))
    n = int(mask.sum())

    def fit(contrasts=(a, b), mask=mask, **more):
        return tissue.gmm(contrasts, mask=mask, **{"n_components": 2, **more})

    for call, error, message in (
        (lambda: fit(mask=mask & False), ValueError, "mask holds no voxels"),
        (lambda: fit(mask=a), ValueError, "mask is float32, expected bool"),
        (lambda: fit([a, b * 0 + 3]), ValueError, rf"contrast 2 is 3 in all of the mask's {n} vox"),
        (lambda: fit([a, (b * 0).astype(float) + 0.1]), ValueError, "contrast 2 is 0.1 in all of the"),
        (lambda: fit([a, b.astype(float) * 1e200]), ValueError, "too large to be squared"),
        (lambda: fit({"t1": a, "t2": b.where(b > b.min())}, mask=mask | (b == b.min())), ValueError,
         "t2 is NaN or infinite in 1 of the mask's"),
        (lambda: fit([(a > 100).astype(float)], n_components=3), ValueError,
         rf"{n} voxels of the mask have 2 different values; n_components is 3, expected at most 2"),
        (lambda: fit([a, b.assign_coords(z=b.z + 1)]), GridError, "z"),
        (lambda: fit([a.expand_dims(time=2)]), ValueError, r"take one position along time"),
        (lambda: fit([]), ValueError, "contrasts is empty"),
        (lambda: fit(n_components=0), ValueError, "n_components is 0, expected a whole number"),
        (lambda: fit(seed=-1), ValueError, "seed is -1"),
        (lambda: fit(tolerance=np.nan), ValueError, "tolerance is nan"),
        (lambda: tissue.classify([a], fit()), ValueError,
         "contrasts are contrast 1; the model was fitted to contrast 1, contrast 2"),
        (lambda: tissue.classify({"x": a, "y": b}, fit()), ValueError, "contrasts are x, y"),
    ):  # fmt: skip
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_component_that_loses_its_voxels_is_named():
    sums = np.array([[50.0, 0, 50], [0.0, 0, 0]])
    with pytest.raises(
        mixture.EmptyComponentError, match=r"component 2 is left with 2\.22e-15 vox"
    ):
        mixture.maximised(sums, floor=1e-6)
    (a, _), mask, _ = drawn(8, shape=(5, 6, 7))
    levels = xr.where(a > 100, 2.0, 1.0)
    with pytest.raises(mixture.EmptyComponentError, match="larger regularisation"):
        tissue.gmm(levels, mask=mask, n_components=2, regularization=0.0)


def test_two_contrasts_of_a_slice_of_a_real_scan(shared):
    """The lesson on mixtures: three components on the common support of two contrasts, here the same brain at two visits."""
    import nibabel as nib

    folder = shared / "oasis1-mni2mm" / "uint8"
    slices = []
    for path in sorted(folder.glob("*.nii.gz"))[:2]:
        data = np.asarray(nib.load(path).dataobj[:, :, 30], np.float32)
        slices.append(xr.DataArray(data.T, dims=["y", "x"]))
    mask = (slices[0] > 0) & (slices[1] > 0)
    model = tissue.gmm(slices, mask=mask, n_components=3, seed=12345)
    values = standardised(slices, mask)
    oracle = by_scikit_learn(values, start(slices, mask, 3, 12345))
    np.testing.assert_allclose(model.log_likelihood, oracle.score(values), rtol=0, atol=1e-6)
    labels = tissue.classify(slices, model, mask=mask).labels
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(labels > 0, mask)
