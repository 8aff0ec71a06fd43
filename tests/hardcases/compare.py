"""The same cases through other converters and through ours: what each makes of them, as a table in README.md.

Run by hand, from anywhere: ``python tests/hardcases/compare.py [--only D4] [--keep FOLDER]``. It needs dcm2niix,
dicom2nifti and SimpleITK from PyPI. Cases that state a decision in the catalog are left out: other tools have no such
thing, and the files are those of the case without it.
"""

import argparse
import itertools
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from hardcases import CASES, ours
from hardcases.truth import Case, Scan, Truth

CLOSE_MM = 0.09
"""A tenth of the smallest voxel: corners that lie closer to where they should are no reproach here."""

SECONDS = 120
"""A tool that takes longer for one case hangs."""

RIGHT, WRONG, WRONG_LOUD = "right", "**wrong**", "wrong, error"
NOTHING, NAMED, UNNAMED = "**nothing**", "names it", "refuses"
MEANING = {
    RIGHT: "voxels and geometry as they are, or nothing made of what is nothing to measure",
    WRONG: "a volume that is wrong, or cannot be known to be right, and no error",
    WRONG_LOUD: "such a volume, and an error (exit code or exception) beside it",
    NOTHING: "no volume, or not all of them, and no error",
    NAMED: "an error that names a file at fault",
    UNNAMED: "an error that does not",
}


@dataclass
class Run:
    """What one tool made of one case."""

    volumes: list[tuple[np.ndarray, np.ndarray]]
    """Values (..., z, y, x) and RAS affine of each."""
    failed: bool
    text: str


def dcm2niix(folder: Path, out: Path) -> Run:
    """As on its command line."""
    call = [str(Path(sys.executable).with_name("dcm2niix")), "-z", "n", "-f", "%i_%s_%j"]
    done = subprocess.run(
        [*call, "-o", str(out), str(folder)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    return Run(list(_written(out)), done.returncode != 0, done.stdout + done.stderr)


def dicom2nifti(folder: Path, out: Path) -> Run:
    """Its call for a folder."""
    import dicom2nifti as package

    logging.disable(logging.CRITICAL)
    failed, text = False, ""
    try:
        package.convert_directory(str(folder), str(out), compression=False, reorient=False)
    except Exception as error:  # noqa: BLE001 - whatever it raises is its refusal
        failed, text = True, str(error)
    return Run(list(_written(out)), failed, text)


def _written(out: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    files = sorted(out.rglob("*.nii"))
    for path in files:
        # What dcm2niix has corrected or resampled lies beside the volume that it does not stand by.
        better = [f for f in files if re.match(re.escape(path.stem) + r"_(Tilt|Eq)", f.stem)]
        if not better:
            image = nib.load(path)
            yield np.asarray(image.dataobj).T, image.affine


def simpleitk(folder: Path, _: Path) -> Run:
    """Its reader of DICOM series, for every series that it finds in every folder."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    volumes, failed, text = [], False, ""
    for below in [folder, *(p for p in folder.rglob("*") if p.is_dir() and not p.is_symlink())]:
        for series in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(below)):
            try:
                reader = sitk.ImageSeriesReader()
                reader.SetFileNames(
                    sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(below), series)
                )
                volumes.append(_from_itk(reader.Execute()))
            except Exception as error:  # noqa: BLE001 - whatever it raises is its refusal
                failed, text = True, text + str(error)
    return Run(volumes, failed, text)


def _from_itk(image) -> tuple[np.ndarray, np.ndarray]:
    import SimpleITK as sitk

    n = image.GetDimension()
    direction = np.reshape(image.GetDirection(), (n, n))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return sitk.GetArrayFromImage(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def simpleitk_nifti(folder: Path, _: Path) -> Run:
    """Its reader of single images."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    return _each(folder, lambda path: _from_itk(sitk.ReadImage(str(path))))


def nibabel(folder: Path, _: Path) -> Run:
    """Its call for the voxels as numbers."""

    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        image = nib.load(path)
        return image.get_fdata().T, image.affine

    return _each(folder, read)


def _each(folder: Path, read: Callable[[Path], tuple[np.ndarray, np.ndarray]]) -> Run:
    volumes, failed, text = [], False, ""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".img" or path.name.endswith(".img.gz"):
            continue
        try:
            volumes.append(read(path))
        except Exception as error:  # noqa: BLE001 - whatever it raises is its refusal
            failed, text = True, f"{text}{error}"
    return Run(volumes, failed, text)


def cohort(catalog: Path) -> Run:
    """Ours; see `ours`."""
    result = ours.ingest(catalog)
    found = ours.cohort_of(result)
    text = "\n".join(p.text for p in result.problems)
    return Run([(f.values, f.affine) for f in found], result.newly_bad, text)


def verdict(truth: Truth, run: Run, folder: Path) -> str:
    """Class of what a tool made of a case."""
    answers = [answer for answer in (truth.scans, *truth.also) if answer]
    if run.volumes:
        fits = [_match(answer, run.volumes) for answer in answers]
        if any(all_right and complete for all_right, complete in fits):
            return RIGHT
        if any(all_right for all_right, _ in fits):
            return _refusal(truth, run, folder) if run.failed else NOTHING
        return WRONG_LOUD if run.failed else WRONG
    if run.failed:
        return _refusal(truth, run, folder)
    return RIGHT if truth.word == "skip" else NOTHING


def _refusal(truth: Truth, run: Run, folder: Path) -> str:
    names: list[Path] = []
    for name in itertools.chain.from_iterable(r.names for r in truth.refused):
        names += name if isinstance(name, tuple) else (name,)
    names = names or [p for p in folder.rglob("*") if p.is_file()]
    return NAMED if any(path.name in run.text for path in names) else UNNAMED


def _match(
    answer: Sequence[Scan], volumes: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[bool, bool]:
    """Whether every volume is one of the answer's, times in order, and whether none of these is missing."""
    parts = [part for scan in answer for part in _three_dimensional(scan)]
    seen: set[int] = set()
    for values, affine in volumes:
        last = -1
        for volume in np.reshape(values, (-1, *np.shape(values)[-3:])):
            fit = [
                i
                for i, part in enumerate(parts)
                if i > last and not part.differences(volume, affine, mm=CLOSE_MM)
            ]
            if not fit:
                return False, False
            last = next((i for i in fit if i not in seen), fit[0])
            seen.add(last)
    return True, len(seen) == len(parts)


def _three_dimensional(scan: Scan) -> Iterator[Scan]:
    for values in np.reshape(scan.values, (-1, *scan.values.shape[-3:])):
        yield replace(scan, values=values)


RIVALS = {
    "D": {"dcm2niix": dcm2niix, "dicom2nifti": dicom2nifti, "SimpleITK": simpleitk},
    "N": {"nibabel": nibabel, "SimpleITK": simpleitk_nifti},
}
OURS = "cohort"

OURS_ALONE = ("D39",)
"""Archives: the others do not say that they read any."""


class Cell:
    """A process in which a tool may crash or hang."""

    def __init__(self) -> None:
        self.pool: ProcessPoolExecutor | None = None

    def run(self, tool: Callable[..., Run], *arguments: Path) -> Run:
        """What the tool makes of the case; a crash or a hang is a refusal."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            return self.pool.submit(tool, *arguments).result(timeout=SECONDS)
        except (BrokenProcessPool, TimeoutError) as error:
            self.pool.shutdown(wait=False, cancel_futures=True)
            self.pool = None
            return Run([], failed=True, text=type(error).__name__)


def table(cases: Sequence[Case], keep: Path | None) -> Iterator[tuple[Case, Truth, dict[str, str]]]:
    """Run every tool on every case."""
    cell = Cell()
    for case in cases:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) if keep is None else keep / case.name
            root.mkdir(parents=True, exist_ok=True)
            truth, catalog = ours.write(case, root)
            if truth.raises:
                continue
            row = {}
            for name, tool in RIVALS[case.row[0]].items():
                out = root / name
                out.mkdir(exist_ok=True)
                row[name] = verdict(truth, cell.run(tool, root / "scans", out), root / "scans")
            row[OURS] = verdict(truth, cohort(catalog), root / "scans")
            yield case, truth, row


def markdown(rows: Sequence[tuple[Case, Truth, dict[str, str]]]) -> str:
    """Counts first, then a line a case."""
    lines = []
    for kind, title in (("D", "DICOM"), ("N", "NIfTI")):
        these = [row for row in rows if row[0].row[0] == kind]
        if not these:
            continue
        tools = [*RIVALS[kind], OURS]
        counts = {tool: Counter(row[2][tool] for row in these) for tool in tools}
        short = [
            f"{tool} {version(tool)} {counts[tool][WRONG]}, {counts[tool][NOTHING]}, {counts[tool][NAMED]}"
            for tool in tools
        ]
        lines += [f"### {title}: {len(these)} cases", ""]
        lines += [f"Silently wrong, silently nothing, refused naming the file: {'; '.join(short)}."]
        lines += ["", f"| | {' | '.join(tools)} |"]
        lines += [f"| --- |{' ---: |' * len(tools)}"]
        lines += [
            f"| {word} | {' | '.join(str(counts[tool][word]) for tool in tools)} |"
            for word in MEANING
        ]
        lines += ["", f"| row | case | must | {' | '.join(tools)} |"]
        lines += [f"| --- | --- | --- |{' --- |' * len(tools)}"]
        lines += [
            f"| {case.row} | {case.title} | {truth.word} | {' | '.join(row[t] for t in tools)} |"
            for case, truth, row in these
        ]
        lines.append("")
    return "\n".join(lines)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)  # noqa: T201 - run by hand


def main() -> None:
    """Print the table as it grows and put it into README.md, unless only a part was asked for."""
    parser = argparse.ArgumentParser(description="Hard cases through several converters")
    parser.add_argument("--only", default="", help="part of a case's name, such as D4-")
    parser.add_argument("--keep", type=Path, help="folder in which files and results stay")
    options = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
    chosen = [
        c
        for c in CASES
        if c.row[0] in RIVALS and not (c.catalog or c.slow or c.row in OURS_ALONE) and options.only in c.name
    ]  # fmt: skip
    rows = []
    for case, truth, row in table(chosen, options.keep):
        rows.append((case, truth, row))
        say(f"{case.name[:70]:70} {truth.word:7} " + " ".join(f"{v:12}" for v in row.values()))
    if options.only:
        say(markdown(rows))
        return
    readme = HERE / "README.md"
    head = readme.read_text(encoding="utf-8").split("<!-- table -->")[0]
    readme.write_text(f"{head}<!-- table -->\n\n{markdown(rows)}", encoding="utf-8")


if __name__ == "__main__":
    main()
