"""How long an API says that it remembers keys: the policy document of Semel (`/.well-known/idempotency`)."""

from __future__ import annotations

import math

from . import jsontext, paths

__all__ = ["POLICY_PATH", "window_ms"]

POLICY_PATH = "/.well-known/idempotency"

# A century is for ever.
_SECONDS_MAX = 3.2e9


def window_ms(document: bytes, method: str, path: str) -> int | None:
    """The window of a request in milliseconds, if this is such a document and covers it. A key is safe to send again
    for as long as it is remembered; where an expired one executes afresh, only for as long as replies are."""
    value = jsontext.read(document)
    if not isinstance(value, dict) or value.get("version") != 1:
        return None
    path = paths.normalised(path)
    try:
        route = next(
            route for route in value["routes"] if method in route["methods"] and paths.matches(route["path"], path)
        )
        times = route["times_seconds"]
        remembered = times["remember_for" if route["retry"]["on_expired"] == "refuse" else "replay_for"]
        seconds = min(float(remembered), float(times["unknown_for"]))
    except (StopIteration, KeyError, TypeError, ValueError, AttributeError):
        return None
    return int(min(seconds, _SECONDS_MAX) * 1000) if math.isfinite(seconds) and seconds >= 0 else None
