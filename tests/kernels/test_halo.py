import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from strategies import shapes

from cohort.kernels import halo


def window_sum(block, size):
    """Integers, so that the order of additions cannot matter."""
    return ndi.correlate(block, np.ones(size, int), mode="constant")


@given(
    data=st.data(),
    mode=st.sampled_from(sorted(halo.MODES)),
    width=st.tuples(*[st.integers(0, 6)] * 2),
    shape=shapes(low=1, high=9, ndim=2),
)
def test_a_block_with_padding_sees_what_scipy_sees(data, mode, width, shape):
    """Also when the image is thinner than the halo, so that a border is reflected more than once."""
    image = np.random.default_rng(0).integers(0, 99, shape)
    border = halo.Border(width, mode, 5.0, ((True, True),) * 2)
    size = tuple(2 * w + 1 for w in width)
    actual = halo.stencil(window_sum, [image], {}, border=border, params={"size": size})
    expected = ndi.correlate(image, np.ones(size, int), mode=mode, cval=5.0)
    np.testing.assert_array_equal(actual, expected)


@given(data=st.data(), width=st.tuples(*[st.integers(0, 3)] * 3), shape=shapes(low=6, high=9))
def test_neighbours_are_put_where_they_belong(data, width, shape):
    """Rims of all neighbours around a block make a window of the whole."""
    whole = np.arange(np.prod(shape)).reshape(shape)
    cuts = [sorted(data.draw(st.sampled_from([(0, n // 3, n - n // 3, n)]))) for n in shape]
    spans = [[slice(a, b) for a, b in itertools.pairwise(c)] for c in cuts]
    if any(s.stop - s.start < w for span, w in zip(spans, width, strict=True) for s in span):
        width = tuple(
            min(w, *(s.stop - s.start for s in span)) for span, w in zip(spans, width, strict=True)
        )
    rims = {
        offset: halo.rim(
            whole[tuple(span[1 + o] for span, o in zip(spans, offset, strict=True))], width
        )
        for offset in itertools.product(*((-1, 0, 1) if w else (0,) for w in width))
        if any(offset)
    }
    border = halo.Border(width, None, 0.0, ((False, False),) * 3)
    centre = tuple(span[1] for span in spans)
    around, place = halo.extended(whole[centre], rims, border)
    window = tuple(slice(s.start - w, s.stop + w) for s, w in zip(centre, width, strict=True))
    np.testing.assert_array_equal(around, whole[window])
    np.testing.assert_array_equal(around[place], whole[centre])


def test_without_a_mode_the_block_ends_where_the_image_ends():
    block = np.arange(4)
    around, place = halo.extended(block, {}, halo.Border((2,), None, 0.0, ((True, True),)))
    assert around is block
    assert place == (slice(0, 4),)


def test_a_rim_is_a_copy():
    block = np.arange(6)
    found = halo.rim(block, (2,))
    block[:] = 0
    assert found[0, -1].tolist() == [0, 1]
    assert found[0, 1].tolist() == [4, 5]
