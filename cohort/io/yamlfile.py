"""YAML as catalogs and recipes are written: text unless it is plainly something else, and nothing that surprises.

PyYAML's own safe loader reads ``no`` as false, ``12:30`` as 750 and ``007`` as 7, keeps the last of two equal
keys, and unfolds nested aliases without end. Here ``true``, ``false``, ``null``, whole numbers without a
leading zero and decimal numbers are what they look like; every other plain scalar is text.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from cohort.io.patience import patiently

MAX_BYTES = 1_000_000
"""A larger file is no catalog and no recipe."""

_PLAIN = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?",
        "-+.0123456789",
    ),
)


class YamlError(ValueError):
    """A file that cannot be read as plain YAML; one line, with the place."""


class _Loader(yaml.SafeLoader):
    """Safe loading with few types, no anchors, no tags, no repeated keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - filled once, below

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors (&name) and aliases (*name) are not allowed; write the value out, "
                "or put it in quotes if it is text",
                problem_mark=event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(
                problem=f"tags are not allowed, found {event.tag!r}; put the value in quotes if it is text",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a key is a list or a mapping; expected text",
                    problem_mark=key.start_mark,
                )
            if key.value in first:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is there twice, first in line {first[key.value]}; keep one",
                    problem_mark=key.start_mark,
                )
            first[key.value] = key.start_mark.line + 1
            if key.tag != "tag:yaml.org,2002:str":
                # A key names something: `1: ...` and `true: ...` are the texts "1" and "true".
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep=deep)


for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


class _Dumper(yaml.SafeDumper):
    """Quotes all text that this reader, or a plain one, would take for something else; writes every value out."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _PLAIN:
    _Dumper.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first)
    )


def write_yaml(value: dict[str, Any]) -> str:
    """Write a mapping of plain values so that `parse_yaml` reads it back, in the order it has.

    Examples
    --------
    >>> print(write_yaml({"id": "007", "at": "12:30", "n": 7, "terms": ["dx", "no"]}), end="")
    id: '007'
    at: '12:30'
    n: 7
    terms:
    - dx
    - 'no'
    """
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML file that holds a mapping.

    Returns
    -------
    dict
        Of text, numbers, true, false, None, lists and dicts. Keys are text.

    Raises
    ------
    YamlError
        If the file is missing, over 1 MB or no YAML, if it holds an anchor, an alias, a tag or a key
        twice, or if it is no mapping. The message starts with the path and holds line and column.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise YamlError(f"{path}: {size} bytes; at most {MAX_BYTES} are allowed")
        text = patiently(path.read_bytes).decode("utf-8-sig")
    except OSError as error:
        raise YamlError(
            f"{path}: cannot be read ({error.strerror}); expected a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise YamlError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error
    return parse_yaml(text, name=str(path))


def parse_yaml(text: str, *, name: str) -> dict[str, Any]:
    """`read_yaml` for a text; `name` stands for the path in messages.

    Examples
    --------
    >>> parse_yaml("{id: 007, at: 12:30, sure: no, radius_mm: 2.5, keep: [mask]}", name="x.yaml")
    {'id': '007', 'at': '12:30', 'sure': 'no', 'radius_mm': 2.5, 'keep': ['mask']}
    """
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        context = f" ({error.context})" if error.context else ""
        raise YamlError(f"{name}: {place}: {error.problem}{context}") from error
    except yaml.YAMLError as error:
        raise YamlError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise YamlError(f"{name}: nested too deeply") from error
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise YamlError(f"{name}: expected a mapping (key: value), found {found}")
    return value
