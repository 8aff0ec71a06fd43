"""Synthetic short-axis cine series of a beating heart whose volumes have a closed form."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr


@dataclass(frozen=True)
class Heart:
    """A left ventricle (half an ellipsoid, its flat side the base) among what it could be mistaken for.

    Around it lie its own muscle, a right ventricle that beats with it (a bright crescent), trabeculae and two papillary muscles
    inside, an aorta and an atrium above the base, a bright ring of fat that does not move, liver and lung.
    """

    shape: tuple[int, int, int] = (11, 110, 120)
    """Voxels along z, y, x."""
    spacing: tuple[float, float, float] = (8.0, 1.6, 1.6)
    """Of voxels along z, y, x, mm."""
    radius_mm: float = 25.0
    length_mm: float = 72.0
    ejection_fraction: float = 0.55
    trabeculae_mm: float = 1.5
    """Layer along the wall that is half blood, half muscle, and counts as cavity."""
    centre_mm: tuple[float, float] = (0.0, 0.0)
    """Of the ventricle, from the middle of the field of view, along y and x."""
    tilt: float = 0.1
    """Shift of the ventricle along y a mm along z."""
    towards_rv: float = 2.4
    """Direction of the right ventricle in the plane, radians from x to y."""
    n_frames: int = 20
    diastole: int = 18
    """Frame at which the ventricle is largest."""
    base_slice: int = 8
    """First slice above the base."""
    noise: float = 0.03
    """Standard deviation, relative to blood."""
    seed: int = 0

    def shrinkage(self) -> np.ndarray:
        """Radius in each frame, relative to end-diastole: the length does not change, so its square is the volume."""
        phase = (np.arange(self.n_frames) - self.diastole) / self.n_frames % 1
        # Systole takes 0.35 of the beat, then the ventricle fills.
        beat = np.where(phase < 0.35, phase / 0.35 / 2, 0.5 + (phase - 0.35) / 0.65 / 2)
        return np.sqrt(1 - self.ejection_fraction * np.sin(np.pi * beat) ** 2)

    def volumes_ml(self) -> np.ndarray:
        """Volume in each frame: 2/3 pi r^2 L."""
        radius = self.radius_mm * self.shrinkage()
        return 2 / 3 * np.pi * radius**2 * self.length_mm / 1000

    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distance below the base, (z, 1, 1), and from the long axis along y and x, which broadcast to (z, y, x); mm."""
        z, y, x = (np.arange(n) * mm for n, mm in zip(self.shape, self.spacing, strict=True))
        base = (self.base_slice - 0.5) * self.spacing[0]
        below = (base - z)[:, None, None]
        y = y - y.mean() - self.centre_mm[0]
        x = x - x.mean() - self.centre_mm[1]
        return below, y[:, None] - self.tilt * (z - z.mean())[:, None, None], x[None, None, :]

    def outside_mm(self) -> np.ndarray:
        """In-plane distance from the ventricle's edge in each frame, (time, z, y, x); negative inside."""
        below, y, x = self._places()
        inside = np.clip(1 - (below / self.length_mm) ** 2, 0, None) * (below > 0)
        radius = self.radius_mm * np.sqrt(inside) * self.shrinkage()[:, None, None, None]
        return np.where(radius > 0, np.hypot(y, x) - radius, np.inf)

    def truth(self) -> np.ndarray:
        """Voxels with their centre inside the ventricle, (time, z, y, x) bool."""
        return self.outside_mm() < 0

    def cine(self, *, dtype: npt.DTypeLike = np.int16, gain: float = 400.0) -> xr.DataArray:
        """The series, blood at about `gain`.

        Returns
        -------
        DataArray, (time, z, y, x)
            `dtype`; coordinates in mm, and ``time`` in seconds of a beat of 0.9 s.
        """
        below, y, x = self._places()
        rng = np.random.default_rng(self.seed)
        image = np.full((self.n_frames, *self.shape), 0.08)

        def put(level: float, outside: np.ndarray) -> None:
            nonlocal image
            share = 1 / (1 + np.exp(np.clip(outside / 0.5, -50, 50)))
            image = image + share * (level - image)

        fixed = np.zeros((self.n_frames, 1, 1, 1))
        r, beat = self.radius_mm, self.shrinkage()[:, None, None, None]
        toward_y, toward_x = np.sin(self.towards_rv), np.cos(self.towards_rv)

        def disc(
            away: np.ndarray | float,
            radius: np.ndarray | float,
            *,
            across: np.ndarray | float = 0.0,
        ) -> np.ndarray:
            cy = toward_y * away - toward_x * across
            cx = toward_x * away + toward_y * across
            return np.hypot(y - cy, x - cx) - radius

        put(0.4, disc(-1.0 * r - 50, 50) + fixed)  # liver
        put(1.3, np.abs(disc(0, 85 + fixed)) - 6)  # fat
        wide = np.sqrt(np.clip(1 - (below / self.length_mm) ** 2, 0, None))
        heart = below > -1
        right = disc(1.0 * r, (1.15 * r * wide - 2) * (0.6 + 0.4 * beat))
        put(0.9, np.where(heart & (wide > 0), right, np.inf))
        outside = self.outside_mm()
        # The muscle keeps its area: it thickens as the cavity shrinks.
        cavity = r * wide * beat
        outer = np.sqrt(cavity**2 + (r * wide + 8) ** 2 - (r * wide) ** 2)
        put(0.3, np.where(heart & (wide > 0), np.hypot(y, x) - outer, np.inf))
        put(0.65, outside)
        put(1.0, outside + self.trabeculae_mm)
        for side in (-1, 1):
            papillary = disc(
                -0.55 * r * wide * beat, 0.12 * r * wide, across=side * 0.4 * r * wide * beat
            )
            put(0.3, np.where(heart & (wide > 0.7), papillary, np.inf))
        above = below < 0
        put(0.3, np.where(above, disc(0, 1.1 * r) + fixed, np.inf))
        put(0.95, np.where(above, disc(0.3 * r, 0.45 * r) + fixed, np.inf))  # aorta
        put(0.9, np.where(above, disc(-0.55 * r, 0.5 * r * (1.5 - 0.5 * beat)), np.inf))  # atrium
        image = (image + self.noise * rng.normal(size=image.shape)) * gain
        coords = {
            d: ((d,), mm * np.arange(n), {"units": "mm", "spacing_mm": mm})
            for d, n, mm in zip("zyx", self.shape, self.spacing, strict=True)
        }
        time = ("time", 0.9 * np.arange(self.n_frames) / self.n_frames, {"units": "s"})
        image = np.clip(np.round(image), 0, None).astype(dtype)
        return xr.DataArray(
            image, dims=("time", "z", "y", "x"), coords=coords | {"time": time}, name="image"
        )
