"""What a scan Dataset holds: every problem is listed, and decoding happens once."""

import numpy as np
import pytest

from cohort import schema


def scan(**image_attrs):
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    return schema.make_scan(image, np.diag([1.0, 2, 3, 1]), image_attrs=image_attrs)


@pytest.mark.parametrize("more", [{}, {"units": "HU"}])
def test_a_decoded_image_is_not_decoded_again(more):
    stored = scan(scale_factor=0.5, add_offset=-1.0, **more)["image"]
    decoded = schema.decode(stored)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, stored.values * 0.5 - 1)
    assert decoded.attrs == more
    np.testing.assert_array_equal(schema.decode(decoded), decoded)
    assert stored.attrs["scale_factor"] == 0.5


def test_every_problem_of_a_dataset_is_listed_at_once():
    broken = scan().drop_vars(["grid", "x"]).rename(image="picture")
    with pytest.raises(schema.SchemaError) as caught:
        schema.check(broken)
    for part in ("no variable 'image'", "'x' has no coordinate", "no scalar coordinate 'grid'"):
        assert part in str(caught.value)
