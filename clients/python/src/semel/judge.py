"""What a client may conclude from what it saw: pure, with neither a clock nor dice.

`judge` reads the whole history of one operation and a table of what an API's answers mean, and says what to do next.
Two rules hold whatever a table says. Success needs proof: a successful response, or the own resource, seen. And as long
as an attempt may have had its effect, no later answer that is about itself only makes the operation a failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Literal

from .exchange import Attempt, Event, Read, Reply, Resumed, Saw
from .table import Conclusion, Judgement

__all__ = ["Judged", "judge"]


@dataclass(frozen=True)
class Judged:
    """What to do next, and why."""

    verdict: Literal["done", "retry", "read", "rejected", "undecided"]
    why: str
    """The reason, as a stable word."""
    say: str
    """The reason, for people."""
    open: bool
    """Whether an attempt may have had its effect, and nobody knows."""
    outcome: Literal["fresh", "replayed", "already-exists", "rejected", "unresolved"] | None = None
    resumable: bool | None = None
    """Of `rejected`: whether the same key and content may be sent again once the cause is mended."""
    path: str | None = None
    """Of `read`: what to GET, at the same API."""
    at_least_ms: int | None = None
    """Of `retry` and `read`: not earlier than this, from now."""
    at_most_ms: int | None = None
    """Of `retry` and `read`: not later."""


def judge(table: Judgement, path: str, key: str, history: Iterable[Event], now_ms: int) -> Judged:
    """What to do next with an operation (the path of its address, without query, and its key) that this happened to."""
    walk = _Walk(table, path, key)
    for event in history:
        walk.step(event)
    return walk.verdict(now_ms)


_SAYS = {
    "first": "It was not sent yet.",
    "resumed": "It is sent again, unchanged.",
    "seen": "The own resource was looked up, and is there.",
    "read-again": "The resource could not be looked up yet.",
    "read-failed": "The resource could not be looked up.",
    "attempts-over": "It was tried as often as it may be in one run. Resume later.",
    "elapsed-over": "The next try would be later than one run may last. Resume later.",
    "window-over": "By the next try the API might have forgotten the key, and do it a second time. "
    "Look the resource up.",
}

_Next = Literal["first", "done", "follow", "read-again", "read-failed", "resumed", "over"]

_FOR_EVER = float("inf")


class _Over(Exception):
    """No further pause is allowed; the argument says what is over."""


class _Walk:
    """What a history amounts to."""

    def __init__(self, table: Judgement, path: str, key: str) -> None:
        self.table, self.route, self.key = table, table.route(path), key
        # When the first of the attempts began that may have had the effect.
        self.open_since: int | None = None
        # When the present run began, and what it has had so far.
        self.run_from = 0
        self.attempts = 0
        # Since the last attempt.
        self.reads = 0
        self.next: _Next = "first"
        # What `done`, `follow` and `over` go by.
        self.by: Conclusion | None = None
        self.outcome: Literal["fresh", "replayed", "already-exists"] = "fresh"
        # What follows where the resource that is asked for is not there.
        self.otherwise: Conclusion | None = None
        self.pause_from = 0

    def step(self, event: Event) -> None:
        # What is proven stays proven, whatever came later.
        if self.next == "done":
            return
        if isinstance(event, Resumed):
            self._resumed(event.at_ms)
            return
        self.pause_from = event.end_ms + _asked_pause_ms(event.saw, event.end_ms)
        if isinstance(event, Read):
            self.reads += 1
            self._read(event.saw)
        else:
            if self.next == "first":
                self.run_from = event.at_ms
            self.attempts += 1
            self.reads = 0
            self._attempt(event)

    def _attempt(self, event: Attempt) -> None:
        rule = self.table.rule(event.saw, self.open_since is not None)
        self.otherwise = None
        if rule.proves == "nothing" and self.open_since is None:
            self.open_since = event.at_ms
        elif rule.proves == "key":
            self.open_since = None
        self.next, self.by = "follow", rule
        if rule.verdict == "done":
            self.next = "done"
            self.outcome = "replayed" if self.table.is_replay(event.saw) else "fresh"
        elif rule.verdict == "read":
            if self.route.read_path is not None:
                self.otherwise = rule.otherwise
            else:
                self.by = rule.otherwise

    def _read(self, saw: Saw) -> None:
        # A resource that shows the own id is a proof even if nobody asked for it; that it is not there says something
        # only after the answer that made one ask.
        if isinstance(saw, Reply) and 200 <= saw.status <= 299 and self.route.shows(saw.content, self.key):
            self.next, self.by, self.outcome = "done", None, "already-exists"
        elif self.otherwise is None:
            return
        elif isinstance(saw, Reply) and saw.status == 404:
            if self.otherwise.proves == "key":
                self.open_since = None
            self.next, self.by, self.otherwise = "follow", self.otherwise, None
        elif not isinstance(saw, Reply) or saw.status in (408, 425, 429) or 500 <= saw.status <= 599:
            self.next = "read-again"
        else:
            self.next = "read-failed"

    def _resumed(self, at_ms: int) -> None:
        self.run_from, self.attempts, self.reads, self.otherwise = at_ms, 0, 0, None
        if self.next == "over":
            return
        final = self.next == "follow" and self.by is not None and self.by.resumable is False
        self.next = "over" if final and self.open_since is None else "resumed"

    def verdict(self, now_ms: int) -> Judged:
        is_open = self.open_since is not None and self.next != "done"

        def wait(verdict: Literal["retry", "read"], why: str, say: str, pause: tuple[int, int]) -> Judged:
            path = self.route.resource(self.key) if verdict == "read" else None
            return Judged(verdict, why, say, is_open, path=path, at_least_ms=pause[0], at_most_ms=pause[1])

        def undecided(why: str, say: str) -> Judged:
            return Judged("undecided", why, say, is_open, "unresolved")

        def stop(resumable: bool, why: str, say: str) -> Judged:
            # Stopping is a failure only where nothing can have happened.
            return undecided(why, say) if is_open else Judged("rejected", why, say, False, "rejected", resumable)

        by = self.by
        if self.next == "done":
            why, say = ("seen", _SAYS["seen"]) if by is None else (by.why, by.say)
            return Judged("done", why, say, False, self.outcome)
        if self.next == "read-failed":
            return undecided("read-failed", _SAYS["read-failed"])
        if self.next == "resumed" and now_ms > self._window_end():
            return undecided("window-over", _SAYS["window-over"])
        if self.next == "first" or self.next == "resumed":
            return wait("retry", self.next, _SAYS[self.next], (0, 0))
        try:
            if self.next == "read-again":
                return wait("read", "read-again", _SAYS["read-again"], self._pause(self.reads, _FOR_EVER, now_ms))
            assert by is not None, "what is followed or over has a rule"
            if self.next == "over":
                return Judged("rejected", by.why, by.say, is_open, "rejected", False)
            if by.verdict == "retry":
                return wait("retry", by.why, by.say, self._pause(self.attempts, self._window_end(), now_ms))
        except _Over as over:
            return stop(True, str(over), _SAYS[str(over)])
        if by.verdict == "read":
            return wait("read", by.why, by.say, (0, 0))
        if by.verdict == "rejected":
            return stop(bool(by.resumable), by.why, by.say)
        return undecided(by.why, by.say)

    def _window_end(self) -> float:
        """The last moment at which the API is sure to remember the attempts that may have had their effect."""
        budget = self.table.budget
        if self.open_since is None or budget.window_ms is None:
            return _FOR_EVER
        return self.open_since + max(0, budget.window_ms - budget.margin_ms)

    def _pause(self, tries: int, window_end: float, now_ms: int) -> tuple[int, int]:
        budget = self.table.budget
        if tries >= budget.attempts_max:
            raise _Over("attempts-over")
        doubled = budget.pause_base_ms << min(max(tries - 1, 0), 32)
        earliest = max(self.pause_from, now_ms)
        latest = max(self.pause_from + min(doubled, budget.pause_max_ms), now_ms)
        run_end = self.run_from + budget.elapsed_max_ms
        if earliest > run_end:
            raise _Over("elapsed-over")
        if earliest > window_end:
            raise _Over("window-over")
        return earliest - now_ms, int(min(latest, run_end, window_end)) - now_ms


_SECONDS = re.compile(r"[0-9]{1,9}")
# The three forms of a date (RFC 9110 section 5.6.7) end with a time and a zone, or a year for UTC. `email` reads more.
_DATE = re.compile(r".*:[0-9]{2} (?:GMT|[0-9]+)")


def _asked_pause_ms(saw: Saw, end_ms: int) -> int:
    """`Retry-After` (RFC 9110 section 10.2.3) in milliseconds from the end of the exchange; 0 where there is none."""
    text = saw.field("retry-after") if isinstance(saw, Reply) else None
    if text is None:
        return 0
    if _SECONDS.fullmatch(text):
        return int(text) * 1000
    if not _DATE.fullmatch(text):
        return 0
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0
    return max(0, int(moment.replace(tzinfo=timezone.utc).timestamp()) * 1000 - end_ms)
