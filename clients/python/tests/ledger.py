"""An API over real sockets that keeps a ledger, and can fail in every way that a network has."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("none", "failed-before", "failed-after", "reset-after", "cut-after")


class Ledger(ThreadingHTTPServer):
    """Takes payments, one for each key; the first `faulty` requests meet the fault."""

    daemon_threads = True

    def __init__(self, fault: str = "none", faulty: int = 1, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault, self.faulty = fault, faulty
        self.entries: dict[str, bytes] = {}
        self.keys: list[str] = []
        self.guard = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_: Any) -> None:
        self.gate.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """Whoever was killed in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Ledger
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(404, b"")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length)
        if len(content) < length:
            # Half of a request has no effect.
            self.close_connection = True
            return
        ledger, key = self.server, self.headers["Idempotency-Key"]
        with ledger.guard:
            fault = ledger.fault if len(ledger.keys) < ledger.faulty else "none"
            ledger.keys.append(key)
            replayed = key in ledger.entries
            if fault != "failed-before":
                ledger.entries.setdefault(key, content)
        if fault in ("failed-before", "failed-after"):
            self.answer(500, b'{"error":"failed"}')
        elif fault == "reset-after":
            self.close_connection = True
        elif fault == "cut-after":
            self.answer(201, b'{"id":', declared=100)
            self.close_connection = True
        elif fault == "trickle":
            self.trickle(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n")
        elif fault == "trickle-head":
            self.trickle(b"HTTP/1.1 201 Created\r\nX-Long:")
        elif fault == "redirect":
            self.answer(303, b"", location="/elsewhere")
        else:
            marker = {"Idempotent-Replayed": "true"} if replayed else {}
            self.answer(201, b'{"id":"p-1"}', **marker)

    def trickle(self, beginning: bytes) -> None:
        """A byte at a time, for as long as anybody reads."""
        self.close_connection = True
        self.wfile.write(beginning)
        self.server.gate.clear()
        while not self.server.gate.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()

    def answer(self, status: int, content: bytes, declared: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if declared is None else declared))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
