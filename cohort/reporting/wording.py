"""Numbers as people read them: sensible digits, the exact value kept beside."""

import math
import re
from typing import Any, NamedTuple

MISSING = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


class Shown(NamedTuple):
    """A number as shown, and exactly (for a tooltip)."""

    text: str
    exact: str


def number(value: Any, *, digits: int = 4, decimals: int | None = None) -> Shown:
    """A number with `digits` significant digits, or with as many `decimals` as its column has.

    Digits before the decimal point are never rounded away below a million; what is smaller than 1e-4 or at
    least 1e6, and not whole, is written with a power of ten. NaN and None are a dash.

    Examples
    --------
    >>> number(0.39990841).text, number(1468161.23).text, number(-1.2345e-7).text, number(24).text, number(None).text
    ('0.3999', '1.468 × 10⁶', '−1.235 × 10⁻⁷', '24', '–')
    """
    if value is None or math.isnan(value):
        return Shown(MISSING, "no value")
    if isinstance(value, bool):
        return Shown("yes" if value else "no", str(value))
    exact = float(value)
    if math.isinf(exact):
        return Shown("∞" if exact > 0 else f"{_MINUS}∞", repr(exact))
    if decimals is not None and 0 <= decimals <= 6 and abs(exact) < 1e6:
        return Shown(_signed(f"{exact:,.{decimals}f}"), repr(exact))
    if exact.is_integer() and abs(exact) < 1e15 and not (decimals is not None and decimals > 6):
        return Shown(_signed(f"{exact:,.0f}"), repr(exact))
    power = math.floor(math.log10(abs(exact))) if exact else 0
    if -4 <= power < 6:
        return Shown(_signed(f"{exact:,.{max(0, digits - 1 - power)}f}"), repr(exact))
    factor, exponent = f"{exact:.{digits - 1}e}".split("e")
    return Shown(
        _signed(f"{factor} \N{MULTIPLICATION SIGN} 10{str(int(exponent)).translate(_SUPERSCRIPT)}"),
        repr(exact),
    )


def _signed(text: str) -> str:
    """Typographic minus; no sign before a zero."""
    if not text.startswith("-"):
        return text
    return _MINUS + text[1:] if any(c in "123456789" for c in text) else text[1:]


def decimals_for(resolution: Any, *, digits: int = 2) -> int:
    """Decimals that show `digits` significant digits of a standard error: all a reader can use of an estimate.

    Examples
    --------
    >>> decimals_for(0.0675871), decimals_for(5.7), decimals_for(120.0)
    (3, 1, 0)
    """
    size = abs(float(resolution))
    if not math.isfinite(size) or size == 0:
        return 4
    return max(0, digits - 1 - math.floor(math.log10(size)))


def p_value(p: Any) -> Shown:
    """A p-value: two digits, and nothing finer than 0.001.

    Examples
    --------
    >>> p_value(1.6e-8), p_value(0.01213).text, p_value(0.9973).text
    (Shown(text='< 0.001', exact='p = 1.6e-08'), '0.012', '> 0.99')
    """
    if p is None or math.isnan(p):
        return Shown(MISSING, "no value")
    exact = f"p = {float(p)!r}"
    if p < 0.001:
        return Shown(
            "< 0.001", exact if p > 0 else "p is below the smallest number a computer can hold"
        )
    if p > 0.99:
        return Shown("> 0.99", exact)
    return Shown(f"{p:.3f}" if p < 0.01 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}", exact)


def count(n: int, one: str, many: str | None = None) -> str:
    """A number and its noun.

    Examples
    --------
    >>> count(1, "scan"), count(2, "scan"), count(0, "series", "series")
    ('1 scan', '2 scans', '0 series')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def clean(text: str) -> str:
    """Text in which each control character, lone surrogate and override of the writing direction is U+FFFD.

    No HTML file may hold the first two; the last would turn around what stands after it.
    """
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
