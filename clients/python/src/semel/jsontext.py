"""JSON as every client of Semel reads it: strict UTF-8, no NaN, no lone surrogates; a member that is there twice counts
as its last."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["NOTHING", "at", "read"]


class _Nothing:
    """What is not there, or is no JSON: `null` is something else."""


NOTHING = _Nothing()

_INTEGER_DIGITS_MAX = 20


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


def _integer(text: str) -> int | float:
    # What is longer has no exact meaning in every language, and may be too long for Python to read.
    return int(text) if len(text) <= _INTEGER_DIGITS_MAX else _float(text)


def read(content: bytes) -> Any:
    """The value of a content, or `NOTHING` if it is no JSON."""
    try:
        text = content.decode("utf-8")
        value = json.loads(text, parse_constant=_no_constant, parse_float=_float, parse_int=_integer)
        if "\\u" in text:
            # Escapes can spell half of a character, which is no text.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        return NOTHING
    return value


def at(value: Any, pointer: str) -> Any:
    """What is at a JSON Pointer (RFC 6901), or `NOTHING`."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(name, NOTHING)
        elif isinstance(value, list):
            plain = name.isascii() and name.isdigit() and (name == "0" or not name.startswith("0"))
            value = value[int(name)] if plain and len(name) < 10 and int(name) < len(value) else NOTHING
        else:
            return NOTHING
    return value
