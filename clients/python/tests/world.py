"""A scripted API, a clock that stands still, and dice that always fall the same way."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from semel import AsyncClient, Client, Intent, Outcome, Surroundings

START_MS = 1_750_000_000_000
KEY = "yonne_live_1234"
YONNE_OK = '{"success":true,"order_id":"ORD-1","tracking_id":"YON-TRK-1"}'
ORDER = "11111111-1111-4111-8111-111111111111"


@dataclass(frozen=True)
class Step:
    """What the API does with the next request: it answers; or `reset` (it may have it), `refuse` (no connection),
    `hang` (until the time-out), `break` (the content breaks off)."""

    status: int = 0
    content: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    does: str = "answer"


RESET, REFUSE, HANG, BREAK_OFF = Step(does="reset"), Step(does="refuse"), Step(does="hang"), Step(200, does="break")


def answer(status: int, content: str = "", **headers: str) -> Step:
    return Step(status, content, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    key: str | None
    content: bytes
    headers: dict[str, str]


class BrokenOff(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b'{"succ'
        raise httpx.ReadError("reset")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Still(Surroundings):
    """A clock that moves only when somebody sleeps, and dice that fall on the most or the least."""

    def __init__(self, high: bool = True) -> None:
        self.time_ms, self.slept, self.high = START_MS, [], high
        self.slept: list[int] = []

    def now_ms(self) -> int:
        return self.time_ms

    def draw(self, at_least_ms: int, at_most_ms: int) -> int:
        return at_most_ms if self.high else at_least_ms

    def sleep(self, pause_ms: int) -> None:
        self.time_ms += pause_ms
        self.slept.append(pause_ms)

    async def sleep_async(self, pause_ms: int) -> None:
        self.sleep(pause_ms)


@dataclass
class Api(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """The API as a transport, for both clients. It fails when more is asked of it than was scripted."""

    still: Still
    steps: deque[Step]
    seen: list[Seen] = field(default_factory=list)
    published: str | None = None
    asked_for_policy: int = 0
    before: Callable[[], None] = lambda: None
    guard: Any = field(default_factory=threading.Lock)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self.guard:
            return self._answer(request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/.well-known/idempotency":
            self.asked_for_policy += 1
            assert "x-api-key" not in request.headers, "the policy is public"
            return httpx.Response(404) if self.published is None else httpx.Response(200, text=self.published)
        self.before()
        key = request.headers.get("idempotency-key")
        path = request.url.raw_path.decode()
        self.seen.append(Seen(request.method, path, key, request.read(), dict(request.headers)))
        assert self.steps, "more requests than were scripted"
        step = self.steps.popleft()
        if step.does == "reset":
            raise httpx.ReadError("reset")
        if step.does == "refuse":
            raise httpx.ConnectError("refused")
        if step.does == "hang":
            self.still.time_ms += int(request.extensions["timeout"]["read"] * 1000)
            raise httpx.ReadTimeout("hangs")
        if step.does == "break":
            return httpx.Response(step.status, stream=BrokenOff())
        return httpx.Response(step.status, headers=step.headers, content=step.content.encode())

    def attempts(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "POST"]


class World:
    """An API, a journal, a clock; and a client of either kind, driven in the same way."""

    def __init__(self, *steps: Step, kind: str = "sync", high: bool = True) -> None:
        self.still = Still(high)
        self.api = Api(self.still, deque(steps))
        self.folder = Path(tempfile.mkdtemp(prefix="semel-"))
        self.kind = kind
        self.opened: list[Driven] = []

    def then(self, *steps: Step) -> None:
        self.api.steps.extend(steps)

    def client(self, folder: Path | None = None, **options: Any) -> Driven:
        options.setdefault("secret_headers", {"X-API-Key": KEY})
        options.setdefault("surroundings", self.still)
        driven = Driven(self.kind, folder or self.folder, self.api, options)
        self.opened.append(driven)
        return driven

    def one_key(self) -> None:
        """Every attempt had the same key and the same bytes, and all that was scripted was asked for."""
        attempts = self.api.attempts()
        assert all(seen == attempts[0] for seen in attempts), attempts
        assert not self.api.steps, "not all that was scripted was asked for"

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for driven in self.opened:
            driven.close()
        shutil.rmtree(self.folder)


class Driven:
    """A client that is called without await, whichever it is."""

    def __init__(self, kind: str, folder: os.PathLike[str], api: Api, options: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        make = Client if self.loop is None else AsyncClient
        try:
            self.client: Any = make(folder, transport=api, **options)
        except BaseException:
            if self.loop is not None:
                self.loop.close()
            raise
        self.journal = self.client.journal
        self.closed = False

    def _told(self, what: Any) -> Any:
        return what if self.loop is None else self.loop.run_until_complete(what)

    def send(self, intent: Intent) -> Outcome:
        return self._told(self.client.send(intent))

    def resume(self) -> dict[str, Any]:
        return self._told(self.client.resume())

    def resume_operation(self, operation: str) -> Outcome:
        return self._told(self.client.resume_operation(operation))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self.loop is None:
            self.client.close()
        else:
            self.loop.run_until_complete(self.client.aclose())
            self.loop.close()


def payment(**options: Any) -> Intent:
    options = {"operation": "payment-7", "json": '{"amount": 7}'} | options
    return Intent.post(options.pop("target", "https://api.example/payments"), **options)


def yonne(**options: Any) -> Intent:
    content = '{"delivery_fee": 7350, "merchant_reference_id": "WEB-7"}'
    options = {"operation": "order-7", "preset": "yonne", "json": content} | options
    return Intent.post("https://api.example/api/v1/external/create-order", **options)


def etherfuse(**options: Any) -> Intent:
    content = f'{{"orderId":"{ORDER}","quoteId":"q-1"}}'
    options = {"operation": "ramp-7", "preset": "etherfuse", "json": content} | options
    return Intent.post("https://api.example/ramp/order", **options)


def reasons(outcomes: Iterable[Outcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]
