"""Maps of a cohort against reading the same bytes, against loops of statsmodels and nilearn, and against the machine's products.

nilearn is given images in memory and is not charged for reading them; ours reads its cube from the disk. Memory is that of a
process of its own, what it imports included.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from run import HERE, Row, best

from cohort.io import cube
from cohort.io.storage.disk import LocalFiles

SHAPE = (40, 55, 46)
"""About the voxels of a brain at 2 mm, each of them in the mask."""
SUBJECTS = 150
ARRANGEMENTS = 256


def people(n: int) -> np.ndarray:
    """Design of a group and three confounds."""
    rng = np.random.Generator(np.random.Philox(key=11))
    return np.column_stack(
        [
            np.ones(n),
            rng.permutation(np.arange(n) % 2),
            rng.uniform(55, 90, n),
            rng.permutation(np.arange(n) % 2),
            rng.normal(1500, 120, n),
        ]
    )


def write_cube(folder: Path, n: int, shape=SHAPE, **kwargs) -> cube.Cube:
    """A cube of quantised noise, as compressible as an image."""
    scans = {f"s{i:05d}": "" for i in range(n)}

    def load(scan_id: str) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=int(scan_id[1:])))
        return (rng.integers(0, 200, shape, np.uint8) * np.float32(0.0125) + 1).astype(np.float32)

    metadata = cube.write(folder / "cube.zarr", scans, load, **kwargs)
    return cube.Cube(LocalFiles(folder), "cube.zarr", metadata, scans)


def in_turn(*functions: Callable[[], object], repeat: int = 20) -> list[tuple[float, float]]:
    """Shortest wall time and CPU time of each of several that take turns, for times that a neighbour can double."""
    found = [(np.inf, np.inf) for _ in functions]
    for _ in range(repeat):
        for i, function in enumerate(functions):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            taken = (time.perf_counter() - wall, time.process_time() - cpu)
            found[i] = (min(found[i][0], taken[0]), min(found[i][1], taken[1]))
    return found


def bench_maps() -> Iterator[Row]:
    """Least squares, HC3 and q in every voxel."""
    from nibabel import Nifti1Image
    from nilearn.glm.second_level import SecondLevelModel
    from statsmodels.regression.linear_model import OLS

    from cohort.stats import voxelwise

    folder = Path(tempfile.mkdtemp())
    try:
        made, X = write_cube(folder, SUBJECTS, tile_bytes=16 << 20), people(SUBJECTS)
        contrast = {"group": np.eye(5)[1]}

        def ours() -> voxelwise.Maps:
            return voxelwise.fit(made, X, contrast, workers=2)

        def read() -> None:
            for values in cube.in_order(made.read, made.tiles(), workers=2):
                values.astype(np.float64)

        maps = ours()
        whole = np.concatenate([made.read(t) for t in made.tiles()], axis=1)
        Y = whole.reshape(SUBJECTS, -1)
        sample = np.arange(0, Y.shape[1], Y.shape[1] // 200)

        def loop() -> np.ndarray:
            found = []
            for y in Y[:, sample].T:
                fitted = OLS(y.astype(float), X).fit()
                found.append([fitted.tvalues[1], fitted.params[1] / fitted.HC3_se[1]])
            return np.array(found).T

        t = [maps.by_contrast[name][0, sample] for name in ("t", "hc3_t")]
        np.testing.assert_allclose(t, loop(), rtol=1e-9, atol=1e-11)
        (seconds, cpu), (reading, its_cpu) = in_turn(ours, read)
        note = f"least squares, HC3, p, q; CPU {1e3 * cpu:.0f} ms and {1e3 * its_cpu:.0f}"
        yield Row("voxelwise/maps-read", seconds, "read the same chunks, cast to float64", reading, 1 / 1.5, note)  # fmt: skip
        scaled = best(loop) * Y.shape[1] / len(sample)
        yield Row("voxelwise/maps-loop", seconds, f"statsmodels OLS and HC3, {len(sample)} voxels timed and scaled", scaled, 15.0)  # fmt: skip
        import pandas as pd

        table = pd.DataFrame(X, columns=["intercept", "group", "age", "sex", "skull"])
        images = [Nifti1Image(scan, np.eye(4)) for scan in whole]
        mask = Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4))

        def rival() -> None:
            model = SecondLevelModel(mask_img=mask, minimize_memory=False)
            model.fit(images, design_matrix=table).compute_contrast("group", output_type="all")

        yield Row("voxelwise/maps-nilearn", seconds, "nilearn SecondLevelModel, images in memory, no HC3", best(rival, 1), 1.0)  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bench_permutations() -> Iterator[Row]:
    """Freedman-Lane with the largest t, on voxels that are in memory on both sides."""
    from nilearn.mass_univariate import permuted_ols

    from cohort.stats.exchanges.scheme import scheme
    from cohort.stats.voxels.pieces import Question, one_blas_thread, tally_piece

    folder = Path(tempfile.mkdtemp())
    try:
        # Four pieces of one size: two threads have the same to do, as over the many pieces of a brain.
        made, X = write_cube(folder, SUBJECTS, (24, 32, 32), tile_bytes=4 << 20), people(SUBJECTS)
        tile_items = [
            (t, np.arange(np.prod([s.stop - s.start for s in t])), None) for t in made.tiles()
        ]
        Y = np.concatenate([made.read(t) for t in made.tiles()], axis=1).reshape(SUBJECTS, -1)
        plan = scheme(X, np.eye(5)[1], n_permutations=ARRANGEMENTS, seed=1)
        question = Question(X, np.arange(SUBJECTS), np.eye(5)[1:2])

        def ours() -> None:
            def job(item):
                return tally_piece(made, question, plan, (0, ARRANGEMENTS), False, item)

            with one_blas_thread():
                list(cube.in_order(job, tile_items, workers=2))

        def rival() -> None:
            permuted_ols(
                X[:, 1:2], Y.astype(float), confounding_vars=X[:, [2, 3, 4]], model_intercept=True,
                n_perm=ARRANGEMENTS, two_sided_test=True, random_state=1, n_jobs=2, verbose=0,
            )  # fmt: skip

        seconds = best(ours)
        yield Row("voxelwise/permutations-nilearn", seconds, "nilearn permuted_ols, data in memory", best(rival, 1), 5.0, f"{ARRANGEMENTS} arrangements")  # fmt: skip
        rng = np.random.default_rng(0)
        r, m = plan.weights.shape
        size = 1024
        a, b = rng.normal(size=(2, size, size))
        rate = 2 * size**3 / best(lambda: a @ b, 5)
        flops = 2.0 * ARRANGEMENTS * r * m * Y.shape[1]
        yield Row("voxelwise/permutations-gemm", seconds, "float64 products at the rate of 1024 x 1024 ones, all threads", flops / rate, 0.5, f"{flops / rate:.3f} s of products")  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bench_memory() -> Iterator[Row]:
    """Peak of a process that makes maps and arrangements, at three sizes of the cohort."""
    for n in (100, 400, 1600):
        yield memory(n, SHAPE, 100, cube.TILE_BYTES)


def memory(n: int, shape: tuple[int, int, int], arrangements: int, tile_bytes: int) -> Row:
    """Peak against pieces at work x scans x voxels x 8, the factors of arrangements, and 300 MB."""
    folder = Path(tempfile.mkdtemp())
    try:
        started = time.perf_counter()
        code = f"import bench_voxelwise as b; b.measured({str(folder)!r}, {n}, {shape}, {arrangements}, {tile_bytes})"
        done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, check=True)  # fmt: skip
        found = json.loads(done.stdout.splitlines()[-1])
        seconds = time.perf_counter() - started
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    allowed = (2 * n * found["voxels"] * 8 + 64 * 5 * n * 8 * 2) / 2**20 + 300
    size = n * np.prod(shape) * 4 / 2**20
    note = f"MB, not seconds; a cube of {size:.0f} MB, {arrangements} arrangements, {seconds:.0f} s"
    return Row(f"voxelwise/peak-mb-{n}", found["peak"], "2 pieces x n x voxels x 8 + factors + 300 MB", allowed, 1.0, note)  # fmt: skip


def measured(folder: str, n: int, shape, arrangements: int, tile_bytes: int) -> None:
    """Make a cube and its maps, and print the peak of this process in MB."""
    from cohort.stats import voxelwise

    made = write_cube(Path(folder), n, shape, tile_bytes=tile_bytes)
    asked = voxelwise.Permutations(seed=1, n=arrangements)
    voxelwise.fit(made, people(n), {"group": np.eye(5)[1]}, permutations=asked, workers=2)
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    print(json.dumps({"peak": peak, "voxels": int(np.prod(made.chunk))}))
