"""The left ventricle in a stack of short-axis slices over one heart beat: which pool of blood it is, and where it ends.

Arrays are (time, z, y, x), z through the slices, or parts of that; spacings are in mm. Nothing depends on the direction of
an axis, on the frame that is first, or on the scale of the intensities. Areas and lengths are physical or relative.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage as ndi

MOTION_MM = 8.0
"""Width of the Gaussian over which motion is averaged before its centre is taken."""
MARKER_MM = 3.0
"""Inscribed radius of the smallest pool of blood."""
POOL_CM2 = (1.5, 40.0)
"""Area of a pool that may be the ventricle."""
OUTGROWTH_MM = 2.0
"""Radius of the opening that cuts off thin outgrowths of the cavity."""
WALL_MM = (3.0, 6.0)
"""Distance from the bright part at which the muscle's intensity is measured; the cavity reaches no further than its end."""
WIDEST = 2.0
"""Area at end-diastole towards the base, relative to the neighbouring slice, that is none of a ventricle any more."""
ALIKE = 0.75
"""A slice's threshold relative to the median of all is at least this and at most its inverse."""
SURROUNDINGS = 2.0
"""Radius around the ventricle in which thresholds are taken, relative to its own."""
STEADY = 0.5
"""Area in which the ventricle is in half of the frames, relative to its mean area."""
STILL = 0.05
"""Share of its area that the middle of a beating ventricle loses at least."""


@dataclass(frozen=True)
class Rules:
    """How a left ventricle is told from what is around it."""

    region_mm: float = 60.0
    """Radius of the disc in which it lies."""
    blur_mm: float = 1.0
    """Width of the in-plane Gaussian before thresholds."""
    neck: float = 0.7
    """Two pools are two where the passage between them is narrower than this share of the smaller one."""
    drift_mm: float = 12.0
    """How far it reaches beyond itself in the neighbouring slice."""
    level: float = 0.25
    """Its edge, between the muscle around it (0) and its blood (1): half way to trabeculae that are half blood."""
    apex_cm2: float = 0.5
    """Area at end-diastole that its last slice towards the apex has at least."""
    contraction: float = 0.5
    """Share of its area that a slice loses at least from end-diastole to end-systole, relative to the middle slice."""
    base: float = 0.75
    """Area at end-diastole of its last slice towards the base at least, relative to the slice before."""


class NoVentricleError(ValueError):
    """Nothing in the cine looks and moves like a left ventricle."""


def left_ventricle(
    cine: np.ndarray, *, spacing: Sequence[float], seed: Sequence[int] | None, rules: Rules
) -> np.ndarray:
    """Mask of the cavity with papillary muscles and trabeculae, (time, z, y, x) bool; `seed` is a voxel (z, y, x) inside."""
    low, high = float(cine.min()), float(cine.max())
    if low == high:
        raise NoVentricleError(f"every voxel of the cine is {low:g}: there is nothing to see")
    pixel = spacing[1:]
    motion = np.stack([frames.astype(float).std(axis=0) for frames in cine.swapaxes(0, 1)])
    if motion.max() <= 1e-9 * (high - low):
        raise NoVentricleError(f"the {len(cine)} frames of the cine are equal: nothing moves")

    def look(centre: Sequence[float], radius_mm: float) -> tuple[Any, ...]:
        """Box, smoothed values and pools around a centre, thresholds from within `radius_mm` of it."""
        box, away = around(centre, cine.shape[2:], pixel, rules.region_mm)
        values = (cine[:, :, *box].astype(float) - low) / (high - low)
        values = smooth(values, rules.blur_mm, pixel)
        edges = thresholds(values, away <= radius_mm)
        return box, values, blood_pools(values, edges, away <= rules.region_mm, pixel, rules.neck)

    centre = centre_of_motion(motion, pixel) if seed is None else seed[1:]
    box, _, pools = look(centre, rules.region_mm)
    if seed is None:
        seed = find_seed(pools, motion[:, *box], spacing)
        seed = (seed[0], seed[1] + box[0].start, seed[2] + box[1].start)
    radius = radius_at(pools, within(box, seed), pixel)
    box, values, pools = look(seed[1:], min(SURROUNDINGS * radius, rules.region_mm))
    at = within(box, seed)
    inside = cavity(values, track(pools, at, pixel, rules), pools, pixel, rules)
    inside &= belonging(inside, at[0], pixel, rules)[:, None, None]
    mask = np.zeros(cine.shape, bool)
    mask[:, :, *box] = inside
    return mask


# Geometry of one slice.


def smooth(values: np.ndarray, sigma_mm: float, pixel: Sequence[float]) -> np.ndarray:
    """Gaussian along the last two axes."""
    sigma = [0.0] * (values.ndim - 2) + [sigma_mm / mm for mm in pixel]
    return ndi.gaussian_filter(values, sigma)


def distance_mm(mask: np.ndarray, pixel: Sequence[float]) -> np.ndarray:
    """Distance of every pixel to a mask; infinite to an empty one."""
    if not mask.any():
        return np.full(mask.shape, np.inf)
    return ndi.distance_transform_edt(~mask, sampling=pixel)


def depth_mm(mask: np.ndarray, pixel: Sequence[float]) -> np.ndarray:
    """Distance of every pixel to what is outside a mask; beyond the border is outside."""
    return ndi.distance_transform_edt(np.pad(mask, 1), sampling=pixel)[1:-1, 1:-1]


def hull(mask: np.ndarray) -> np.ndarray:
    """Convex hull of a mask."""
    from skimage.morphology import convex_hull_image

    box = ndi.find_objects(mask.astype(np.int8))
    if not box or min(mask[box[0]].shape) < 2:
        return mask
    out = np.zeros_like(mask)
    out[box[0]] = convex_hull_image(mask[box[0]])
    return out


def around(
    centre: Sequence[float], shape: Sequence[int], pixel: Sequence[float], radius_mm: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """The box around a disc, and in it the distance of every pixel to the centre."""
    along = [(np.arange(n) - c) * mm for n, c, mm in zip(shape, centre, pixel, strict=True)]
    away = np.hypot(along[0][:, None], along[1][None, :])
    (box,) = ndi.find_objects((away <= radius_mm).astype(np.int8))
    return box, away[box]


def within(box: Sequence[slice], voxel: Sequence[int]) -> tuple[int, int, int]:
    """A voxel (z, y, x) of the series as one of a box in the plane."""
    return voxel[0], voxel[1] - box[0].start, voxel[2] - box[1].start


# Which pool it is.


def centre_of_motion(motion: np.ndarray, pixel: Sequence[float]) -> tuple[float, ...]:
    """Centre of the part of the plane in which the temporal deviation is at least half its maximum."""
    mean = smooth(motion.mean(axis=0), MOTION_MM, pixel)
    labels, _ = ndi.label(mean >= mean.max() / 2)
    largest = labels == labels[np.unravel_index(mean.argmax(), mean.shape)]
    return ndi.center_of_mass(np.where(largest, mean, 0.0))


def blood_pools(
    values: np.ndarray,
    edges: np.ndarray,
    region: np.ndarray,
    pixel: Sequence[float],
    neck: float,
) -> np.ndarray:
    """What is brighter than its slice's edge, cut at its necks: (time, z, y, x), numbered from 1 in each frame and slice."""
    pools = np.zeros(values.shape, np.int32)
    for z, edge in enumerate(edges):
        bright = (values[:, z] > edge) & region
        pools[:, z] = [split(mask, pixel, neck) for mask in bright]
    return pools


def thresholds(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Otsu's threshold of each slice over all frames, none far from that of the others.

    Where lung or fat fills much of a slice its own would lie between lung and muscle, or between blood and fat.
    """
    from skimage.filters import threshold_otsu

    inside = (values[:, z][:, region] for z in range(values.shape[1]))
    own = np.array([threshold_otsu(v) if v.min() < v.max() else v.flat[0] for v in inside])
    typical = np.median(own)
    return np.clip(own, ALIKE * typical, typical / ALIKE)


def split(mask: np.ndarray, pixel: Sequence[float], neck: float) -> np.ndarray:
    """Objects of a mask, cut at their necks; objects too narrow for a marker are left out."""
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed

    depth = np.where(mask, smooth(depth_mm(mask, pixel), 2.0, pixel), 0.0)
    # Reconstruction levels every top that rises from its highest pass by less than the neck says.
    tops, n = ndi.label(
        local_maxima(reconstruction(neck * depth, depth)) & mask, structure=np.ones((3, 3))
    )
    deepest = np.zeros(n + 1)
    deepest[1:] = ndi.maximum(depth, tops, np.arange(1, n + 1))
    markers = np.where(deepest[tops] >= MARKER_MM, tops, 0)
    if not markers.any():
        return markers
    return watershed(-depth, markers, mask=mask)


def find_seed(
    pools: np.ndarray, motion: np.ndarray, spacing: Sequence[float]
) -> tuple[int, int, int]:
    """Voxel (z, y, x) around which pools are round in most frames and much moves, in this slice and the next."""
    from skimage.measure import regionprops

    votes = np.zeros(motion.shape)
    low, high = (cm2 * 100 for cm2 in POOL_CM2)
    for frame in pools:
        for z, labels in enumerate(frame):
            for pool in regionprops(labels, spacing=tuple(spacing[1:])):
                if low <= pool.area <= high:
                    votes[z][labels == pool.label] += roundness(pool) ** 2
    if not votes.any():
        raise NoVentricleError(
            f"no bright object of {POOL_CM2[0]:g} to {POOL_CM2[1]:g} cm2 lies near what moves in the cine"
        )
    # In mm, so that neighbouring slices support each other as far as they are near. Much moves at the wall, so the voxel is
    # taken where the pools themselves are.
    width = [MOTION_MM / mm for mm in spacing]
    score = votes * ndi.gaussian_filter(votes * motion, width, mode="constant")
    z, y, x = (int(i) for i in np.unravel_index(score.argmax(), score.shape))
    return z, y, x


def roundness(pool: Any) -> float:
    """Solidity times the ratio of the axes: 1 of a disc, little of a crescent."""
    if pool.axis_major_length == 0:
        return 0.0
    return float(pool.solidity * pool.axis_minor_length / pool.axis_major_length)


def at_seed(pools: np.ndarray, seed: tuple[int, int, int]) -> np.ndarray:
    """The pool of each frame in which the seed lies, (time, y, x) bool."""
    z, y, x = seed
    at = pools[:, z, y, x]
    there = (pools[:, z] == at[:, None, None]) & (at > 0)[:, None, None]
    if not there.any():
        raise NoVentricleError("the point at which the ventricle begins is not bright in any frame")
    return there


def radius_at(pools: np.ndarray, seed: tuple[int, int, int], pixel: Sequence[float]) -> float:
    """Radius in mm of a disc as large as the pool at the seed at its largest."""
    area = np.count_nonzero(at_seed(pools, seed), axis=(1, 2)).max() * pixel[0] * pixel[1]
    return float(np.sqrt(area / np.pi))


def track(
    pools: np.ndarray, seed: tuple[int, int, int], pixel: Sequence[float], rules: Rules
) -> np.ndarray:
    """The pool of each frame and slice that continues the one at the seed, (time, z, y, x) bool."""
    first = seed[0]
    inside = np.zeros(pools.shape, bool)
    there = at_seed(pools, seed)
    inside[:, first] = follow(pools[:, first], there.mean(axis=0))
    share = inside[:, first].mean(axis=0)
    steady = np.count_nonzero(share >= 0.5) / share.sum()
    if steady < STEADY:
        raise NoVentricleError(
            f"the roundest object that moves is somewhere else in every frame: {steady:.0%} of its area stays for "
            f"half of the beat, expected at least {STEADY:.0%}"
        )
    for order in (range(first + 1, pools.shape[1]), range(first - 1, -1, -1)):
        last = first
        for z in order:
            found = follow(pools[:, z], inside[:, last].mean(axis=0))
            for t, own in enumerate(inside[:, last]):
                # What is nearer to another pool of the slice before belongs to that one.
                others = (pools[t, last] > 0) & ~hull(own)
                reach = distance_mm(own, pixel)
                found[t] &= (reach <= rules.drift_mm) & (reach < distance_mm(others, pixel))
            inside[:, z] = found
            if not found.any():
                break
            last = z
    return inside


def follow(pools: np.ndarray, where: np.ndarray) -> np.ndarray:
    """In each frame of one slice the pool that covers most of `where`."""
    found = np.zeros(pools.shape, bool)
    for t, labels in enumerate(pools):
        covered = np.bincount(labels.ravel(), where.ravel())
        covered[0] = 0
        if covered.any():
            found[t] = labels == covered.argmax()
    return found


# Where it ends.


def cavity(
    values: np.ndarray, inside: np.ndarray, pools: np.ndarray, pixel: Sequence[float], rules: Rules
) -> np.ndarray:
    """The cavity around the tracked blood: to the edge of the muscle, convex, away from other pools."""
    out = np.zeros_like(inside)
    for z in np.flatnonzero(inside.any(axis=(0, 2, 3))):
        cores = [hull(m) for m in inside[:, z]]
        others = [(p > 0) & ~core for p, core in zip(pools[:, z], cores, strict=True)]
        near = np.stack([distance_mm(core, pixel) for core in cores])
        wall = (near > WALL_MM[0]) & (near <= WALL_MM[1]) & ~np.stack(others)
        blood = np.median(values[:, z][inside[:, z]])
        muscle = np.median(values[:, z][wall]) if wall.any() else 0.0
        bright = values[:, z] > muscle + rules.level * (blood - muscle)
        for t, core in enumerate(cores):
            if core.any():
                own = near[t] < distance_mm(others[t], pixel)
                wide = core | (bright[t] & own & (near[t] <= WALL_MM[1]))
                out[t, z] = hull(joined(without_outgrowths(wide, pixel), core))
    return out


def without_outgrowths(mask: np.ndarray, pixel: Sequence[float]) -> np.ndarray:
    """Opening with a disc of `OUTGROWTH_MM`; the mask itself if that leaves nothing."""
    core = depth_mm(mask, pixel) > OUTGROWTH_MM
    return mask & (distance_mm(core, pixel) <= OUTGROWTH_MM) if core.any() else mask


def joined(mask: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The component of a mask that covers most of `where`."""
    labels, _ = ndi.label(mask)
    covered = np.bincount(labels[where], minlength=2)
    covered[0] = 0
    return labels == covered.argmax() if covered.any() else where


def belonging(inside: np.ndarray, first: int, pixel: Sequence[float], rules: Rules) -> np.ndarray:
    """Slices that contract with the one of the seed, up to the apex and the base: (z,) bool."""
    area = inside.sum(axis=(2, 3)) * (pixel[0] * pixel[1] / 100)
    area = (np.roll(area, 1, axis=0) + area + np.roll(area, -1, axis=0)) / 3
    full, empty = area[:, first].argmax(), area[:, first].argmin()
    diastole = area[full]
    lost = 1 - area[empty] / np.where(diastole > 0, diastole, np.inf)
    if lost[first] < STILL:
        raise NoVentricleError(
            f"the roundest pool of blood that moves loses {lost[first]:.1%} of its area in a beat, "
            f"expected at least {STILL:.0%}"
        )
    good = (diastole >= rules.apex_cm2) & (lost >= rules.contraction * lost[first])
    upwards, downwards = range(first, area.shape[1]), range(first, -1, -1)
    ends = [last_of(order, good) for order in (upwards, downwards)]
    kept = np.zeros(good.shape, bool)
    for order, end, other in zip((upwards, downwards), ends, ends[::-1], strict=True):
        slices = [z for z in order if abs(z - first) <= abs(end - first)]
        if diastole[end] >= diastole[other]:  # the wider end is the base
            slices = up_to_the_base(slices, diastole, rules.base)
        kept[slices] = True
    return kept


def last_of(order: Iterable[int], good: np.ndarray) -> int:
    """Last of the slices before the first that is not good; the seed's own is always."""
    found = -1
    for z in order:
        if found >= 0 and not good[z]:
            break
        found = z
    return found


def up_to_the_base(slices: Sequence[int], area: np.ndarray, least: float) -> list[int]:
    """Slices before the first with an area that is none of a ventricle beside its neighbour's."""
    kept = [slices[0]]
    for z in slices[1:]:
        if not least * area[kept[-1]] <= area[z] <= WIDEST * area[kept[-1]]:
            break
        kept.append(z)
    return kept
