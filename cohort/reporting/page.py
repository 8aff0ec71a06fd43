"""A page: its sections one under the other, in one file that opens offline and runs nothing but scripts of this package.

Whatever comes from data is text: autoescaping is on, templates mark nothing safe, and the policy in the page's head admits inline
styles, embedded pictures and the scripts that are in it by their SHA-256. A page without its scripts says the same.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from cohort.reporting.wording import clean, count

if TYPE_CHECKING:
    import jinja2


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Parameters
    ----------
    anchor : str
        Its id, unique on the page.
    title : str
        Its heading, words of this package.
    template : str
        Which of ``templates/`` shows it.
    says : mapping of str -> object
        What the template names.
    name : str
        A name from data that stands after the title.
    """

    anchor: str
    title: str
    template: str
    says: Mapping[str, Any]
    name: str = ""


def assemble(
    title: str,
    sections: Sequence[Section],
    *,
    scripts: Sequence[str],
    kicker: str = "Cohort report",
) -> str:
    """Make the page.

    Parameters
    ----------
    title : str
        Heading, from data.
    sections : sequence of Section
        In the order in which they are shown.
    scripts : sequence of str
        JavaScript of this package, never of data; see `own_scripts`.
    kicker : str
        What kind of page it is.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If a script cannot stand in a page.
    """
    from markupsafe import Markup

    environment = templates()
    bodies = [Markup(environment.get_template(s.template).render(s.says)) for s in sections]
    return environment.get_template("report.html.j2").render(
        title=title,
        kicker=kicker,
        sections=sections,
        bodies=bodies,
        policy=policy(scripts),
        scripts=[Markup(_standing(script)) for script in scripts],
    )


def policy(scripts: Sequence[str]) -> str:
    """Content-security policy of a page: inline styles, data images, and exactly these inline scripts.

    Parameters
    ----------
    scripts : sequence of str
        What stands between ``<script>`` and ``</script>``, to the byte.

    Examples
    --------
    >>> policy([])
    "default-src 'none'; script-src 'none'; connect-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    >>> policy(["0"]).split("; ")[1]
    "script-src 'sha256-X+zrZv/IbzjZUnhsbWlsecLbwjndTpG0ZynXOif7V+k='"
    """
    digests = (hashlib.sha256(script.encode("utf-8")).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(d).decode('ascii')}'" for d in digests)
    return (
        f"default-src 'none'; script-src {hashes or chr(39) + 'none' + chr(39)}; connect-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    )


@cache
def own_scripts() -> tuple[str, ...]:
    """The scripts of the report, ``scripts/*.js``, sorted by name."""
    folder = resources.files("cohort.reporting") / "scripts"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".js")), key=lambda f: f.name)
    return tuple(file.read_text(encoding="utf-8") for file in files)


def _standing(script: str) -> str:
    """A script that a browser hashes as it stands: it does not end early, and no line end is rewritten."""
    for part in ("</script", "<!--", "\r", "\0"):
        if part in script.lower():
            raise ValueError(f"a script of a page cannot hold {part!r}; found in {script[:40]!r}")
    return script


def templates() -> "jinja2.Environment":
    """How every page is made: what comes from data is escaped, and cleaned of what no page may hold."""
    import jinja2
    from markupsafe import Markup

    def printable(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.PackageLoader("cohort.reporting"),
        undefined=jinja2.StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["count"] = count
    return environment
