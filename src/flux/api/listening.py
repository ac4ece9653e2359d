"""The HTTP server: uvicorn on a socket of ours, with deadlines for clients and a limit of connections."""

import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from flux.server.service import Service

CONNECTIONS = 1000
HEADER_SECONDS = 9.0  # And at most a second more, until it is looked at.
STALLED_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 5
PIECES = 10_000
STREAMS_END_SECONDS = 2
_FULL_BODY = b'{"type":"TooManyConnections","message":"the server has too many connections","hint":"try again later"}'
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_FULL_BODY), _FULL_BODY)


class _Counted(h11.Connection):
    """HTTP, but a body in more pieces than anybody needs is an error: each piece costs as much as a large one."""

    _pieces = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > PIECES:
                raise h11.RemoteProtocolError("too many pieces")
        elif isinstance(event, h11.Request):
            self._pieces = 0
        return event


class Connection(H11Protocol):
    """A connection that knows since when it waits for its client: uvicorn has no deadlines but for keep-alive."""

    most = CONNECTIONS
    _asks_since: float | None = None  # A request has begun, or the first one is waited for.
    _stalled_since: float | None = None  # What is sent is not taken, or the end of the connection is not.

    def connection_made(self, transport: Any) -> None:
        self._asks_since = time.monotonic()
        if len(self.connections) >= self.most:
            transport.write(_FULL)
            transport.close()
            return
        self.conn = _Counted(h11.SERVER)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.transport is not None:  # It was one too many.
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # It was answered already, and goes on with what is no HTTP.
            self.transport.abort()
        if self.cycle is not before:
            self._asks_since = None
        elif self._asks_since is None and (self.cycle is None or self.cycle.response_complete):
            self._asks_since = time.monotonic()

    def pause_writing(self) -> None:
        self._stalled_since = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = None
        super().resume_writing()

    def end_if_overdue(self, now: float) -> None:
        """Close the connection if its client is too slow; what it did not take is dropped."""
        if self.transport.is_closing() and self._stalled_since is None:
            self._stalled_since = now
        asks, stalled = self._asks_since, self._stalled_since
        is_slow = asks is not None and now - asks > HEADER_SECONDS
        if is_slow or (stalled is not None and now - stalled > STALLED_SECONDS):
            self.transport.abort()


class HttpServer:
    """Serves an application; `stop` ends it.

    Args:
        application: What is served.
        bound: Where it listens.
        ending: Called on the loop when it is stopped: requests that wait are to end.
    """

    def __init__(
        self, application: ASGIApp, bound: socket.socket, *, ending: Callable[[], None] = lambda: None
    ) -> None:
        config = uvicorn.Config(
            application,
            http=Connection,
            ws="none",
            log_config=None,
            log_level="error",  # It warns of what clients do, as often as they like.
            access_log=False,
            lifespan="on",
            proxy_headers=False,  # Whoever calls could choose its address.
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STREAMS_END_SECONDS,
        )
        self._server = uvicorn.Server(config)
        self._socket, self._ending = bound, ending
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does it only where proto is given.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        Connection.most = min(CONNECTIONS, files * 3 // 4)  # The database and the tasks need some, too.

    def stop(self) -> None:
        """Let requests end, and serve no more."""
        self._ending()
        self._server.should_exit = True

    async def serve(self) -> None:
        """Serve until it is stopped."""
        sweep = Service("the look for slow clients", self._sweep, seconds=1.0)
        sweep.start()
        try:
            await self._server._serve([self._socket])  # `serve` would take the signals.
        finally:
            await sweep.stop()

    async def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, Connection):
                connection.end_if_overdue(now)
