"""Tissues from two contrasts: the recipe on files with a known truth, in both grains, and beside scikit-learn."""

import nibabel as nib
import numpy as np
import pytest
import yaml
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import StandardScaler

from cohort import api
from cohort.io.catalog import CatalogError, read_catalog
from cohort.io.store import Store

SHAPE, SPACING = (70, 66, 40), (1.5, 1.0, 2.0)
"""Along x, y and z, as in the files; more than one block along each."""
ML = float(np.prod(SPACING)) / 1000
MEANS = np.array([[220, 90.0], [480, 60.0], [500, 20.0]])
"""Of both contrasts: the first alone does not tell the second tissue from the third."""
COLUMNS = ["low_ml", "middle_ml", "high_ml"]


def files(folder, seed):
    """A T1 of integers, a second contrast of floats, each zero in places of its own; the tissue of each voxel."""
    random = np.random.default_rng(seed)
    x, y, z = (np.linspace(-1, 1, n) for n in SHAPE)
    tissue = np.digitize(x[:, None, None] + 0.4 * np.sin(5 * y)[:, None] + 0.3 * z, [-0.4, 0.3])
    noise = random.normal(size=(*SHAPE, 2)) @ np.array([[15.0, 2], [0, 5]])
    first, second = np.moveaxis(MEANS[tissue] + noise, -1, 0)
    first[:9], second[:, :, -7:] = 0, 0
    folder.mkdir(parents=True)
    affine = np.diag([*SPACING, 1.0])
    data = {"t1": np.rint(first).astype(np.int16), "t1_b0": second.clip(0).astype(np.float32)}
    for name, values in data.items():
        nib.save(nib.Nifti1Image(values, affine), folder / f"{name}.nii.gz")
    support = (data["t1"] > 0) & (data["t1_b0"] > 0)
    return *data.values(), support, np.where(support, 1 + tissue, 0)


def catalog_of(folder, **attach):
    said = {
        "cohort": "contrasts",
        "sources": ["scans"],
        "store": "store",
        "ids": "keep",
        "subject": r"(?P<subject>s\d+)",
        "attach": attach or {"second": {"image": "{folder}/{stem}_b0.nii.gz"}},
        "recipes": ["tissue-2d"],
    }
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(said))
    return path


def labels_of(store, scan_id):
    """Kept labels as in the files, (x, y, z)."""
    return store.open_derivative("tissue-2d", scan_id)["tissue"].values.transpose(2, 1, 0)


@pytest.fixture(scope="module")
def cohort_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contrasts")
    made = {f"s{seed}": files(folder / f"scans/s{seed}", seed) for seed in (1, 2)}
    catalog = catalog_of(folder)
    api.update(catalog, options=api.Options(workers=0))
    return catalog, made


def test_tissues_are_those_of_the_truth_and_of_scikit_learn(cohort_of_two):
    catalog, made = cohort_of_two
    cohort, store = api.open(catalog), Store(catalog.parent / "store")
    table = cohort.measurements("tissue-2d").set_index("subject")
    assert list(table.state) == ["done", "done"]
    for subject, (first, second, support, truth) in made.items():
        row, found = table.loc[subject], labels_of(store, table.scan_id[subject])
        assert row.n_common == support.sum()
        assert row[COLUMNS].sum() == pytest.approx(row.common_ml, rel=1e-6)
        np.testing.assert_allclose(
            row[COLUMNS].astype(float), np.bincount(truth[support])[1:] * ML, rtol=0.01
        )
        assert not found[~support].any()
        assert (found[support] == truth[support]).mean() > 0.995

        values = StandardScaler().fit_transform(np.stack([first[support], second[support]], 1))
        oracle = GaussianMixture(3, random_state=12345).fit(values)
        order = np.argsort(oracle.means_[:, 0])
        shares = oracle.predict_proba(values)[:, order]
        np.testing.assert_allclose(row[COLUMNS].astype(float), shares.sum(0) * ML, rtol=2e-3)
        assert (found[support] == 1 + shares.argmax(1)).mean() > 0.999


def test_the_components_are_a_table_with_units(cohort_of_two):
    catalog, _ = cohort_of_two
    table = api.open(catalog).measurements("tissue-2d.classes")
    assert sorted(table.label) == [1, 1, 2, 2, 3, 3]
    for _, rows in table.groupby("scan_id"):
        ordered = rows.sort_values("label")
        assert ordered.weight.sum() == pytest.approx(1)
        np.testing.assert_allclose(ordered[["mean_image", "mean_second"]], MEANS, rtol=0.02)
        np.testing.assert_allclose(ordered.weight, ordered.volume_ml / ordered.volume_ml.sum(), rtol=1e-2)  # fmt: skip


def test_block_by_block_the_records_are_the_same(cohort_of_two):
    catalog, _ = cohort_of_two
    store = Store(catalog.parent / "store")
    before = {s: store.derivative("tissue-2d", s) for s in store.scan_ids()}
    for scan_id in before:
        store.files.remove(f"derivatives/tissue-2d/{scan_id}.json")
    api.run(catalog, options=api.Options(workers=0, grain="block"))
    assert {s: store.derivative("tissue-2d", s) for s in before} == before


def test_what_an_attached_file_is_has_to_be_said(tmp_path):
    files(tmp_path / "scans/s1", 1)
    path = catalog_of(tmp_path, second="{folder}/{stem}_b0.nii.gz")
    api.update(path, options=api.Options(workers=0))
    store = Store(tmp_path / "store")
    assert [q["code"] for q in store.quarantine()] == ["NII-LABELS"]
    assert read_catalog(path).digest != read_catalog(catalog_of(tmp_path)).digest
    api.update(path, options=api.Options(workers=0))
    assert store.quarantine() == []
    assert list(api.open(path).measurements("tissue-2d").state) == ["done"]


def test_a_mistake_in_what_is_attached_is_named(tmp_path):
    path = catalog_of(tmp_path, second={"picture": "{stem}.nii"})
    with pytest.raises(CatalogError, match=r"attach.second: expected a template, or .image: temp"):
        read_catalog(path)
    path = catalog_of(tmp_path, second={"image": "{stm}.nii"})
    with pytest.raises(CatalogError, match=r"attach.second: '\{stm\}.nii' uses \{stm\}"):
        read_catalog(path)
    path = catalog_of(tmp_path, labels={"image": "{stem}_a.nii"})
    with pytest.raises(CatalogError, match="attach: 'labels' names no image"):
        read_catalog(path)
