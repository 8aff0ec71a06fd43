# %% [markdown]
# # Compare, and bring into register
# The first tutorial correlates neighbouring slices of a brain, flips them, adds noise, bends them elastically, and watches r fall. The same
# here, with what it leaves out: how certain an r of dependent voxels is, and how to undo a shift.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

import cohort
from cohort.phantom import head
from cohort.reporting import figures

made = head(seed=1, index=0)
image = cohort.space.resample(made.scan["image"].astype("float32"), spacing_mm=4)
inside = cohort.masks.threshold(image, above=0.25 * float(image.max()))

# %% [markdown]
# ## Slices and their neighbours

# %%
lags = cohort.compare.lag_correlation(image, dim="z")
lags.plot(marker=".")
plt.show()

# %% [markdown]
# ## Flips, noise, elastic deformation

# %%
noise_std = 0.2 * float(image.std())
changed = {
    "itself": image,
    "left for right": image.copy(data=image.values[:, :, ::-1]),
    "noise": image + cohort.synthesis.noise(image, std=noise_std, seed=1),
    "smooth noise": image + cohort.synthesis.noise(image, std=noise_std, correlation_mm=8, seed=1),
    "elastic": cohort.synthesis.elastic(image, alpha_mm=4, sigma_mm=12, seed=1),
}
cells = [(name, array, None) for name, array in changed.items()]
figures.contact_sheet(cells, columns=len(cells))

# %% [markdown]
# Voxels are not independent: with n voxels the interval of r is absurdly narrow. `n_effective` says how many independent ones they are
# worth. Noise that is smooth itself costs more of them than noise that is not.

# %%
found = {
    name: cohort.compare.correlation(image, array)
    for name, array in changed.items()
    if name != "itself"
}
for name, result in found.items():
    print(
        f"{name:15} r {float(result['r']):.3f}, n {int(result['n']):,}, worth {float(result['n_effective']):,.0f}"
    )
assert all(float(r["n_effective"]) < 0.2 * float(r["n"]) for r in found.values())
found["elastic"]

# %%
for name, array in changed.items():
    print(
        f"{name:15} ssim {float(cohort.compare.ssim(image, array)):.3f}  mae {float(cohort.compare.mae(image, array)):.1f}"
    )

# %% [markdown]
# ## What this adds to the tutorial
# A flip along the wrong axis is a lower r there. Here a grid that does not fit is refused with its numbers, and a scan that
# lies elsewhere is brought back: the matrix says where each point of one goes in the other, in millimetres.

# %%
from cohort.grid import GridError

try:
    cohort.compare.mae(image, image[1:])
except GridError as error:
    print(error)

# %%
turned = cohort.space.shift(
    cohort.space.rotate(image, degrees=8, plane=("y", "x")), mm={"x": 6, "z": -4}
)
registration = cohort.register.register(turned, image, transform="rigid", metric="correlation")
back = cohort.space.affine(turned, registration.matrix, like=image)
before, after = (
    float(cohort.compare.correlation(a, image, mask=inside)["r"]) for a in (turned, back)
)
print(f"r within the head: {before:.3f} before, {after:.3f} after")
assert after > max(0.85, before + 0.2)
np.round(registration.matrix, 3)

# %%
shifted = cohort.space.shift(image, mm={"x": 6, "z": -4})
cohort.register.phase_shift_mm(shifted, image)
