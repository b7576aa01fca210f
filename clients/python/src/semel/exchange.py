"""What came of a request, and what happened to an operation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Attempt", "Event", "Failure", "Read", "Reply", "Resumed", "Saw", "trimmed"]


def trimmed(text: str) -> str:
    """Without spaces, tabs and line ends at both ends."""
    return text.strip(" \t\r\n")


@dataclass(frozen=True)
class Reply:
    """A whole response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """As they came, names in small letters, values decoded as Latin-1."""
    content: bytes
    """All of its content, as it came."""

    def header(self, name: str) -> str | None:
        """The first value of a header."""
        return next((value for there, value in self.headers if there == name.lower()), None)

    def field(self, name: str) -> str | None:
        """The same, trimmed, if it is printable ASCII: what tables compare."""
        value = self.header(name)
        if value is None or not all(c == "\t" or " " <= c <= "~" for c in value):
            return None
        return trimmed(value)

    def json(self) -> Any:
        """The content as JSON; raises `ValueError` if it is none."""
        return json.loads(self.content)


Failure = Literal["not-sent", "no-response"]
"""Not one byte left; or it may have arrived, and no whole response came back."""

Saw = Reply | Failure


@dataclass(frozen=True)
class Attempt:
    """It was sent. Times are milliseconds since the Unix epoch."""

    at_ms: int
    end_ms: int
    saw: Saw


@dataclass(frozen=True)
class Read:
    """Its own resource was asked for."""

    at_ms: int
    end_ms: int
    saw: Saw


@dataclass(frozen=True)
class Resumed:
    """Somebody asked to go on with it: a new run with a new budget."""

    at_ms: int


Event = Attempt | Read | Resumed
