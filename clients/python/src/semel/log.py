"""What is logged of every attempt: the six fields that support asks for (E34), and never a secret."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable

from . import jsontext
from .exchange import Reply, Saw
from .intent import Intent
from .judge import Judged
from .table import Judgement

__all__ = ["LOGGER", "exchange", "redacted"]

LOGGER = logging.getLogger("semel.attempt")

ERROR_CHARACTERS_MAX = 4096
"""Of an error's content, no more than this is logged."""


def exchange(
    intent: Intent, table: Judgement, what: str, number: int, saw: Saw, judged: Judged, secrets: Iterable[str]
) -> None:
    """One exchange and what follows from it. A client logs its own keys: without them nobody can reconcile."""
    secrets = list(secrets)
    content = saw.content if isinstance(saw, Reply) else b""
    error = saw.content if isinstance(saw, Reply) and not 200 <= saw.status <= 299 else b""
    status = str(saw.status) if isinstance(saw, Reply) else saw.replace("-", " ")
    six = {
        "merchant_reference_id": _member(intent.content, table.log["reference"]) or intent.operation,
        "idempotency_key": str(intent.key),
        "order_id": _member(content, table.log["order_id"]),
        "tracking_id": _member(content, table.log["tracking_id"]),
        "status": status,
        "error": error.decode("utf-8", "replace"),
    }
    six = {name: text if name == "idempotency_key" else redacted(text, secrets) for name, text in six.items()}
    shown = " ".join(f"{name}={text}" for name, text in six.items() if text)
    more = {"operation": intent.operation, "attempt": number, "why": judged.why, "proven": judged.verdict == "done"}
    # One line that a person can read, fields that a machine can.
    LOGGER.info("%s %d of %s: %s. %s %s", what, number, intent.operation, status, judged.say, shown, extra=six | more)


def _member(content: bytes, pointers: Iterable[str]) -> str:
    value = jsontext.read(content)
    for pointer in pointers:
        there = jsontext.at(value, pointer)
        if isinstance(there, str) or (isinstance(there, (int, float)) and not isinstance(there, bool)):
            return str(there)
    return ""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """The text without the client's credentials, which an API might repeat, and without control characters."""
    for secret in secrets:
        # `Bearer x`: what counts is x.
        for part in (secret, secret.rsplit(" ", 1)[-1]):
            if len(part) >= 4:
                text = text.replace(part, "[redacted]")
    # Cut last: half a secret is still one.
    if len(text) > ERROR_CHARACTERS_MAX:
        text = text[:ERROR_CHARACTERS_MAX] + "..."
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
