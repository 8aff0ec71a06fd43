"""Weights of terms in a contrast, from its text.

The text is read by a grammar of four operators over the names of the fit itself; nothing of it is evaluated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cohort.stats import columns as cells
from cohort.stats.columns import DesignError

if TYPE_CHECKING:
    from cohort.stats.regression import Fit
    from cohort.stats.subjects.mixedfit import MixedFit

Contrast = str | Mapping[str, float]
"""``"dx + 70 * dx:age"`` or ``{"dx": 1, "dx:age": 70}``."""

MAX_LENGTH = 2000
MAX_DEPTH = 50

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w)")
_WORD = re.compile(r"[\w.:\[\]]+")


def weights(fit: "Fit | MixedFit", contrast: Contrast) -> np.ndarray:
    """Weight of each term of a fit in a contrast.

    Returns
    -------
    (p,) float64 array
        In the order of ``fit.tidy``.

    Raises
    ------
    DesignError
        As `estimates`.

    Examples
    --------
    >>> import pandas as pd
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "age": [1.0, 2, 4, 3, 5, 7]})
    >>> weights(fit(table, formula="y ~ age", one_scan_per="all"), "Intercept + 70 * age").tolist()
    [1.0, 70.0]
    """
    return among([str(name) for name in fit.tidy["term"]], fit.design.coding, contrast)


def among(
    terms: Sequence[str], coding: Mapping[str, Mapping[str, Any]], contrast: Contrast
) -> np.ndarray:
    """Weight of each of `terms` in a contrast, (p,) float64; `coding` and errors as of a fit's design."""
    # The effect of a reference level is zero by definition: "site[T.b] - site[T.a]" may be written out.
    references = [
        f"{name}[T.{coded['reference']}]"
        for name, coded in coding.items()
        if coded["reference"] is not None
    ]
    known = [*terms, *(name for name in references if name not in terms)]
    if isinstance(contrast, str):
        found = _Reader(contrast, known).read()
    else:
        found = np.zeros(len(known))
        for name, weight in contrast.items():
            if name not in known:
                raise DesignError(_unknown(str(name), known, "contrast"))
            if not isinstance(weight, int | float | np.number):
                raise DesignError(f"contrast: the weight of {name!r} is {weight!r}, not a number")
            found[known.index(name)] = float(weight)
    found = found[: len(terms)]
    if not np.isfinite(found).all():
        raise DesignError(f"contrast {label(contrast)!r}: a weight is not finite")
    if not found.any():
        raise DesignError(f"contrast {label(contrast)!r} has no term with a weight other than 0")
    return found


def label(contrast: Contrast) -> str:
    """Write a contrast as text."""
    if isinstance(contrast, str):
        return " ".join(contrast.split())
    return " + ".join(f"{weight:g} * {name}" for name, weight in contrast.items())


def _unknown(name: str, terms: Sequence[str], where: str) -> str:
    message = cells.unknown_column(name, terms, where)
    return message.replace("no column", "no term", 1).replace("(columns:", "(terms:", 1)


class _Reader:
    """Reads a contrast; a value is the constant and the weights of the terms, shape (1 + p,).

    Names are matched as a whole, the longest first, so that they may hold any sign: ``dx:age``, ``I(age ** 2)``.
    """

    def __init__(self, text: str, terms: Sequence[str]) -> None:
        if len(text) > MAX_LENGTH:
            raise DesignError(
                f"a contrast of {len(text)} characters; at most {MAX_LENGTH} are allowed"
            )
        self.text, self.terms, self.at, self.depth = text, terms, 0, 0
        longest = sorted(range(len(terms)), key=lambda j: len(terms[j]), reverse=True)
        self.names = [(j, _pattern(terms[j])) for j in longest]

    def read(self) -> np.ndarray:
        value = self._sum()
        if self._peek():
            raise self._refuse(f"{self._rest()!r} is not expected here")
        if value[0]:
            raise self._refuse(f"the number {value[0]:g} stands beside the terms, not before one")
        return value[1:]

    def _sum(self) -> np.ndarray:
        value = self._product()
        while (sign := self._peek()) in ("+", "-"):
            self.at += 1
            other = self._product()
            value = value + other if sign == "+" else value - other
        return value

    def _product(self) -> np.ndarray:
        value = self._factor()
        while (sign := self._peek()) in ("*", "/"):
            self.at += 1
            other = self._factor()
            if sign == "/" and (other[1:].any() or not other[0]):
                raise self._refuse("what stands after / must be a number other than 0")
            if value[1:].any() and other[1:].any():
                raise self._refuse("a product of two terms; an interaction is a term of the model")
            if sign == "/":
                value = value / other[0]
            else:
                value = value * other[0] if value[1:].any() else other * value[0]
        return value

    def _factor(self) -> np.ndarray:
        sign = 1.0
        while (found := self._peek()) in ("+", "-"):
            self.at += 1
            sign = -sign if found == "-" else sign
        value = np.zeros(1 + len(self.terms))
        # Names come first: one may begin with a parenthesis or a digit.
        for j, pattern in self.names:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                value[1 + j] = sign
                return value
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            value[0] = sign * float(match[0])
            if math.isinf(value[0]):
                raise self._refuse(f"the number {match[0][:20]} is too large")
            return value
        if found == "(":
            return sign * self._inside()
        if not found:
            raise self._refuse("it ends where a term or a number is needed")
        word = _WORD.match(self.text, self.at)
        name = word[0] if word else self._rest()
        raise DesignError(_unknown(name, self.terms, f"contrast {self.text!r}"))

    def _inside(self) -> np.ndarray:
        self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._refuse(f"parentheses are nested more than {MAX_DEPTH} deep")
        value = self._sum()
        if self._peek() != ")":
            raise self._refuse("a parenthesis is not closed")
        self.at += 1
        self.depth -= 1
        return value

    def _peek(self) -> str:
        """Next sign that is not blank; empty at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def _rest(self) -> str:
        return self.text[self.at : self.at + 40]

    def _refuse(self, why: str) -> DesignError:
        allowed = "allowed are terms of the model and numbers, joined by + - * / and parentheses"
        return DesignError(f"contrast {self.text[:120]!r}: {why}; {allowed}")


def _pattern(name: str) -> re.Pattern[str]:
    """Match a name whose blanks beside signs may be left out, and that no letter follows."""
    parts = re.findall(r"\w+|[^\w\s]", name)
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        if before:
            words = re.match(r"\w", before) and re.match(r"\w", part)
            text += r"\s+" if words else r"\s*"
        text += re.escape(part)
    ends_in_word = bool(parts) and bool(re.match(r"\w", parts[-1]))
    return re.compile(text + (r"(?![\w:\[])" if ends_in_word else r"(?![\w:])"))
