"""One in-memory block to an array or a partial. NumPy, SciPy, Numba and connected-components-3d only."""

import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _compiled_folder(places: Iterable[Path], temporary: Path) -> Path | None:
    """Where compiled kernels go if they can be kept in none of `places`: a folder of this user's in `temporary`.

    None if one of `places` will do. Compiled code is run when it is read back, so the folder has to be ours alone; if
    somebody else made it, a new one is used.
    """
    if any(_writable(place) for place in places):
        return None
    folder = temporary / f"cohort-kernels-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or stat.S_IMODE(found.st_mode) & 0o077:
        return Path(tempfile.mkdtemp(prefix="cohort-kernels-", dir=temporary))
    return folder


# Without a place for them Numba refuses to be imported: an installation that is read-only, under a home that is as well.
if "NUMBA_CACHE_DIR" not in os.environ:
    _found = _compiled_folder(
        (
            Path(__file__).parent / "__pycache__",
            Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "numba",
        ),
        Path(tempfile.gettempdir()),
    )
    if _found is not None:
        os.environ["NUMBA_CACHE_DIR"] = str(_found)
