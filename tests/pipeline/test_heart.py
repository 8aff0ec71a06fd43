"""The recipe of the left ventricle on a synthetic heart, in both grains."""

from pathlib import Path

import numpy as np
import pytest
from hearts import Heart

from cohort.pipeline.execute import execute
from cohort.pipeline.recipe import read_recipe

RECIPE = Path(__file__).resolve().parents[2] / "catalogs/recipes/lv-ejection-fraction.yaml"
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
    assert numbers["heart_cardiac_output_l_min"] is None
    assert (numbers["implausible"], numbers["border_voxels"]) == (0, 0)
    assert numbers["largest_area_jump"] < 0.3
    assert whole.units["edv_ml"] == whole.units["heart_edv_ml"] == "ml"
    assert set(recipe.columns()) >= {
        *("edv_ml", "esv_ml", "stroke_volume_ml", "ejection_fraction"),
        *("end_diastole_frame", "end_systole_frame"),
    }
