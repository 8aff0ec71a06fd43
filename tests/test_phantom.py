import gzip
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pydicom
import pytest
import statsmodels.formula.api as smf
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from cohort import grid
from cohort.io import dicom, nifti
from cohort.io.catalog import read_catalog
from cohort.io.refusal import Refused
from cohort.phantom import (
    Tissue,
    anatomy,
    files,
    head,
    heads,
    model,
    planted_damage,
    subject,
    subjects,
    write_cohort,
)
from cohort.pipeline.execute import execute
from cohort.pipeline.recipe import read_recipe

SEEDS = st.integers(0, 2**32 - 1)
RECIPES = Path(__file__).resolve().parents[1] / "catalogs" / "recipes"


# The stated model


@given(seed=SEEDS, index=st.integers(0, 10_000))
def test_a_subject_depends_on_seed_and_index_alone(seed, index):
    person = subject(seed=seed, index=index)
    assert person == subject(seed=seed, index=index)
    low, high = (62, 90) if person.group == "patient" else (55, 83)
    assert low <= person.age_years <= high
    assert 1150 <= person.intracranial_ml <= 1900
    assert 0.5 < person.brain_ml / person.intracranial_ml < 0.95
    assert person.participant_id == f"phantom{index:03d}"


@given(seed=SEEDS)
def test_a_longer_table_begins_with_the_shorter_and_halves_are_patients(seed):
    table = subjects(12, seed=seed)
    pd.testing.assert_frame_equal(subjects(8, seed=seed), table.head(8))
    pairs = table["group"].to_numpy().reshape(-1, 2)
    assert (np.sort(pairs) == ["control", "patient"]).all()
    np.testing.assert_allclose(table["brain_ml"] + table["csf_ml"], table["intracranial_ml"])


def test_different_seeds_give_different_subjects():
    volumes = {subject(seed=seed, index=0).intracranial_ml for seed in range(200)}
    assert len(volumes) > 190  # only those at the limits of the range may agree


@pytest.mark.parametrize("seed", range(8))
def test_regression_on_the_truth_recovers_the_stated_effects(seed):
    table = subjects(200, seed=seed).assign(patient=lambda t: (t["group"] == "patient") * 1.0)
    fit = smf.ols("brain_ml ~ patient + age + intracranial_ml", table).fit()
    stated = {
        "patient": model.PATIENT_ML,
        "age": model.AGE_ML,
        "intracranial_ml": model.SKULL_ML,
    }
    for term, effect in stated.items():
        assert abs(fit.params[term] - effect) < 4.5 * fit.bse[term]
    assert fit.bse["patient"] < 4
    assert 15 < np.sqrt(fit.scale) < 21  # NOISE_ML, 200 times


def test_the_crude_difference_of_the_groups_holds_age_too():
    table = subjects(3000, seed=0)
    means = table.groupby("group")[["brain_ml", "age", "intracranial_ml"]].mean()
    patient, control = means.loc["patient"], means.loc["control"]
    assert patient["age"] - control["age"] == pytest.approx(7, abs=1)
    crude = patient["brain_ml"] - control["brain_ml"]
    other = model.SKULL_ML * (patient["intracranial_ml"] - control["intracranial_ml"])
    assert crude - other == pytest.approx(model.PATIENT_ML + 7 * model.AGE_ML, abs=4)


def test_seed_and_index_out_of_range_are_refused_with_their_values():
    with pytest.raises(ValueError, match="found seed -1, index"):
        subject(seed=-1, index=3)
    with pytest.raises(ValueError, match="index 4294967296"):
        subject(seed=0, index=1 << 32)


# Parts of a head


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    seed=st.integers(0, 100),
)
def test_finer_is_linear_interpolation_and_coarser_undoes_a_repeat(shape, seed):
    field = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    where = np.meshgrid(*[(np.arange(2 * n) - 0.5) / 2 for n in shape], indexing="ij")
    expected = ndi.map_coordinates(field, where, order=1, mode="nearest")
    np.testing.assert_allclose(heads._finer(field), expected, atol=1e-5)
    repeated = field.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(heads._coarser(repeated), field, rtol=1e-6)


def test_smooth_fields_have_unit_variance_and_no_steps():
    shape = (40, 36, 44)
    fields = np.array(
        [
            heads.smooth_field(np.random.default_rng(seed), shape, knots_mm=20.0)
            for seed in range(200)
        ]
    )
    assert fields.shape[1:] == shape
    np.testing.assert_allclose(fields.std(axis=0), 1, atol=0.25)
    assert fields.std() == pytest.approx(1, abs=0.03)
    assert max(np.abs(np.diff(fields, axis=axis)).max() for axis in (1, 2, 3)) < 1


@given(count=st.integers(1, 60), seed=st.integers(0, 50))
def test_the_highest_are_as_many_as_asked_for(count, seed):
    values = np.random.default_rng(seed).permutation(60).astype(np.float32)
    assert (values >= heads._highest(values, count)).sum() == count


@given(value=st.floats(-500, 500))
def test_decimals_fit_a_dicom_header_and_keep_a_nanometre(value):
    text = files._decimal(value)
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-9)


def test_a_missing_template_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cohort\[demo\]'"):
        anatomy.anatomy.__wrapped__()


# Whole heads


@pytest.fixture(scope="module")
def made():
    """Heads in every plane a DICOM and a NIfTI series come in; the last two are oblique."""
    return [head(seed=7, index=index) for index in (0, 1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.slow
def test_a_head_has_the_same_bits_whenever_it_is_made(made):
    again = head(seed=7, index=5)
    assert again.scan.identical(made[5].scan)
    assert again.labels.identical(made[5].labels)
    assert (again.truth, again.subject) == (made[5].truth, made[5].subject)
    assert not np.array_equal(head(seed=8, index=5).scan["image"], made[5].scan["image"])
    assert not np.array_equal(made[4].scan["image"], made[5].scan["image"])


@pytest.mark.slow
def test_noise_and_bias_change_the_image_alone(made):
    plain = made[5]
    noisy, biased = head(seed=7, index=5, noise=0.06), head(seed=7, index=5, bias=0.3)
    assert noisy.labels.identical(plain.labels)
    assert biased.labels.identical(plain.labels)
    air = (slice(None), slice(0, 6), slice(0, 6))
    means = [float(one.scan["image"][air].mean()) for one in (plain, noisy, biased)]
    assert means[1] / means[0] == pytest.approx(2, rel=0.05)
    assert means[2] == pytest.approx(means[0], rel=0.01)
    inside = plain.scan["image"].values > 10 * means[0]
    ratio = np.log(biased.scan["image"].values[inside] / plain.scan["image"].values[inside])
    assert ratio.std() == pytest.approx(0.3 - heads.BIAS, rel=0.4)


@pytest.mark.slow
def test_truth_is_the_count_of_the_labels_and_what_the_subject_asked_for(made):
    for one in made:
        count = {t: int((one.labels == t).sum()) for t in Tissue}
        voxel_ml = grid.voxel_volume_mm3(one.labels) / 1000
        assert voxel_ml == pytest.approx(0.001)
        brain = count[Tissue.GREY] + count[Tissue.WHITE]
        assert one.truth["brain_ml"] == pytest.approx(brain * voxel_ml)
        assert one.truth["csf_ml"] == pytest.approx(count[Tissue.CSF] * voxel_ml)
        assert one.truth["intracranial_ml"] == pytest.approx((brain + count[Tissue.CSF]) * voxel_ml)
        for name in ("intracranial_ml", "brain_ml"):
            assert one.truth[name] == pytest.approx(one.subject[name], abs=0.01)


@pytest.mark.slow
def test_labels_lie_where_the_image_shows_them(made):
    for one in made:
        image, labels = one.scan["image"], one.labels
        coarse_of_fine = np.linalg.inv(grid.affine_of(image)) @ grid.affine_of(labels)
        index = np.argwhere(labels.to_numpy() > 0)[::50]
        where = coarse_of_fine @ np.c_[index[:, ::-1], np.ones(len(index))].T
        nearest = np.rint(where[2::-1]).astype(int)
        tissue = labels.to_numpy()[tuple(index.T)]
        shown = image.to_numpy()[tuple(nearest)]
        order = [
            np.median(shown[tissue == t])
            for t in (Tissue.BONE, Tissue.CSF, Tissue.GREY, Tissue.WHITE)
        ]
        assert order == sorted(order)
        assert order[1] > 2 * order[0]
        assert order[3] > 1.3 * order[2]


@pytest.mark.slow
def test_the_capsule_on_the_right_tells_a_mirrored_head(made):
    for one in made:
        image, affine = one.scan["image"].to_numpy(), grid.affine_of(one.scan["image"])
        first = np.linalg.solve(affine, grid.affine_of(one.labels)[:, 3])[2::-1]
        inside = np.zeros(image.shape, bool)
        near = tuple(
            slice(a, a + n // 2)
            for a, n in zip(np.rint(first + 0.25).astype(int), one.labels.shape, strict=True)
        )
        inside[near] = heads._coarser((one.labels.to_numpy() > 0).astype(float)) > 0
        # Scalp and its fat are thin; above the eyes nothing else outside the skull is bright and thick.
        depth = ndi.distance_transform_edt(
            ~inside & (image > 0.6 * np.quantile(image, 0.98)), sampling=2
        )
        world = np.einsum("ij,jzyx->izyx", affine[:3, :3], np.indices(image.shape)[::-1])
        world += affine[:3, 3, None, None, None]
        depth[world[2] < 15] = 0
        x, y, _ = world[(slice(None), *np.unravel_index(depth.argmax(), depth.shape))]
        assert depth.max() > 4
        assert x > 20
        assert y > 20


@pytest.mark.slow
def test_heads_are_whole_and_axes_closest_to_ras(made):
    obliqueness = []
    for one in made:
        affine = grid.affine_of(one.scan["image"])
        assert grid.axis_codes(affine) == ("R", "A", "S")
        np.testing.assert_allclose(grid.steps_mm(affine), 2)
        obliqueness.append(np.abs(affine[:3, :3] - np.diag([2, 2, 2])).max())
        image = one.scan["image"].to_numpy()
        assert image.dtype == np.uint16
        assert image.max() < 4096
        # Air all around but below, where the neck leaves the box.
        level = np.quantile(image, 0.98)
        for face in (image[-1], image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]):
            assert (face > 0.3 * level).mean() < 0.02
    assert max(obliqueness[:6]) == 0
    assert min(obliqueness[6:]) > 0.01


# Files


@pytest.mark.slow
@pytest.mark.parametrize("which", range(0, 8, 2))
def test_a_dicom_series_puts_every_pixel_where_the_head_has_it(made, which, tmp_path):
    one = made[which]
    files.write_dicom(one, tmp_path / "s", axes=files.DICOM_AXES[which // 2], seed=7)
    paths = list((tmp_path / "s").iterdir())
    image = one.scan["image"].to_numpy()
    to_index = np.linalg.inv(grid.affine_of(one.scan["image"]))
    seen = np.zeros(image.shape, bool)
    for path in paths:
        slice_ = pydicom.dcmread(path)
        assert slice_.PatientName == files.PATIENT_NAME
        assert slice_.PatientID == one.subject["participant_id"]
        pixels = slice_.pixel_array
        row, column = np.reshape([float(v) for v in slice_.ImageOrientationPatient], (2, 3))
        rows, columns = np.indices(pixels.shape).reshape(2, -1)
        lps = (
            np.array(slice_.ImagePositionPatient, float)[:, None]
            + row[:, None] * columns * slice_.PixelSpacing[1]
            + column[:, None] * rows * slice_.PixelSpacing[0]
        )
        ras = np.r_[-lps[:2], lps[2:], np.ones((1, lps.shape[1]))]
        index = (to_index @ ras)[2::-1]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-5)
        at = tuple(np.rint(index).astype(int))
        np.testing.assert_array_equal(image[at], pixels.ravel())
        seen[at] = True
    assert seen.all()
    numbers = [int(pydicom.dcmread(p).InstanceNumber) for p in sorted(paths)]
    assert numbers != sorted(numbers)  # names do not give the order away
    read = dicom.read_series(paths)
    np.testing.assert_array_equal(read["image"], one.scan["image"])
    np.testing.assert_allclose(read["affine"], one.scan["affine"], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("which", range(1, 8, 2))
def test_a_nifti_file_holds_the_head_on_other_axes(made, which, tmp_path):
    one, path = made[which], tmp_path / "s" / "head.nii.gz"
    axes = files.NIFTI_AXES[which // 2]
    files.write_nifti(one, path, axes=axes)
    stored = nib.load(path)
    assert nib.aff2axcodes(stored.affine) == tuple(axes)
    canonical = nib.as_closest_canonical(stored)
    np.testing.assert_array_equal(np.asarray(canonical.dataobj).T, one.scan["image"])
    np.testing.assert_allclose(canonical.affine, one.scan["affine"], atol=1e-4)
    np.testing.assert_array_equal(nifti.read_image(path)["image"], one.scan["image"])


def read(folder):
    paths = sorted(folder.iterdir())
    return nifti.read_image(paths[0]) if len(paths) == 1 else dicom.read_series(paths)


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.mark.slow
def test_a_cohort_holds_good_scans_and_exactly_the_planted_damage(tmp_path):
    catalog = read_catalog(write_cohort(tmp_path / "demo", scans=2, seed=3))
    expected = json.loads((catalog.folder / "expected.json").read_text())
    assert expected == planted_damage(scans=2)
    assert len(expected) == 3
    people = pd.read_csv(catalog.folder / "participants.csv")
    truth = pd.read_csv(catalog.folder / "truth.csv").set_index("participant_id")
    assert list(people) == ["participant_id", "age", "sex", "group"]
    refused = {}
    for person in people["participant_id"]:
        try:
            scan = read(catalog.source_paths()[0] / person)
        except Refused as error:
            refused[person] = error.code
            continue
        one = head(seed=3, index=int(person.removeprefix("phantom")))
        np.testing.assert_array_equal(scan["image"], one.scan["image"])
        assert truth.loc[person].to_dict() == pytest.approx(one.truth)
    assert refused == expected
    assert set(truth.index) == set(people["participant_id"]) - set(expected)
    model_ = catalog.models["brain-by-group"]
    assert model_.truth["patient"] == model.PATIENT_ML
    assert read_recipe(catalog.recipe_path("head-volumes")).name == "head-volumes"
    packaged = (RECIPES / "head-volumes.yaml").read_bytes()
    assert catalog.recipe_path("head-volumes").read_bytes() == packaged


@pytest.mark.slow
def test_a_cohort_is_the_same_to_the_byte_and_never_written_over(tmp_path):
    one = write_cohort(tmp_path / "one", scans=1, seed=5)
    before = {p: p.stat().st_mtime_ns for p in one.parent.rglob("*")}
    assert write_cohort(tmp_path / "one", scans=1, seed=5) == one
    assert {p: p.stat().st_mtime_ns for p in one.parent.rglob("*")} == before
    with pytest.raises(FileExistsError, match="not this cohort of 1 scans, seed 6"):
        write_cohort(tmp_path / "one", scans=1, seed=6)
    (tmp_path / "two" / ".scans.partial").mkdir(parents=True)  # what a killed call leaves
    (tmp_path / "two" / ".scans.partial" / "half").touch()
    two = write_cohort(tmp_path / "two", scans=1, seed=5, map=lambda f, jobs: [f(j) for j in jobs])
    assert contents(two.parent) == contents(one.parent)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "precious.dcm").write_text("mine")
    with pytest.raises(FileExistsError, match="already holds scans"):
        write_cohort(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["scans"]
    with pytest.raises(ValueError, match="a cohort of 0 scans"):
        write_cohort(tmp_path / "empty", scans=0)
    assert not (tmp_path / "empty").exists()


@pytest.mark.slow
def test_the_truncated_file_lacks_its_end(made, tmp_path):
    whole, cut = tmp_path / "a" / "x.nii.gz", tmp_path / "b" / "x.nii.gz"
    files.write_nifti(made[1], whole, axes="RAS")
    files.write_nifti(made[1], cut, axes="RAS", damage="truncated file")
    assert whole.read_bytes().startswith(cut.read_bytes())
    with pytest.raises(EOFError):
        gzip.decompress(cut.read_bytes())


# Measuring them


@pytest.mark.slow
def test_the_recipe_measures_every_head_within_five_percent(made):
    recipe = read_recipe(RECIPES / "head-volumes.yaml")
    names = [*recipe.columns(), *recipe.keep]
    for one in [*made, *(head(seed=seed, index=seed) for seed in range(90, 96))]:
        found = execute(recipe, one.scan, scan_id="head", stale=names)
        for name in ("intracranial_ml", "brain_ml"):
            assert found.numbers[name] == pytest.approx(one.truth[name], rel=0.05)
        assert found.numbers["csf_ml"] == pytest.approx(
            found.numbers["intracranial_ml"] - found.numbers["brain_ml"]
        )
        assert len({found.units[name] for name in recipe.columns()}) == 1
        assert set(found.kept) == {"intracranial", "brain"}
        assert not (found.kept["brain"] & ~found.kept["intracranial"]).any()
