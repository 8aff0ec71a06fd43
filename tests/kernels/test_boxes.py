import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import shapes

from cohort.kernels import boxes


def slices(box):
    return tuple(slice(int(a), int(b)) for a, b in box)


@given(
    data=st.data(),
    ndim=st.integers(1, 3),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([np.uint8, np.int16, np.int32, np.uint64]),
)
def test_boxes_of_any_parts_are_those_of_scipy(data, ndim, seed, dtype):
    shape = data.draw(shapes(ndim=ndim, low=2, high=9))
    rng = np.random.default_rng(seed)
    labels = (rng.integers(0, 6, shape) * (rng.random(shape) < 0.3)).astype(dtype)
    cut = data.draw(st.integers(1, shape[0] - 1))
    parts = [
        boxes.boxes(labels[cut:], origin=(cut, *(0,) * (ndim - 1)), shape=shape),
        boxes.boxes(labels[:cut], origin=(0,) * ndim, shape=shape),
    ]
    found = boxes.of_labels(boxes.enclose(parts), index=np.array([5, 4, 3, 2, 1]))
    assert found.dtype == np.int64
    expected = [*ndi.find_objects(labels.astype(int)), *[None] * 5][:5]
    for box, objects in zip(found[::-1], expected, strict=True):
        assert slices(box) == (objects or (slice(0, 0),) * ndim)


def test_large_labels_have_boxes_too():
    labels = np.array([[0, 2**40], [3, 3]])
    rows = boxes.enclose([boxes.boxes(labels, origin=(10, 20), shape=(99, 99))])
    assert rows.tolist() == [[3, 11, 20, 12, 22], [2**40, 10, 21, 11, 22]]


def test_a_negative_label_is_refused():
    with pytest.raises(ValueError, match="the labels hold -2"):
        boxes.boxes(np.array([[1, -2]]), origin=(0, 0), shape=(1, 2))
