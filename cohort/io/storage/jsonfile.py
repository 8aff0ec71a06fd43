"""JSON files that carry their own digest: a flipped bit is seen, whatever it hits.

The first member of the object is ``"digest"``: the SHA-256, in 64 hexadecimal digits, of the file without that member,
that is of ``{`` and all that follows the member and its comma, without the line's end. The text is digested as it stands,
not what it means, so that checking needs no second encoding and no bit is spared.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_OPENING = b'{"digest": "'
_MEMBER = len(_OPENING) + 64 + 1
"""Bytes of the opening brace and the member, its closing quote included."""


def encode(value: Mapping[str, Any]) -> bytes:
    """Write a mapping as a JSON file with its digest.

    Raises
    ------
    ValueError
        If a float is NaN or infinite.

    Examples
    --------
    >>> decode(encode({"a": 1.5, "b": ["x"]}))
    {'a': 1.5, 'b': ['x']}
    """
    # No indent: with one, Python's slow encoder is used, and records are written by the thousand.
    body = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    digest = hashlib.sha256(body).hexdigest().encode("ascii")
    return b"".join([_OPENING, digest, b'", ' if value else b'"', body[1:], b"\n"])


def has_digest(content: bytes) -> bool:
    """Whether a file is one of these; another was written by hand, or before there were digests."""
    return content.startswith(_OPENING)


def decode(content: bytes, *, required: bool = True) -> dict[str, Any]:
    """Mapping that a JSON file holds, without its digest.

    Parameters
    ----------
    required : bool
        Refuse a file without a digest.

    Raises
    ------
    ValueError
        If the file is no JSON object, or not the one that was written.
    """
    if has_digest(content):
        member, rest = content[:_MEMBER], content[_MEMBER:]
        body = b"{" + rest.removeprefix(b", ").removesuffix(b"\n")
        found = hashlib.sha256(body).hexdigest().encode("ascii")
        if member != _OPENING + found + b'"' or not rest.endswith(b"\n"):
            raise ValueError("its digest is not that of its content")
        content = body
    elif required:
        raise ValueError("it has no digest")
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")  # noqa: TRY004 - content, not an argument
    return value
