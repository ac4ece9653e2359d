"""A server for tests that mean it harm: asked in process, request by request as it is, or over real sockets."""

import asyncio
import contextlib
import dataclasses
import functools
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flux import ExecutionContext, pause, task, workflow
from flux.api.application import create_application
from flux.api.guard import Access, Limits
from flux.api.listening import HttpServer
from flux.app import App
from flux.server import tokens
from flux.settings import Settings

HOST = "127.0.0.1:7600"
JSON = {"content-type": "application/json"}
LOOSE = Limits(failures_each=100_000, failures=100_000)


@task
async def double(number: int) -> int:
    return 2 * number


@workflow
async def twofold(ctx: ExecutionContext[Any]) -> Any:
    await pause("go")
    return await double(2)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.microseconds = 1_800_000_000_000_000

    def now(self) -> int:
        return self.microseconds

    def pass_seconds(self, seconds: float) -> None:
        self.microseconds += round(seconds * 1_000_000)


@dataclasses.dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for each, value in self.headers if each == name]
        assert len(found) < 2, f"{name} comes twice"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def is_problem(self) -> bool:
        return set(self.json) == {"type", "message", "hint"} and all(isinstance(v, str) for v in self.json.values())


def scope(method: str, target: str, headers: dict[str, str] | Iterable[tuple[str, str]], **more: Any) -> dict[str, Any]:
    """A request as uvicorn would pass it on."""
    from urllib.parse import unquote

    given = list(headers.items()) if isinstance(headers, dict) else list(headers)
    if not any(name.lower() == "host" for name, _ in given):
        given.append(("host", HOST))
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii", "replace"),
        "query_string": query.encode("ascii", "replace"),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given if value is not None],
        "client": ("192.0.2.1", 50000),
        "server": ("127.0.0.1", 7600),
        **more,
    }


async def asked(application: Any, request: dict[str, Any], body: bytes | list[bytes] = b"") -> Answer:
    pieces = [body] if isinstance(body, bytes) else list(body)
    status, headers, answered = 0, [], bytearray()

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.sleep(3600)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = [(name.decode().lower(), value.decode()) for name, value in message["headers"]]
        else:
            answered.extend(message.get("body", b""))

    await application(request, receive, send)
    return Answer(status, headers, bytes(answered))


class Harmed:
    """One database, with applications on it."""

    def __init__(self, folder: Path, clock: Any = None) -> None:
        self.app = App(Settings(database=folder / "flux.db"), clock=clock)
        self.tokens = {role: self.token(role, role) for role in ("viewer", "operator", "admin")}

    @functools.cached_property
    def open(self) -> Any:
        """As on loopback."""
        return self.application(is_open=True)

    @functools.cached_property
    def closed(self) -> Any:
        """As where others can reach it."""
        return self.application(is_open=False)

    def token(self, name: str, role: str, expires_in_seconds: float | None = None) -> str:
        made = tokens.create(self.app.catalogue, self.app.clock, name, role=role, expires_in_seconds=expires_in_seconds)
        return made[1]

    def application(self, *, is_open: bool, limits: Limits = LOOSE, control: Any = None, **more: Any) -> Any:
        access = Access(
            hosts=frozenset({"127.0.0.1", "localhost"}),
            find=self.app.catalogue.find_token,
            clock=self.app.clock,
            is_open=is_open,
            limits=limits,
            **more,
        )
        control = control or self.app.control([twofold.definition])
        return create_application(control, access=access, keeper=lambda: self.app.secrets)

    def ask(
        self,
        method: str,
        target: str,
        *,
        on: Any = None,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | list[bytes] | None = None,
        data: Any = None,
        **more: Any,
    ) -> Answer:
        """Send a request, as it is, to an application in this process."""
        if headers is None:
            headers = {} if method in {"GET", "HEAD"} else dict(JSON)
        if token is not None:
            headers = {**headers, "authorization": f"Bearer {token}"}
        if data is not None:
            body = json.dumps(data).encode()
        if body is not None and not {"content-length", "transfer-encoding"} & {name.lower() for name in headers}:
            length = len(body) if isinstance(body, bytes) else sum(map(len, body))
            headers = {**headers, "content-length": str(length)}
        application = on if on is not None else self.open
        return asyncio.run(
            asyncio.wait_for(asked(application, scope(method, target, headers, **more), body or b""), timeout=20)
        )

    def start(self, execution_id: str, value: Any = None) -> Answer:
        body = {"input": value, "execution_id": execution_id}
        return self.ask("POST", "/api/workflows/twofold/executions", data=body)

    def close(self) -> None:
        self.app.close()


@contextlib.contextmanager
def listening(application: Any) -> Iterator[int]:
    """Serve an application on a port of this machine, in a thread of its own."""
    with serving(application) as (port, _):
        yield port


@contextlib.contextmanager
def serving(application: Any) -> Iterator[tuple[int, HttpServer]]:
    """The same, with the server."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(application, bound)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        yield bound.getsockname()[1], server
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def connected(port: int, sent: bytes = b"", *, timeout: float = 10) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    if sent:
        made.sendall(sent)
    return made


def raw(method: str, target: str, *lines: str, body: bytes = b"", host: str = "127.0.0.1") -> bytes:
    """A request as bytes."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines])
    return f"{head}\r\n\r\n".encode("latin-1") + body


def read_all(client: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            found += piece
    return bytes(found)
