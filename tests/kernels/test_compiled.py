"""Kernels can be imported where neither the installation nor the home can be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

from cohort import kernels

NOWHERE = Path("/dev/null/nowhere")
"""Where not even root can write."""


def test_a_place_that_can_be_written_will_do(tmp_path):
    assert kernels._compiled_folder([NOWHERE, tmp_path / "a"], tmp_path) is None


def test_without_one_they_go_into_a_folder_of_this_user_alone(tmp_path):
    folder = kernels._compiled_folder([NOWHERE], tmp_path)
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert kernels._compiled_folder([NOWHERE], tmp_path) == folder


def test_a_folder_that_others_can_write_is_not_believed(tmp_path):
    folder = kernels._compiled_folder([NOWHERE], tmp_path)
    folder.chmod(0o777)
    other = kernels._compiled_folder([NOWHERE], tmp_path)
    assert other != folder
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    assert kernels._compiled_folder([NOWHERE], tmp_path) != folder
    folder.unlink()
    folder.write_text("planted")
    assert kernels._compiled_folder([NOWHERE], tmp_path) != folder


def test_kernels_are_imported_with_it(tmp_path):
    code = (
        "from pathlib import Path; import cohort.kernels as k, os; "
        f"f = k._compiled_folder([Path({str(NOWHERE)!r})], Path({str(tmp_path)!r})); "
        "os.environ['NUMBA_CACHE_DIR'] = str(f); from cohort.kernels import tally; print(f)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(NOWHERE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).parent == tmp_path
