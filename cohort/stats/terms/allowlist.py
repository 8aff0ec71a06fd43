"""What one factor of a formula may hold: an allow-list over Python's own syntax tree.

A factor (``Age``, ``C(site)``, ``np.log(eTIV)``) is parsed by `ast` and rewritten node by node; each column
becomes an identifier of ours, because column names come from files of strangers. What is not listed here is
refused. Nothing is evaluated.
"""

import ast
from dataclasses import dataclass
from typing import Literal

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError

MATH = ("log", "log10", "log1p", "sqrt", "exp")
TRANSFORMS = ("I", "center", "standardize")
CONTRASTS = ("Treatment", "Sum", "Poly", "Helmert", "Diff")
BASES: dict[str, tuple[str, ...]] = {
    "bs": ("df", "degree", "include_intercept", "lower_bound", "upper_bound"),
    "cr": ("df", "constraints", "lower_bound", "upper_bound"),
    "poly": ("degree",),
}
"""Functions that give several columns, with their settings; the first may stand without its name."""

MAX_EXPONENT = 4
MAX_DEPTH = 100
MAX_DF = 20
MAX_DEGREE = 5
ALLOWED = (
    "allowed are columns joined by + - * / : and (a + b)**2, Q('a name'), C(column), C(column, Treatment('level')), "
    "I() of + - * / and ** from -4 to 4, center, standardize, bs, cr, poly, log, log10, log1p, sqrt and exp"
)
_SETTINGS = {
    "df": f"a whole number from 1 to {MAX_DF}",
    "degree": f"a whole number from 1 to {MAX_DEGREE}",
    "include_intercept": "True or False",
    "constraints": "'center'",
    "lower_bound": "a number",
    "upper_bound": "a number",
}


class FormulaError(DesignError):
    """A formula that is not allowed, or that names what the table does not hold."""


@dataclass(frozen=True)
class Factor:
    """One checked factor.

    Attributes
    ----------
    code : str
        What patsy evaluates; columns stand as ``v<i>`` (values) or ``c<i>`` (categories).
    shown : str
        What the user wrote; a column alone stands under its own name.
    columns : tuple of str
        Columns of the table that it reads.
    kind : {"column", "category", "expression"}
        A bare column is a number or a category by its content; ``C()`` always a category; the rest numbers.
    """

    code: str
    shown: str
    columns: tuple[str, ...]
    kind: Literal["column", "category", "expression"]


def shorten(text: str, length: int = 60) -> str:
    """Quote `text` on one line, cut to `length`."""
    return repr(text if len(text) <= length else text[:length] + "...")


class Rewriter:
    """Turns the text of factors into `Factor`, over fixed columns.

    Parameters
    ----------
    columns : list of str
        Known names; the position of a name numbers its identifier.
    where : str
        Opens each message.
    """

    def __init__(self, columns: list[str], where: str) -> None:
        self._columns, self._where = columns, where
        self._index = {name: i for i, name in enumerate(columns)}
        self._used: dict[str, None] = {}

    def factor(self, code: str) -> Factor:
        """Check and rewrite one factor.

        Raises
        ------
        FormulaError
            With the part that is not allowed, or the name that is no column.
        """
        self._used = {}
        tree = self._tree(code)
        kind: Literal["column", "category", "expression"] = "expression"
        new: ast.expr
        if (name := self._bare(tree)) is not None:
            kind, new = "column", self._identifier(name)
        elif isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "C":
            kind, new = "category", self._category(tree)
        else:
            new = self._number(tree)
        if not self._used:
            raise FormulaError(f"{self._where}: {shorten(code)} names no column; {ALLOWED}")
        return Factor(ast.unparse(new), code if name is None else name, tuple(self._used), kind)

    def column(self, code: str) -> str | None:
        """Return the column that `code` names (itself, or by ``Q()``), or None if it is something else."""
        return self._bare(self._tree(code))

    def _tree(self, code: str) -> ast.expr:
        try:
            tree = ast.parse(code, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            message = f"{self._where}: {shorten(code)} is not an expression; {ALLOWED}"
            raise FormulaError(message) from None
        level: list[ast.AST] = [tree]
        for _ in range(MAX_DEPTH):
            level = [child for node in level for child in ast.iter_child_nodes(node)]
            if not level:
                return tree
        raise FormulaError(f"{self._where}: {shorten(code)} is nested more than {MAX_DEPTH} deep")

    def _refuse(self, node: ast.AST) -> FormulaError:
        noun = type(node).__name__.lower()
        return FormulaError(
            f"{self._where}: {shorten(ast.unparse(node))} ({noun}) is not allowed; {ALLOWED}"
        )

    def _bare(self, node: ast.expr) -> str | None:
        match node:
            case ast.Name(id=name):
                pass
            case ast.Call(func=ast.Name("Q"), args=[ast.Constant(str() as name)], keywords=[]):
                pass
            case _:
                return None
        if name not in self._index:
            raise FormulaError(cells.unknown_column(name, self._columns, self._where))
        return name

    def _identifier(self, name: str, prefix: str = "v") -> ast.Name:
        self._used[name] = None
        return ast.Name(f"{prefix}{self._index[name]}", ast.Load())

    def _number(self, node: ast.expr) -> ast.expr:
        """Rewrite an expression over numbers."""
        if (name := self._bare(node)) is not None:
            return self._identifier(name)
        match node:
            case ast.Constant() if _literal(node) is not None:
                return node
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return ast.UnaryOp(sign, self._number(operand))
            case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as operator):
                return ast.BinOp(self._number(node.left), operator, self._number(node.right))
            case ast.BinOp(op=ast.Pow()):
                return self._power(node)
            case ast.Call():
                return self._call(node)
        raise self._refuse(node)

    def _power(self, node: ast.BinOp) -> ast.expr:
        exponent = _literal(node.right)
        if exponent is None or not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
            raise FormulaError(
                f"{self._where}: an exponent is a number from -{MAX_EXPONENT} to {MAX_EXPONENT}, "
                f"not {shorten(ast.unparse(node.right))}"
            )
        base = self._number(node.left)
        # Whole numbers alone, (9**4)**4 and so on, grow without bound; columns are floats.
        if not any(isinstance(part, ast.Name) and part.id[0] == "v" for part in ast.walk(base)):
            raise self._refuse(node)
        return ast.BinOp(base, ast.Pow(), node.right)

    def _call(self, node: ast.Call) -> ast.expr:
        match node.func:
            case ast.Name(id=name) if name in (*TRANSFORMS, *MATH, *BASES):
                pass
            case ast.Attribute(value=ast.Name("np"), attr=name) if name in MATH:
                pass
            case _:
                raise self._refuse(node)
        known = BASES.get(name, ())
        settings = [ast.keyword(known[0], value) for value in node.args[1:2] if known]
        settings += node.keywords
        names = [setting.arg for setting in settings]
        if len(node.args) not in ((1, 2) if known else (1,)) or len(set(names)) < len(names):
            raise self._refuse(node)
        for setting in settings:
            if setting.arg not in known:
                raise self._refuse(node)
            if not _setting_allowed(setting.arg, setting.value):
                raise FormulaError(
                    f"{self._where}: {name}() takes {_SETTINGS[setting.arg]} for {setting.arg}, "
                    f"not {shorten(ast.unparse(setting.value))}"
                )
        return ast.Call(ast.Name(name, ast.Load()), [self._number(node.args[0])], settings)

    def _category(self, node: ast.Call) -> ast.expr:
        """Rewrite ``C(column)`` or ``C(column, contrast)``."""
        if len(node.args) not in (1, 2) or node.keywords:
            raise self._refuse(node)
        if (name := self._bare(node.args[0])) is None:
            raise self._refuse(node)
        contrast = [self._contrast(arg) for arg in node.args[1:]]
        return ast.Call(ast.Name("C", ast.Load()), [self._identifier(name, "c"), *contrast], [])

    def _contrast(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Name(id=name) if name in CONTRASTS:
                return node
            case ast.Call(func=ast.Name("Treatment"), args=[ast.Constant(level)], keywords=[]):
                pass
            case ast.Call(
                func=ast.Name("Treatment"),
                args=[],
                keywords=[ast.keyword("reference", ast.Constant(level))],
            ):
                pass
            case _:
                raise self._refuse(node)
        if not isinstance(level, str | int | float):
            raise self._refuse(node)
        # Levels are text: Treatment(2) is the level "2", where patsy would take the third one.
        return ast.Call(ast.Name("Treatment", ast.Load()), [ast.Constant(cells.label(level))], [])


def _setting_allowed(setting: str, value: ast.expr) -> bool:
    constant = value.value if isinstance(value, ast.Constant) else None
    number = _literal(value)
    match setting:
        case "include_intercept":
            return isinstance(constant, bool)
        case "constraints":
            return constant == "center"
        case "df" | "degree":
            top = MAX_DF if setting == "df" else MAX_DEGREE
            return isinstance(number, int) and 1 <= number <= top
    return number is not None


def _literal(node: ast.expr) -> int | float | None:
    """Return the number that is written out in `node`, or None."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node, sign = node.operand, -1
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return sign * value
    return None
