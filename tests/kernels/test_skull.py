"""Surfaces of balls: where they are known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cohort.kernels import skull

SHAPE, SPACING = (70, 76, 82), (2.0, 1.5, 1.8)


def radii(center: tuple[float, float, float]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    parts = [
        (s * (a - (n - 1) / 2) - c) for a, s, n, c in zip(axes, SPACING, SHAPE, center, strict=True)
    ]
    return np.sqrt(sum(p**2 for p in parts)).astype(np.float32)


def volume(surface: np.ndarray) -> float:
    return float((surface < 0).sum() * np.prod(SPACING))


@settings(max_examples=10)
@given(
    off=st.tuples(*[st.floats(-3, 3)] * 3),
    radius=st.floats(36, 44),
    noise=st.floats(0, 0.05),
    seed=st.integers(0, 99),
)
def test_a_surface_finds_its_ball_from_some_mm_away(off, radius, noise, seed):
    """Fluid at .28 in bone of .06 of 8 mm, scalp around."""
    true, start = radii(off), radii((0, 0, 0)) - np.float32(40)
    image = np.where(true < radius, 0.28, np.where(true < radius + 8, 0.06, 0.8))
    image += np.random.default_rng(seed).normal(0, noise, SHAPE)
    found = skull.refined(image, start, np.full(SHAPE, 10, np.float32), level=0.17, spacing=SPACING)
    assert volume(found) == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.015)
    wrong = (found < 0) != (true < radius)
    assert wrong.sum() * np.prod(SPACING) < 0.03 * volume(found)


def test_a_surface_goes_no_farther_than_its_reach():
    start = radii((0, 0, 0)) - np.float32(35)
    found = skull.refined(
        np.ones(SHAPE), start, np.full(SHAPE, 3, np.float32), level=0.5, spacing=SPACING
    )
    assert volume(found) == pytest.approx(4 / 3 * np.pi * 38**3, rel=0.01)


@given(st.integers(0, 99), st.floats(0.5, 2000))
def test_intensities_of_tissues_are_found_whatever_the_gain(seed, gain):
    rng, distance = np.random.default_rng(seed), radii((0, 0, 0)) - np.float32(40)
    image = np.where(distance < 8, 0.06, 0.8)
    inside = distance < 0
    image[inside] = rng.choice([0.27, 0.62, 1.0], inside.sum(), p=[0.2, 0.45, 0.35])
    image = np.abs(image + rng.normal(0, 0.03, SHAPE)) * gain
    bone, fluid, white = np.array(skull.intensities(image, distance)) / gain
    assert bone == pytest.approx(0.05, abs=0.03)
    assert fluid == pytest.approx(0.27, abs=0.03)
    assert white == pytest.approx(1.0, abs=0.03)


def test_intensities_of_nothing_are_not_numbers():
    assert np.isnan(skull.intensities(np.zeros(SHAPE), radii((0, 0, 0)) - np.float32(40))).all()


@pytest.mark.parametrize("radius", [40, 60])
def test_the_space_around_a_ball_is_a_ball_with_fluid_around(radius):
    z, y, x = np.ogrid[-80:81:2, -80:81:2, -80:81:2]
    brain = z**2 + y**2 + x**2 < radius**2
    brain[40:, 39:42, 39:42] = False  # a sulcus of 6 mm belongs to the inside
    found = skull.around_brain(brain, z, step_mm=2.0)
    equal = np.cbrt((found < 0).sum() * 8 / (4 / 3 * np.pi))
    assert equal == pytest.approx(radius + skull.FLUID_MM, abs=1)  # half a voxel
    assert found[40, 40, 40] < -radius + 6
    cut = skull.around_brain(brain, z + skull.FORAMEN_Z_MM, step_mm=2.0)
    assert not (cut[:37] < 0).any()


def test_the_largest_thing_is_the_head():
    values = np.zeros((20, 20, 20))
    values[2:5, 2:5, 2:5], values[8:17, 8:17, 8:17] = 5, 4
    assert skull.solid(values).sum() == pytest.approx(9**3, rel=0.2)
    assert skull.solid(values)[12, 12, 12]
    assert not skull.solid(np.zeros((5, 5, 5))).any()
