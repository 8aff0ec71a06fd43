"""How a value is written where systemd, cron, compose or Kubernetes reads it, so that it comes out as it went in."""

import json
import re

_PLAIN = re.compile(r"[\w./:=@,+-]+", re.ASCII)


def unit_word(text: str) -> str:
    r"""One word of a unit file: no specifier of systemd begins in it, no blank ends it.

    Examples
    --------
    >>> print(unit_word("/data/a b/50%"))
    "/data/a b/50%%"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return escaped if _PLAIN.fullmatch(text) else f'"{escaped}"'


def unit_path(text: str) -> str:
    """A path that is the rest of its line: systemd takes quotes there for letters."""
    return text.replace("%", "%%")


def unit_argument(text: str) -> str:
    """A word of ``ExecStart=`` after the program, in which a dollar sign would begin a variable as well."""
    return unit_word(text).replace("$", "$$")


def cron_line(text: str) -> str:
    r"""A command of a crontab, where a percent sign ends the line and a backslash before one, or before another, goes away.

    Examples
    --------
    >>> print(cron_line("date +%F"))
    date +\%F
    """
    return re.sub(r"\\(?=[\\%])", r"\\\\", text).replace("%", "\\%")


def yaml(value: object) -> str:
    """A YAML value on one line: JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)


def compose(value: object) -> str:
    """A value of a compose file, where a dollar sign begins a variable."""
    return yaml(value).replace("$", "$$")


def pod(value: object) -> str:
    """A word of a container's command, where ``$(NAME)`` is a variable."""
    return yaml(value).replace("$(", "$$(")


def quantity(memory: int) -> str:
    """Bytes as Kubernetes reads them.

    Examples
    --------
    >>> quantity(4 << 30), quantity(10**9)
    ('4096Mi', '1000000000')
    """
    return str(memory) if memory % (1 << 20) else f"{memory >> 20}Mi"
