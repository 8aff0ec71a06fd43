"""Linear contrasts of a fit: sums of terms with weights, one at a time (t) or several at once (F).

A contrast is written as text over the terms of the fit (``dx + 70 * dx:age``) or as a mapping from term to weight.
The text is read by a grammar of four operators over the names of the fit itself; nothing of it is evaluated.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cohort.stats import columns as cells
from cohort.stats import effects
from cohort.stats.columns import DesignError
from cohort.stats.regression import Fit

if TYPE_CHECKING:
    from cohort.stats.subjects.mixedfit import MixedFit

Contrast = str | Mapping[str, float]
"""``"dx + 70 * dx:age"`` or ``{"dx": 1, "dx:age": 70}``."""

MAX_LENGTH = 2000
MAX_DEPTH = 50
DEPENDENT = 1e-9
"""Share of the largest direction below which a further contrast says nothing that the others did not."""

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w)")
_WORD = re.compile(r"[\w.:\[\]]+")


def estimates(
    fit: Fit, contrasts: Contrast | Sequence[Contrast], *, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Estimate contrasts of a fit, each with classical and HC3 errors.

    Parameters
    ----------
    fit : Fit
    contrasts : str, mapping, or a sequence of them
        Text joins terms and numbers by ``+ - * /`` and parentheses; terms are written as in ``fit.tidy["term"]``,
        blanks aside. A mapping gives the weight of each term.
    names : sequence of str, optional
        What to call them; otherwise their text.

    Returns
    -------
    DataFrame, one row a contrast
        outcome, contrast, estimate, se, df, statistic, p, ci_low, ci_high, hc3_se, hc3_statistic, hc3_p, hc3_ci_low,
        hc3_ci_high, partial_r, n; where the fit has errors of clusters, the same with ``cluster_``.

    Raises
    ------
    DesignError
        In one line: what cannot be read, a name that is no term, a product of terms, a constant, weights of zero.

    Notes
    -----
    Equals statsmodels' ``t_test``, and ``get_robustcov_results("HC3").t_test``.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "group": list("aabbcc")})
    >>> result = fit(table, formula="y ~ group", one_scan_per="all")
    >>> estimates(result, "group[T.c] - group[T.b]")["estimate"].round(6).tolist()
    [2.5]
    """
    from scipy import stats

    asked, labels = _listed(contrasts, names)
    L = np.array([weights(fit, contrast) for contrast in asked])
    df = _df(fit)
    estimate = L @ fit.tidy["estimate"].to_numpy()
    columns: dict[str, Any] = {
        "outcome": str(fit.design.y.name),
        "contrast": labels,
        "estimate": estimate,
    }
    alone = np.full(len(L), df)
    kinds = [("", fit.covariance, alone), ("hc3_", fit.hc3_covariance, alone)]
    if fit.clusters is not None:
        kinds.append(("cluster_", fit.clusters.covariance, fit.clusters.sandwich.df(L)))
    for prefix, covariance, dfs in kinds:
        se = np.sqrt([variance(row, covariance.to_numpy()) for row in L])
        half = stats.t.ppf((1 + effects.LEVEL) / 2, dfs)
        columns[f"{prefix}se"] = se
        if prefix != "hc3_":
            columns[f"{prefix}df"] = dfs
        columns[f"{prefix}statistic"] = estimate / se
        columns[f"{prefix}p"] = 2 * stats.t.sf(np.abs(estimate / se), dfs)
        columns[f"{prefix}ci_low"] = estimate - half * se
        columns[f"{prefix}ci_high"] = estimate + half * se
    t = np.asarray(columns["statistic"])
    columns["partial_r"] = t / np.sqrt(t**2 + df)
    return pd.DataFrame(columns | {"n": len(fit.design.y)})


def joint(
    fit: Fit, contrasts: Contrast | Sequence[Contrast], *, name: str | None = None
) -> pd.DataFrame:
    """Test that several contrasts are zero together (Wald's F), with classical and HC3 errors.

    Parameters
    ----------
    contrasts : str, mapping, or a sequence of them
        As for `estimates`. The name of a term of several columns (``C(site)``) stands for all of them.
    name : str, optional
        What to call the test; otherwise the contrasts, joined.

    Returns
    -------
    DataFrame, one row
        outcome, test, df (contrasts that do not follow from the others), df_resid, f, p, partial_eta2, hc3_f, hc3_p,
        n.

    Raises
    ------
    DesignError
        As `estimates`.

    Notes
    -----
    Equals statsmodels' ``f_test``, and that of ``get_robustcov_results("HC3")``. The classical F is that of the fit
    against the one without the terms.

    Examples
    --------
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "group": list("aabbcc")})
    >>> joint(fit(table, formula="y ~ group", one_scan_per="all"), "group")[["df", "df_resid"]].values.tolist()
    [[2.0, 3.0]]
    """
    asked, labels = _listed(contrasts, None)
    rows: list[np.ndarray] = []
    terms = fit.design.terms
    for contrast in asked:
        owned = [j for j, term in enumerate(terms) if term is not None and term.name == contrast]
        rows += [np.eye(len(terms))[j] for j in owned] or [weights(fit, contrast)]
    found = wald(
        np.array(rows),
        fit.tidy["estimate"].to_numpy(),
        fit.covariance.to_numpy(),
        fit.hc3_covariance.to_numpy(),
        _df(fit),
    )
    title = {"outcome": str(fit.design.y.name), "test": name or ", ".join(labels)}
    return pd.DataFrame([{**title, **found, "n": len(fit.design.y)}])


def wald(
    L: np.ndarray, estimate: np.ndarray, covariance: np.ndarray, hc3: np.ndarray, df_resid: float
) -> dict[str, float]:
    """Compute the F of ``L @ estimate == 0`` from two covariances.

    Parameters
    ----------
    L : (k, p) float64 array
        Rows that follow from others are no further degrees of freedom.
    estimate, covariance, hc3 : (p,), (p, p) and (p, p) float64 arrays
    df_resid : float

    Returns
    -------
    dict
        df, df_resid, f, p, partial_eta2, hc3_f, hc3_p; the last two NaN where HC3 has no error in some direction.
    """
    from scipy import stats

    unit = np.sqrt(np.diag(covariance))  # in standard errors, so that units play no part
    scaled = L * unit
    scaled = scaled / np.sqrt((scaled**2).sum(axis=1))[:, None]
    left, size, _ = np.linalg.svd(scaled, full_matrices=False)
    independent = left[:, size > DEPENDENT * size[0]].T @ scaled
    df = len(independent)
    effect = independent @ (estimate / unit)
    middle = independent @ (covariance / np.outer(unit, unit)) @ independent.T
    f = float(effect @ np.linalg.solve(middle, effect)) / df
    hc3_f = math.nan
    used = (independent != 0).any(axis=0)
    part = (hc3 / np.outer(unit, unit))[np.ix_(used, used)]
    if np.isfinite(part).all():
        middle = independent[:, used] @ part @ independent[:, used].T
        size = np.linalg.eigvalsh(middle)
        if (
            size[0] > DEPENDENT * size[-1]
        ):  # not where residuals of zero leave a direction without error
            hc3_f = float(effect @ np.linalg.solve(middle, effect)) / df
    return {
        "df": float(df),
        "df_resid": df_resid,
        "f": f,
        "p": float(stats.f.sf(f, df, df_resid)),
        "partial_eta2": f * df / (f * df + df_resid),
        "hc3_f": hc3_f,
        "hc3_p": float(stats.f.sf(hc3_f, df, df_resid)),
    }


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
    >>> from cohort.stats.regression import fit
    >>> table = pd.DataFrame({"y": [1.0, 2, 2, 4, 5, 6], "age": [1.0, 2, 4, 3, 5, 7]})
    >>> weights(fit(table, formula="y ~ age", one_scan_per="all"), "Intercept + 70 * age").tolist()
    [1.0, 70.0]
    """
    terms = [str(name) for name in fit.tidy["term"]]
    # The effect of a reference level is zero by definition: "site[T.b] - site[T.a]" may be written out.
    references = [
        f"{name}[T.{coding['reference']}]"
        for name, coding in fit.design.coding.items()
        if coding["reference"] is not None
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
        raise DesignError(f"contrast {_label(contrast)!r}: a weight is not finite")
    if not found.any():
        raise DesignError(f"contrast {_label(contrast)!r} has no term with a weight other than 0")
    return found


def _listed(
    contrasts: Contrast | Sequence[Contrast], names: Sequence[str] | None
) -> tuple[list[Contrast], list[str]]:
    asked: list[Contrast] = [contrasts] if isinstance(contrasts, str | Mapping) else list(contrasts)
    if not asked:
        raise DesignError("no contrast is given; write one, such as 'dx + 70 * dx:age'")
    labels = [_label(contrast) for contrast in asked] if names is None else list(names)
    if len(labels) != len(asked):
        raise DesignError(f"{len(labels)} names for {len(asked)} contrasts")
    return asked, labels


def _label(contrast: Contrast) -> str:
    if isinstance(contrast, str):
        return " ".join(contrast.split())
    return " + ".join(f"{weight:g} * {name}" for name, weight in contrast.items())


def _unknown(name: str, terms: Sequence[str], where: str) -> str:
    message = cells.unknown_column(name, terms, where)
    return message.replace("no column", "no term", 1).replace("(columns:", "(terms:", 1)


def variance(row: np.ndarray, covariance: np.ndarray) -> float:
    """Variance of a weighted sum; terms of weight 0 play no part, even where they have no error (NaN)."""
    used = row != 0
    return float(row[used] @ covariance[np.ix_(used, used)] @ row[used])


def _df(fit: Fit) -> float:
    return float(fit.glance["df_resid"].iloc[0])


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
