# %% [markdown]
# # From a slide to a cluster
# The slides threshold, label and measure one picture in memory. The same recipe on two processes of a Dask cluster, on scans as a whole or
# block by block when they are larger than a worker: the numbers are the same, to the bit.

# %%

import tempfile
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import cohort
from cohort.api import Options
from cohort.io.exports.nifti import write_nifti
from cohort.phantom import Heart

here = tempfile.TemporaryDirectory()
folder = Path(here.name)
(folder / "scans").mkdir()
for number in range(4):
    picture = (
        Heart(radius_mm=20 + 2 * number, n_frames=2, shape=(9, 70, 80), seed=number)
        .cine()
        .isel(time=1, drop=True)
    )
    write_nifti(picture, folder / f"scans/{number:03d}.nii.gz")
(folder / "recipes").mkdir()
(folder / "recipes/pools.yaml").write_text(
    """\
recipe: pools
steps:
  smooth: {call: gaussian, image: image, sigma_mm: 2}
  level:  {call: otsu, image: smooth}
  blood:  {call: threshold, image: smooth, above: level}
  pools:  {call: label, mask: blood}
  big:    {call: largest_component, mask: blood}
measure:
  n_pools: {call: count, labels: pools}
  big_ml:  {call: volume_ml, mask: big}
  mean:    {call: mean_in, image: image, mask: big}
keep: [pools]
"""
)
catalog = folder / "catalog.yaml"
catalog.write_text(
    """\
cohort: pictures
sources: [scans]
store: store
ids: keep
subject: '(?P<subject>\\d{3})'
recipes: [pools]
"""
)
cohort.ingest(catalog, options=Options(workers=0))

# %% [markdown]
# What would run, and why, before anything does:

# %%
from cohort.api import plan

plan(catalog)[0]

# %% [markdown]
# ## On a cluster
# Any `distributed.Client`: two processes of this machine here, SLURM or Kubernetes by `--on FILE.yaml` from the command line.

# %%
with (
    LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster,
    Client(cluster) as client,
):
    result = cohort.run(catalog, client=client)
result.manifest["counts"]

# %%
study = cohort.open(catalog)
whole = study.measurements("pools")
whole[["subject", "n_pools", "big_ml", "mean"]]

# %% [markdown]
# ## Block by block
# Into another store, in blocks of a scan: labels that cross blocks get the same numbers, sums the same bits.

# %%
blocks = Options(workers=0, grain="block", store=str(folder / "blocks"))
cohort.ingest(catalog, options=blocks)
cohort.run(catalog, options=blocks)
other = cohort.open(folder / "blocks")
columns = ["n_pools", "big_ml", "mean"]
assert np.array_equal(other.measurements("pools")[columns], whole[columns])
scan_id = study.scan_id("002")
assert np.array_equal(*(s.store.open_derivative("pools", scan_id)["pools"] for s in (study, other)))

# %% [markdown]
# ## What this adds to the slides
# Stale is what changed in content. Called again, nothing runs; one scan more, and one scan runs.

# %%
again = cohort.update(catalog, options=Options(workers=0))
assert again.manifest["processed"] == 0
picture = Heart(radius_mm=30, n_frames=2, shape=(9, 70, 80), seed=9).cine().isel(time=1, drop=True)
write_nifti(picture, folder / "scans/004.nii.gz")
more = cohort.update(catalog, options=Options(workers=0))
assert more.manifest["processed"] == 1
more.manifest["counts"]

# %%
here.cleanup()
