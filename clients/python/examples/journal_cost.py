"""What the journal costs: calls with the durable journal and with one in memory, beside a bare write and its sync.

python examples/journal_cost.py [folder]
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from semel import AsyncClient, Client, Intent
from semel.exchange import Attempt
from semel.journal import EventId, Journal, Known

ROUNDS = 21
CALLS = 100
TOGETHER = 64
CALLS_EACH = 4
WARM_UP_CALLS = 200
PAUSE_MAX_S = 0.008
"""As long as the steps of a disk that others use, too."""


class AtOnce(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A service in this process that answers at once."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, content=b'{"id":"p"}')

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


class Memory(Journal):
    """Keeps what a client asks for, and nothing on any disk."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._events: list[list[Any]] = []

    def has(self, operation: str) -> bool:
        return operation in self._known

    def begin(self, intent: Intent, *, new: bool, scope: bytes, act: Any, at_ms: int) -> EventId:
        self._known[intent.operation] = Known(intent, at_ms, "open", "", (), scope)
        self._events.append([intent.operation, at_ms])
        return intent.operation, len(self._events) - 1

    def end(self, event: EventId, end_ms: int, saw: Any) -> None:
        number = event[1]
        operation, at_ms = self._events[number]
        self._events[number] = [operation, Attempt(at_ms, end_ms, saw)]

    def stands(self, operation: str, state: Any, why: str, at_ms: int) -> None:
        pass

    def digest(self, credentials: bytes) -> bytes:
        return b""

    def close(self) -> None:
        pass


def intent() -> Intent:
    return Intent.post("http://api.example/payments", json=b" " * 512)


def call(client: Client) -> None:
    assert client.send(intent()).happened


def micros(run: Callable[[], Any]) -> float:
    started = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - started) / 1000


def threads(client: Client) -> float:
    """Microseconds of one of `TOGETHER` that call at the same time."""

    def caller() -> None:
        for _ in range(CALLS_EACH):
            call(client)

    def run() -> None:
        callers = [threading.Thread(target=caller) for _ in range(TOGETHER)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()

    return micros(run) / (TOGETHER * CALLS_EACH)


def tasks(loop: asyncio.AbstractEventLoop, client: AsyncClient) -> float:
    """The same of tasks."""

    async def caller() -> None:
        for _ in range(CALLS_EACH):
            assert (await client.send(intent())).happened

    async def run() -> None:
        await asyncio.gather(*(caller() for _ in range(TOGETHER)))

    return micros(lambda: loop.run_until_complete(run())) / (TOGETHER * CALLS_EACH)


HEAD = f"""\
Medians in microseconds of {CALLS} each, in turns: a bare write of 1 KiB and its fdatasync; a call alone with the
durable journal, and with one in memory; overhead: durable less memory, which is what the journal costs a call; ratio:
overhead / raw. Of {TOGETHER} calls together, in threads and as tasks: microseconds of each, and how many there are in
the time of one bare write."""
COLUMNS = ["raw", "durable", "memory", "overhead", "ratio"]
COLUMNS += ["threads@64", "memory@64", "calls/raw", "tasks@64", "memory@64", "calls/raw"]


def shown(figures: list[float]) -> str:
    cells = zip(COLUMNS, figures, strict=True)
    return "  ".join(f"{figure:{len(name)}.{2 if name in ('ratio', 'calls/raw') else 0}f}" for name, figure in cells)


def main(folder: Path) -> None:
    raw = os.open(folder / "raw", os.O_WRONLY | os.O_CREAT)
    kilobyte = b"\x07" * 1024
    loop = asyncio.new_event_loop()
    durable, memory = Client(folder / "journal", transport=AtOnce()), Client(folder / "unused", transport=AtOnce())
    durable_async = AsyncClient(folder / "async", transport=AtOnce())
    memory_async = AsyncClient(folder / "unused-async", transport=AtOnce())
    memory._engine.journal = memory_async._engine.journal = Memory()

    def write_raw() -> None:
        os.write(raw, kilobyte)
        os.fdatasync(raw)

    def fair(run: Callable[[], Any]) -> float:
        """All begin alike: at any point of the disk's steps, and after a call that is not counted, so that the
        processor is awake."""
        time.sleep(random.random() * PAUSE_MAX_S)
        call(memory)
        return micros(run)

    print(HEAD)
    print("  ".join(COLUMNS))
    for _ in range(WARM_UP_CALLS):
        call(durable)
        call(memory)
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):
        memory._engine.journal = memory_async._engine.journal = Memory()
        # One after the other, so that all see the same disk.
        runs = (write_raw, lambda: call(durable), lambda: call(memory))
        times = [[fair(run) for run in runs] for _ in range(CALLS)]
        bare, alone, in_memory = (statistics.median(column) for column in zip(*times, strict=True))
        overhead = alone - in_memory
        figures = [bare, alone, in_memory, overhead, overhead / bare]
        for many, many_in_memory in (
            (threads(durable), threads(memory)),
            (tasks(loop, durable_async), tasks(loop, memory_async)),
        ):
            figures += [many, many_in_memory, bare / many]
        print(shown(figures), flush=True)
        rounds.append(figures)
    print(f"of {ROUNDS} rounds, the median and the least:")
    for pick in (statistics.median, min):
        print(shown([pick(column) for column in zip(*rounds, strict=True)]))
    durable.close()
    memory.close()
    for client in (durable_async, memory_async):
        loop.run_until_complete(client.aclose())
    loop.close()
    os.close(raw)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as within:
        main(Path(within))
