"""Tissues: mixtures of one or more contrasts and what they say of each voxel, and fluid, grey and white matter of a head."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import mixture
from cohort.ops import graph, measure
from cohort.ops.layout import check_flat, check_image, check_mask, layout_of
from cohort.ops.mixtures import Contrasts, Mixture, gmm, gmm_over, named
from cohort.ops.partial_volume import head_tissues
from cohort.ops.segmentations import import_labels

__all__ = [
    "Classification",
    "Mixture",
    "classify",
    "component_ml",
    "components",
    "gmm",
    "gmm_over",
    "gmm_posteriors",
    "head_tissues",
    "import_labels",
    "likeliest",
    "posteriors",
    "volumes_ml",
]

COMPONENT = "component"
"""Dim of posteriors; its coordinate counts from 1."""


@dataclass(frozen=True)
class Classification:
    """What a mixture says of each voxel."""

    labels: xr.DataArray
    """(z, y, x) uint8: the likeliest component, from 1 in the order of the model; 0 outside."""
    posteriors: xr.DataArray
    """(component, z, y, x) float32: how likely each is; they sum to 1, or to 0 outside."""

    @property
    def volumes_ml(self) -> xr.DataArray:
        """(component,), ml: sums of posteriors. Raises GridError if a coordinate is missing or irregular."""
        return volumes_ml(self.posteriors)


def classify(
    contrasts: Contrasts, model: Mixture, *, mask: xr.DataArray | None = None
) -> Classification:
    """Tell for each voxel how likely each component of a mixture is there.

    Parameters
    ----------
    contrasts : as for `gmm`
        The contrasts of the model, in its order; of this scan or of another whose scales agree.
    model : Mixture
    mask : DataArray, bool, optional
        On the grid of the contrasts. None: everywhere.

    Returns
    -------
    Classification
        `labels` and `posteriors` on the grid of the contrasts, lazy if an input is. Both are 0 outside of the mask, and
        where a contrast is NaN or infinite.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If a contrast has leading dims, the mask is not bool, or the contrasts are not those of the model.

    Notes
    -----
    Posteriors are those of ``GaussianMixture.predict_proba``, and labels the first largest of them.
    """
    shares = posteriors(contrasts, model, mask=mask)
    return Classification(likeliest(shares), shares)


def posteriors(
    contrasts: Contrasts, model: Mixture, *, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Tell for each voxel how likely each component of a mixture is there: `Classification.posteriors`.

    Parameters, Raises and Notes are those of `classify`.
    """
    images = named(contrasts)
    if isinstance(contrasts, Mapping) and set(images) == set(model.contrasts):
        images = {name: images[name] for name in model.contrasts}
    elif len(images) != len(model.contrasts) or isinstance(contrasts, Mapping):
        raise ValueError(
            f"contrasts are {', '.join(images)}; the model was fitted to {', '.join(model.contrasts)}"
        )
    arrays = images
    if mask is not None:
        check_mask("mask", mask)
        check_flat("mask", mask)
        arrays = {"mask": mask, **images}
    parts = mixture.Components(
        model.weights, model.standardized_means, model.standardized_covariances
    )
    return graph.map_vectors(
        mixture.posteriors,
        arrays,
        dim=COMPONENT,
        names=range(1, 1 + len(model.weights)),
        dtype=np.float32,
        params={
            "coefficients": mixture.coefficients(parts),
            "mean": model.center,
            "scale": 1 / model.scale,
            "masked": mask is not None,
        },
    ).assign_attrs(units="1")


def likeliest(posteriors: xr.DataArray) -> xr.DataArray:
    """Label each voxel with its likeliest component.

    Parameters
    ----------
    posteriors : DataArray, shape (component, z, y, x), float
        As `posteriors`, `gmm_posteriors` and `classify` give them.

    Returns
    -------
    DataArray, shape (z, y, x), uint8
        The component, from 1, of equally likely ones the first; 0 where all are 0. Lazy if `posteriors` is.

    Raises
    ------
    ValueError
        If there is no dim ``component``, or it holds more than 255.
    """
    shares = {f"component {number}": share for number, share in enumerate(_shares(posteriors), 1)}
    found = graph.map_points(mixture.likeliest, shares, dtype=np.uint8)
    return found.assign_attrs(units="1").rename("labels")


def gmm_posteriors(
    image: xr.DataArray,
    second: xr.DataArray | None = None,
    third: xr.DataArray | None = None,
    *,
    mask: xr.DataArray,
    n_components: int,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    regularization: float = 1e-6,
) -> xr.DataArray:
    """Fit a Gaussian mixture to one to three contrasts of a scan and tell how likely each component is in each voxel.

    Parameters
    ----------
    image, second, third : DataArray, shape (z, y, x), any real dtype
        Contrasts on one grid, standardised in the mask before the fit. Components are ordered by their mean in the first.
    mask : DataArray, bool
        On the same grid; where the mixture is fitted, and outside of which nothing is told.
    n_components, seed, tolerance, max_iterations, regularization
        As in `gmm`. The seed starts the search and is the same for every scan.

    Returns
    -------
    DataArray, shape (component, z, y, x), float32
        As `Classification.posteriors`; lazy if an input is, though the fit is done now. The fit travels as attributes: ``weights``,
        ``means`` (contrast after contrast), ``contrasts`` and ``contrast_units``, ``log_likelihood`` (mean a voxel, of standardised
        values), ``n_voxels``, ``n_iterations`` and ``converged`` (0 or 1).

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        As `gmm`.
    """
    given = {"image": image, "second": second, "third": third}
    contrasts = {name: array for name, array in given.items() if array is not None}
    model = gmm(
        contrasts,
        mask=mask,
        n_components=n_components,
        seed=seed,
        tolerance=tolerance,
        max_iterations=max_iterations,
        regularization=regularization,
    )
    return posteriors(contrasts, model, mask=mask).assign_attrs(
        contrasts=list(model.contrasts),
        contrast_units=list(model.units),
        weights=model.weights.tolist(),
        means=model.means.T.ravel().tolist(),
        log_likelihood=model.log_likelihood,
        n_voxels=model.n_voxels,
        n_iterations=model.n_iterations,
        converged=int(model.converged),
    )


def component_ml(posteriors: xr.DataArray, *, component: int) -> xr.DataArray:
    """Volume of one component: the sum of its posteriors times the voxel's volume.

    Parameters
    ----------
    posteriors : DataArray, shape (component, z, y, x), float
    component : int
        From 1, in the order of the model.

    Returns
    -------
    DataArray, shape (), float64, ml
        Lazy if `posteriors` is.

    Raises
    ------
    GridError
        If a coordinate is missing or irregular.
    ValueError
        If there is no such component.
    """
    shares = _shares(posteriors)
    if isinstance(component, bool) or component not in range(1, 1 + len(shares)):
        raise ValueError(f"component is {component!r}, expected 1 to {len(shares)}")
    return volumes_ml(shares[component - 1])


def components(posteriors: xr.DataArray) -> xr.Dataset:
    """Volume, weight and means of every component that `gmm_posteriors` found.

    Parameters
    ----------
    posteriors : DataArray, shape (component, z, y, x), float
        With its attributes.

    Returns
    -------
    Dataset over ``label``, from 1
        ``volume_ml`` (sum of posteriors), ``weight`` (the component's share of the mask), and for each contrast ``mean_image``, ``mean_second``,
        ``mean_third``. Lazy if `posteriors` is.

    Raises
    ------
    GridError
        If a coordinate is missing or irregular.
    ValueError
        If the attributes are missing.
    """
    count = len(_shares(posteriors))
    said = ("contrasts", "contrast_units", "weights", "means")
    if missing := [name for name in said if name not in posteriors.attrs]:
        raise ValueError(
            f"posteriors have no attribute {missing[0]!r}, expected what gmm_posteriors() gives"
        )
    names, units, weights, means = (posteriors.attrs[name] for name in said)
    levels = np.reshape(means, (len(names), count))
    volumes = volumes_ml(posteriors).drop_vars(COMPONENT).rename({COMPONENT: "label"})
    found = {"volume_ml": volumes.assign_coords(label=np.arange(1, 1 + count))}
    for name, unit, values in [
        ("weight", "1", weights),
        *((f"mean_{n}", u, level) for n, u, level in zip(names, units, levels, strict=True)),
    ]:
        found[name] = xr.DataArray(np.asarray(values), dims="label", attrs={"units": unit})
    return xr.Dataset(found)


def _shares(posteriors: xr.DataArray) -> list[xr.DataArray]:
    """Posteriors of each component."""
    if COMPONENT not in posteriors.dims:
        raise ValueError(
            f"posteriors have dims {posteriors.dims}, expected ('component', 'z', 'y', 'x')"
        )
    check_image("posteriors", posteriors)
    count = posteriors.sizes[COMPONENT]
    if count > np.iinfo(np.uint8).max:
        raise ValueError(f"posteriors are of {count} components, expected at most 255")
    return [posteriors.isel({COMPONENT: i}, drop=True) for i in range(count)]


def volumes_ml(fractions: xr.DataArray) -> xr.DataArray:
    """Volumes of tissues or components that are given as fractions of each voxel: sums times the voxel's volume.

    Parameters
    ----------
    fractions : DataArray, shape (..., z, y, x), float
        As `head_tissues` and `classify` give them.

    Returns
    -------
    DataArray, shape (...), float64, ml
        Lazy if `fractions` is.

    Raises
    ------
    GridError
        If a coordinate is missing or irregular.

    Notes
    -----
    The same bits for any chunking.
    """
    space = layout_of("fractions", fractions).space
    whole = grid.voxel_volume_mm3(fractions) / 1000 * np.prod([fractions.sizes[d] for d in space])
    found = measure.mean_in(fractions) * whole
    return found.assign_attrs(units="ml")
