"""Segmentations made elsewhere: their label numbers to tissues.

A catalog's `attach` reads label images beside the scans and checks their grids; what is left to say is which number means what.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr

from cohort import grid
from cohort.kernels import groups as kernel
from cohort.kernels.tissues import TISSUES
from cohort.ops import graph
from cohort.ops.layout import check_index, check_labels

OTHER = "other"

ASEG: dict[str, tuple[int, ...]] = {
    # Ventricles with their choroid plexus, as FreeSurfer counts them, and fluid outside of the brain.
    "csf": (4, 5, 14, 15, 24, 31, 43, 44, 63, 72, 257),
    # Cortex of brain and cerebellum, and the subcortical grey matter of `mri_segstats --subcortgray`.
    "grey": (
        *(3, 8, 9, 10, 11, 12, 13, 17, 18, 19, 26, 27, 28, 80, 81, 82),
        *(42, 47, 48, 49, 50, 51, 52, 53, 54, 55, 58, 59, 60),
        *(*range(1000, 1036), *range(2000, 2036)),
        *(*range(11100, 11176), *range(12100, 12176)),
    ),
    # With lesions, the corpus callosum and the brain stem.
    "white": (
        *(2, 7, 16, 41, 46, 77, 78, 79, 192, 250, 251, 252, 253, 254, 255),
        *(*range(3000, 3036), *range(4000, 4036), 5001, 5002),
        *(*range(13100, 13176), *range(14100, 14176)),
    ),
    # Vessels and the optic chiasm: within the skull, and no tissue of the brain.
    OTHER: (30, 62, 85),
}
"""Label numbers of FreeSurfer's ``aseg``, ``aparc+aseg`` (both atlases) and ``wmparc``, by tissue."""


def import_labels(
    labels: xr.DataArray,
    *,
    like: xr.DataArray | None = None,
    groups: Mapping[str, Iterable[int]] | None = None,
) -> xr.DataArray:
    """Turn a segmentation made elsewhere into fluid, grey and white matter.

    Parameters
    ----------
    labels : DataArray, shape (..., z, y, x), integer
        As the catalog's `attach`, or `io.nifti.read_labels`, read it; 0 is background.
    like : DataArray, optional
        The scan to which it belongs: its grid has to be the same.
    groups : {"csf": numbers, "grey": numbers, "white": numbers, "other": numbers}, optional
        Which label numbers mean what; any of the four may be missing. None: FreeSurfer's (`ASEG`).

    Returns
    -------
    DataArray, shape of `labels`, uint8
        1 for fluid, 2 for grey, 3 for white matter, 4 for anything else within the skull (`other`), 0 for background.
        Coordinates and chunks of `labels`. Nothing is computed if it is lazy.

    Raises
    ------
    GridError
        If the grids differ.
    ValueError
        If the labels are not integers; a group is unknown, or a number stands in two; or, when computed, a label is in no group.

    Examples
    --------
    >>> aseg = xr.DataArray([[0, 4, 3, 1012, 41, 85]], dims=["y", "x"])
    >>> import_labels(aseg).values.tolist()
    [[0, 1, 2, 2, 3, 4]]
    >>> import_labels(aseg // 3, groups={"csf": [1], "grey": [13, 28], "white": [337]}).values.tolist()
    [[0, 1, 1, 3, 2, 2]]
    """
    check_labels("labels", labels)
    if like is not None:
        grid.check_same_grid(like=like, labels=labels)
    known = (*TISSUES, OTHER)
    scheme = {name: list(numbers) for name, numbers in (ASEG if groups is None else groups).items()}
    if unknown := [name for name in scheme if name not in known]:
        raise ValueError(
            f"groups has {', '.join(map(repr, unknown))}; expected some of {', '.join(known)}"
        )
    if not any(scheme.values()):
        raise ValueError("groups names no label number")
    names = check_index([number for numbers in scheme.values() for number in numbers])
    of = [1 + known.index(name) for name, numbers in scheme.items() for _ in numbers]
    order = np.argsort(names)
    found = graph.map_points(
        kernel.regrouped,
        {"labels": labels},
        dtype=np.uint8,
        params={"names": names[order], "groups": np.array(of, np.uint8)[order]},
    )
    return found.assign_attrs(units="1")
