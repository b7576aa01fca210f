"""What both clients do, without doing it: generators that say which exchange, pause or journal entry comes next.

Neither blocks nor awaits; `Client` and `AsyncClient` perform what they yield and send back what came of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import httpx

from . import log, published
from .errors import AnotherKey, Edited, NoSuchOperation, OtherCredentials, SendError
from .exchange import Attempt, Event, Read, Reply, Saw
from .exchange import Resumed as ResumedEvent
from .intent import Intent, is_header
from .journal import EventId, Journal, Known, State, is_waited_for
from .judge import Judged, judge
from .outcome import AlreadyExists, Fresh, Outcome, Rejected, Replayed, Unresolved
from .surroundings import Surroundings
from .table import Judgement

__all__ = ["Effect", "Engine", "Exchange", "Sleep", "Steps", "Write"]

REPLY_BYTES_MAX = 16 << 20
"""A reply's content is read to this many bytes (16 MiB); a longer one counts as one that broke off."""
PUBLISHED_MAX_MS = 2000
"""So long the published policy may take."""
PUBLISHED_BYTES_MAX = 1 << 20
"""And so large it may be."""

USER_AGENT = "semel-python"


@dataclass(frozen=True)
class Exchange:
    """Send this once, and read the whole response within the limits. Gives a `Saw`."""

    request: httpx.Request
    limit_ms: int
    bytes_max: int


@dataclass(frozen=True)
class Sleep:
    """Wait."""

    pause_ms: int


@dataclass(frozen=True)
class Write:
    """Ask something of the journal, which may wait for the disk. Gives what it gives."""

    work: Callable[[], Any]


Effect = Exchange | Sleep | Write
Steps = Generator[Effect, Any, Outcome]


class Engine:
    """The rules by which intents are sent until it is known how they ended, or until going on would be unsafe."""

    def __init__(
        self,
        journal: Journal,
        secret_headers: Mapping[str, str],
        attempts_max: int | None,
        elapsed_max_s: float | None,
        surroundings: Surroundings,
    ) -> None:
        for name, value in secret_headers.items():
            if not is_header(name, value):
                # Without the value: this may be logged.
                raise SendError(f"the header {name} has a name or value that cannot be sent")
        if (attempts_max is not None and attempts_max < 1) or (elapsed_max_s is not None and elapsed_max_s <= 0):
            raise ValueError("attempts_max and elapsed_max_s are more than nothing")
        self.journal, self.surroundings = journal, surroundings
        self._secrets = {name.lower(): value for name, value in secret_headers.items()}
        limits = {
            "attempts_max": attempts_max,
            "elapsed_max_ms": None if elapsed_max_s is None else int(elapsed_max_s * 1000),
        }
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        # What each API publishes, by its origin; None where it publishes nothing.
        self._published: dict[tuple[str, str, int | None], bytes | None] = {}

    def send(self, intent: Intent) -> Steps:
        """Sends an operation, or goes on with it if the journal knows it."""
        known: Known | None = None
        if self.journal.has(intent.operation):
            known = yield Write(lambda: self.journal.known(intent.operation))
        if known is None:
            return (yield from self._run(intent, [], new=True))
        before = known.intent
        another_key = intent.key_given and before.key != intent.key
        edited = before.fingerprint != intent.fingerprint or before.preset != intent.preset
        # Nothing happened and it is over: a corrected one under the same name is a new one (E31).
        if known.state == "rejected" and (edited or another_key):
            return (yield from self._run(intent, [], new=True))
        if another_key:
            raise AnotherKey(intent.operation)
        if edited:
            raise Edited(intent.operation)
        return (yield from self._go_on(known))

    def resume(self, operation: str) -> Steps:
        """Goes on with one operation, with the same key and the same bytes."""
        known: Known | None = yield Write(lambda: self.journal.known(operation))
        if known is None:
            raise NoSuchOperation(operation)
        return (yield from self._go_on(known))

    def open_operations(self) -> list[str]:
        """What was interrupted or is unresolved. What was stopped for a cause that somebody has to mend waits for
        that somebody (L4)."""
        return [known.intent.operation for known in self.journal.operations() if known.state in ("open", "unresolved")]

    def _go_on(self, known: Known) -> Steps:
        intent, history = known.intent, list(known.history)
        table = yield from self._table(intent, history)
        now_ms = self.surroundings.now_ms()
        judged = judge(table, intent.path, intent.key, history, now_ms)
        if judged.verdict == "done" or (judged.verdict == "rejected" and not judged.resumable):
            # A crash can come between the last answer and this.
            return (yield from self._conclude(intent, judged, history))
        if judged.open and known.scope != self._scope(intent):
            raise OtherCredentials(intent.operation)
        self.journal.resumed(intent.operation, now_ms)
        history.append(ResumedEvent(now_ms))
        return (yield from self._run(intent, history, new=False))

    def _run(self, intent: Intent, history: list[Event], *, new: bool) -> Steps:
        paused = False
        while True:
            table = yield from self._table(intent, history)
            now_ms = self.surroundings.now_ms()
            judged = judge(table, intent.path, intent.key, history, now_ms)
            if judged.verdict not in ("retry", "read"):
                return (yield from self._conclude(intent, judged, history))
            at_least_ms, at_most_ms = judged.at_least_ms or 0, judged.at_most_ms or 0
            # After a pause it is judged again: a machine that slept may wake up after the window.
            if at_least_ms > 0 or (at_most_ms > 0 and not paused):
                yield Sleep(at_least_ms if paused else self.surroundings.draw(at_least_ms, at_most_ms))
                paused = True
                continue
            paused = False
            act: Literal["attempt", "read"] = "attempt" if judged.path is None else "read"
            # Made before the wait for the disk, after which the processor has forgotten much.
            exchange = Exchange(self._request(intent, judged.path), table.budget.attempt_max_ms, REPLY_BYTES_MAX)
            event = yield Write(self._begin(intent, new, act, now_ms))
            new = False
            saw: Saw = yield exchange
            end_ms = self.surroundings.now_ms()
            self.journal.end(event, end_ms, saw)
            history.append((Attempt if act == "attempt" else Read)(now_ms, end_ms, saw))
            self._log(intent, table, history, act, saw)

    def _begin(self, intent: Intent, new: bool, act: Literal["attempt", "read"], at_ms: int) -> Callable[[], EventId]:
        scope = self._scope(intent)
        return lambda: self.journal.begin(intent, new=new, scope=scope, act=act, at_ms=at_ms)

    def _log(
        self, intent: Intent, table: Judgement, history: list[Event], act: Literal["attempt", "read"], saw: Saw
    ) -> None:
        if not log.LOGGER.isEnabledFor(logging.INFO):
            return
        judged = judge(table, intent.path, intent.key, history, self.surroundings.now_ms())
        kind = Attempt if act == "attempt" else Read
        number = sum(isinstance(event, kind) for event in history)
        log.exchange(intent, table, act, number, saw, judged, self._secrets.values())

    def _conclude(self, intent: Intent, judged: Judged, history: Iterable[Event]) -> Steps:
        """Writes down where it stands."""
        at_ms = self.surroundings.now_ms()
        state = _state(judged)
        stands = partial(self.journal.stands, intent.operation, state, judged.why, at_ms)
        if is_waited_for(state):
            yield Write(stands)
        else:
            stands()
        return _outcome(intent, judged, list(history))

    def _scope(self, intent: Intent) -> bytes:
        """Whose key space the keys of this client live in at this target (L1): the journal keeps a digest of it."""
        texts = [httpx.URL(intent.target).netloc.decode("ascii")]
        texts += [text for pair in sorted(self._secrets.items()) for text in pair]
        parts = (text.encode("utf-8") for text in texts)
        return self.journal.digest(b"".join(len(part).to_bytes(8, "little") + part for part in parts))

    def _request(self, intent: Intent, path: str | None) -> httpx.Request:
        """One attempt, or a read of this path at the same API."""
        if path is not None:
            headers = [("accept", "*/*"), ("user-agent", USER_AGENT), *self._secrets.items()]
            return httpx.Request("GET", _at(intent, path), headers=headers)
        headers = [pair for pair in intent.attempt_headers() if pair[0] not in self._secrets]
        named = {name for name, _ in headers}
        headers += [pair for pair in (("accept", "*/*"), ("user-agent", USER_AGENT)) if pair[0] not in named]
        headers += self._secrets.items()
        return httpx.Request(intent.method, intent.target, headers=headers, content=intent.content)

    def _table(self, intent: Intent, history: list[Event]) -> Generator[Effect, Any, Judgement]:
        """The table of this operation, with this client's limits and, once a retry is at stake, the API's window."""
        table = Judgement.preset(intent.preset).with_budget(**self._limits)
        last = history[-1] if history else None
        succeeded = isinstance(last, Attempt) and isinstance(last.saw, Reply) and 200 <= last.saw.status <= 299
        if last is None or succeeded:
            return table
        document = yield from self._policy(intent)
        window_ms = None if document is None else published.window_ms(document, intent.method, intent.path)
        if window_ms is None:
            return table
        # A short window would otherwise be all margin.
        return table.with_budget(window_ms=window_ms, margin_ms=min(table.budget.margin_ms, window_ms // 2))

    def _policy(self, intent: Intent) -> Generator[Effect, Any, bytes | None]:
        url = _at(intent, published.POLICY_PATH)
        origin = (url.scheme, url.host, url.port)
        if origin not in self._published:
            # No credentials: it is public.
            request = httpx.Request("GET", url, headers={"accept": "*/*", "user-agent": USER_AGENT})
            saw: Saw = yield Exchange(request, PUBLISHED_MAX_MS, PUBLISHED_BYTES_MAX)
            if not isinstance(saw, Reply):
                return None
            self._published[origin] = saw.content if saw.status == 200 else None
        return self._published[origin]


def _at(intent: Intent, path: str) -> httpx.URL:
    """A path of the same API."""
    return httpx.URL(intent.target).copy_with(raw_path=path.encode("ascii"))


def _state(judged: Judged) -> State:
    if judged.verdict == "done":
        return "done"
    if judged.verdict == "rejected":
        return "stopped" if judged.resumable else "rejected"
    return "unresolved"


def _outcome(intent: Intent, judged: Judged, history: list[Event]) -> Outcome:
    def last(kind: type[Attempt] | type[Read]) -> Reply | None:
        saw = next((event.saw for event in reversed(history) if isinstance(event, kind)), None)
        return saw if isinstance(saw, Reply) else None

    proof = last(Read if judged.outcome == "already-exists" else Attempt)
    if judged.verdict == "done":
        assert proof is not None, "success needs proof"
        if judged.outcome == "already-exists":
            path = Judgement.preset(intent.preset).route(intent.path).resource(intent.key)
            assert path is not None, "what was read has a path"
            return AlreadyExists(proof, path)
        return Replayed(proof) if judged.outcome == "replayed" else Fresh(proof)
    if judged.verdict == "rejected":
        return Rejected(judged.why, judged.say, bool(judged.resumable), proof)
    return Unresolved(judged.why, judged.say, proof)
