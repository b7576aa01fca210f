"""Where intents survive: one folder, one process at a time, durable before the first byte leaves.

SQLite in WAL mode. That an attempt begins is synced to the disk before anybody sends, and that an operation did not
happen before anybody is told. What else was seen is handed to the operating system, and synced with the next
beginning: a killed process loses nothing, and a machine without power at most an answer, so that the attempt counts as
one whose response was lost.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast, get_args

from .errors import JournalBroken, JournalDamaged, JournalError, JournalLocked, KeyTaken
from .exchange import Attempt, Event, Read, Reply, Resumed, Saw
from .intent import Intent, Key, is_secret
from .surroundings import Surroundings

__all__ = ["Journal", "Known", "State"]

State = Literal["open", "done", "rejected", "stopped", "unresolved"]
"""Where an operation stands: it runs or was interrupted; it happened; it did not, and is over; it did not, and may be
resumed once the cause is mended; nobody knows."""

_FORMAT = 1
"""Raised when a journal of this version could not be read by the one before."""

_SCHEMA = """
CREATE TABLE journal (secret BLOB NOT NULL);
CREATE TABLE intent (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    operation TEXT NOT NULL UNIQUE,
    key TEXT NOT NULL,
    preset TEXT NOT NULL,
    method TEXT NOT NULL,
    target TEXT NOT NULL,
    headers BLOB NOT NULL,
    content BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    key_given INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    scope BLOB NOT NULL,
    state TEXT NOT NULL,
    why TEXT NOT NULL,
    state_ms INTEGER NOT NULL,
    UNIQUE (target, key)
);
CREATE TABLE event (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    operation TEXT NOT NULL,
    act TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    end_ms INTEGER,
    status INTEGER,
    headers BLOB,
    content BLOB,
    checksum INTEGER
);
CREATE INDEX event_of ON event (operation, n);
"""

_INTENT = (
    "SELECT operation, key, preset, method, target, headers, content, fingerprint, key_given, "
    "checksum, created_ms, scope, state, why FROM intent"
)

_STATUS = {"not-sent": -1, "no-response": -2}
"""What stands for a status where there was no response."""

_LOG_PAGES_MAX = 400
"""The log is moved into the database when it has so many pages."""
_LOG_BYTES = 2 << 20
"""It takes so many bytes on the disk: its pages, and the commit that goes beyond them."""

T = TypeVar("T")


@dataclass(frozen=True)
class Known:
    """An operation in the journal."""

    intent: Intent
    created_ms: int
    """When it was written down, in milliseconds since the Unix epoch."""
    state: State
    why: str
    """Why it stands there, as a stable word; empty while it runs."""
    history: tuple[Event, ...]
    """What happened to it so far."""
    scope: bytes
    """The digest of the credentials that it was last sent with."""


class _Job:
    """One thing to do in a transaction."""

    def __init__(self, work: Callable[[sqlite3.Connection], Any], durable: bool) -> None:
        self.work, self.durable, self.done = work, durable, False
        self.result: Any = None
        self.error: Exception | None = None


class Journal:
    """The journal of a client. It may be used by several threads; the folder is free for others once it is closed."""

    OVER_KEPT_MS = 30 * 24 * 60 * 60 * 1000
    """How long an operation that is over is kept: 30 days. For so long its id is the same operation (L12)."""

    GROUP_JOBS_MAX = 512
    """How many jobs share a commit."""

    def __init__(self, folder: str | os.PathLike[str], surroundings: Surroundings | None = None) -> None:
        """Opens the journal in this folder, or begins one; recovers what a crash left; forgets what has been over for
        `OVER_KEPT_MS`. One process at a time (L11): otherwise `JournalLocked`."""
        self.folder = Path(folder)
        self._process = os.getpid()
        self._jobs: deque[_Job] = deque()
        self._turn = threading.Lock()
        self._failed: JournalError | None = None
        self._lock = _lock(self.folder)
        try:
            self._connection = _open(self.folder)
            (self._secret,) = self._connection.execute("SELECT secret FROM journal").fetchone()
            now_ms = (surroundings or Surroundings()).now_ms()
            self._write(lambda connection: _forget_over(connection, now_ms - self.OVER_KEPT_MS), durable=False)
        except (sqlite3.Error, TypeError) as error:
            self.close()
            raise JournalDamaged(f"{self.folder} is not a journal that this version can read: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes it; the folder is free for others."""
        with self._turn:
            self._failed = self._failed or JournalBroken("the journal is closed; open it again")
            connection = getattr(self, "_connection", None)
            if connection is not None and os.getpid() == self._process:
                connection.close()
            self._lock.close()

    def operations(self) -> list[Known]:
        """Every operation, oldest first."""

        def work(connection: sqlite3.Connection) -> list[Known]:
            rows = connection.execute(f"{_INTENT} ORDER BY n").fetchall()
            return [_known(connection, row) for row in rows]

        return self._read(work)

    def forget(self, operation: str) -> bool:
        """Forgets an operation: somebody has found out what became of it, and nothing is to be sent for it any more.
        Its id and key are free for another one. False if there is none."""
        return self._write(lambda connection: _forget(connection, operation), durable=True)

    def known(self, operation: str) -> Known | None:
        """One operation."""

        def work(connection: sqlite3.Connection) -> Known | None:
            row = connection.execute(f"{_INTENT} WHERE operation = ?", (operation,)).fetchone()
            return None if row is None else _known(connection, row)

        return self._read(work)

    def begin(self, intent: Intent, *, new: bool, scope: bytes, act: Literal["attempt", "read"], at_ms: int) -> int:
        """Writes down that an exchange begins, and before it the intent if that is new. An attempt is on the disk when
        this returns (L1). Raises `KeyTaken`, with nothing written, where another operation has the key."""

        def work(connection: sqlite3.Connection) -> int | KeyTaken:
            if new:
                holder = connection.execute(
                    "SELECT operation FROM intent WHERE target = ? AND key = ? AND operation <> ?",
                    (intent.target, str(intent.key), intent.operation),
                ).fetchone()
                if holder is not None:
                    return KeyTaken(holder[0])
                _insert(connection, intent, scope, at_ms)
            elif act == "attempt":
                update = "UPDATE intent SET scope = ?, state = 'open', why = '' WHERE operation = ?"
                connection.execute(update, (scope, intent.operation))
            insert = "INSERT INTO event (operation, act, at_ms) VALUES (?, ?, ?)"
            event = connection.execute(insert, (intent.operation, act, at_ms)).lastrowid
            assert event is not None, "an insert has a row"
            return event

        # Losing a read loses nothing.
        event = self._write(work, durable=act == "attempt")
        if isinstance(event, KeyTaken):
            raise event
        return event

    def end(self, event: int, end_ms: int, saw: Saw) -> None:
        """Writes down what came of it, without secrets."""
        if isinstance(saw, Reply):
            status, content = saw.status, saw.content
            headers = _headers_to_bytes(pair for pair in saw.headers if not is_secret(pair[0]))
        else:
            status, headers, content = _STATUS[saw], b"", b""
        checksum = _checksum(str(status).encode(), headers, content)
        update = "UPDATE event SET end_ms = ?, status = ?, headers = ?, content = ?, checksum = ? WHERE n = ?"
        values = (end_ms, status, headers, content, checksum, event)
        self._write(lambda connection: connection.execute(update, values) and None, durable=False)

    def resumed(self, operation: str, at_ms: int) -> None:
        """Writes down that somebody asked to go on."""
        insert = "INSERT INTO event (operation, act, at_ms) VALUES (?, 'resumed', ?)"
        self._write(lambda connection: connection.execute(insert, (operation, at_ms)) and None, durable=False)

    def stands(self, operation: str, state: State, why: str, at_ms: int) -> None:
        """Writes down where an operation stands."""
        update = "UPDATE intent SET state = ?, why = ?, state_ms = ? WHERE operation = ?"
        values = (state, why, at_ms, operation)
        # Whoever is told that it did not happen may do it in another way: no crash may make it open again.
        durable = state in ("rejected", "stopped")
        self._write(lambda connection: connection.execute(update, values) and None, durable=durable)

    def digest(self, credentials: bytes) -> bytes:
        """A digest of credentials that only this journal can compare, so that it tells nothing about them."""
        return hmac.new(self._secret, credentials, hashlib.sha256).digest()[:16]

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._turn:
            self._usable()
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                raise JournalBroken(f"the journal cannot be read: {error}") from error

    def _write(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        """Whoever comes first commits for all who came by then: callers share a barrier of the disk."""
        job = _Job(work, durable)
        self._jobs.append(job)
        with self._turn:
            while not job.done:
                count = min(len(self._jobs), self.GROUP_JOBS_MAX)
                self._commit([self._jobs.popleft() for _ in range(count)])
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def _commit(self, jobs: list[_Job]) -> None:
        error: Exception | None = None
        try:
            self._usable()
            # In WAL mode FULL syncs every commit, and NORMAL leaves that to the next one.
            durable = any(job.durable for job in jobs)
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.result = job.work(self._connection)
            self._connection.execute("COMMIT")
        except JournalError as unusable:
            error = unusable
        except BaseException as failure:
            # Half of a job must not be committed with the others, and what became of a commit that failed is unknown.
            error = self._failed = JournalBroken(f"the journal cannot be written: {failure!r}; open it again")
            if not isinstance(failure, Exception):
                raise
        finally:
            for job in jobs:
                job.error, job.done = error, True

    def _usable(self) -> None:
        if os.getpid() != self._process:
            raise JournalBroken("the journal was opened before this process was forked; open one of its own")
        if self._failed is not None:
            raise self._failed


def _lock(folder: Path) -> IO[bytes]:
    try:
        # Contents of requests are nobody else's.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_folder(folder.resolve().parent)
        file = open(folder / "lock", "ab")  # noqa: SIM115  (held for as long as the journal is)
    except OSError as error:
        raise JournalError(f"cannot use the folder {folder}: {error}") from error
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise JournalLocked(f"another process, or another client of this one, uses the journal {folder}") from error
    return file


def _sync_folder(folder: Path) -> None:
    """That a file is there must be as durable as what is in it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(folder: Path) -> sqlite3.Connection:
    """Opens the database: a torn tail of its log is dropped by SQLite, a damaged file is refused."""
    path = folder / "journal.sqlite"
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        os.chmod(path, 0o600)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"the file system of {folder} cannot hold a journal")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found == 0:
            script = f"BEGIN; {_SCHEMA} PRAGMA user_version = {_FORMAT};"
            connection.executescript(script)
            connection.execute("INSERT INTO journal (secret) VALUES (?)", (secrets.token_bytes(32),))
            connection.execute("COMMIT")
            _sync_folder(folder)
        elif found != _FORMAT:
            raise JournalDamaged(
                f"{folder} is not a journal that this version can read: "
                f"its format is {found}, and this version reads {_FORMAT}"
            )
        (check,) = connection.execute("PRAGMA quick_check").fetchone()
        if check != "ok":
            raise JournalDamaged(f"{folder} is damaged: {check}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES_MAX}").fetchone()
        _lengthen(folder / "journal.sqlite-wal")
    except BaseException:
        connection.close()
        raise
    return connection


def _lengthen(log: Path) -> None:
    """Gives SQLite's log all its bytes, as zeros, which it reads as its end. A sync after a write that makes a file
    longer has to wait for the file system's own journal, too, and costs half as much again."""
    with open(log, "ab") as file:
        file.write(bytes(max(0, _LOG_BYTES - file.tell())))
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(log.parent)


def _forget_over(connection: sqlite3.Connection, before_ms: int) -> None:
    over = "state IN ('done', 'rejected') AND state_ms < ?"
    connection.execute(
        f"DELETE FROM event WHERE operation IN (SELECT operation FROM intent WHERE {over})", (before_ms,)
    )
    connection.execute(f"DELETE FROM intent WHERE {over}", (before_ms,))


def _forget(connection: sqlite3.Connection, operation: str) -> bool:
    connection.execute("DELETE FROM event WHERE operation = ?", (operation,))
    return connection.execute("DELETE FROM intent WHERE operation = ?", (operation,)).rowcount > 0


def _insert(connection: sqlite3.Connection, intent: Intent, scope: bytes, at_ms: int) -> None:
    """A new operation; one by the same name that is over is replaced, events and all."""
    _forget(connection, intent.operation)
    columns = _columns(intent)
    connection.execute(
        "INSERT INTO intent (operation, key, preset, method, target, headers, content, fingerprint, key_given, "
        "checksum, created_ms, scope, state, why, state_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', '', ?)",
        (*columns, _checksum_of(columns), at_ms, scope, at_ms),
    )


def _columns(intent: Intent) -> tuple[Any, ...]:
    return (
        intent.operation,
        str(intent.key),
        intent.preset,
        intent.method,
        intent.target,
        _headers_to_bytes(intent.headers),
        intent.content,
        intent.fingerprint,
        int(intent.key_given),
    )


def _known(connection: sqlite3.Connection, row: tuple[Any, ...]) -> Known:
    columns, (checksum, created_ms, scope, state, why) = row[:9], row[9:]
    operation = columns[0]
    damaged = JournalDamaged(f"the journal's record of operation {operation} is damaged")
    if checksum != _checksum_of(columns) or state not in get_args(State):
        raise damaged
    headers = _headers_from_bytes(columns[5])
    key = Key(columns[1], counted=True)
    intent = Intent._stored(operation, key, *columns[2:5], headers, *columns[6:8], bool(columns[8]))
    select = "SELECT act, at_ms, end_ms, status, headers, content, checksum FROM event WHERE operation = ? ORDER BY n"
    history = tuple(_event(event, damaged) for event in connection.execute(select, (operation,)))
    return Known(intent, created_ms, state, why, history, scope)


def _event(row: tuple[Any, ...], damaged: JournalDamaged) -> Event:
    act, at_ms, end_ms, status, headers, content, checksum = row
    if act == "resumed":
        return Resumed(at_ms)
    saw: Saw
    if status is None:
        # An exchange without an end is one that a crash cut off: it may have been sent.
        end_ms, saw = at_ms, "no-response"
    elif checksum != _checksum(str(status).encode(), headers, content):
        raise damaged
    elif status in _STATUS.values():
        saw = "not-sent" if status == _STATUS["not-sent"] else "no-response"
    else:
        saw = Reply(status, _headers_from_bytes(headers), content)
    if act not in ("attempt", "read"):
        raise damaged
    return (Attempt if act == "attempt" else Read)(at_ms, end_ms, saw)


def _headers_to_bytes(headers: Any) -> bytes:
    """`name:value` lines, as on the wire."""
    return b"".join(f"{name}:{value}\n".encode("latin-1") for name, value in headers)


def _headers_from_bytes(lines: bytes) -> tuple[tuple[str, str], ...]:
    pairs = (line.partition(":") for line in lines.decode("latin-1").split("\n") if line)
    return tuple((name, value) for name, _, value in pairs)


def _checksum_of(columns: tuple[Any, ...]) -> int:
    texts = (str(column).encode("utf-8", "replace") if not isinstance(column, bytes) else column for column in columns)
    return _checksum(*texts)


def _checksum(*parts: bytes) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, zlib.crc32(len(part).to_bytes(8, "little"), total))
    return total
