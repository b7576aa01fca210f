"""Paths as Semel's routes see them."""

from __future__ import annotations

import re

__all__ = ["matches", "normalised"]

_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = re.compile(r"[A-Za-z0-9\-._~]")


def _escape(found: re.Match[str]) -> str:
    digits = found.group(1)
    if digits is None:
        # A percent sign by itself is one.
        return "%25"
    character = chr(int(digits, 16))
    return character if _UNRESERVED.fullmatch(character) else f"%{digits.upper()}"


def normalised(path: str) -> str:
    """One form for every spelling of a path: needless escapes undone, no empty or dot segments."""
    segments: list[str] = []
    for segment in _PERCENT.sub(_escape, path).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return "/" + "/".join(segments)


def matches(template: str, path: str) -> bool:
    """Whether a template (`{x}` for any one segment, a final `/*` for every path below) covers a normalised path."""
    wanted = [part for part in template.split("/") if part]
    parts = [part for part in path.split("/") if part]
    if wanted and wanted[-1] == "*":
        wanted.pop()
        parts = parts[: len(wanted)]
    if len(wanted) != len(parts):
        return False
    return all(_any(want) or normalised(want)[1:] == part for want, part in zip(wanted, parts, strict=True))


def _any(segment: str) -> bool:
    return len(segment) > 2 and segment.startswith("{") and segment.endswith("}")
