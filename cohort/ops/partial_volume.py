"""Fluid, grey and white matter of a head, as fractions of each voxel."""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from cohort.kernels import mixture, tissues
from cohort.kernels.tissues import TISSUES, Tissues
from cohort.ops import graph
from cohort.ops.layout import check_flat, check_image, check_mask

LEAST_VOXELS = 100
"""Inside of a head, for three tissues to be told apart."""

_SAMPLE = 4096
_TRIMS = (0.0, 0.02, 0.06, 0.12)
_ROUNDS = 60
_CHANGE = 1e-5
"""Of the mean log-likelihood, below which rounds end."""
_REFITS = 4


def head_tissues(
    image: xr.DataArray,
    inside: xr.DataArray,
    priors: Mapping[str, xr.DataArray] | None = None,
    *,
    bias: bool = True,
) -> xr.DataArray:
    """Tell fluid, grey and white matter inside of the skull apart in a T1-weighted image, shares of voxels included.

    Parameters
    ----------
    image : DataArray, shape (z, y, x), any real dtype
        T1-weighted: fluid is darkest, white matter brightest, and what gives no signal is 0.
    inside : DataArray, bool
        On the grid of `image`: all of the intracranial space, or the brain with some of the fluid around it.
    priors : {"csf": DataArray, "grey": DataArray, "white": DataArray}, optional
        Maps of an atlas on the grid of `image`, each 0 to 1: how likely each tissue is in each voxel. None: everywhere alike.
    bias : bool
        Whether to fit a smooth field (cubic in z, y and x) by which the coil makes tissues brighter here than there.

    Returns
    -------
    DataArray, shape (tissue, z, y, x), float32, unit 1
        Fractions along ``tissue`` csf, grey, white. They sum to 1 inside, and are 0 outside. What is none of them (air, bone,
        vessels, fat) counts with csf. Lazy if an input is; the fit itself is done now. Attributes: ``class_means`` and ``class_std`` of the three tissues in the image's unit,
        ``n_iterations`` and ``converged``.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If there are leading dims; `inside` is not bool or holds less than 100 voxels; there is NaN or infinity, or only one
        value, inside; a map is missing or not within 0 to 1; or the tissues that were found are not csf < grey < white.

    Notes
    -----
    Expectation-maximisation over voxels of one tissue, and of two neighbouring ones in one of four shares, whose means and variances
    lie between those of the pure ones. Mixed voxels are at most half as many as those of the two tissues alone: brightness
    varies within a tissue too, and without that bound mixtures take it all. The sum of fractions (`volumes_ml`) tells volumes more precisely than a count of voxels.
    Sums are added tile by tile: the same bits for any chunking. Where white matter meets fluid directly the mixture looks grey
    unless an atlas says otherwise.
    """
    maps = _maps(priors)
    arrays = {"inside": inside, "image": image, **maps}
    _check(arrays)
    kept = graph.keep(mixture.pick, arrays, params={"places": True})
    found, n_rounds, converged = _fitted(kept, atlas=bool(maps), bias=bias)
    fractions = graph.map_vectors(
        tissues.fractions,
        arrays,
        dim="tissue",
        names=TISSUES,
        dtype=np.float32,
        params={"tissues": found},
    )
    return fractions.assign_attrs(
        units="1",
        class_means=found.means.tolist(),
        class_std=np.sqrt(found.variances).tolist(),
        n_iterations=n_rounds,
        converged=int(converged),
    )


def _maps(priors: Mapping[str, xr.DataArray] | None) -> dict[str, xr.DataArray]:
    if priors is None:
        return {}
    if set(priors) != set(TISSUES):
        raise ValueError(
            f"priors has maps of {', '.join(map(repr, priors)) or 'nothing'}; expected 'csf', 'grey' and 'white'"
        )
    return {f"priors[{name!r}]": priors[name] for name in TISSUES}


def _check(arrays: Mapping[str, xr.DataArray]) -> None:
    for name, array in arrays.items():
        (check_mask if name == "inside" else check_image)(name, array)
        check_flat(name, array)


def _fitted(kept: graph.Kept, *, atlas: bool, bias: bool) -> tuple[Tissues, int, bool]:
    """Tissues, rounds, and whether the last of them changed nothing any more."""
    n, found = _begun(kept, atlas=atlas)
    rounds, converged = 0, False
    for refit in range(1 + (_REFITS if bias else 0)):
        if refit:
            lacking = kept.rows(tissues.bias_sums, tissues=found, atlas=atlas)
            found = tissues.rebiased(found, lacking[:, 1:].sum(axis=0))
        before, converged = -np.inf, False
        for _ in range(_ROUNDS):
            total = kept.rows(tissues.sums, tissues=found, atlas=atlas)[:, 1:].sum(axis=0)
            found, rounds = tissues.maximised(found, total[1:]), rounds + 1
            if converged := bool(abs(total[0] / n - before) < _CHANGE):
                break
            before = total[0] / n
    _check_order(found)
    return found, rounds, converged


def _begun(kept: graph.Kept, *, atlas: bool) -> tuple[int, Tissues]:
    """Voxels, and tissues from the atlas, or from clusters of a sample."""
    rows = kept.rows(mixture.moments)
    n = int(rows[:, 1].sum())
    if n < LEAST_VOXELS:
        raise ValueError(f"inside holds {n} voxels, expected at least {LEAST_VOXELS}")
    _, bad, mean, std = mixture.merged(rows)
    if bad.any():
        raise ValueError(
            f"image or priors are NaN or infinite in {bad.max()} voxels inside: leave those out of `inside`"
        )
    if std[0] == 0:
        raise ValueError(f"image is {mean[0]:g} everywhere inside, expected tissues")
    ends = kept.rows(tissues.spans)
    span = np.stack([ends[:, 1:5].min(axis=0), ends[:, 5:].max(axis=0)])
    if atlas:
        under = kept.rows(tissues.under_atlas)
        low, high = under[:, 1].min(), under[:, 2].max()
        if low < 0 or high > 1:
            raise ValueError(f"priors hold {low:g} to {high:g}, expected 0 to 1")
        share, first, second = under[:, 3:].sum(axis=0).reshape(3, 3)
        if share.min() < LEAST_VOXELS / 100:
            raise ValueError(
                f"priors see {share.min():.2g} voxels of {TISSUES[int(share.argmin())]} inside: do they lie on the head?"
            )
        means = first / share
        return n, tissues.begin(means, second / share - means**2, span)
    drawn = kept.rows(mixture.sample, seed=0, share=min(1.0, _SAMPLE / n))[:, 1:]
    different = len(np.unique(drawn[:, 0]))
    if different < len(TISSUES):
        raise ValueError(f"image has {different} different values inside, expected tissues")
    return n, _likeliest(drawn, span)


def _likeliest(drawn: np.ndarray, span: np.ndarray) -> Tissues:
    """Tissues of a sample (n, 4) of values and places: of several starts, what becomes the likeliest.

    Each start leaves out more of the darkest and brightest values, which may be air, vessels or fat.
    """
    tiles, starts = np.zeros(1, np.int64), np.array([0, len(drawn)])
    values, ordered = np.ascontiguousarray(drawn.T), np.sort(drawn[:, 0])
    found: list[tuple[float, Tissues]] = []
    for trim in _TRIMS:
        cut = int(trim * len(ordered))
        middle = ordered[cut : len(ordered) - cut, None]
        if len(np.unique(middle)) < len(TISSUES):
            continue
        scale = middle.std()
        parts = mixture.begin(middle / scale, n_components=3, seed=0, floor=1e-6)
        parts = parts.taken(np.argsort(parts.means[:, 0]))
        begun = tissues.begin(
            scale * parts.means[:, 0], scale**2 * parts.covariances[:, 0, 0], span
        )
        likelihood = -np.inf
        for _ in range(_ROUNDS):
            total = tissues.sums(tiles, starts, values, tissues=begun, atlas=False)[0, 1:]
            begun, likelihood = tissues.maximised(begun, total[1:]), total[0]
        found.append((likelihood, begun))
    return max(found, key=lambda pair: pair[0])[1]


def _check_order(found: Tissues) -> None:
    means = ", ".join(f"{name} {m:.4g}" for name, m in zip(TISSUES, found.means, strict=True))
    if not (np.diff(found.means) > 0).all():
        raise ValueError(
            f"the tissues inside have means {means}; expected csf < grey < white, as in a T1-weighted image"
        )
