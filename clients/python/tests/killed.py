"""A process that sends one intent and kills itself at a step: `killed.py STEP KIND URL FOLDER`."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any, NoReturn

import httpx

from semel import AsyncClient, Client, Intent, Journal, Surroundings

STEPS = (
    "before-begin",
    "after-begin",
    "mid-send",
    "sent",
    "mid-receive",
    "before-end",
    "after-end",
    "before-stands",
    "after-stands",
)


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives that")


class AtOnce(Surroundings):
    def sleep(self, pause_ms: int) -> None:
        pass

    async def sleep_async(self, pause_ms: int) -> None:
        pass


def intent(url: str) -> Intent:
    return Intent.post(f"{url}/payments", operation="payment-7", json='{"amount": 7}')


class Dying(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Sends by hand, and dies in the middle."""

    def __init__(self, step: str) -> None:
        self.step = step

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        head = f"{request.method} {request.url.path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        message = f"{head}\r\n".encode() + request.read()
        with socket.create_connection((request.url.host, request.url.port)) as connection:
            if self.step == "mid-send":
                connection.sendall(message[:-5])
                die()
            connection.sendall(message)
            if self.step == "mid-receive":
                connection.recv(1)
            die()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


def dying_at(step: str) -> None:
    """Makes the journal die before or after one of its writes."""
    when, _, name = step.partition("-")
    original = getattr(Journal, name)

    def write(self: Journal, *values: Any, **named: Any) -> Any:
        if when == "before":
            die()
        original(self, *values, **named)
        die()

    setattr(Journal, name, write)


def main(step: str, kind: str, url: str, folder: str) -> None:
    options: dict[str, Any] = {"surroundings": AtOnce()}
    if step in ("mid-send", "sent", "mid-receive"):
        options["transport"] = Dying(step)
    else:
        dying_at(step)
    if kind == "sync":
        Client(folder, **options).send(intent(url))
    else:

        async def send() -> None:
            await AsyncClient(folder, **options).send(intent(url))

        asyncio.run(send())


if __name__ == "__main__":
    main(*sys.argv[1:])
