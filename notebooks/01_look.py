# %% [markdown]
# # Look before you believe
# The tutorial's first chapter: read a DICOM series, look at its metadata, stack slices, show planes with the right aspect, draw a
# histogram. The scans are made here (heads bent from a template), so the truth is known.

# %%
# ruff: noqa: B018 - what stands last in a cell is shown
# %matplotlib inline
import tempfile
from pathlib import Path

import numpy as np

import cohort
from cohort.api import Options
from cohort.phantom import write_cohort
from cohort.reporting import figures

here = tempfile.TemporaryDirectory()
catalog = write_cohort(
    Path(here.name), scans=1
)  # one good series, and three that were damaged on purpose
in_process = Options(workers=0)
result = cohort.ingest(catalog, options=in_process)
study = cohort.open(catalog)
study

# %% [markdown]
# Headers of thousands of files, typed and with units, without a name or a date:

# %%
study.scans[["scan_id", "kind", "n_files", "shape_z", "spacing_z_mm", "axcodes", "dtype"]]

# %% [markdown]
# Slices were ordered by position, never by file name. Opening reads metadata only; a plane reads the chunks it crosses.

# %%
image = study.scan("phantom000")["image"]
field_of_view = {d: float(image[d].attrs["spacing_mm"]) * image.sizes[d] for d in image.dims}
print(
    field_of_view,
    "mm;",
    image.nbytes / 2**20,
    "MiB in memory, stored as",
    study.scans["dtype"].iloc[0],
)
image

# %%
figures.planes(image)  # at the aspect of the patient, with the letters of the directions

# %%
study.show("phantom000", plane="coronal", at_mm=float(image["y"][40]))

# %% [markdown]
# The histogram, exact and streamed over chunks, and its cumulated form. (The tutorial's slides say that a wider type makes an image
# larger by `.size`: that counts elements. `.nbytes` is what grows.)

# %%
counts = cohort.intensity.histogram(image, bins=64, range=(0.0, float(image.max())))
assert int(counts.sum()) == image.size
figures.histogram(image, bins=64)

# %% [markdown]
# ## What this adds to the tutorial
# A missing slice, a slice that is there twice and a file that ends early would have become a volume. Here they wait in quarantine, each
# with the reason and what to do; nothing is guessed, nothing vanishes.

# %%
refused = {entry["code"]: entry["reason"] for entry in study.store.quarantine()}
assert set(refused) == {"DCM-GAP", "DCM-DUP-POS", "NII-GZIP"}
refused

# %% [markdown]
# Where the voxels lie travels with them, whatever is cut out: the affine of a part is that of the part.

# %%
from cohort.grid import affine_of

part = image.isel(z=slice(10, 40, 2), x=slice(5, None))
world = affine_of(image) @ [5, 0, 10, 1]
assert np.allclose(affine_of(part)[:3, 3], world[:3])
here.cleanup()
