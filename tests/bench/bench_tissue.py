"""Tissues of a volume of the size of a head against scikit-learn, results equal; one thread."""

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from bench_filters import head
from run import Row, best
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from cohort.kernels import mixture
from cohort.ops import tissue

COMPONENTS = 3
ITERATIONS = 10


def contrasts() -> tuple[list[xr.DataArray], xr.DataArray]:
    """Two contrasts of a head of three tissues, and 1.5 million voxels of it."""
    random = np.random.default_rng(0)
    mask = head() > 300
    tissues = random.choice(3, mask.shape, p=[0.2, 0.45, 0.35])
    means = np.array([[200.0, 900], [600, 700], [1000, 400]])
    images = []
    for i in range(2):
        values = means[tissues, i] + random.normal(0, 100, mask.shape)
        images.append(mask.copy(data=values.astype(np.float32)))
    return images, mask


def standardised(images: list[xr.DataArray], mask: xr.DataArray) -> np.ndarray:
    """Values in the mask, (n, contrasts)."""
    values = np.stack([image.to_numpy()[mask.to_numpy()] for image in images], axis=1)
    values = values.astype(np.float64)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def by_scikit_learn(
    images: list[xr.DataArray], mask: xr.DataArray, begin: mixture.Components
) -> Any:
    """The mixture of scikit-learn after as many iterations from the same start."""
    model = GaussianMixture(
        COMPONENTS,
        tol=0.0,
        max_iter=ITERATIONS,
        init_params="random",
        weights_init=begin.weights,
        means_init=begin.means,
        precisions_init=np.linalg.inv(begin.covariances),
    )
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(standardised(images, mask))


def bench_gmm() -> Iterator[Row]:
    """Three components of two contrasts, standardised, start included (scikit-learn is given its own)."""
    images, mask = contrasts()
    fit = partial(tissue.gmm, images, mask=mask, n_components=COMPONENTS, seed=1)
    first = fit(tolerance=0.0, max_iterations=1)
    begin = mixture.Components(
        first.weights, first.standardized_means, first.standardized_covariances
    )
    ours = partial(fit, tolerance=0.0, max_iterations=1 + ITERATIONS)
    theirs = partial(by_scikit_learn, images, mask, begin)
    found, expected = ours(), theirs()
    order = np.argsort(expected.means_[:, 0])
    np.testing.assert_allclose(found.standardized_means, expected.means_[order], atol=1e-9)
    np.testing.assert_allclose(found.weights, expected.weights_[order], atol=1e-9)
    yield Row(
        f"tissue/gmm, {ITERATIONS} iterations",
        best(ours, 2),
        "scikit-learn GaussianMixture",
        best(theirs, 1),
        2.0,
        f"{found.n_voxels} voxels, equal to 1e-9",
    )
    values = standardised(images, mask)
    classify = partial(tissue.classify, images, found, mask=mask)
    parts = classify().posteriors.values[:, mask.values].T
    with threadpool_limits(1):
        np.testing.assert_allclose(parts, expected.predict_proba(values)[:, order], atol=1e-6)
        theirs = partial(expected.predict_proba, values)
        yield Row(
            "tissue/classify, posteriors and labels",
            best(classify, 2),
            "scikit-learn predict_proba",
            best(theirs, 2),
            1.0,
            "equal to 1e-6",
        )
