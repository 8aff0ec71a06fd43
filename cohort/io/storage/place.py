"""From where a store lies, a folder or a URL, to its files."""

import re
from pathlib import Path

from cohort.io.storage.backend import Files
from cohort.io.storage.disk import LocalFiles
from cohort.io.storage.objects import ObjectFiles


def files_of(root: Path | str) -> Files:
    """The files of a store.

    Parameters
    ----------
    root : Path or str
        A folder, or ``s3://bucket/prefix``; need not exist yet.

    Raises
    ------
    UrlError
        If it is a URL of another kind.
    """
    text = str(root)
    # A path cannot hold the two slashes of a URL: what went through one comes back with one.
    if isinstance(root, Path) and (found := re.fullmatch(r"s3:/([^/].*)", text)):
        text = f"s3://{found[1]}"
    return ObjectFiles(text) if "://" in text else LocalFiles(Path(root))
