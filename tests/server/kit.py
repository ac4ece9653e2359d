"""A server with a worker, in a thread of its own, on a free port of this machine."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import uvicorn

from flux.api.application import create_application
from flux.api.guard import Access
from flux.app import App
from flux.workflow import Workflow


class _Quiet(uvicorn.Server):
    """uvicorn, without its signal handlers: it runs in a thread."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Served:
    """One server, for as long as the context lasts.

    Args:
        workflows: Which it serves.
        has_code: Whether the API has them loaded; else it knows what the worker publishes.
        is_open: Whether no token is needed.
    """

    def __init__(
        self, app: App, workflows: Sequence[Workflow[Any, Any]], *, has_code: bool = True, is_open: bool = True
    ) -> None:
        self.app = app
        definitions = [workflow.definition for workflow in workflows]
        self._bound = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}"
        self.worker = app.worker(definitions, labels={"region": "eu"}, grace_seconds=1)
        access = Access(hosts={"127.0.0.1"}, find=app.catalogue.find_token, clock=app.clock, is_open=is_open)
        self.api = create_application(app.control(definitions if has_code else ()), access=access, worker=self.worker)
        config = uvicorn.Config(self.api, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
        self._server = _Quiet(config)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._is_up = threading.Event()

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._is_up.wait(20)
        self.http = httpx2.Client(base_url=f"{self.url}/api", timeout=30)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._server.should_exit = True
        self._loop.call_soon_threadsafe(self.worker.stop)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.ensure_future(self._server.serve([self._bound]))
        working = asyncio.ensure_future(self.worker.run())
        while not self._server.started:
            await asyncio.sleep(0.01)
        self._is_up.set()
        await asyncio.gather(serving, working)

    # -- what tests ask for

    def start(self, workflow: str, value: Any = None, *, wait: float = 10, **more: Any) -> dict[str, Any]:
        """Start an execution, and give it as it is when it has settled."""
        answer = self.http.post(
            f"/workflows/{workflow}/executions", params={"wait": wait}, json={"input": value, **more}
        )
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str, **parameters: Any) -> Any:
        """What is at a path."""
        answer = self.http.get(path, params=parameters)
        assert answer.is_success, answer.text
        return answer.json()
