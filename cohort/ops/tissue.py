"""Tissues: mixtures of one or more contrasts and what they say of each voxel, and fluid, grey and white matter of a head."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import mixture
from cohort.ops import graph, measure
from cohort.ops.layout import check_flat, check_mask, layout_of
from cohort.ops.mixtures import Contrasts, Mixture, gmm, gmm_over, named
from cohort.ops.partial_volume import head_tissues
from cohort.ops.segmentations import import_labels

__all__ = [
    "Classification",
    "Mixture",
    "classify",
    "gmm",
    "gmm_over",
    "head_tissues",
    "import_labels",
    "volumes_ml",
]


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
    posteriors = graph.map_vectors(
        mixture.posteriors,
        arrays,
        dim="component",
        names=range(1, 1 + len(model.weights)),
        dtype=np.float32,
        params={
            "coefficients": mixture.coefficients(parts),
            "mean": model.center,
            "scale": 1 / model.scale,
            "masked": mask is not None,
        },
    ).assign_attrs(units="1")
    shares = {
        f"component {i + 1}": posteriors.isel(component=i, drop=True)
        for i in range(len(model.weights))
    }
    labels = graph.map_points(mixture.likeliest, shares, dtype=np.uint8)
    return Classification(labels.assign_attrs(units="1").rename("labels"), posteriors)


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
