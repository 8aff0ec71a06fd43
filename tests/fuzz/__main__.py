"""Reads mutants one after the other, as a process that is watched from outside."""

import json
import re
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr

from cohort import schema
from cohort.io import dicom, nifti
from cohort.io.deidentify import ATTRIBUTES
from cohort.io.policy import ACCEPTABLE, Policy
from cohort.io.refusal import Refused
from cohort.io.slices import child
from cohort.io.sources import places
from cohort.io.sources.content import look
from cohort.io.sources.filecache import ARCHIVE, FileCache
from cohort.io.sources.files import examined
from fuzz.mutants import Mutant, mutant
from fuzz.seeds import CANARY, ROOT, seeds

MAX_BYTES = 256 << 20
"""Largest volume that the readers may take."""

DECODER_SECONDS = 3.0
"""A decoder that hangs is given up sooner than usual."""

POLICY = Policy(accept=frozenset(ACCEPTABLE), min_slices=1, prefer="sform")
"""Whatever can be accepted is, so that mutants get deep."""


def end_of(folder: Path, case: Mutant) -> str:
    """Look at and read a mutant, and say how it ended: ``scan``, a refusal's code, or why it was skipped."""
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            end = _read(*(folder / name for name in case.files))
        except Refused as refused:
            end = refused.code
            _check_words(str(refused), folder)
    for warning in warned:
        _check_private(str(warning.message), folder)
    return end


def _read(path: Path, *beside: Path) -> str:
    entry = look(path)
    if entry.refusal:
        code, what, fix = entry.refusal
        raise Refused(code, what, fix=fix, files=[path])
    if entry.reason:
        _check_words(entry.reason, path.parent)
        return f"skipped: {entry.reason}"
    if entry.kind == ARCHIVE:
        return _unpack(path)
    if entry.kind == "nifti":
        scan = nifti.read_image(path, policy=POLICY, max_bytes=MAX_BYTES)
    else:
        scan = dicom.read_series([path, *beside], policy=POLICY, max_bytes=MAX_BYTES)
    _check_scan(scan)
    return "scan"


def _unpack(path: Path) -> str:
    """Read the series in an archive."""
    with FileCache(None) as known:
        entries = list(examined([path], known, rehash=True))
    for member, _, entry in entries:
        if entry.refusal:
            code, what, fix = entry.refusal
            raise Refused(code, what, fix=fix, files=[member])
        _check_words(entry.reason or "", path.parent)
    images = [member for member, _, entry in entries if entry.kind == "dicom"]
    if not images:
        return "skipped: an archive without images"
    with places.local(images) as copies:
        assert all(copy.parent != path.parent for copy in copies), "a member beside its archive"
        _check_scan(dicom.read_series(copies, policy=POLICY, max_bytes=MAX_BYTES))
    return "scan"


def _check_scan(scan: xr.Dataset) -> None:
    schema.check(scan)
    assert set(scan.attrs) <= ATTRIBUTES, sorted(set(scan.attrs) - ATTRIBUTES)
    assert np.isfinite(scan["affine"].values).all(), "an affine that is no number"


def _check_words(text: str, folder: Path) -> None:
    """What is said of a file is one line that quotes nothing."""
    _check_private(text, folder)
    assert len(text) < 2000, f"{len(text)} characters: {text[:200]}"
    assert text.isprintable(), f"cannot be printed: {text!r}"


def _check_private(text: str, folder: Path) -> None:
    """Neither a text of the file nor a UID nor its place is quoted."""
    quoted = [mark for mark in (CANARY, ROOT, str(folder)) if mark in text]
    assert not quoted, f"quotes the file: {text[:500]}"


def main() -> None:
    """``read START [STOP]`` or ``write NUMBER FOLDER``."""
    command, first, *rest = sys.argv[1:]
    if command == "write":
        for name, data in mutant(int(first)).files.items():
            Path(rest[0], name).write_bytes(data)
        return
    child.decode = partial(child.decode, seconds=DECODER_SECONDS)
    seeds()
    for number in range(int(first), int(rest[0]) if rest else int(first) + 1):
        case = mutant(number)
        told: dict[str, object] = {"number": number, "label": case.label}
        _tell(told)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                told["end"] = end_of(Path(folder), case)
            except BaseException:  # noqa: BLE001 - whatever it is, it is what is looked for
                told["error"] = traceback.format_exc()
        told["seconds"] = round(time.monotonic() - began, 3)
        told["peak_mb"] = _peak_mb()
        _tell(told)


def _peak_mb() -> int:
    """Peak of resident memory of this process; getrusage would begin with the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) >> 10


def _tell(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
