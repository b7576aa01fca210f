"""Where intents survive: one folder, one process at a time, durable before the first byte leaves.

SQLite in WAL mode. That an attempt begins is synced to the disk before anybody sends, and that an operation did not
happen before anybody is told. What else was seen is written with the next beginning, or a moment later: if it is lost
in a crash, the attempt counts as one whose response was lost.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar, cast, get_args

from .errors import JournalBroken, JournalDamaged, JournalError, JournalLocked, KeyTaken, NoSuchOperation, SemelError
from .exchange import Attempt, Event, Read, Reply, Resumed, Saw
from .intent import Intent, Key, is_secret
from .surroundings import Surroundings

if os.name != "nt":
    import fcntl

__all__ = ["Journal", "Known", "State"]

State = Literal["open", "done", "rejected", "stopped", "unresolved"]
"""Where an operation stands: it runs or was interrupted; it happened; it did not, and is over; it did not, and may be
resumed once the cause is mended; nobody knows."""

_FORMAT = 2
"""Raised when a journal of this version could not be read by the one before."""

_SCHEMA = """
CREATE TABLE journal (secret BLOB NOT NULL);
CREATE TABLE intent (
    n INTEGER PRIMARY KEY,
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
    intent INTEGER,
    n INTEGER,
    act TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    end_ms INTEGER,
    status INTEGER,
    headers BLOB,
    content BLOB,
    checksum INTEGER,
    PRIMARY KEY (intent, n)
) WITHOUT ROWID;
"""

_INTENT = (
    "SELECT operation, key, preset, method, target, headers, content, fingerprint, key_given, "
    "checksum, created_ms, scope, state, why, n FROM intent"
)

_STATUS = {"not-sent": -1, "no-response": -2}
"""What stands for a status where there was no response."""

_LOG_PAGES_MAX = 400
"""The log is moved into the database when it has so many pages."""
_LOG_BYTES = 2 << 20
"""It takes so many bytes on the disk: its pages, and the commit that goes beyond them."""

EventId = tuple[str, int]
"""Names one event: of which operation, and the how-manieth."""

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


def is_waited_for(state: State) -> bool:
    """Whoever is told that it did not happen may do it in another way: no crash may make it open again."""
    return state in ("rejected", "stopped")


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

    LATER_MAX_MS = 100
    """How long what was seen may stay in memory only."""

    def __init__(self, folder: str | os.PathLike[str], surroundings: Surroundings | None = None) -> None:
        """Opens the journal in this folder, or begins one; recovers what a crash left; forgets what has been over for
        `OVER_KEPT_MS`. One process at a time (L11): otherwise `JournalLocked`."""
        self.folder = Path(folder)
        self._process = os.getpid()
        self._jobs: deque[_Job] = deque()
        self._turn = threading.Lock()
        self._timer: threading.Timer | None = None
        self._failed: JournalError | None = None
        self._lock = _lock(self.folder)
        try:
            self._connection, self._log = _open(self.folder)
            (self._secret,) = self._connection.execute("SELECT secret FROM journal").fetchone()
            now_ms = (surroundings or Surroundings()).now_ms()
            self._write(lambda connection: _forget_over(connection, now_ms - self.OVER_KEPT_MS), durable=False)
            # Those that are there: what is new costs no look.
            self._operations = {name for (name,) in self._connection.execute("SELECT operation FROM intent")}
        except (sqlite3.Error, TypeError) as error:
            self.close()
            raise JournalDamaged(f"{self.folder} is not a journal that this version can read: {error}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes it; the folder is free for others."""
        with self._turn:
            if self._timer is not None:
                self._timer.cancel()
            self._commit_all()
            self._failed = self._failed or JournalBroken("the journal is closed; open it again")
            if hasattr(self, "_connection"):
                if os.getpid() == self._process:
                    self._connection.close()
                self._log.close()
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
        forgotten = self._write(lambda connection: _forget(connection, operation), durable=True)
        self._operations.discard(operation)
        return forgotten

    def has(self, operation: str) -> bool:
        """Whether `known` knows it; nobody waits for that."""
        self._usable()
        return operation in self._operations

    def known(self, operation: str) -> Known | None:
        """One operation."""

        def work(connection: sqlite3.Connection) -> Known | None:
            row = connection.execute(f"{_INTENT} WHERE operation = ?", (operation,)).fetchone()
            return None if row is None else _known(connection, row)

        return self._read(work)

    def begin(self, intent: Intent, *, new: bool, scope: bytes, act: Literal["attempt", "read"], at_ms: int) -> EventId:
        """Writes down that an exchange begins, and before it the intent if that is new. An attempt is on the disk when
        this returns (L1). Raises, with nothing written, `KeyTaken` where another operation has the key, and
        `NoSuchOperation` where somebody has forgotten it."""
        operation = intent.operation

        def work(connection: sqlite3.Connection) -> EventId | SemelError:
            if new:
                holder = connection.execute(
                    "SELECT operation FROM intent WHERE target = ? AND key = ? AND operation <> ?",
                    (intent.target, str(intent.key), operation),
                ).fetchone()
                if holder is not None:
                    return KeyTaken(holder[0])
                if operation in self._operations:
                    # One by the same name that is over is replaced, events and all.
                    _forget(connection, operation)
                number = _insert(connection, intent, scope, at_ms)
                self._operations.add(operation)
                insert = "INSERT INTO event (intent, n, act, at_ms) VALUES (?, 1, ?, ?)"
                connection.execute(insert, (number, act, at_ms))
                return operation, 1
            if act == "attempt":
                update = "UPDATE intent SET scope = ?, state = 'open', why = '' WHERE operation = ?"
                connection.execute(update, (scope, operation))
            event = _add(connection, operation, act, at_ms)
            return NoSuchOperation(operation) if event is None else event

        # Losing a read loses nothing.
        event = self._write(work, durable=act == "attempt")
        if isinstance(event, SemelError):
            raise event
        return event

    def end(self, event: EventId, end_ms: int, saw: Saw) -> None:
        """Has it written down what came of it, without secrets."""
        if isinstance(saw, Reply):
            status, content = saw.status, saw.content
            headers = _headers_to_bytes(pair for pair in saw.headers if not is_secret(pair[0]))
        else:
            status, headers, content = _STATUS[saw], b"", b""
        checksum = _checksum(str(status).encode(), headers, content)
        update = (
            "UPDATE event SET end_ms = ?, status = ?, headers = ?, content = ?, checksum = ? "
            "WHERE intent = (SELECT n FROM intent WHERE operation = ?) AND n = ?"
        )
        values = (end_ms, status, headers, content, checksum, *event)
        self._later(lambda connection: connection.execute(update, values))

    def resumed(self, operation: str, at_ms: int) -> None:
        """Has it written down that somebody asked to go on."""
        self._later(lambda connection: _add(connection, operation, "resumed", at_ms))

    def stands(self, operation: str, state: State, why: str, at_ms: int) -> None:
        """Writes down where an operation stands; that it did not happen is on the disk when this returns (L18)."""
        update = "UPDATE intent SET state = ?, why = ?, state_ms = ? WHERE operation = ?"
        values = (state, why, at_ms, operation)
        if is_waited_for(state):
            self._write(lambda connection: connection.execute(update, values) and None, durable=True)
        else:
            self._later(lambda connection: connection.execute(update, values))

    def digest(self, credentials: bytes) -> bytes:
        """A digest of credentials that only this journal can compare, so that it tells nothing about them."""
        return hmac.new(self._secret, credentials, hashlib.sha256).digest()[:16]

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._turn:
            self._commit_all()
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
                self._commit()
        if job.error is not None:
            raise job.error
        return cast(T, job.result)

    def _later(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Has it done by who commits next, or a moment later. Nobody waits: if it fails, the next one fails, too."""
        self._usable()
        self._jobs.append(_Job(work, durable=False))
        if self._timer is None:
            self._timer = threading.Timer(self.LATER_MAX_MS / 1000, self._commit_later)
            try:
                self._timer.start()
            except RuntimeError:
                # The interpreter ends, and starts no thread any more.
                self._commit_later()

    def _commit_later(self) -> None:
        self._timer = None
        with self._turn:
            self._commit_all()

    def _commit_all(self) -> None:
        while self._jobs:
            self._commit()

    def _commit(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), self.GROUP_JOBS_MAX))]
        error: Exception | None = None
        try:
            self._usable()
            self._connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                job.result = job.work(self._connection)
            self._connection.execute("COMMIT")
            if any(job.durable for job in jobs):
                self._barrier()
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

    def _barrier(self) -> None:
        """Returns when what was committed is on the disk."""
        _sync(self._log.fileno())

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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise JournalLocked(f"another process, or another client of this one, uses the journal {folder}") from error
    return file


def _full_sync(descriptor: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]


_sync: Callable[[int], None] = (
    _full_sync if sys.platform == "darwin" else os.fdatasync if hasattr(os, "fdatasync") else os.fsync
)
"""This platform's barrier: what was written to a file is on the disk when it returns."""


def _sync_folder(folder: Path) -> None:
    """That a file is there must be as durable as what is in it."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(folder: Path) -> tuple[sqlite3.Connection, IO[bytes]]:
    """Opens the database: a torn tail of its log is dropped by SQLite, a damaged file is refused. Also its log, whose
    barrier is ours."""
    path = folder / "journal.sqlite"
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        os.chmod(path, 0o600)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise JournalError(f"the file system of {folder} cannot hold a journal")
        # SQLite's own barriers are those that keep the database whole; what a commit said waits for the journal's.
        connection.execute("PRAGMA synchronous = NORMAL")
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
        return connection, _open_log(folder / "journal.sqlite-wal")
    except BaseException:
        connection.close()
        raise


def _open_log(path: Path) -> IO[bytes]:
    """SQLite's log: it is there from the first read on until the connection is closed. It gets all its bytes now, as
    zeros, which SQLite reads as its end. A barrier after a write that makes a file longer has to wait for the file
    system's own journal, too, and costs half as much again."""
    log = open(path, "ab", buffering=0)  # noqa: SIM115  (held for as long as the journal is)
    try:
        log.write(bytes(max(0, _LOG_BYTES - log.tell())))
        os.fsync(log.fileno())
        _sync_folder(path.parent)
    except BaseException:
        log.close()
        raise
    return log


def _forget_over(connection: sqlite3.Connection, before_ms: int) -> None:
    over = "state IN ('done', 'rejected') AND state_ms < ?"
    connection.execute(f"DELETE FROM event WHERE intent IN (SELECT n FROM intent WHERE {over})", (before_ms,))
    connection.execute(f"DELETE FROM intent WHERE {over}", (before_ms,))


def _forget(connection: sqlite3.Connection, operation: str) -> bool:
    number = "(SELECT n FROM intent WHERE operation = ?)"
    connection.execute(f"DELETE FROM event WHERE intent = {number}", (operation,))
    return connection.execute("DELETE FROM intent WHERE operation = ?", (operation,)).rowcount > 0


def _insert(connection: sqlite3.Connection, intent: Intent, scope: bytes, at_ms: int) -> int:
    """A new operation, and its number."""
    columns = _columns(intent)
    number = connection.execute(
        "INSERT INTO intent (operation, key, preset, method, target, headers, content, fingerprint, key_given, "
        "checksum, created_ms, scope, state, why, state_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', '', ?)",
        (*columns, _checksum_of(columns), at_ms, scope, at_ms),
    ).lastrowid
    assert number is not None, "an insert has a row"
    return number


def _add(connection: sqlite3.Connection, operation: str, act: str, at_ms: int) -> EventId | None:
    """One more event of an operation; None where the operation is not there any more."""
    select = (
        "SELECT n, 1 + coalesce((SELECT max(n) FROM event WHERE event.intent = intent.n), 0) "
        "FROM intent WHERE operation = ?"
    )
    found = connection.execute(select, (operation,)).fetchone()
    if found is None:
        return None
    connection.execute("INSERT INTO event (intent, n, act, at_ms) VALUES (?, ?, ?, ?)", (*found, act, at_ms))
    return operation, found[1]


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
    columns, (checksum, created_ms, scope, state, why, number) = row[:9], row[9:]
    operation = columns[0]
    damaged = JournalDamaged(f"the journal's record of operation {operation} is damaged")
    if checksum != _checksum_of(columns) or state not in get_args(State):
        raise damaged
    headers = _headers_from_bytes(columns[5])
    key = Key(columns[1], counted=True)
    intent = Intent._stored(operation, key, *columns[2:5], headers, *columns[6:8], bool(columns[8]))
    select = "SELECT act, at_ms, end_ms, status, headers, content, checksum FROM event WHERE intent = ? ORDER BY n"
    history = tuple(_event(event, damaged) for event in connection.execute(select, (number,)))
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
