"""How large an array is, from the record of a scan and the parameters of steps alone: nothing is read.

Some operations give an array on another grid than that of their image, of another dtype, or hold more at work than so many
bytes for each voxel; what of these holds is said here, function by function, beside `cohort.ops`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cohort.grid import SPACE
from cohort.kernels import fields, sampling
from cohort.ops.sampling import default_order, sizes_at


@dataclass(frozen=True)
class Extent:
    """An array as far as its memory goes."""

    lead: int
    """Positions along leading dims, all of them together."""
    sizes: tuple[int, ...]
    """Voxels along z, y, x."""
    spacing: tuple[float, ...]
    """Along z, y, x, in mm."""
    axcodes: str
    """Where x, y and z point to, such as RAS."""
    dtype: np.dtype
    name: str
    """That it bears: by the name of ``labels`` it is told what they are, see `ops.sampling.default_order`."""

    @property
    def voxels(self) -> int:
        """Leading positions counted."""
        return self.lead * math.prod(self.sizes)

    @property
    def nbytes(self) -> int:
        """Of its values."""
        return self.voxels * self.dtype.itemsize


Given = Mapping[str, Extent]
"""Parameter -> array."""
Params = Mapping[str, Any]

Shape = Callable[[Given, Params], Extent]
"""What an operation gives."""
Work = Callable[[Given, Params, Extent], float]
"""Bytes that it needs at its peak on top of what it is given, what it gives included."""


def extents(scan: Mapping[str, Any]) -> dict[str, Extent]:
    """Extent of each variable of a scan as a recipe reads it, from its record."""
    found = {}
    for name, said in scan["variables"].items():
        if name == "affine":
            continue
        shape = tuple(int(n) for n in said["shape"])
        stored = np.dtype(said["dtype"])
        wide = np.float64 if stored == np.float64 else np.float32
        found[name] = Extent(
            math.prod(shape[:-3]),
            shape[-3:],
            tuple(float(scan["spacing_mm"][d]) for d in SPACE),
            scan["axcodes"],
            np.dtype(wide) if name == "image" else stored,
            name,
        )
    return found


# What is given.


def labelled(given: Given, params: Params) -> Extent:
    """`labels.label`."""
    del params
    return replace(given["mask"], dtype=np.dtype(np.int32))


def moved(given: Given, params: Params) -> Extent:
    """`space.shift`, `rotate`, `center`, `affine`, and `synthesis.elastic`."""
    image, like = given["image"], given.get("like", given["image"])
    dtype = sampling.sampled_dtype(image.dtype, _order(image, params))
    return replace(like, lead=image.lead, dtype=dtype, name=image.name)


def resampled(given: Given, params: Params) -> Extent:
    """`space.resample`."""
    found, wanted = moved(given, params), params.get("spacing_mm")
    if wanted is None:
        return found
    new = _spacing(found, wanted)
    if not all(0 < mm < math.inf for mm in new.values()):
        return found  # refused when it is called
    sizes = sizes_at(_by_dim(found.sizes), _by_dim(found.spacing), new)
    return replace(
        found, sizes=tuple(sizes[d] for d in SPACE), spacing=tuple(new[d] for d in SPACE)
    )


def reoriented(given: Given, params: Params) -> Extent:
    """`space.reorient`."""
    image, codes = given["image"], "".join(params.get("axcodes", "RAS")).upper()
    line = {letter: pair for pair in ("LR", "PA", "IS") for letter in pair}
    before = [line[letter] for letter in image.axcodes]
    after = [line.get(letter, "") for letter in codes]
    if sorted(before) != sorted(after):
        return image  # refused when it is called
    # Letters are of x, y, z; sizes of z, y, x.
    takes = [2 - before.index(pair) for pair in reversed(after)]
    return replace(
        image,
        sizes=tuple(image.sizes[i] for i in takes),
        spacing=tuple(image.spacing[i] for i in takes),
        axcodes=codes,
    )


def noisy(given: Given, params: Params) -> Extent:
    """`synthesis.noise` and `rician`."""
    like = given["like"] if "like" in given else given["image"]
    return replace(like, dtype=_floats(like.dtype))


def tissues(given: Given, params: Params) -> Extent:
    """`heads.brain_tissues`: three fractions."""
    del params
    return replace(given["image"], lead=3, dtype=np.dtype(np.float32))


def components(given: Given, params: Params) -> Extent:
    """`tissue.gmm_posteriors`: a fraction for each component."""
    return replace(given["image"], lead=int(params["n_components"]), dtype=np.dtype(np.float32))


def likeliest(given: Given, params: Params) -> Extent:
    """`tissue.likeliest`: one label for all components."""
    del params
    return replace(given["posteriors"], lead=1, dtype=np.dtype(np.uint8), name="labels")


# What is held at work.


def moving(given: Given, params: Params, gives: Extent) -> float:
    """`space.shift`, `rotate`, `affine`."""
    image = given["image"]
    made = gives.nbytes * _copies(gives)
    if _order(image, params) <= 1:
        return made
    # Two float64 arrays of spline coefficients, one of which stays while the result is made.
    return max(16.0 * image.voxels, 8.0 * image.voxels + made)


def centering(given: Given, params: Params, gives: Extent) -> float:
    """`space.center`: as any move, and a mask of everything."""
    return moving(given, params, gives) + given["image"].voxels


def resampling(given: Given, params: Params, gives: Extent) -> float:
    """`space.resample`: as any move, and the smoothed image where it becomes coarser."""
    image, order = given["image"], _order(given["image"], params)
    coarser = any(n > o * (1 + 1e-6) for n, o in zip(gives.spacing, image.spacing, strict=True))
    is_smoothed = order > 0 and params.get("antialias", True) and coarser
    smoothed = image.voxels * _floats(image.dtype).itemsize if is_smoothed else 0
    return smoothed + moving(given, params, gives)


def noising(given: Given, params: Params, gives: Extent) -> float:
    """`synthesis.noise`, one leading position after the other."""
    lengths = _spacing(gives, params.get("correlation_mm") or 0.0, otherwise=0.0)
    one = gives.voxels // gives.lead
    voxels = [lengths[d] / mm for d, mm in zip(SPACE, gives.spacing, strict=True)]
    at_once = _field(gives.sizes, voxels)
    rest = gives.nbytes - one * gives.dtype.itemsize
    peak = rest + max(at_once, (16.0 + gives.dtype.itemsize) * one)
    return max(peak, gives.nbytes * _copies(gives))


def rician(given: Given, params: Params, gives: Extent) -> float:
    """`synthesis.rician`: noise twice."""
    return gives.nbytes + noising(given, {}, gives)


def bending(given: Given, params: Params, gives: Extent) -> float:
    """`synthesis.elastic`: displacements of one leading position, on a rim more than the grid."""
    sigma, one = params["sigma_mm"], gives.voxels // gives.lead
    wide = [n + 2 for n in gives.sizes]
    field = _field(wide, [math.sqrt(2) * sigma / mm for mm in gives.spacing])
    splines = 8.0 * given["image"].voxels if _order(given["image"], params) > 1 else 0.0
    return max(
        24.0 * math.prod(wide) + field,
        48.0 * one + splines + gives.nbytes * _copies(gives),
        2 * splines,
    )


def placing(given: Given, params: Params, gives: Extent) -> float:
    """`heads.skull_distance_mm`: libraries and the template, a head in voxels of 2 mm, and its surface at full size."""
    del given, params
    return 400e6 + 12.0 * gives.voxels


def mixing(given: Given, params: Params, gives: Extent) -> float:
    """`tissue.gmm_posteriors`: the mask's values of each contrast in float64, of a mask of everything; and then what is given."""
    del gives
    image = given["image"]
    contrasts = sum(name in given for name in ("image", "second", "third"))
    return image.voxels * max(8.0 * contrasts, 4.0 * int(params["n_components"]) + 2)


def labelling(given: Given, params: Params, gives: Extent) -> float:
    """`tissue.likeliest`: labels, the largest share so far, and where one is larger."""
    del given, params
    return 6.0 * gives.voxels


def _copies(gives: Extent) -> int:
    """How often a result is there while its leading positions, made one by one, become one array."""
    return 2 if gives.lead > 1 else 1


def _field(sizes: tuple[int, ...] | list[int], correlation: list[float]) -> float:
    """Bytes for a float64 random field: as white noise with a rim that the filters need, and cut down along the first axis."""
    lengths = [c if 0 <= c <= fields.LONGEST else fields.LONGEST for c in correlation]
    reach = [fields.taps(c).size // 2 for c in lengths]
    wide = math.prod(n + 2 * r for n, r in zip(sizes, reach, strict=True))
    first = next((i for i, r in enumerate(reach) if r), 0)
    return 8.0 * wide * (1 + sizes[first] / (sizes[first] + 2 * reach[first]))


def _order(image: Extent, params: Params) -> int:
    order = params.get("order")
    return default_order(image.dtype, image.name) if order is None else int(order)


def _floats(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _by_dim(values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(SPACE, values, strict=True))


def _spacing(
    image: Extent, mm: float | Mapping[str, float], *, otherwise: float | None = None
) -> dict[str, float]:
    """Lengths along z, y, x; of dims that are not named, `otherwise`, or the image's spacing."""
    if not isinstance(mm, Mapping):
        return dict.fromkeys(SPACE, float(mm))
    old = _by_dim(image.spacing)
    return {d: float(mm.get(d, old[d] if otherwise is None else otherwise)) for d in SPACE}
