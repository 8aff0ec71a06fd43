"""p of Student's t, against SciPy's."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from cohort.kernels import student


@given(df=st.integers(1, 100_000) | st.integers(1, 12), seed=st.integers(0, 99))
def test_equals_scipy_to_the_thirteenth_digit(df, seed):
    rng = np.random.default_rng(seed)
    t = rng.normal(0, 1, (3, 400)) * rng.choice([0.01, 1, 3, 9, 40], (3, 400))
    expected = 2 * special.stdtr(float(df), -np.abs(t))
    np.testing.assert_allclose(student.two_sided(t, df), expected, rtol=1e-13, atol=0)


def test_at_the_ends_and_without_a_number():
    t = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, 1e-300, -38.0])
    for df in (1, 2, 3, 20, 10**6):
        found = student.two_sided(t, df)
        np.testing.assert_allclose(found, 2 * special.stdtr(float(df), -np.abs(t)), rtol=1e-13)
        assert found[0] == found[1] == found[6]
        assert found[0] <= 1


@given(cut=st.integers(0, 300), df=st.sampled_from([2, 7, 145, 4000]))
def test_a_p_has_the_same_bits_in_any_company(cut, df):
    t = np.random.default_rng(cut).normal(0, 4, 300)
    whole = student.two_sided(t, df)
    parts = [student.two_sided(t[:cut], df), student.two_sided(t[cut:], df)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert student.two_sided(-t[::2], df).tobytes() == whole[::2].tobytes()
