"""One synthetic head: the anatomy bent to a subject, labelled at 1 mm, imaged at 2 mm as a T1 scanner would."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage as ndi
from scipy.spatial.transform import Rotation

from cohort import grid, schema
from cohort.ops.template import CENTER_MM
from cohort.phantom.anatomy import FIRST_MM, STEP_MM, Anatomy, anatomy
from cohort.phantom.model import Subject, generator, subject

SHAPE = (112, 120, 96)
SPACING_MM = 2.0
FINE = 2
"""Voxels of the labels along one voxel of the image."""

BIAS = 0.07
"""Standard deviation of the logarithm of the coil's sensitivity."""
NOISE = 0.03
"""Of either part of the complex signal, as a share of white matter."""

TABLE_MM = 3.4
"""Thickness of either layer of the skull's bone; a thicker skull holds marrow between them."""


class Tissue(IntEnum):
    """Numbers of the labels; 0 is everything outside the skull."""

    CSF = 1
    GREY = 2
    WHITE = 3
    BONE = 4
    MARROW = 5


@dataclass(frozen=True)
class Head:
    """A scan with known truth."""

    scan: xr.Dataset
    """As a reader gives it: `image` (z, y, x) uint16, 112 x 120 x 96 voxels of 2 mm, axes closest to RAS+."""
    labels: xr.DataArray
    """`Tissue` (z, y, x) uint8 at 1 mm, cut to the skull; each voxel of the image holds eight or none."""
    truth: dict[str, float]
    """intracranial_ml, brain_ml (grey and white), csf_ml, grey_ml, white_ml: label counts x voxel volume."""
    subject: dict[str, Any]
    """The fields of `Subject`: participant_id, age_years, sex, group and the volumes that were asked for."""


def head(*, seed: int, index: int, bias: float = BIAS, noise: float = NOISE) -> Head:
    """Make one head, in half a second.

    Parameters
    ----------
    seed, index : int
        Within 0..2**32 - 1; the person depends on nothing else.
    bias, noise : float
        How strong the coil's bias and the noise of the image are; see `BIAS` and `NOISE`.

    Raises
    ------
    ModuleNotFoundError
        Without nilearn.

    Notes
    -----
    Two of eight heads (index 6 and 7, modulo 8) are imaged straight in an oblique box, as staff plan it; the
    others lie oblique in a straight one.
    """
    body = anatomy()
    person = subject(seed=seed, index=index)
    rng = generator(seed=seed, index=index, purpose="head")
    pose = _pose(rng)
    box = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    box[:3, 3] = CENTER_MM - [0, 0, 11] - SPACING_MM * (np.array(SHAPE[::-1]) - 1) / 2
    affine = pose @ box if index % 8 >= 6 else box
    where = _warped(np.linalg.inv(pose @ _size(body, person, rng)) @ affine, rng)
    near = ndi.find_objects((_sample(body.skull, where) < 12).view(np.uint8))[0]
    labels = _label(body, where[(slice(None), *near)], person, rng)
    image = _image(body, where, labels, near, rng, bias=bias, noise=noise)
    return Head(
        scan=schema.make_scan(image, affine, image_attrs={"units": "1"}, attrs={"modality": "MR"}),
        labels=_located(labels, affine, near),
        truth=_volumes(labels),
        subject=asdict(person),
    )


def _pose(rng: np.random.Generator) -> np.ndarray:
    """Rigid, 4x4: up to 8 degrees about any axis through the middle of the skull, and a shift of up to 6 mm."""
    axis = rng.normal(size=3)
    turn = Rotation.from_rotvec(rng.uniform(0, 8) * axis / np.linalg.norm(axis), degrees=True)
    return _about_center(turn.as_matrix(), shift=np.clip(rng.normal(0, 2.5, 3), -6, 6))


def _size(body: Anatomy, person: Subject, rng: np.random.Generator) -> np.ndarray:
    """Template to head, 4x4: the skull's volume, and a few percent longer, wider or taller."""
    stretch = np.exp(rng.normal(0, 0.025, 3))
    stretch *= np.cbrt(person.intracranial_ml / body.intracranial_ml / stretch.prod())
    return _about_center(np.diag(stretch))


def _about_center(linear: np.ndarray, *, shift: np.ndarray | float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = CENTER_MM + shift - linear @ CENTER_MM
    return matrix


def _warped(to_template: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Where each voxel of the image lies in the fields, in their voxels: (3, z, y, x) float32, rows z, y, x."""
    to_field = np.diag([1 / STEP_MM, 1 / STEP_MM, 1 / STEP_MM, 1.0])
    to_field[:3, 3] = -np.array(FIRST_MM[::-1]) / STEP_MM
    matrix = (to_field @ to_template)[[2, 1, 0]][:, [2, 1, 0, 3]].astype(np.float32)
    z, y, x = (g.astype(np.float32) for g in np.ogrid[tuple(map(slice, SHAPE))])
    out = np.empty((3, *SHAPE), np.float32)
    for row, target in zip(matrix, out, strict=True):
        target[:] = row[0] * z + row[1] * y + row[2] * x + row[3]
        target += smooth_field(rng, SHAPE, knots_mm=30.0) * np.float32(2.0 / STEP_MM)
    return out


def smooth_field(rng: np.random.Generator, shape: Sequence[int], *, knots_mm: float) -> np.ndarray:
    """Random field of unit variance, float32: cubic B-splines over normal knots, in voxels of the image."""
    bases = [_splines(n, knots_mm / SPACING_MM) for n in shape]
    field = rng.normal(size=[basis.shape[1] for basis in bases]).astype(np.float32)
    for basis in bases:  # each turn contracts the first axis and appends the new one
        field = np.tensordot(field, basis, axes=(0, 1))
    return field


def _splines(n: int, knots: float) -> np.ndarray:
    """Weights (n, knots) of cubic B-splines `knots` voxels apart; each row has unit norm."""
    count = int(np.ceil((n - 1) / knots)) + 4
    t = np.abs(np.arange(n)[:, None] / knots - (np.arange(count) - 1.5))
    cubic = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.maximum(2 - t, 0) ** 3 / 6)
    return (cubic / np.linalg.norm(cubic, axis=1, keepdims=True)).astype(np.float32)


def _texture(rng: np.random.Generator, shape: Sequence[int], *, sigma: float) -> np.ndarray:
    """Random field of unit variance with grains of `sigma` voxels."""
    grains = ndi.gaussian_filter(rng.standard_normal(shape, np.float32), sigma)
    return grains / grains.std()


def _sample(field: np.ndarray, where: np.ndarray) -> np.ndarray:
    return ndi.map_coordinates(field, where, order=1, mode="nearest", output=np.float32)


def _finer(field: np.ndarray) -> np.ndarray:
    """Twice the voxels along each axis, linearly between the old ones."""
    for axis in range(3):
        field = np.moveaxis(field, axis, 0)
        out = np.repeat(np.float32(0.75) * field, FINE, axis=0)
        quarter = np.float32(0.25) * field
        out[::2] += np.concatenate([quarter[:1], quarter[:-1]])
        out[1::2] += np.concatenate([quarter[1:], quarter[-1:]])
        field = np.moveaxis(out, 0, axis)
    return field


def _coarser(fine: np.ndarray) -> np.ndarray:
    """Mean of each 2 x 2 x 2 block: what a voxel of the scanner sees."""
    z, y, x = (n // FINE for n in fine.shape)
    return fine.reshape(z, FINE, y, FINE, x, FINE).mean(axis=(1, 3, 5), dtype=np.float32)


def _label(
    body: Anatomy, where: np.ndarray, person: Subject, rng: np.random.Generator
) -> np.ndarray:
    """Labels at 1 mm, (z, y, x) uint8. Each has as many voxels as the subject asks for: those that rank highest."""
    shape, voxel_ml = where.shape[1:], (SPACING_MM / FINE) ** 3 / 1000
    skull = _finer(_sample(body.skull, where))
    surface = -_highest(-skull[skull < 8], person.intracranial_ml / voxel_ml)
    inside = skull <= surface
    brain = _sample(body.brain, where)
    brain += 0.06 * smooth_field(rng, shape, knots_mm=24.0) + 0.04 * _texture(rng, shape, sigma=1.5)
    ranks = _finer(brain)[inside]
    is_brain = ranks >= _highest(ranks, person.brain_ml / voxel_ml)
    ranks = _finer(_sample(body.white, where))[inside]
    white = float(np.clip(rng.normal(0.42, 0.015), 0.37, 0.47)) * is_brain.sum()
    is_white = is_brain & (ranks >= _highest(ranks[is_brain], white))

    labels = np.zeros(inside.shape, np.uint8)
    outward = skull - surface
    thickness = rng.uniform(6.0, 8.5) + 0.6 * _finer(smooth_field(rng, shape, knots_mm=40.0))
    labels[outward < thickness] = Tissue.BONE
    vault = _finer(where[0]) > (-20 - FIRST_MM[0]) / STEP_MM
    labels[(outward > TABLE_MM) & (outward < thickness - TABLE_MM) & vault] = Tissue.MARROW
    labels[inside] = Tissue.CSF + is_brain.astype(np.uint8) + is_white
    return labels


def _highest(values: np.ndarray, count: float) -> float:
    """The value that `count` of the values reach."""
    at = values.size - min(max(round(count), 1), values.size)
    return float(np.partition(values, at)[at])


def _volumes(labels: np.ndarray) -> dict[str, float]:
    """Volumes of the labels, ml."""
    counts = np.bincount(labels.ravel(), minlength=len(Tissue) + 1)
    csf, grey, white = (int(counts[t]) for t in (Tissue.CSF, Tissue.GREY, Tissue.WHITE))
    volumes = {
        "intracranial_ml": csf + grey + white,
        "brain_ml": grey + white,
        "csf_ml": csf,
        "grey_ml": grey,
        "white_ml": white,
    }
    return {name: n * (SPACING_MM / FINE) ** 3 / 1000 for name, n in volumes.items()}


def _located(labels: np.ndarray, affine: np.ndarray, near: Sequence[slice]) -> xr.DataArray:
    """Labels with their coordinates: a fine voxel's centre lies a quarter of a voxel off the coarse one's."""
    to_image = np.diag([1 / FINE] * 3 + [1.0])
    to_image[:3, 3] = [s.start - 0.25 for s in near[::-1]]
    coords = grid.coordinates(affine @ to_image, labels.shape)
    return xr.DataArray(labels, dims=grid.SPACE, coords=coords, name="labels")


def _image(
    body: Anatomy,
    where: np.ndarray,
    labels: np.ndarray,
    near: tuple[slice, ...],
    rng: np.random.Generator,
    *,
    bias: float,
    noise: float,
) -> np.ndarray:
    """The scan, (z, y, x) uint16 of 12 bits. White matter is 1 until the scanner's gain, unknown to the reader, is applied."""
    shine = np.zeros(len(Tissue) + 1, np.float32)
    shine[Tissue.CSF], shine[Tissue.GREY] = rng.uniform(0.24, 0.32), rng.uniform(0.60, 0.66)
    shine[Tissue.WHITE], shine[Tissue.BONE] = 1.0, 0.06
    shine[Tissue.MARROW] = rng.uniform(0.2, 0.45)
    muscle, fat = rng.uniform(0.40, 0.52), rng.uniform(1.0, 1.3)
    image = muscle * _sample(body.muscle, where) + fat * _sample(body.fat, where)
    bone = _coarser((labels == Tissue.BONE).astype(np.float32))
    canal = _sample(body.canal, where[(slice(None), *near)])
    image[near] *= _coarser((labels == 0).astype(np.float32))
    image[near] += _coarser(shine[labels]) + bone * canal * (0.55 - shine[Tissue.BONE])
    image *= 1 + np.float32(0.04) * _texture(rng, SHAPE, sigma=1.0)
    image *= np.exp(np.float32(bias) * smooth_field(rng, SHAPE, knots_mm=60.0))
    real, imaginary = rng.standard_normal((2, *SHAPE), np.float32) * np.float32(noise)
    image = np.hypot(image + real, imaginary) * rng.uniform(400, 1200)
    return np.clip(np.rint(image), 0, 4095).astype(np.uint16)
