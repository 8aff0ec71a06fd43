"""The files of ``deploy/``: where they lie, and how a value is quoted where a shell or a batch system reads it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cohort

if TYPE_CHECKING:
    from jinja2 import Environment


def folder() -> Path:
    """Where the templates lie: inside the package in a wheel, beside it in a checkout."""
    package = Path(cohort.__file__).parent
    inside = package / "deploy"
    return inside if inside.is_dir() else package.parent / "deploy"


def environment() -> "Environment":
    """What renders them: a name that was not given is an error, and no value is taken for HTML.

    Filter ``sh`` quotes a text, or every text of a list, for a POSIX shell; ``directive`` quotes a value of an
    ``#SBATCH`` line.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(folder()),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sh"] = quote
    made.filters["directive"] = directive
    return made


def quote(value: Any) -> str:
    """Quote for a shell.

    Examples
    --------
    >>> quote("a b"), quote(["a b", "c"])
    ("'a b'", "'a b' c")
    """
    return (
        shlex.join(map(str, value)) if isinstance(value, list | tuple) else shlex.quote(str(value))
    )


def directive(value: object) -> str:
    r"""Quote for a line that a batch system reads.

    Examples
    --------
    >>> print(directive("/data/a b/log"))
    "/data/a b/log"
    >>> directive("two\nlines")
    Traceback (most recent call last):
    ValueError: expected one line, found 'two\nlines'
    """
    text = str(value)
    if any(ord(letter) < 32 for letter in text):
        raise ValueError(f"expected one line, found {text!r}")
    if not any(letter in text for letter in " \"'\\#"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
