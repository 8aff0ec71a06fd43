# %% [markdown]
# # Ask a cohort: xarray for voxels, SQL for numbers
# The third tutorial opens two NIfTI images, looks at their affines, draws joint histograms and fits a Gaussian mixture to the voxels of one
# brain. Here the same for a small cohort, and questions to its tables.

# %%
# ruff: noqa: B018 - what stands last in a cell is shown
# %matplotlib inline
import tempfile
from pathlib import Path

import cohort
from cohort.api import Options
from cohort.io.exports.nifti import write_nifti
from cohort.phantom import head, subjects
from cohort.reporting import figures

here = tempfile.TemporaryDirectory()
folder = Path(here.name)
(folder / "scans").mkdir()
for index in range(2):
    scan = head(seed=2, index=index).scan
    write_nifti(
        scan["image"][20:100:2, 10:110:2, 8:88:2], folder / f"scans/phantom{index:03d}.nii.gz"
    )
subjects(2, seed=2).to_csv(folder / "people.csv", index=False)
(folder / "recipes").mkdir()
(folder / "recipes/bright.yaml").write_text(
    """\
recipe: bright
steps:
  level:  {call: otsu, image: image}
  bright: {call: threshold, image: image, above: level}
measure:
  bright_ml: {call: volume_ml, mask: bright}
  mean:      {call: mean_in, image: image, mask: bright}
keep: [bright]
"""
)
(folder / "catalog.yaml").write_text(
    """\
cohort: asked
sources: [scans]
store: store
ids: keep
subject: '(?P<subject>phantom\\d+)'
participants: {table: people.csv, id: participant_id, units: {age: years}}
recipes: [bright]
"""
)
cohort.ingest(folder / "catalog.yaml", options=Options(workers=0))
cohort.run(folder / "catalog.yaml", options=Options(workers=0))
study = cohort.open(folder / "catalog.yaml")
study

# %% [markdown]
# ## Voxels: xarray
# The affine of the file, to the bit; nothing is read until it is needed.

# %%
scan = study.scan("phantom000")
print(scan["affine"].values)
t1 = scan["image"]
gradient = cohort.filters.gradient_magnitude(t1)
study.show("phantom000", mask="bright/bright")

# %% [markdown]
# Joint histogram of two contrasts on their common support, then a mixture of three Gaussians over the voxels within a mask. Components are
# ordered by their means, and the seed is stated, so "component 1" means the same in every run.

# %%
inside = study.store.open_derivative("bright", scan_id := study.scan_id("phantom000"))["bright"]
figures.joint_histogram(t1, gradient, bins=40, mask=inside, names=("T1", "gradient"))

# %%
mixture = cohort.tissue.gmm(t1, mask=inside, n_components=3, seed=0)
classes = cohort.tissue.classify(t1, mixture, mask=inside)
mixture

# %% [markdown]
# ## Numbers: SQL
# Tables as they are, `measurements` in long form with units, and `wide` with covariates.

# %%
study.sql(
    "SELECT recipe, quantity, count(*) AS scans, avg(value) AS mean, unit FROM measurements GROUP BY ALL"
)

# %%
answer = study.sql(
    'SELECT "group", age, bright_ml FROM wide WHERE age > 50 ORDER BY bright_ml DESC'
)
assert len(answer) == 2
answer

# %% [markdown]
# ## What this adds to the tutorial
# Every number says what it was made of, and a cohort opens elsewhere, too: NIfTI, OME-Zarr, TSV, BIDS and intake by `cohort export`.

# %%
study.explain(scan_id, "bright_ml")

# %%
tree = study.tree()
assert len(tree.children) == 2
here.cleanup()
