"""Killed at every step, under every fault: whoever resumes makes one entry of it. Over real sockets."""

from __future__ import annotations

import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from killed import STEPS, AtOnce, intent
from ledger import FAULTS, Ledger
from test_journal import child_env

from semel import AsyncClient, Client, LimitedTransport

CASES = [(step, fault, "sync") for step in STEPS for fault in FAULTS] + [(step, "none", "async") for step in STEPS]


@pytest.mark.parametrize(("step", "fault", "kind"), CASES)
def test_e5_e24_l09_whoever_is_killed_anywhere_and_resumes_has_one_entry(
    tmp_path: Path, step: str, fault: str, kind: str
) -> None:
    with Ledger(fault) as ledger:
        killed = Path(__file__).with_name("killed.py")
        command = [sys.executable, str(killed), step, kind, ledger.url, str(tmp_path)]
        done = subprocess.run(command, env=child_env(), capture_output=True, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        with Client(tmp_path, surroundings=AtOnce()) as client:
            resumed = client.resume()
            # What came of it is written a moment later: at `after-stands` that is lost, and the API is asked again.
            expected = [] if step == "before-begin" else ["payment-7"]
            assert list(resumed) == expected
            assert all(outcome.happened for outcome in resumed.values()), resumed
            # The same action in hand again is the same operation.
            assert client.send(intent(ledger.url)).happened
            (known,) = client.journal.operations()
            assert (known.state, client.resume()) == ("done", {})
        assert list(ledger.entries.values()) == [b'{"amount": 7}']
        assert set(ledger.keys) == {f'"{known.intent.key}"'}


@pytest.mark.parametrize(
    ("fault", "saw"),
    [
        ("none", 201),
        ("failed-after", 500),
        ("reset-after", "no-response"),
        ("cut-after", "no-response"),
        ("trickle", "no-response"),
        ("trickle-head", "no-response"),
        ("redirect", 303),
    ],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_e30_l02_l18_what_a_socket_can_do(tmp_path: Path, fault: str, saw: Any, kind: str) -> None:
    with Ledger(fault, faulty=9) as ledger:
        history = one_attempt(kind, tmp_path, ledger.url)
        assert (history[0].saw if isinstance(saw, str) else history[0].saw.status) == saw
        assert len(ledger.keys) == 1, "nothing below the client sends a second time"


def test_e30_l02_over_tls_and_not_to_whom_nobody_trusts(tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Ledger(tls=tls) as ledger:
        for transport, saw in [
            (None, "not-sent"),
            (LimitedTransport(trusting), 201),
        ]:
            with Client(tmp_path, attempts_max=1, transport=transport, surroundings=AtOnce()) as client:
                client.send(intent(ledger.url))
                last: Any = client.journal.operations()[0].history[-1]
                assert (last.saw if isinstance(saw, str) else last.saw.status) == saw
        assert len(ledger.keys) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_e30_a_refused_connection_sent_nothing(tmp_path: Path, kind: str) -> None:
    with Ledger() as nobody:
        pass
    assert one_attempt(kind, tmp_path, nobody.url)[0].saw == "not-sent"


def one_attempt(kind: str, folder: Path, url: str) -> Any:
    """What one attempt of half a second at the most came to."""
    import asyncio

    options: dict[str, Any] = {"attempts_max": 1, "surroundings": AtOnce()}

    def shorter(client: Any) -> Any:
        table = client._engine._table

        def limited(*of: Any) -> Any:
            return (yield from table(*of)).with_budget(attempt_max_ms=500)

        client._engine._table = limited
        return client

    async def send() -> Any:
        async with AsyncClient(folder, **options) as client:
            await shorter(client).send(intent(url))
            return client.journal.operations()[0].history

    if kind == "async":
        return asyncio.run(send())
    with Client(folder, **options) as client:
        shorter(client).send(intent(url))
        return client.journal.operations()[0].history
