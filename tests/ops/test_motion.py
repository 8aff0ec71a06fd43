import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import chunkings, nothing_computed, scan

from cohort.grid import GridError
from cohort.ops import motion

TUTORIAL = {"z": 10.0, "y": 1.367188, "x": 1.367188}
"""Spacing of the tutorial's heart in mm: a voxel of 18.692030273440004 mm3."""

VOLUMES = st.lists(st.integers(1, 400), min_size=2, max_size=30)


def beating(counts):
    """A mask in which as many voxels are set in each frame as `counts` says."""
    frames = np.arange(2 * 60 * 60) < np.reshape(counts, (-1, 1))
    coords = {
        d: ((d,), mm * np.arange(n), {"units": "mm", "spacing_mm": mm})
        for (d, mm), n in zip(TUTORIAL.items(), (2, 60, 60), strict=True)
    }
    return xr.DataArray(
        frames.reshape(-1, 2, 60, 60), dims=("time", *TUTORIAL), coords=coords
    ).assign_coords(time=0.05 * np.arange(len(counts)))


def curve(*ml):
    return xr.DataArray(np.array(ml, float), dims="time", attrs={"units": "ml"})


# Volumes over time.


def test_the_volume_of_the_tutorials_ventricle():
    found = motion.volume_curve_ml(beating([6459, 0]))
    assert found.attrs == {"units": "ml"}
    assert found.values * 1000 == pytest.approx([120731.82353614898, 0], rel=1e-15)


@settings(max_examples=8)
@given(data=st.data(), seed=st.integers(0, 99))
def test_a_curve_counts_what_is_labelled_in_every_frame_for_every_chunking(data, seed):
    values = np.random.default_rng(seed).integers(0, 4, (5, 2, 3, 4)).astype(np.int32)
    labels = scan(values, lead=("time",)).assign_coords(time=[0.0, 0.1, 0.15, 0.3, 0.5])
    sizes = data.draw(chunkings(values.shape))
    lazy = labels.chunk(dict(zip(labels.dims, sizes, strict=True)))
    voxel = 3.0 * 1.0 * 1.5 / 1000
    for label, there in ((None, values > 0), (2, values == 2), (9, values == 9)):
        expected = there.sum((1, 2, 3)) * voxel
        with nothing_computed():
            found = motion.volume_curve_ml(lazy, label=label)
        np.testing.assert_allclose(found, expected, rtol=1e-15)
        np.testing.assert_array_equal(found, motion.volume_curve_ml(labels, label=label))
        np.testing.assert_array_equal(found.time, labels.time)
    np.testing.assert_allclose(
        motion.volume_curve_ml(labels > 0), (values > 0).sum((1, 2, 3)) * voxel, rtol=1e-15
    )


def test_a_curve_needs_frames_labels_and_a_spacing():
    labels = scan(np.ones((2, 3, 4, 5), np.int32), lead=("time",))
    with pytest.raises(ValueError, match=r"expected \('time', 'z', 'y', 'x'\): a curve needs"):
        motion.volume_curve_ml(labels[0])
    with pytest.raises(ValueError, match="labels is float64, expected integers"):
        motion.volume_curve_ml(labels.astype(float))
    with pytest.raises(ValueError, match="label is 2, but labels are a mask"):
        motion.volume_curve_ml(labels > 0, label=2)
    with pytest.raises(GridError, match="'z' has no coordinate in mm"):
        motion.volume_curve_ml(labels.drop_vars("z"))


# Ejection fraction.


def test_the_ejection_fraction_of_the_tutorial():
    counts = [500] * 20
    counts[18], counts[5] = 584, 584 - 187
    found = motion.ejection_fraction(motion.volume_curve_ml(beating(counts)))
    assert float(found.ejection_fraction) == pytest.approx(0.3202054794520548, rel=1e-15)
    assert (int(found.end_diastole_frame), int(found.end_systole_frame)) == (18, 5)
    voxel = 18.692030273440004 / 1000
    assert float(found.edv_ml) == pytest.approx(584 * voxel, rel=1e-15)
    assert float(found.esv_ml) == pytest.approx(397 * voxel, rel=1e-15)
    assert float(found.stroke_volume_ml) == pytest.approx(187 * voxel, rel=1e-14)
    assert np.isnan(found.cardiac_output_l_min)
    assert {n: v.attrs["units"] for n, v in found.items()} == {
        **dict.fromkeys(["edv_ml", "esv_ml", "stroke_volume_ml"], "ml"),
        **dict.fromkeys(["ejection_fraction", "implausible"], "1"),
        **dict.fromkeys(["end_diastole_frame", "end_systole_frame"], "1"),
        "cardiac_output_l_min": "l/min",
    }


@given(ml=VOLUMES, smooth=st.sampled_from([1, 3, 5]), shift=st.integers(0, 40))
def test_frames_are_of_the_smoothed_curve_and_roll_with_the_phases(ml, smooth, shift):
    smooth = min(smooth, len(ml) - 1 + len(ml) % 2)
    n, reach = len(ml), smooth // 2
    total = [sum(ml[(i + k) % n] for k in range(-reach, reach + 1)) for i in range(n)]
    largest, smallest = int(np.argmax(total)), int(np.argmin(total))
    if ml[largest] < ml[smallest] or ml[largest] == 0:
        with pytest.raises(ValueError, match="the curve jumps; look at the mask"):
            motion.ejection_fraction(curve(*ml), smooth=smooth)
        return
    found = motion.ejection_fraction(curve(*ml), smooth=smooth)
    assert (found.end_diastole_frame, found.end_systole_frame) == (largest, smallest)
    assert (found.edv_ml, found.esv_ml) == (ml[largest], ml[smallest])
    if total.count(max(total)) == total.count(min(total)) == 1:
        rolled = motion.ejection_fraction(curve(*np.roll(ml, shift)), smooth=smooth)
        frames = ["end_diastole_frame", "end_systole_frame"]
        xr.testing.assert_identical(rolled.drop_vars(frames), found.drop_vars(frames))
        assert [(int(rolled[f]) - shift - int(found[f])) % n for f in frames] == [0, 0]


def test_a_frame_that_was_lost_at_end_diastole_is_no_ejection_fraction():
    for ml in ([10, 0, 10, 1, 1, 1, 1], [10, 3, 10, 4, 4, 4, 4]):
        with pytest.raises(ValueError, match="in frame 1, where its mean over 3 frames is largest"):
            motion.ejection_fraction(curve(*ml), smooth=3)


def test_cardiac_output_is_stroke_volume_times_heart_rate():
    found = motion.ejection_fraction(curve(150, 80), heart_rate_bpm=60)
    assert float(found.cardiac_output_l_min) == pytest.approx(4.2)


def timed(n, step=0.05, **attrs):
    """Frames `step` seconds apart."""
    return xr.DataArray(
        np.zeros(n), coords={"time": ("time", 0.02 + step * np.arange(n), attrs)}, dims="time"
    )


@given(n=st.integers(3, 60), bpm=st.floats(21, 299))
def test_the_heart_rate_is_that_of_a_beat_which_the_frames_cover(n, bpm):
    found = motion.heart_rate_bpm(timed(n, 60 / bpm / n, units="s", basis="TriggerTime"))
    assert float(found) == pytest.approx(bpm)
    assert found.attrs == {"units": "1/min"}


@pytest.mark.parametrize(
    "series",
    [
        timed(20, units="frame", basis="InstanceNumber"),
        timed(20, units="s", basis="AcquisitionTime"),
        timed(20),
        timed(20, units="s")[:2],
        timed(20, 5.0, units="s"),
        timed(20, 0.0, units="s"),
        timed(20, units="s").drop_vars("time"),
    ],
)
def test_a_heart_rate_that_nobody_told_is_not_a_number(series):
    assert np.isnan(motion.heart_rate_bpm(series))


def test_a_heart_rate_needs_frames():
    with pytest.raises(ValueError, match=r"curve has dims \('x',\), expected 'time' among them"):
        motion.heart_rate_bpm(timed(5).rename(time="x"))


@pytest.mark.parametrize(
    ("ml", "implausible"), [((100, 91), 1), ((100, 89), 0), ((100, 16), 0), ((100, 14), 1)]
)
def test_an_ejection_fraction_that_nobody_believes_is_marked(ml, implausible):
    assert motion.ejection_fraction(curve(*ml)).implausible == implausible


def test_what_is_no_curve_of_a_beat_is_refused():
    whole = curve(3, 2, 1)
    with pytest.raises(ValueError, match=r"curve is \('frame',\), expected .* dims \('time',\)"):
        motion.ejection_fraction(whole.rename(time="frame"))
    with pytest.raises(ValueError, match="curve is list, expected a DataArray"):
        motion.ejection_fraction([3, 2, 1])
    with pytest.raises(ValueError, match="the curve has 1 frame, expected at least 2"):
        motion.ejection_fraction(whole[:1])
    with pytest.raises(ValueError, match=r"volume in frame 1 is nan ml, expected 0 or more"):
        motion.ejection_fraction(curve(3, np.nan, 1))
    with pytest.raises(ValueError, match=r"volume in frame 2 is -1.0 ml"):
        motion.ejection_fraction(curve(3, 2, -1))
    with pytest.raises(ValueError, match="0 ml in all 3 frames: there is no ventricle"):
        motion.ejection_fraction(curve(0, 0, 0))
    for smooth in (0, 2, 5, True):
        with pytest.raises(ValueError, match=f"smooth is {smooth}, expected an odd number .* to 3"):
            motion.ejection_fraction(whole, smooth=smooth)
    with pytest.raises(ValueError, match="heart_rate_bpm is 0, expected beats a minute"):
        motion.ejection_fraction(whole, heart_rate_bpm=0)


# Checks.


def test_checks_count_slices_borders_and_jumps():
    values = np.zeros((4, 5, 6, 7), bool)
    values[:, 2:, 2:4, 2:5] = True
    values[1, 3, 4, 2:5] = True
    found = motion.ventricle_checks(scan(values, lead=("time",)))
    assert {n: float(v) for n, v in found.items()} == {
        "n_slices": 3, "end_slices": 1, "border_voxels": 0, "touches_border": 0,
        "largest_area_jump": pytest.approx(3 / 9), "area_jumps": 1,
    }  # fmt: skip
    values[2, 3, 0, 1:3] = values[2, 3, 3, 6] = True
    found = motion.ventricle_checks(scan(values, lead=("time",)))
    assert (found.border_voxels, found.touches_border) == (3, 1)
    values[...] = False
    values[:, 2:, 1:4, 1:6] = True
    values[1, 3, 1, 1:5] = False  # 4 of 15 go and come back
    found = motion.ventricle_checks(scan(values, lead=("time",)))
    assert (found.largest_area_jump, found.area_jumps) == (4 / 15, 0)


def test_checks_look_along_the_slices_whatever_dim_that_is():
    values = np.zeros((3, 6, 7, 4), bool)
    values[:, 2:4, 2:5, 1:] = True
    mask = scan(values, lead=("time",))
    mask = mask.assign_coords(x=mask.x.copy(data=9.0 * np.arange(4)).drop_attrs())
    found = motion.ventricle_checks(mask)
    assert (found.n_slices, found.end_slices, found.border_voxels) == (3, 1, 0)
    with pytest.raises(ValueError, match=r"mask has dims .* expected \('time', 'z', 'y', 'x'\)"):
        motion.ventricle_checks(mask[0])


def test_checks_of_nothing_are_not_a_number():
    found = motion.ventricle_checks(scan(np.zeros((3, 2, 4, 5), bool), lead=("time",)))
    assert (found.n_slices, found.area_jumps, found.touches_border) == (0, 0, 0)
    assert np.isnan(found.largest_area_jump)
