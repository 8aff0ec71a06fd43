"""Identity is content: canonical JSON to a digest, and the stamp that says "same inputs, same call, same revision"."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK = 1 << 20


def canonical_json(value: Any) -> str:
    """Write `value` as JSON that depends on nothing but its content.

    Keys are sorted, no spaces, floats in their shortest exact form, NumPy scalars and arrays as plain
    numbers and lists, tuples as lists, paths refused (a path is not content).

    Raises
    ------
    ValueError
        If a float is NaN or infinite: such a number has no JSON form.
    TypeError
        If something is neither a JSON value nor a NumPy number.

    Examples
    --------
    >>> canonical_json({"b": (1, 2.0), "a": None})
    '{"a":null,"b":[1,2.0]}'
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _plain(value: Any) -> Any:
    # Plain values first: of what is digested by the hundred thousand, nearly all are texts.
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no canonical form; store a missing number as null")
        return float(value)
    if isinstance(value, dict | Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no canonical JSON form")


def digest(value: Any) -> str:
    """SHA-256, in 64 hexadecimal digits, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def array_digest(dtype: np.dtype, shape: Sequence[int], parts: Iterable[np.ndarray]) -> str:
    """SHA-256 of an array's dtype, shape and C-ordered little-endian bytes.

    Parameters
    ----------
    parts : iterable of array
        The array in pieces that follow each other in memory order: itself, or slabs along its first axis.
    """
    little = dtype.newbyteorder("<")
    state = hashlib.sha256(f"{little.str}{tuple(shape)}".encode())
    for part in parts:
        contiguous = np.ascontiguousarray(part.astype(little, copy=False))
        state.update(contiguous.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file, read in blocks of 1 MiB."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """Same inputs, same call, same revision: same numbers.

    Parameters
    ----------
    inputs : mapping of str to str
        Name of each input -> its digest (of bytes) or stamp (of another step).
    call : str
        Name of the operation.
    params : mapping
        Everything else the operation was called with.
    revision : int
        Raised whenever the operation's numbers change.
    """

    inputs: Mapping[str, str]
    call: str
    params: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 1

    @property
    def digest(self) -> str:
        """SHA-256 over all four parts."""
        return digest(
            {
                "inputs": self.inputs,
                "call": self.call,
                "params": self.params,
                "revision": self.revision,
            }
        )
