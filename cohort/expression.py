"""The small grammar of catalogs and recipes: arithmetic and comparisons over names. Parsed, never run as code.

Three places use it: `derive` and `where` of a catalog (columns of a table), and a recipe's numbers
(``0.45 * level``). A text is parsed by `ast.parse`, checked node by node against an allow-list, and
walked by `evaluate`; nothing is ever compiled or handed to `eval`.
"""

import ast
import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MAX_LENGTH = 500
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISON: dict[type, Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class ExpressionError(ValueError):
    """A text that is not the small grammar, or a name it does not know."""


def parse(text: str, *, comparisons: bool = False) -> ast.expr:
    """Parse `text` into a checked tree.

    Allowed: numbers, names, quoted text, ``+ - * /``, parentheses, a leading minus; with `comparisons`
    also ``< <= > >= == !=`` (chained too), ``and``, ``or``, ``not``. Nothing else: no call, no
    attribute, no index, no power.

    Raises
    ------
    ExpressionError
        With the part that is not allowed.

    Examples
    --------
    >>> names(parse("0.45 * level"))
    {'level'}
    >>> parse("__import__('os')")
    Traceback (most recent call last):
    cohort.expression.ExpressionError: "__import__('os')": a call is not allowed; expected numbers, names, + - * / and parentheses
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"an expression of {len(text)} characters; at most {MAX_LENGTH} are allowed"
        )
    expected = "numbers, names, + - * / and parentheses"
    if comparisons:
        expected = "numbers, names, 'text', + - * /, < <= > >= == !=, and, or, not and parentheses"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text!r} is not an expression; expected {expected}") from error
    _check(tree, text, expected, comparisons=comparisons)
    return tree


def _check(tree: ast.expr, text: str, expected: str, *, comparisons: bool) -> None:
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name()
                | ast.Load()
                | ast.operator()
                | ast.unaryop()
                | ast.boolop()
                | ast.cmpop()
            ):
                allowed = True
            case ast.Constant(value=value):
                allowed = type(value) in (int, float) or (
                    comparisons and isinstance(value, str | bool)
                )
            case ast.BinOp(op=op):
                allowed = type(op) in _ARITHMETIC
            case ast.UnaryOp(op=ast.USub()):
                allowed = True
            case ast.UnaryOp(op=ast.Not()) | ast.BoolOp():
                allowed = comparisons
            case ast.Compare(ops=ops):
                allowed = comparisons and all(type(op) in _COMPARISON for op in ops)
            case _:
                allowed = False
        if not allowed:
            raise ExpressionError(f'"{text}": a {_noun(node)} is not allowed; expected {expected}')


def _noun(node: ast.AST) -> str:
    if isinstance(node, ast.BinOp):
        return type(node.op).__name__.lower()
    return type(node).__name__.lower()


def names(tree: ast.expr) -> set[str]:
    """Names that occur in a tree."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def check_names(tree: ast.expr, known: Collection[str], text: str) -> None:
    """Raise `ExpressionError`, with the nearest known name, if `tree` uses an unknown one."""
    for name in sorted(names(tree) - set(known)):
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ExpressionError(
            f'"{text}": no {name!r} here; known are {", ".join(sorted(known)) or "none"}{hint}'
        )


def evaluate(tree: ast.expr, values: Mapping[str, Any]) -> Any:
    """Walk a checked tree over `values` (numbers, arrays, lazy arrays: whatever has the operators).

    Examples
    --------
    >>> evaluate(parse("0.5 * level + 1"), {"level": 3.0})
    2.5
    """
    match tree:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand, values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_truth(evaluate(operand, values))
        case ast.BinOp(left=left, op=op, right=right):
            try:
                return _ARITHMETIC[type(op)](evaluate(left, values), evaluate(right, values))
            except ZeroDivisionError as error:
                raise ExpressionError(f"{ast.unparse(tree)!r} divides by zero") from error
        case ast.BoolOp(op=op, values=parts):
            combine = operator.and_ if isinstance(op, ast.And) else operator.or_
            result = _truth(evaluate(parts[0], values))
            for part in parts[1:]:
                result = combine(result, _truth(evaluate(part, values)))
            return result
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [evaluate(part, values) for part in (left, *comparators)]
            result = None
            for compare, low, high in zip(ops, operands, operands[1:], strict=False):
                holds = _truth(_COMPARISON[type(compare)](low, high))
                result = holds if result is None else result & holds
            return result
        case _:
            raise ExpressionError(f"a {_noun(tree)} cannot be evaluated")


def _truth(value: Any) -> Any:
    """Python booleans answer ``~`` with -2 or -1: wrap them so that arrays and scalars behave alike."""
    return np.bool_(value) if isinstance(value, bool) else value


_MISSING_RULE = re.compile(r"^(?P<body>.*),\s*missing\s+(?P<value>\S+)\s*$", re.DOTALL)


def check_columns(text: str, columns: Collection[str]) -> None:
    """Raise `ExpressionError` unless `text` is a column expression over `columns` (see `column`)."""
    tree, _ = _parse_column(text)
    literals = {n.id for n in _literals(tree, columns)}
    check_names(tree, {*columns, *literals}, text)


def check_syntax(text: str) -> None:
    """Raise `ExpressionError` unless `text` is a column expression over some columns (see `column`)."""
    _parse_column(text)


def _parse_column(text: str) -> tuple[ast.expr, float | None]:
    fill = None
    if match := _MISSING_RULE.match(text):
        words = {"false": 0.0, "true": 1.0}
        try:
            fill = words[match["value"]] if match["value"] in words else float(match["value"])
        except ValueError as error:
            raise ExpressionError(
                f"{text!r}: 'missing {match['value']}'; expected missing false, missing true or missing and a number"
            ) from error
        text = match["body"]
    return parse(text, comparisons=True), fill


def _literals(tree: ast.expr, columns: Collection[str]) -> list[ast.Name]:
    """Bare words that stand for text: the side of ``==`` or ``!=`` that is no column when the other is one."""
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Compare)
            and len(node.ops) == 1
            and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        ):
            left, right = node.left, node.comparators[0]
            for word, other in ((right, left), (left, right)):
                if (
                    isinstance(word, ast.Name)
                    and word.id not in columns
                    and (not isinstance(other, ast.Name) or other.id in columns)
                ):
                    found.append(word)
                    break
    return found


def column(table: "pd.DataFrame", text: str) -> "pd.Series":
    """One column from others: ``derive`` and ``where`` of a catalog.

    Arithmetic (``brain_vol / skull_vol``) and comparisons (``age >= 60``, ``sex == M``, ``group != 'a b'``)
    over the columns of `table`, joined by ``and``, ``or``, ``not``. A bare word compared with a column by
    ``==`` or ``!=`` is text. Columns of text are read as numbers where a number is needed. A row in which
    a column that is used is missing gives NaN, unless the text ends in ``, missing false`` (or ``true``,
    or a number).

    Parameters
    ----------
    table : DataFrame
        Text or numbers; missing cells are NaN or None.

    Returns
    -------
    Series of float64, index of `table`
        Comparisons give 1.0 and 0.0.

    Raises
    ------
    ExpressionError
        For an unknown column, with the nearest name; for text where a number is needed, with the row.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"CDR": ["0", "0.5", None], "sex": ["M", "F", "M"]})
    >>> column(table, "CDR > 0, missing false").tolist(), column(table, "sex == M").tolist()
    ([0.0, 1.0, 0.0], [1.0, 0.0, 1.0])
    """
    import pandas as pd

    tree, fill = _parse_column(text)
    columns = [str(c) for c in table.columns]
    literal_nodes = _literals(tree, columns)
    check_names(tree, {*columns, *(n.id for n in literal_nodes)}, text)
    used = sorted(names(tree) & set(columns))
    missing = np.zeros(len(table), bool)
    for name in used:
        missing |= table[name].isna().to_numpy()
    values: dict[str, Any] = {n.id: n.id for n in literal_nodes}
    textual = _compared_as_text(tree, table, values)
    for name in used:
        values[name] = (
            table[name].astype("object").map(str).to_numpy(object)
            if name in textual
            else _numbers(table, name, text, missing)
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        result = np.asarray(evaluate(_words_to_text(tree, textual), values))
    result = np.broadcast_to(result, (len(table),)).astype(np.float64)
    result = np.where(missing, np.nan if fill is None else fill, result)
    return pd.Series(result, index=table.index, dtype="float64")


def _compared_as_text(tree: ast.expr, table: "pd.DataFrame", words: Mapping[str, Any]) -> set[str]:
    """Columns of text that stand beside text, true or false in ``==`` or ``!=``."""
    found = set()
    for node in ast.walk(tree):
        if not (
            isinstance(node, ast.Compare)
            and len(node.ops) == 1
            and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        ):
            continue
        for one, other in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
            is_word = isinstance(other, ast.Name) and other.id in words
            is_text = isinstance(other, ast.Constant) and isinstance(other.value, str | bool)
            both = (
                isinstance(other, ast.Name)
                and other.id in table
                and not _is_number(table[other.id])
            )
            if isinstance(one, ast.Name) and one.id in table and (is_word or is_text or both):
                if (
                    is_text
                    and isinstance(other, ast.Constant)
                    and isinstance(other.value, bool)
                    and _is_number(table[one.id])
                ):
                    continue
                found.add(one.id)
    return found


def _words_to_text(tree: ast.expr, textual: set[str]) -> ast.expr:
    """``alzheimers == True`` on a column of text compares with the text "True"."""
    if not textual:
        return tree

    class Words(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant(str(node.value)) if isinstance(node.value, bool) else node

    return Words().visit(tree)


def _is_number(series: "pd.Series") -> bool:
    return series.dtype.kind in "iufb"


def _numbers(table: "pd.DataFrame", name: str, text: str, missing: np.ndarray) -> np.ndarray:
    import pandas as pd

    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = np.flatnonzero(np.isnan(numbers) & table[name].notna().to_numpy())
    if bad.size:
        raise ExpressionError(
            f'"{text}": column {name!r} holds {table[name].iloc[bad[0]]!r} in row {table.index[bad[0]]}, '
            f"where a number is needed ({bad.size} such rows)"
        )
    return numbers
