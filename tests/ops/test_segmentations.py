"""Segmentations made elsewhere become tissues, number by number."""

import numpy as np
import pytest
import strategies
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from cohort.grid import GridError
from cohort.io import nifti
from cohort.ops.segmentations import ASEG, import_labels

NAMES = ("csf", "grey", "white", "other")


@given(data=st.data(), dtype=st.sampled_from([np.int16, np.uint16, np.int32]))
def test_each_number_of_freesurfer_becomes_its_tissue_for_any_chunks(data, dtype):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = data.draw(strategies.shapes())
    every = [0, *(n for numbers in ASEG.values() for n in numbers)]
    labels = strategies.scan(random.choice(every, shape).astype(dtype))
    found = import_labels(labels, like=labels.astype(float))
    assert found.dtype == np.uint8
    for number, name in enumerate(NAMES, 1):
        np.testing.assert_array_equal(found == number, np.isin(labels, ASEG[name]))
    np.testing.assert_array_equal(found == 0, labels == 0)
    (lazy,) = data.draw(strategies.chunked(labels))
    with strategies.nothing_computed():
        later = import_labels(lazy)
    assert later.chunks == lazy.chunks
    xr.testing.assert_identical(later.compute(), found)


def test_left_and_right_hemisphere_are_the_same_tissue():
    pairs = [(2, 41), (3, 42), (4, 43), (5, 44), (7, 46), (8, 47), (10, 49), (11, 50), (12, 51)]
    pairs += [(13, 52), (17, 53), (18, 54), (26, 58), (28, 60), (30, 62), (31, 63), (1005, 2005)]
    left, right = (
        import_labels(xr.DataArray(np.array([side]), dims=["y", "x"]))
        for side in zip(*pairs, strict=True)
    )
    np.testing.assert_array_equal(left, right)


def test_a_file_is_imported_onto_its_scan(tmp_path):
    import nibabel as nib

    values = np.zeros((5, 6, 7), np.int16)
    values[1:4, 2:5, 3:6], values[2, 3, 4] = 42, 43
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), tmp_path / "aseg.nii.gz")
    labels = nifti.read_labels(tmp_path / "aseg.nii.gz", name="aseg")
    found = import_labels(labels, like=labels)
    assert [(found == n).sum().item() for n in (1, 2, 3)] == [1, 26, 0]
    with pytest.raises(GridError, match="labels"):
        import_labels(labels, like=labels.isel(z=slice(1, None)))


def test_numbers_without_a_group_are_told():
    labels = strategies.scan(np.array([[[0, 1, 2, 900]]]))
    with pytest.raises(ValueError, match="labels hold 1, 900, which no group names"):
        import_labels(labels)
    with pytest.raises(ValueError, match="labels hold 2, 900, which"):
        import_labels(labels, groups={"grey": [1]}).compute()
    with pytest.raises(ValueError, match="groups has 'gray'; expected some of csf, grey"):
        import_labels(labels, groups={"gray": [1]})
    with pytest.raises(ValueError, match="holds 1 more than once"):
        import_labels(labels, groups={"grey": [1], "white": [1]})
    with pytest.raises(ValueError, match="no label number"):
        import_labels(labels, groups={"grey": []})
    with pytest.raises(ValueError, match="labels is float64, expected integers"):
        import_labels(labels.astype(float))
