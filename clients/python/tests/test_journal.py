"""The folder: locked, durable first, recovered, refused when damaged."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from world import KEY, RESET, World, answer, payment

from semel import (
    AsyncClient,
    Client,
    Fresh,
    Journal,
    JournalBroken,
    JournalDamaged,
    JournalLocked,
    NoSuchOperation,
    Rejected,
    Replayed,
    Reply,
    Unresolved,
)
from semel import journal as journal_module
from semel.exchange import Attempt, Event

FILES = ("journal.sqlite", "journal.sqlite-wal")


def copied(world: World, to: Path) -> None:
    """What another machine would find on the disk at the moment when the first request arrives."""

    def copy() -> None:
        if not to.exists():
            to.mkdir()
            for name in FILES:
                shutil.copy(world.folder / name, to / name)

    world.api.before = copy


def test_e5_l01_the_journal_is_durable_before_the_first_byte_leaves(tmp_path: Path) -> None:
    with World(answer(201, "{}")) as world:
        copied(world, tmp_path / "copy")
        intent = payment()
        world.client().send(intent)
        journal = Journal(tmp_path / "copy")
        (known,) = journal.operations()
        journal.close()
        assert (known.intent, known.state) == (intent, "open")
        assert [type(event) for event in known.history] == [Attempt], "the attempt is there, too"


def test_e5_e31_l01_l18_a_beginning_and_a_refusal_are_synced_and_an_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    log = tmp_path / "journal.sqlite-wal"
    synced: list[bytes] = []
    real = journal_module._sync
    if sys.platform == "linux":
        assert real is os.fdatasync

    def barrier(descriptor: int) -> None:
        assert os.path.samestat(os.fstat(descriptor), os.stat(log))
        assert not journal._connection.in_transaction, "what is synced is committed"
        synced.append(log.read_bytes())
        real(descriptor)

    monkeypatch.setattr(journal_module, "_sync", barrier)
    counts: list[int] = []
    event = journal.begin(payment(), new=True, scope=b"", act="attempt", at_ms=1)
    assert b"payment-7" in synced[0]
    counts.append(len(synced))
    journal.end(event, 2, "no-response")
    counts.append(len(synced))
    journal.begin(payment(), new=False, scope=b"", act="attempt", at_ms=3)
    counts.append(len(synced))
    journal.stands("payment-7", "done", "success", 4)
    counts.append(len(synced))
    # Whoever is told that it did not happen may do it in another way.
    journal.stands("payment-7", "rejected", "refused", 5)
    counts.append(len(synced))
    journal.stands("payment-7", "stopped", "unauthorized", 6)
    counts.append(len(synced))
    journal.close()
    assert counts == [1, 1, 2, 2, 3, 4]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_l01_nothing_is_sent_without_its_barrier_and_nothing_more_after_one_that_failed(kind: str) -> None:
    with World(answer(201, "{}"), answer(201, "{}"), answer(201, "{}"), kind=kind) as world:
        client = world.client()
        real, barriers = client.journal._barrier, 0

        def barrier() -> None:
            nonlocal barriers
            barriers += 1
            assert len(world.api.seen) == barriers - 1
            real()

        client.journal._barrier = barrier
        for number in range(3):
            assert client.send(payment(operation=f"payment-{number}")).happened
        assert barriers == 3, "one for each call: what came of it goes with the next"

        def no_disk() -> None:
            raise OSError("no disk")

        client.journal._barrier = no_disk
        for name in ("payment-3", "payment-4"):
            with pytest.raises(JournalBroken, match="open it again"):
                client.send(payment(operation=name))
        assert len(world.api.seen) == 3
        client.close()
        # Perhaps it is there: it must not be taken for new.
        states = {known.intent.operation: known.state for known in world.client().journal.operations()}
        assert states == {"payment-0": "done", "payment-1": "done", "payment-2": "done", "payment-3": "open"}


def left_of(world: World, name: str) -> str:
    """Where a crash at this moment leaves an operation."""
    with tempfile.TemporaryDirectory() as copy:
        for file in FILES:
            shutil.copy(world.folder / file, copy)
        journal = Journal(copy, world.still)
        known = journal.known(name)
        journal.close()
        return "" if known is None else known.state


def test_e31_l18_a_crash_does_not_forget_what_somebody_was_told_that_it_did_not_happen() -> None:
    with World(answer(422), answer(401)) as world:
        client = world.client()
        for state in ("rejected", "stopped"):
            assert isinstance(client.send(payment(operation=state)), Rejected)
            assert left_of(world, state) == state


def test_l09_what_happened_is_written_soon_whether_somebody_else_writes_or_not() -> None:
    with World(answer(201, "{}"), answer(201, "{}")) as world:
        client = world.client()
        client.send(payment())
        # Who asks is told what was seen, at once.
        assert client.journal.known("payment-7").state == "done"
        client.send(payment(operation="payment-8"))
        deadline = time.monotonic() + 30
        while left_of(world, "payment-8") != "done":
            assert time.monotonic() < deadline
        client.close()
        assert world.client().resume() == {}


def test_l09_what_happened_is_there_after_the_journal_was_closed() -> None:
    with World(answer(201, "{}")) as world:
        client = world.client()
        client.journal.LATER_MAX_MS = 60_000
        client.send(payment())
        assert left_of(world, "payment-7") == "open"
        client.close()
        assert world.client().resume() == {}


def test_what_was_forgotten_in_the_meantime_is_not_sent_again() -> None:
    with World(RESET, answer(500)) as world:
        client = world.client()
        world.api.before = lambda: client.journal.forget("payment-7")
        with pytest.raises(NoSuchOperation):
            client.send(payment())
        assert len(world.api.seen) == 1
        assert client.journal.operations() == []


def test_l11_one_client_at_a_time(tmp_path: Path) -> None:
    with World() as world:
        journal = Journal(tmp_path)
        with pytest.raises(JournalLocked):
            Journal(tmp_path)
        with pytest.raises(JournalLocked):
            world.client(folder=tmp_path)
        journal.close()
        Journal(tmp_path).close()


def test_l11_of_two_processes_one_has_the_journal(tmp_path: Path) -> None:
    other = (
        "import sys, semel\n"
        "try:\n    journal = semel.Journal(sys.argv[1])\n"
        "except semel.JournalLocked as error:\n    print('locked:', error)\n"
        "else:\n    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", other, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_env()) as first:
        assert first.stdout is not None and first.stdout.readline() == "open\n"
        with pytest.raises(JournalLocked, match="another process"):
            Journal(tmp_path)
        second = subprocess.run(command, capture_output=True, text=True, env=child_env(), check=True)
        assert second.stdout.startswith("locked: another process")
        first.kill()
        first.wait()
    # Whoever was killed holds nothing.
    Journal(tmp_path).close()


def child_env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_l11_a_forked_process_has_no_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            journal.operations()
        except JournalBroken:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    journal.close()


def end_of_log(log: bytes) -> int:
    """Behind the last frame of SQLite's log (sqlite.org/fileformat2.html, section 4.1): those of this round have its
    salt."""
    frame, end = 24 + int.from_bytes(log[8:12], "big"), 32
    while log[end + 8 : end + 16] == log[16:24]:
        end += frame
    assert 32 < end < len(log) and not any(log[end:])
    return end


@pytest.mark.parametrize("torn", [0, 1, 7, 100, 4000])
def test_l17_a_torn_tail_is_dropped_and_what_it_told_of_is_maybe_sent(tmp_path: Path, torn: int) -> None:
    with World(answer(201, "{}")) as world:
        copied(world, tmp_path / "copy")
        world.client().send(payment())
        # A crash in the middle of the next write.
        with open(tmp_path / "copy/journal.sqlite-wal", "r+b") as log:
            log.seek(end_of_log(log.read()))
            log.write(b"\x5a" * torn)
        world.then(answer(201, "{}", idempotent_replayed="true"))
        resumed = world.client(folder=tmp_path / "copy").resume()
        assert isinstance(resumed["payment-7"], Replayed)
        world.one_key()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_l09_what_a_crash_cut_off_may_have_happened(tmp_path: Path, kind: str) -> None:
    with World(answer(201, "{}"), answer(401), kind=kind) as world:
        copied(world, tmp_path / "copy")
        world.client().send(payment())
        client = world.client(folder=tmp_path / "copy")
        # Wrong credentials say nothing about the attempt before.
        assert isinstance(client.resume()["payment-7"], Unresolved)
        (known,) = client.journal.operations()
        assert known.state == "unresolved"
        assert isinstance(known.history[0], Attempt) and known.history[0].saw == "no-response"


def test_a_damaged_record_is_refused_and_never_taken_for_none() -> None:
    with World(RESET) as world:
        client = world.client(attempts_max=1)
        client.send(payment())
        client.close()
        file = world.folder / "journal.sqlite"
        content = file.read_bytes()
        assert content.count(b'{"amount": 7}') == 1
        file.write_bytes(content.replace(b'{"amount": 7}', b'{"amount": 9}'))
        with pytest.raises(JournalDamaged, match="payment-7"):
            world.client().send(payment())
        assert len(world.api.seen) == 1


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("not a database, by far not, but long enough to be taken for one?")
    with pytest.raises(JournalDamaged):
        Journal(tmp_path)
    newer = tmp_path / "newer"
    Journal(newer).close()
    file = newer / "journal.sqlite"
    content = bytearray(file.read_bytes())
    content[60:64] = (3).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(JournalDamaged, match="its format is 3, and this version reads 2"):
        Journal(newer)


def test_a_write_that_fails_stops_everything_before_it_is_sent() -> None:
    with World(answer(201, "{}")) as world:
        client = world.client()
        # What a full disk looks like to SQLite.
        (pages,) = client.journal._connection.execute("PRAGMA page_count").fetchone()
        client.journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalBroken, match="open it again"):
            client.send(payment(json='{"note": "' + "x" * 10_000 + '"}'))
        with pytest.raises(JournalBroken):
            client.send(payment(operation="payment-8"))
        assert world.api.seen == []
        client.close()
        assert world.client().send(payment()).happened


def test_what_is_forgotten_is_free() -> None:
    with World(RESET, answer(201, "{}")) as world:
        client = world.client(attempts_max=1)
        client.send(payment())
        assert client.journal.forget("payment-7")
        assert not client.journal.forget("payment-7")
        assert client.journal.operations() == []
        assert client.send(payment(json="{}")).happened


def test_what_has_long_been_over_is_forgotten_and_what_is_open_never() -> None:
    with World(answer(201, "{}"), RESET) as world:
        client = world.client(attempts_max=1)
        client.send(payment())
        client.send(payment(operation="payment-8"))
        client.close()
        left = []
        for later_ms in (Journal.OVER_KEPT_MS, 1):
            world.still.time_ms += later_ms
            client = world.client()
            left.append([known.intent.operation for known in client.journal.operations()])
            client.close()
        assert left == [["payment-7", "payment-8"], ["payment-8"]]


def test_l16_secrets_are_not_written_down() -> None:
    with World(answer(201, "{}", set_cookie="session=1", x_request_id="r-1")) as world:
        client = world.client()
        client.send(payment())
        event: Event = client.journal.operations()[0].history[0]
        assert isinstance(event, Attempt) and isinstance(event.saw, Reply)
        assert "set-cookie" not in dict(event.saw.headers) and event.saw.header("X-Request-Id") == "r-1"
        client.close()
        for file in world.folder.iterdir():
            content = file.read_bytes()
            assert KEY.encode() not in content and b"session=1" not in content


def test_l12_only_one_of_many_threads_that_send_the_same_sends() -> None:
    with World(answer(201, "{}")) as world:
        client: Client = world.client().client
        outcomes: list[Any] = []
        threads = [threading.Thread(target=lambda: outcomes.append(client.send(payment()))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 8 and all(isinstance(outcome, Fresh) for outcome in outcomes)
        assert len(world.api.seen) == 1


def test_l12_only_one_of_many_tasks_that_send_the_same_sends() -> None:
    with World(answer(201, "{}"), kind="async") as world:
        driven = world.client()
        client: AsyncClient = driven.client

        async def many() -> list[Any]:
            return await asyncio.gather(*(client.send(payment()) for _ in range(8)))

        assert driven.loop is not None
        assert all(isinstance(outcome, Fresh) for outcome in driven.loop.run_until_complete(many()))
        assert len(world.api.seen) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_e43_everything_that_is_open_is_resumed(kind: str) -> None:
    with World(*[RESET] * 40, kind=kind) as world:
        client = world.client(attempts_max=1)
        for number in range(40):
            client.send(payment(operation=f"payment-{number}"))
        before = sorted(str(seen.key) for seen in world.api.attempts())
        world.then(*[answer(201, "{}")] * 40)
        resumed = client.resume()
        assert len(resumed) == 40 and all(outcome.happened for outcome in resumed.values())
        assert sorted(str(seen.key) for seen in world.api.attempts()[40:]) == before
        assert client.resume() == {}, "once it is done there is nothing to resume"


def test_l09_l12_a_cancelled_task_keeps_its_turn_until_the_journal_has_written() -> None:
    with World(answer(201, "{}"), kind="async") as world:
        driven = world.client()
        client, begin = driven.client, driven.journal.begin
        begun, go = threading.Event(), threading.Event()

        def slow(*values: Any, **named: Any) -> int:
            begun.set()
            assert go.wait(30)
            return begin(*values, **named)

        async def both() -> Any:
            client.journal.begin = slow
            first = asyncio.ensure_future(client.send(payment()))
            await asyncio.get_running_loop().run_in_executor(None, begun.wait, 30)
            client.journal.begin = begin
            first.cancel()
            second = asyncio.ensure_future(client.send(payment()))
            for _ in range(10):
                await client._in_thread(int)
            assert not first.done() and not second.done()
            go.set()
            await asyncio.wait([first])
            assert first.cancelled()
            return await second

        assert driven.loop is not None
        assert isinstance(driven.loop.run_until_complete(both()), Fresh)
        (known,) = client.journal.operations()
        # The first began, and sent nothing: nobody can tell that from its entry, so the key is the same.
        assert len([event for event in known.history if isinstance(event, Attempt)]) == 2
        assert [seen.key for seen in world.api.attempts()] == [f'"{known.intent.key}"']


def test_l09_a_task_that_is_cancelled_anywhere_leaves_an_intent_that_can_be_resumed() -> None:
    finished = False
    for steps in range(60):
        with World(RESET, answer(500), *[answer(201, "{}")] * 3, kind="async") as world:
            driven = world.client()
            client: AsyncClient = driven.client

            async def sent(client: AsyncClient = client, steps: int = steps) -> bool:
                task = asyncio.ensure_future(client.send(payment()))
                for _ in range(steps):
                    # One round of the loop, and what the journal's threads have in hand.
                    await asyncio.get_running_loop().run_in_executor(client._threads, int)
                    await asyncio.sleep(0)
                done = task.done()
                task.cancel()
                await asyncio.wait([task])
                return done

            assert driven.loop is not None
            finished = driven.loop.run_until_complete(sent())
            assert not any(job.durable for job in client.journal._jobs), "nothing is left half written"
            assert driven.send(payment()).happened
            attempts = world.api.attempts()
            assert all(seen == attempts[0] for seen in attempts), f"after {steps} steps: {attempts}"
        if finished:
            break
    assert finished, "it takes fewer steps than that"
