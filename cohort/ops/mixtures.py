"""Gaussian mixtures of one or more contrasts: the model, and how it is fitted.

A fit looks at the voxels of a mask again and again, so it is done when it is asked for, also on Dask. Sums are added over the
canonical tiles: the same bits for any chunking and any number of workers.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from cohort.kernels import mixture
from cohort.ops import graph
from cohort.ops.layout import check_flat, check_image, check_mask, unit_of

Contrasts = xr.DataArray | Sequence[xr.DataArray] | Mapping[str, xr.DataArray]
"""Images on one grid, by name if there are names."""

_SAMPLE = 4096
_MOST = 255


@dataclass(frozen=True, eq=False)
class Mixture:
    """Components of a Gaussian mixture, ordered by their mean in the first contrast."""

    contrasts: tuple[str, ...]
    """Names of the images, c of them."""
    units: tuple[str, ...]
    """Of the images."""
    center: np.ndarray
    """(c,), mean in the mask."""
    scale: np.ndarray
    """(c,), standard deviation (over n) in the mask."""
    weights: np.ndarray
    """(k,), share of each component; they sum to 1."""
    standardized_means: np.ndarray
    """(k, c), of ``(image - center) / scale``."""
    standardized_covariances: np.ndarray
    """(k, c, c), of the same."""
    log_likelihood: float
    """Mean over voxels of the logarithm of the density of standardised values."""
    n_voxels: int
    """In the mask."""
    n_iterations: int
    converged: bool
    """Whether the log-likelihood stood still before the iterations ran out."""

    @property
    def means(self) -> np.ndarray:
        """(k, c), in the units of the images."""
        return self.center + self.scale * self.standardized_means

    @property
    def covariances(self) -> np.ndarray:
        """(k, c, c), in products of the units of the images."""
        return self.standardized_covariances * np.multiply.outer(self.scale, self.scale)

    def to_json(self) -> str:
        """The model as text that `from_json` reads back to the bit."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(plain, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Mixture":
        """The model that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not JSON, or its fields are not those of a model.
        """
        plain = json.loads(text)
        expected = {f.name: f.type for f in fields(cls)}
        if not isinstance(plain, dict) or set(plain) != set(expected):
            found = ", ".join(map(repr, plain)) if isinstance(plain, dict) else type(plain).__name__
            raise ValueError(f"no mixture: it holds {found}; expected {', '.join(expected)}")
        known: dict[str, Any] = {
            name: tuple(plain[name])
            if name in ("contrasts", "units")
            else np.array(plain[name], np.float64)
            if kind is np.ndarray
            else plain[name]
            for name, kind in expected.items()
        }
        return cls(**known)


def gmm(
    contrasts: Contrasts,
    *,
    mask: xr.DataArray,
    n_components: int,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    regularization: float = 1e-6,
) -> Mixture:
    """Fit a Gaussian mixture with full covariances to the standardised contrasts in a mask.

    Parameters
    ----------
    contrasts : DataArray, several in a sequence, or {name: DataArray}, shape (z, y, x), any real dtype
        On one grid. Components are ordered by their mean in the first.
    mask : DataArray, bool
        On the same grid.
    n_components : int, 1 to 255
    seed : int, 0 to 2**64 - 1
        Of the sample from which the start is made.
    tolerance : float, >= 0
        Iterations end when the mean log-likelihood changes by less.
    max_iterations : int, >= 1
    regularization : float, >= 0
        Added to the variances of standardised contrasts, so that a component of equal values has some.

    Returns
    -------
    Mixture
        It is fitted now, with Dask too: the mask's values are picked once, and wait in memory, on the workers, or within
        `graph.scratch` in files.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If a contrast has leading dims, is constant in the mask, or is NaN or infinite there; the mask is not bool or empty;
        there are fewer different values than components; a component loses its voxels; or a number is out of range.

    Notes
    -----
    Equals ``sklearn.mixture.GaussianMixture(n_components, tol=tolerance, reg_covar=regularization)`` of the standardised values
    with the same start: weights, means, covariances and log-likelihood to 1e-9. The start is the best of 8 k-means of some
    4096 voxels that the seed picks.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> random = np.random.default_rng(0)
    >>> dark = random.random((20, 20, 20)) < 0.3
    >>> image = xr.DataArray(np.where(dark, 10, 50) + random.normal(0, 3, dark.shape), dims=list("zyx"))
    >>> model = gmm(image, mask=image > -99, n_components=2, seed=1)
    >>> model.means.round(0).ravel().tolist(), model.weights.round(1).tolist()
    ([10.0, 50.0], [0.3, 0.7])
    """
    return gmm_over(
        [(contrasts, mask)],
        n_components=n_components,
        seed=seed,
        tolerance=tolerance,
        max_iterations=max_iterations,
        regularization=regularization,
    )


def gmm_over(
    scans: Iterable[tuple[Contrasts, xr.DataArray]],
    *,
    n_components: int,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    regularization: float = 1e-6,
) -> Mixture:
    """Fit one mixture to many scans: that of all their masks' voxels taken together.

    Parameters
    ----------
    scans : iterable of (contrasts, mask)
        As in `gmm`, the same contrasts in each. Scans may lie on different grids. They are taken one by one, and of each only
        the mask's values are kept.
    n_components, seed, tolerance, max_iterations, regularization
        As in `gmm`.

    Returns
    -------
    Mixture
        Its contrasts are standardised by the mean and deviation over all scans: the scans' scales have to agree, as after
        `intensity.standardize` or `intensity.match`.

    Raises
    ------
    GridError
        If the grids of one scan's contrasts and mask differ.
    ValueError
        As in `gmm`; or if there are no scans, or their contrasts differ in number or name.
    """
    _check_numbers(n_components, seed, tolerance, max_iterations, regularization)
    kept: list[graph.Kept] = []
    names: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    for contrasts, mask in scans:
        images = named(contrasts)
        if kept and tuple(images) != names:
            raise ValueError(
                f"scan {len(kept) + 1} has the contrasts {', '.join(images)}, the first has {', '.join(names)}"
            )
        if not kept:
            names, units = tuple(images), tuple(unit_of(image) for image in images.values())
        check_mask("mask", mask)
        check_flat("mask", mask)
        kept.append(graph.keep(mixture.pick, {"mask": mask, **images}))
    if not kept:
        raise ValueError("there are no scans to fit a mixture to")
    n, center, scale = _scores(kept, names)
    start = _start(kept, n, center, scale, n_components, seed, regularization)
    return _fitted(
        kept, names, units, n, center, scale, start, tolerance, max_iterations, regularization
    )


def named(contrasts: Contrasts) -> dict[str, xr.DataArray]:
    """Contrasts by name, checked."""
    if isinstance(contrasts, xr.DataArray):
        contrasts = [contrasts]
    if not isinstance(contrasts, Mapping):
        contrasts = {f"contrast {i}": image for i, image in enumerate(contrasts, 1)}
    if not contrasts:
        raise ValueError("contrasts is empty, expected at least one image")
    for name, image in contrasts.items():
        check_image(name, image)
        check_flat(name, image)
    return dict(contrasts)


def _check_numbers(
    n_components: int, seed: int, tolerance: float, max_iterations: int, regularization: float
) -> None:
    whole_numbers: list[tuple[str, Any, int, int]] = [
        ("n_components", n_components, 1, _MOST),
        ("seed", seed, 0, (1 << 64) - 1),
        ("max_iterations", max_iterations, 1, 1 << 31),
    ]
    for name, value, low, high in whole_numbers:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
    for name, number in (("tolerance", tolerance), ("regularization", regularization)):
        if not 0 <= number < np.inf:
            raise ValueError(f"{name} is {number!r}, expected a finite number of at least 0")


def _rows(kept: Sequence[graph.Kept], kernel: Any, **params: Any) -> np.ndarray:
    """Rows of all scans, in their order."""
    return np.concatenate([scan.rows(kernel, **params) for scan in kept])


def _scores(kept: Sequence[graph.Kept], names: Sequence[str]) -> tuple[int, np.ndarray, np.ndarray]:
    """Voxels, and mean and standard deviation of each contrast."""
    n, bad, mean, std = mixture.merged(_rows(kept, mixture.moments))
    if n == 0:
        raise ValueError("mask holds no voxels")
    for name, wrong, level, spread in zip(names, bad, mean, std, strict=True):
        if wrong:
            raise ValueError(
                f"{name} is NaN or infinite in {wrong} of the mask's {n} voxels: leave them out of the mask"
            )
        if not np.isfinite(spread):
            raise ValueError(f"{name} holds numbers too large to be squared: divide it first")
        # The mean of equal numbers is theirs but for rounding.
        if spread <= 1e-12 * abs(level):
            raise ValueError(f"{name} is {level:g} in all of the mask's {n} voxels")
    return n, mean, std


def _start(
    kept: Sequence[graph.Kept],
    n: int,
    center: np.ndarray,
    scale: np.ndarray,
    n_components: int,
    seed: int,
    regularization: float,
) -> mixture.Components:
    share = min(1.0, _SAMPLE / n)
    drawn = [
        scan.rows(mixture.sample, seed=seed, stream=number, share=share)[:, 1:]
        for number, scan in enumerate(kept)
    ]
    points = (np.concatenate(drawn) - center) / scale
    different = len(np.unique(points, axis=0))
    if different < n_components:
        raise ValueError(
            f"{len(points)} voxels of the mask have {different} different values; n_components is {n_components}, "
            f"expected at most {different}"
        )
    return mixture.begin(points, n_components=n_components, seed=seed, floor=regularization)


def _fitted(
    kept: Sequence[graph.Kept],
    names: tuple[str, ...],
    units: tuple[str, ...],
    n: int,
    center: np.ndarray,
    scale: np.ndarray,
    parts: mixture.Components,
    tolerance: float,
    max_iterations: int,
    regularization: float,
) -> Mixture:
    def expected(of: mixture.Components) -> tuple[float, np.ndarray]:
        """Mean log-likelihood, and sums of features."""
        total = _rows(
            kept,
            mixture.sums,
            coefficients=mixture.coefficients(of),
            mean=center,
            scale=1 / scale,
        )[:, 1:].sum(axis=0)
        return float(total[0]) / n, total[1:].reshape(len(of.weights), -1)

    before, converged, rounds = -np.inf, False, 0
    while rounds < max_iterations and not converged:
        likelihood, sums = expected(parts)
        parts = mixture.maximised(sums, floor=regularization)
        converged = abs(likelihood - before) < tolerance
        before, rounds = likelihood, rounds + 1
    parts = parts.taken(np.argsort(parts.means[:, 0], kind="stable"))
    return Mixture(
        contrasts=names,
        units=units,
        center=center,
        scale=scale,
        weights=parts.weights,
        standardized_means=parts.means,
        standardized_covariances=parts.covariances,
        log_likelihood=expected(parts)[0],
        n_voxels=n,
        n_iterations=rounds,
        converged=converged,
    )
