"""How an operation ended, or that nobody knows. There is always one (L18)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .exchange import Reply

__all__ = ["AlreadyExists", "Fresh", "Outcome", "Rejected", "Replayed", "Unresolved"]


@dataclass(frozen=True)
class Fresh:
    """It happened; the API's response."""

    reply: Reply
    happened: Literal[True] = True


@dataclass(frozen=True)
class Replayed:
    """It happened earlier; the API's response to that, replayed (L15)."""

    reply: Reply
    happened: Literal[True] = True


@dataclass(frozen=True)
class AlreadyExists:
    """It happened: the resource with this operation's id was seen (L5)."""

    reply: Reply
    """What the API showed."""
    path: str
    """Where."""
    happened: Literal[True] = True


@dataclass(frozen=True)
class Rejected:
    """It did not happen."""

    why: str
    """The reason, as a stable word of the judgement tables."""
    say: str
    """The reason, for people."""
    resumable: bool
    """Whether it may be resumed, with the same key and content, once the cause is mended (L4)."""
    reply: Reply | None
    """The API's last answer, if there was any."""
    happened: Literal[False] = False


@dataclass(frozen=True)
class Unresolved:
    """Nobody knows whether it happened. The operation stays open: resume it later, with the same key."""

    why: str
    """The reason, as a stable word of the judgement tables."""
    say: str
    """The reason, for people."""
    reply: Reply | None
    """The API's last answer, if there was any."""
    happened: Literal[False] = False


Outcome = Fresh | Replayed | AlreadyExists | Rejected | Unresolved
