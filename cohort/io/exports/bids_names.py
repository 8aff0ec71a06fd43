"""Names as BIDS takes them: letters and digits, and no two that become one."""

import re
from collections.abc import Iterable

from cohort.io.exports.place import ExportError


def label(name: str) -> str:
    """What is left of a name for BIDS: its letters and digits.

    >>> label("head-volumes.v2")
    'headvolumesv2'
    """
    return re.sub("[^A-Za-z0-9]", "", name)


def labels(
    names: Iterable[str], *, what: str, remedy: str = "rename one in the sources"
) -> dict[str, str]:
    """`label` of each name.

    Parameters
    ----------
    what : str
        What they name, for the message.
    remedy : str
        What to do about two that become one, for the message.

    Raises
    ------
    ExportError
        If nothing is left of a name, or two become one (also but for the case of letters, which some disks do not tell
        apart).
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        short = label(name)
        if not short:
            raise ExportError(
                f"{what} {name!r} has no letter from A to Z and no digit, of which names in BIDS are made"
            )
        if (other := taken.setdefault(short.lower(), name)) != name:
            raise ExportError(
                f"{what} {other!r} and {name!r} would both become {short!r}: BIDS takes letters and digits only; {remedy}"
            )
        found[name] = short
    return found


def camel(name: str) -> str:
    """A name of several words as one, each with a capital.

    >>> camel("largest_dark")
    'LargestDark'
    """
    return "".join(w[:1].upper() + w[1:] for w in re.split("[^A-Za-z0-9]+", name))
