"""The kinds of values a catalog holds, and how a wrong one is told: its place, what was expected, what was found."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from string import Formatter
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WrapValidator,
)
from pydantic_core import ErrorDetails

from cohort import expression
from cohort.io.sources.places import from_url


def _check_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text):
        raise ValueError(
            f"expected a name of letters, digits, '.', '_' and '-' (it becomes a file name), found {text!r}"
        )
    return text


def _variable(text: str) -> str:
    if not re.fullmatch(r"[^\W\d]\w{0,99}", text):
        raise ValueError(f"expected a name of letters, digits and '_', found {text!r}")
    return text


def _expression(text: str) -> str:
    expression.check_syntax(text)
    return text


def _local(text: str) -> str:
    if "://" in text:
        raise ValueError(
            f"expected a local path, found the URL {text!r}; URLs are not supported yet"
        )
    if not text.strip():
        raise ValueError("expected a path, found empty text")
    return text


def _source(text: str) -> str:
    if "://" in text:
        from_url(text)
        return text
    return _local(text)


def _template(text: str) -> str:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
    except ValueError as error:
        raise ValueError(f"{text!r} is not a template: {error}") from error
    if unknown := [field for field in fields if field not in ("stem", "folder")]:
        raise ValueError(
            f"{text!r} uses {{{unknown[0]}}}; expected {{stem}} (the scan's file name without its ending) "
            "and {folder} (its folder)"
        )
    if re.fullmatch(r"\{folder\}/\{stem\}(\.\w+)*", text):
        raise ValueError(f"{text!r} is the scan itself; expected another folder or another name")
    return _local(text)


class ImageTemplate(str):
    """Where a further contrast of a scan lies; a plain text says where labels or a mask do."""

    __slots__ = ()


def _attachment(value: Any) -> Any:
    """``{image: template}`` as one of an image; everything else as a template of labels."""
    if not isinstance(value, dict):
        return value
    if set(value) != {"image"} or not isinstance(value["image"], str):
        raise ValueError(
            f"expected a template, or {{image: template}} for a further contrast; found {value!r:.80}"
        )
    return ImageTemplate(value["image"])


def _same_kind(text: str, handler: Callable[[str], str]) -> str:
    found = handler(text)
    return ImageTemplate(found) if isinstance(text, ImageTemplate) else found


def _said(template: str) -> Any:
    return {"image": str(template)} if isinstance(template, ImageTemplate) else template


def _pattern(text: str) -> str:
    try:
        groups = re.compile(text).groupindex
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    if "subject" not in groups:
        raise ValueError(
            f"expected a pattern with a group (?P<subject>...) and, if there are visits, "
            f"(?P<session>...); found {text!r}"
        )
    if other := sorted(set(groups) - {"subject", "session"}):
        raise ValueError(f"group {other[0]!r} has no meaning; expected subject and session")
    return text


def at_home(path: str) -> str:
    """A path whose ``~/`` is the home of whoever calls. No other user's home: a file may be called ``~root``."""
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 - without a home it stays as it is


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_texts(value: Any) -> Any:
    """``missing: [-1, 999]`` means the texts "-1" and "999"."""
    if isinstance(value, list):
        return [str(v) if type(v) is int else v for v in value]
    return value


Name = Annotated[str, AfterValidator(_check_name)]
VariableName = Annotated[str, AfterValidator(_variable)]
ColumnExpression = Annotated[str, AfterValidator(_expression)]
LocalPath = Annotated[str, AfterValidator(_local)]
Template = Annotated[str, AfterValidator(_template)]
Attachment = Annotated[
    Template, WrapValidator(_same_kind), BeforeValidator(_attachment), PlainSerializer(_said)
]
SubjectPattern = Annotated[str, AfterValidator(_pattern)]
Paths = Annotated[list[LocalPath], BeforeValidator(_as_list)]
Sources = Annotated[list[Annotated[str, AfterValidator(_source)]], BeforeValidator(_as_list)]
Texts = Annotated[list[str], BeforeValidator(_as_texts)]


def _some(names: list[str]) -> list[str]:
    if not names:
        raise ValueError("expected at least one, found an empty list")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"{twice[0]!r} is listed twice")
    return names


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("expected text, found none")
    return text


def _quotient(names: list[str]) -> list[str]:
    if len(names) != 2:
        raise ValueError(f"expected [numerator, denominator], found {len(names)} names")
    return names


def _both_sides(value: Any) -> Any:
    """``2`` means from -2 to 2."""
    return [-value, value] if type(value) in (int, float) else value


def _around_zero(ends: list[float]) -> list[float]:
    if len(ends) != 2 or not ends[0] < 0 < ends[1]:
        raise ValueError(
            f"expected a number above 0, or [low, high] with 0 between them; found {ends}"
        )
    return ends


def expect(holds: Callable[[float], bool], text: str) -> AfterValidator:
    """Refuses numbers of which `holds` is false: what was expected, as `text`, and what was found."""

    def check(value: float) -> float:
        if not holds(value):
            raise ValueError(f"expected {text}, found {value:g}")
        return value

    return AfterValidator(check)


Seed = Annotated[
    int,
    expect(lambda n: n >= 0, "a whole number from 0"),
    Field(description="a whole number from 0"),
]
Columns = Annotated[list[VariableName], AfterValidator(_some)]
Text = Annotated[str, AfterValidator(_filled)]
Terms = Annotated[list[Text], AfterValidator(_some)]
Quotient = Annotated[list[VariableName], AfterValidator(_quotient)]
Ends = Annotated[list[float], BeforeValidator(_both_sides), AfterValidator(_around_zero)]


class Part(BaseModel):
    """A mapping of a YAML file: known keys only, no conversion between kinds of values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_EXPECTED = {
    "string_type": "text",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type", "sequence_str"), "a list"),
    **dict.fromkeys(("dict_type", "model_type"), "a mapping (key: value)"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "finite_number": "a finite number",
    "too_short": "at least one",
}


def describe(error: ValidationError, part_at: Callable[[Sequence[str]], type[Part]]) -> list[str]:
    """Pydantic's list of errors in this project's words, one line each.

    Parameters
    ----------
    part_at : callable
        Place of a key, such as ``("models", "a", "where")`` -> the `Part` that holds the key.
    """
    lines = []
    for item in error.errors(include_url=False):
        place = [str(part) for part in item["loc"] if part != "[key]"]
        several = getattr(item.get("ctx", {}).get("error"), "problems", None)
        if several:  # a validator that found more than one says where each is
            lines += several
        else:
            problem = _problem(item, place[-1] if place else "", part_at(place))
            # An unknown key is a problem of what holds it.
            where = ".".join(place[:-1] if item["type"] == "extra_forbidden" else place)
            lines.append(f"{where}: {problem}" if where else problem)
    return lines


def _problem(item: ErrorDetails, key: str, part: type[Part]) -> str:
    value = item["input"]
    match item["type"]:
        case "extra_forbidden":
            known = list(part.model_fields)
            return f"unknown key {key!r}{did_you_mean(key, known)}; known are {', '.join(known)}"
        case "missing":
            return f"expected {part.model_fields[key].description}, found no such key"
        case "string_type" if isinstance(value, bool | int | float):
            return f"expected text, found {_found(value)}; put it in quotes"
        case _:
            return wrong_value(item)


def wrong_value(item: ErrorDetails) -> str:
    """One of pydantic's errors about a value in this project's words: what was expected, what was found.

    Examples
    --------
    >>> from typing import Literal
    >>> from pydantic import TypeAdapter
    >>> def said(kind, value):
    ...     try:
    ...         TypeAdapter(kind).validate_python(value)
    ...     except ValidationError as error:
    ...         return wrong_value(error.errors()[0])
    >>> said(Literal["rigid", "affine"], "afine"), said(int, 1.5)
    ("expected one of rigid, affine; found 'afine'; did you mean 'affine'?", 'expected a whole number, found the number 1.5')
    """
    value = item["input"]
    match item["type"]:
        case "literal_error":
            allowed = [w.strip("'") for w in re.split(r", | or ", item["ctx"]["expected"])]
            return (
                f"expected one of {', '.join(allowed)}; "
                f"found {_found(value)}{did_you_mean(str(value), allowed)}"
            )
        case "value_error" | "assertion_error":
            return str(item["ctx"]["error"])
        case "greater_than_equal":
            return f"expected at least {item['ctx']['ge']}, found {_found(value)}"
        case "is_instance_of" if item["ctx"]["class"] == "Sequence":
            return f"expected a list, found {_found(value)}"
        case "missing":
            return f"expected one value more, found {_found(value)}"
        case "too_long":
            more = f"at most {item['ctx']['max_length']} values"
            return f"expected {more}, found {item['ctx']['actual_length']}"
        case kind:
            expected = _EXPECTED.get(kind, item["msg"].removeprefix("Input should be "))
            return f"expected {expected}, found {_found(value)}"


def _found(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"the number {value}"
        case str():
            return repr(value)
        case list():
            return "a list" if value else "an empty list"
        case _:
            return "a mapping (key: value)"


def listed(names: Iterable[str]) -> str:
    """Names in order, for a message."""
    return ", ".join(sorted(names)) or "none"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a message with the nearest known name, if one is near."""
    folded = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""
