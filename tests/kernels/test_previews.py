"""Previews: the same for every cutting, and what plain NumPy gives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort.kernels import previews
from cohort.kernels.previews import Preview, shrunk

SHAPES = st.tuples(*[st.integers(1, 75)] * 3)
DTYPES = ["uint8", "int8", "int16", "uint16", "int32", "float32", "float64"]


def volume(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    if info is not None:
        return rng.integers(max(info.min, -40000), min(info.max, 40000), shape, dtype)
    return rng.normal(100, 30, shape).astype(dtype)


def whole(values):
    preview = Preview(values.shape, values.dtype)
    preview.add(values)
    return preview


@given(shape=SHAPES, dtype=st.sampled_from(DTYPES))
def test_means_are_those_of_the_voxels_of_each_cell(shape, dtype):
    values = volume(shape, dtype)
    preview = whole(values)
    assert all(n <= previews.CELLS for n in preview.means().shape)
    for cell in np.ndindex(*(min(3, n) for n in preview.means().shape)):
        first = [-1 - i for i in cell] if sum(cell) % 2 else list(cell)
        corner = [i % n for i, n in zip(first, preview.means().shape, strict=True)]
        inside = values[
            tuple(
                slice(i * c, (i + 1) * c, s)
                for i, c, s in zip(corner, preview.cell, preview.steps, strict=True)
            )
        ]
        expected = inside.astype(np.float32 if inside.dtype.kind == "f" else np.int64).mean(
            dtype=np.float64
        )
        assert preview.means()[tuple(corner)] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@given(data=st.data(), shape=SHAPES, dtype=st.sampled_from(DTYPES))
def test_blocks_in_any_order_and_of_any_size_give_the_same(data, shape, dtype):
    values = volume(shape, dtype)
    one, other = whole(values), Preview(shape, values.dtype)
    edges = [
        sorted({0, n, *data.draw(st.lists(st.integers(1, n), max_size=4), label="cuts")})
        for n in shape
    ]
    places = list(np.ndindex(*(len(e) - 1 for e in edges)))
    for place in data.draw(st.permutations(places), label="order"):
        cut = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, place, strict=True))
        other.add(values[cut], [s.start for s in cut])
    if values.dtype.kind == "f":
        np.testing.assert_allclose(other.means(), one.means(), rtol=1e-13)
    else:
        np.testing.assert_array_equal(other.means(), one.means())
    for mine, yours in zip(one.planes, other.planes, strict=True):
        np.testing.assert_array_equal(mine, yours)


def test_planes_are_the_middle_ones():
    values = volume((7, 10, 13), "int16")
    for axis, plane in enumerate(whole(values).planes):
        np.testing.assert_array_equal(plane, values.take(values.shape[axis] // 2, axis=axis))


@given(shape=st.tuples(st.integers(1, 700), st.integers(1, 700)))
def test_a_plane_shrinks_to_means_of_its_blocks(shape):
    plane = volume(shape, "int16")
    pixels, (rows, columns) = shrunk(plane)
    assert max(pixels.shape) <= previews.PIXELS
    assert pixels.shape == (-(-shape[0] // rows), -(-shape[1] // columns))
    last = plane[(pixels.shape[0] - 1) * rows :, (pixels.shape[1] - 1) * columns :]
    assert pixels[-1, -1] == pytest.approx(last.mean())
    assert pixels[0, 0] == pytest.approx(plane[:rows, :columns].mean())


def test_what_is_not_finite_counts_as_nothing():
    values = np.ones((4, 4, 4), np.float32)
    values[0, 0, 0], values[2, 1, 1] = np.nan, np.inf
    means = whole(values).means()
    assert means[0, 0, 0] == means[2, 1, 1] == 0
    assert means.sum() == 62


def test_sums_do_not_overflow():
    values = np.full((200, 220, 7), 65535, np.uint16)
    np.testing.assert_array_equal(whole(values).means(), 65535.0)
    np.testing.assert_array_equal(whole(np.full((223,) * 3, 255, np.uint8)).means(), 255.0)
