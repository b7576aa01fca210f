"""The transport that a `Client` sends through by default: one whole exchange has a time limit.

httpx limits each read by itself, so that a server that sends a byte now and then holds a blocked caller for as long as
it likes. Here every operation on a socket has what is left of the limit. (`AsyncClient` cancels, and needs none of
this.) It sends each request once at the most, follows no redirects and takes nothing from the environment.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

__all__ = ["LimitedTransport"]

_SLICE_BYTES = 1 << 16
"""So much is written under one limit."""

_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.UnsupportedProtocol)


class _Deadline(threading.local):
    """When the exchange of this thread must end, by the monotonic clock."""

    at: float = 0.0

    def left(self, late: type[Exception]) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise late("the exchange took too long")
        return left


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._inner, self._deadline = inner, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _SLICE_BYTES):
            left = self._deadline.left(httpcore.WriteTimeout)
            self._inner.write(buffer[start : start + _SLICE_BYTES], left)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._inner, self._deadline = httpcore.SyncBackend(), deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options), self._deadline)


@contextmanager
def _as_httpx() -> Iterator[None]:
    try:
        yield
    except _NOT_SENT as error:
        raise httpx.ConnectError(str(error)) from error
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
        raise httpx.ReadError(str(error)) from error


class _Content(httpx.SyncByteStream):
    def __init__(self, inner: httpcore.Response) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._inner.iter_stream()

    def close(self) -> None:
        self._inner.close()


class LimitedTransport(httpx.BaseTransport):
    """Over HTTP/1.1, with the certificates that httpx trusts, or those of `tls`. The limit is the request's own read
    time-out; response and content are read in the thread that sent the request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._deadline = _Deadline()
        context = tls or httpx.create_ssl_context(trust_env=False)
        self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=_Backend(self._deadline))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions["timeout"]
        self._deadline.at = time.monotonic() + limits["read"]
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        sent = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.read(), extensions={"timeout": limits}
        )
        with _as_httpx():
            response = self._pool.handle_request(sent)
        return httpx.Response(response.status, headers=response.headers, stream=_Content(response))

    def close(self) -> None:
        self._pool.close()
