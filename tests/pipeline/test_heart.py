"""The recipe of the left ventricle on a synthetic heart, in both grains."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cohort.phantom.hearts import Heart
from cohort.pipeline.execute import execute
from cohort.pipeline.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[2] / "catalogs/recipes/lv-ejection-fraction.yaml"
FLAGS = ("implausible", "area_jumps", "touches_border")
HEART = Heart(ejection_fraction=0.45, n_frames=20, diastole=4, seed=3)


def test_the_recipe_finds_the_heart_to_the_same_bits_in_both_grains(tmp_path):
    recipe = read_recipe(RECIPE)
    scan = HEART.cine().to_dataset()
    names = [item.name for item in (*recipe.steps, *recipe.measure)]
    whole = execute(recipe, scan, scan_id="heart", stale=names)
    blocks = execute(recipe, scan, scan_id="heart", stale=names, scratch=tmp_path, block=64)
    assert blocks.numbers == whole.numbers
    assert blocks.units == whole.units
    np.testing.assert_array_equal(blocks.kept["ventricle"], whole.kept["ventricle"])
    numbers = whole.numbers
    assert numbers["ejection_fraction"] == pytest.approx(0.45, abs=0.02)
    assert [numbers[n] for n in FLAGS] == [0, 0, 0]
    assert numbers["largest_area_jump"] < 0.3
    # A beat of 0.9 s.
    assert numbers["heart_rate_bpm"] == pytest.approx(60 / 0.9)
    assert numbers["cardiac_output_l_min"] == pytest.approx(
        numbers["stroke_volume_ml"] * 60 / 0.9 / 1000
    )
    assert whole.units["cardiac_output_l_min"] == "l/min"
    assert whole.units["edv_ml"] == whole.units["heart_edv_ml"] == "ml"
    assert set(recipe.columns()) >= {
        *("edv_ml", "esv_ml", "stroke_volume_ml", "ejection_fraction"),
        *("end_diastole_frame", "end_systole_frame", "cardiac_output_l_min", *FLAGS),
    }


def measured(cine):
    """What the recipe says of a series."""
    recipe = read_recipe(RECIPE)
    names = [item.name for item in (*recipe.steps, *recipe.measure)]
    return execute(recipe, cine.to_dataset(), scan_id="heart", stale=names).numbers


SMALL = Heart(
    shape=(7, 70, 74), spacing=(10.0, 2.2, 2.0), length_mm=56.0, base_slice=6, n_frames=8, diastole=6
)  # fmt: skip


def test_without_times_in_seconds_there_is_no_cardiac_output():
    cine = SMALL.cine()
    found = measured(cine.assign_coords(time=("time", np.arange(8.0), {"units": "frame"})))
    assert (found["heart_rate_bpm"], found["cardiac_output_l_min"]) == (None, None)
    assert found["stroke_volume_ml"] > 0


def test_what_cannot_be_believed_is_flagged():
    cine = SMALL.cine()
    flags = dict.fromkeys(FLAGS, 0)
    assert {n: measured(cine)[n] for n in FLAGS} == flags
    # The plane ends within the ventricle.
    cut = measured(cine.isel(x=slice(None, 42)))
    assert (cut["touches_border"], cut["border_voxels"] > 0) == (1, True)
    # A frame in which half of the ventricle is dark.
    dark = cine.copy(deep=True)
    dark[1] = (dark[1] * (dark["x"] < 72)).astype(dark.dtype)
    assert measured(dark)["area_jumps"] == 1
    # One that hardly moves.
    weak = measured(replace(SMALL, ejection_fraction=0.08).cine())
    assert (weak["implausible"], weak["ejection_fraction"] < 0.1) == (1, True)
