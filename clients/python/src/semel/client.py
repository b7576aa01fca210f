"""Clients that send intents until it is known how they ended, or until going on would be unsafe."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar, cast

import httpx

from .engine import Effect, Engine, Exchange, Sleep, Steps
from .errors import SemelError
from .exchange import Reply, Saw
from .intent import Intent
from .journal import Journal
from .outcome import Outcome
from .surroundings import Surroundings
from .transport import LimitedTransport

__all__ = ["AsyncClient", "Client"]

_T = TypeVar("_T")

# Only these say that not one byte of the request left; all others may come later.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)


class _TooLong(Exception):
    """A content over its limit."""


class _Received:
    """A response as far as it has come."""

    def __init__(self, exchange: Exchange) -> None:
        self._parts: list[bytes] = []
        self._left = exchange.bytes_max

    def add(self, part: bytes) -> None:
        self._left -= len(part)
        if self._left < 0:
            raise _TooLong
        self._parts.append(part)

    def whole(self, response: httpx.Response) -> Reply:
        raw = response.headers.raw
        headers = tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw)
        return Reply(response.status_code, headers, b"".join(self._parts))


def _timed(exchange: Exchange) -> httpx.Request:
    exchange.request.extensions["timeout"] = httpx.Timeout(exchange.limit_ms / 1000).as_dict()
    return exchange.request


class Client:
    """Sends intents over httpx. It may be used by several threads; one operation is sent by one of them at a time.

    `journal` is a folder. `secret_headers` go with every request and are never written down. `attempts_max` and
    `elapsed_max_s` bound one run, instead of the preset's numbers. Redirects are not followed, proxies and other
    settings of the environment not taken, and `transport` must send each request it is given once at the most.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str],
        *,
        secret_headers: Mapping[str, str] | None = None,
        attempts_max: int | None = None,
        elapsed_max_s: float | None = None,
        transport: httpx.BaseTransport | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._surroundings = surroundings or Surroundings()
        self.journal = Journal(journal, self._surroundings)
        try:
            self._engine = Engine(self.journal, secret_headers or {}, attempts_max, elapsed_max_s, self._surroundings)
            self._transport = transport or LimitedTransport()
        except BaseException:
            self.journal.close()
            raise
        self._turns = _Turns(threading.Lock)

    def send(self, intent: Intent) -> Outcome:
        """Sends an operation, or goes on with it if the journal knows it, until there is an outcome. Sent twice under
        one name it is one operation (L12). An interruption, such as Ctrl-C, leaves one that can be resumed."""
        with self._turn(intent.operation):
            return self._perform(self._engine.send(intent))

    def resume(self) -> dict[str, Outcome | SemelError]:
        """Goes on, one after another, with everything that was interrupted or is unresolved, with the same keys and
        bytes; tells what became of each, or why it was not sent on. What was stopped for a cause that somebody has to
        mend waits for `resume_operation` (L4)."""
        resumed: dict[str, Outcome | SemelError] = {}
        for operation in self._engine.open_operations():
            try:
                resumed[operation] = self.resume_operation(operation)
            except SemelError as error:
                resumed[operation] = error
        return resumed

    def resume_operation(self, operation: str) -> Outcome:
        """Goes on with one operation, with the same key and bytes. What is over is told again."""
        with self._turn(operation):
            return self._perform(self._engine.resume(operation))

    def close(self) -> None:
        """Closes connections and journal. What runs in other threads fails, and can be resumed."""
        self._transport.close()
        self.journal.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _turn(self, operation: str) -> Iterator[None]:
        with self._turns.of(operation) as turn, turn:
            yield

    def _perform(self, steps: Steps) -> Outcome:
        answer: Any = None
        while True:
            try:
                effect = steps.send(answer)
            except StopIteration as done:
                return cast(Outcome, done.value)
            answer = self._one(effect)

    def _one(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            self._surroundings.sleep(effect.pause_ms)
            return None
        if isinstance(effect, Exchange):
            return self._exchange(effect)
        return effect.work()

    def _exchange(self, exchange: Exchange) -> Saw:
        received, deadline = _Received(exchange), time.monotonic() + exchange.limit_ms / 1000
        try:
            response = self._transport.handle_request(_timed(exchange))
            try:
                for part in cast(httpx.SyncByteStream, response.stream):
                    received.add(part)
                    if time.monotonic() > deadline:
                        return "no-response"
            finally:
                response.close()
        except _NOT_SENT:
            return "not-sent"
        except (httpx.HTTPError, httpx.StreamError, OSError, _TooLong):
            return "no-response"
        return received.whole(response)


class AsyncClient:
    """The same for asyncio: what `Client` blocks for, this awaits. It belongs to one event loop."""

    RESUMED_AT_ONCE_MAX = 16
    """So many operations are resumed at a time."""

    JOURNAL_THREADS_MAX = 16
    """So many wait for the disk at a time; they share its barriers."""

    def __init__(
        self,
        journal: str | os.PathLike[str],
        *,
        secret_headers: Mapping[str, str] | None = None,
        attempts_max: int | None = None,
        elapsed_max_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._surroundings = surroundings or Surroundings()
        self.journal = Journal(journal, self._surroundings)
        try:
            self._engine = Engine(self.journal, secret_headers or {}, attempts_max, elapsed_max_s, self._surroundings)
            self._transport = transport or httpx.AsyncHTTPTransport(trust_env=False)
        except BaseException:
            self.journal.close()
            raise
        self._threads = ThreadPoolExecutor(self.JOURNAL_THREADS_MAX, "semel-journal")
        self._turns = _Turns(asyncio.Lock)

    async def send(self, intent: Intent) -> Outcome:
        """Sends an operation, or goes on with it if the journal knows it, until there is an outcome. Sent twice under
        one name it is one operation (L12). Cancelling leaves one that can be resumed."""
        async with self._turn(intent.operation):
            return await self._perform(self._engine.send(intent))

    async def resume(self) -> dict[str, Outcome | SemelError]:
        """Goes on, several at a time, with everything that was interrupted or is unresolved, with the same keys and
        bytes; tells what became of each, or why it was not sent on. What was stopped for a cause that somebody has to
        mend waits for `resume_operation` (L4)."""
        few = asyncio.Semaphore(self.RESUMED_AT_ONCE_MAX)

        async def one(operation: str) -> Outcome | SemelError:
            async with few:
                try:
                    return await self.resume_operation(operation)
                except SemelError as error:
                    return error

        operations = await self._in_thread(self._engine.open_operations)
        return dict(zip(operations, await asyncio.gather(*map(one, operations)), strict=True))

    async def resume_operation(self, operation: str) -> Outcome:
        """Goes on with one operation, with the same key and bytes. What is over is told again."""
        async with self._turn(operation):
            return await self._perform(self._engine.resume(operation))

    async def aclose(self) -> None:
        """Closes connections and journal. What runs in other tasks fails, and can be resumed."""
        await self._transport.aclose()
        await self._in_thread(self.journal.close)
        self._threads.shutdown()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _turn(self, operation: str) -> AsyncIterator[None]:
        with self._turns.of(operation) as turn:
            async with turn:
                yield

    async def _perform(self, steps: Steps) -> Outcome:
        answer: Any = None
        while True:
            try:
                effect = steps.send(answer)
            except StopIteration as done:
                return cast(Outcome, done.value)
            if isinstance(effect, Sleep):
                await self._surroundings.sleep_async(effect.pause_ms)
                answer = None
            elif isinstance(effect, Exchange):
                answer = await self._exchange(effect)
            else:
                answer = await self._in_thread(effect.work)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Journal work, to its end even if the task is cancelled: the next turn must find it written or not."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            # Seen, so that nobody complains of an error that nobody fetched.
            future.exception()
            raise

    async def _exchange(self, exchange: Exchange) -> Saw:
        try:
            return await asyncio.wait_for(self._whole(exchange), exchange.limit_ms / 1000)
        except _NOT_SENT:
            return "not-sent"
        except (httpx.HTTPError, httpx.StreamError, OSError, _TooLong, asyncio.TimeoutError):
            return "no-response"

    async def _whole(self, exchange: Exchange) -> Reply:
        received = _Received(exchange)
        response = await self._transport.handle_async_request(_timed(exchange))
        try:
            async for part in cast(httpx.AsyncByteStream, response.stream):
                received.add(part)
        finally:
            await response.aclose()
        return received.whole(response)


class _Turns:
    """A lock for each operation, for as long as somebody wants it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._guard = threading.Lock()
        # By operation: its lock, and how many want it.
        self._locks: dict[str, tuple[Any, int]] = {}

    @contextmanager
    def of(self, operation: str) -> Iterator[Any]:
        with self._guard:
            lock, wanted = self._locks.get(operation) or (self._make(), 0)
            self._locks[operation] = lock, wanted + 1
        try:
            yield lock
        finally:
            with self._guard:
                lock, wanted = self._locks.pop(operation)
                if wanted > 1:
                    self._locks[operation] = lock, wanted - 1
