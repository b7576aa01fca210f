"""What can go wrong besides the API's answers. None of these says anything about an operation's effect: what was sent
before stays open in the journal."""

from __future__ import annotations

__all__ = [
    "AnotherKey",
    "Edited",
    "IntentError",
    "JournalBroken",
    "JournalDamaged",
    "JournalError",
    "JournalLocked",
    "KeyRefused",
    "KeyTaken",
    "NoSuchOperation",
    "OtherCredentials",
    "SemelError",
    "SendError",
]


class SemelError(Exception):
    """Any of them."""


class IntentError(SemelError, ValueError):
    """An intent cannot be made of this; nothing was sent or written."""


class KeyRefused(IntentError):
    """A text is not a key, or counts attempts."""


class JournalError(SemelError):
    """The journal cannot be used."""


class JournalLocked(JournalError):
    """Another process, or another client of this one, has the journal."""


class JournalDamaged(JournalError):
    """What is there is not what was written: it is refused, never read as something else."""


class JournalBroken(JournalError):
    """A write failed. Nothing more is written until the journal is opened again."""


class SendError(SemelError):
    """An operation was not sent, or not sent on."""


class Edited(SendError):
    """The operation is known with another target, content or preset, and it happened or may have happened (L13)."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"operation {operation} was sent with another target, content or preset before, and that one happened or "
            "may have: a changed one is a new operation"
        )


class AnotherKey(SendError):
    """The operation is known with another key."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"operation {operation} has another key: the key of an operation never changes")


class KeyTaken(SendError):
    """One key for two operations, such as one that was minted when the program was loaded (L14, E47)."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"this key belongs to operation {operation}: every operation needs a key of its own")


class OtherCredentials(SendError):
    """An attempt with other credentials may have had its effect; to the API these are somebody else's keys."""

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"operation {operation} may have happened under other credentials: with these the API would not recognise "
            "it, and could do it a second time. Resume it with the credentials it was sent with"
        )


class NoSuchOperation(SendError):
    """There is nothing to resume."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"the journal has no operation {operation}")
