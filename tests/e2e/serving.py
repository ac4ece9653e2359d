"""Servers and workers as processes, for those who test what they promise."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from e2e.command import start, wait_for

ADDRESS = re.compile(r"listening on (http://\S+)")
PATIENCE_SECONDS = 20


class Served:
    """A process of `flux dev`, `flux server` or `flux worker`.

    Args:
        words: Of the command line.
    """

    def __init__(self, directory: Path, *words: str, **variables: str) -> None:
        self.directory, self.words, self.is_worker = directory, words, "worker" in words
        self._log = directory / f"{words[0]}-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self.process = start(directory, *words, variables=variables, stdout=log, stderr=log)
        self.url = ""

    @property
    def text(self) -> str:
        """What it has printed."""
        return self._log.read_text("utf-8")

    def ready(self) -> "Served":
        """Wait until it serves."""
        wait_for(lambda: self._is_ready() or self.process.poll() is not None, seconds=PATIENCE_SECONDS)
        assert self.process.poll() is None, self.text
        if not self.is_worker:
            self.url = ADDRESS.findall(self.text)[-1]
            wait_for(self.answers, seconds=PATIENCE_SECONDS)
        return self

    def _is_ready(self) -> bool:
        return ("serving " if self.is_worker else "listening on") in self.text

    def answers(self) -> bool:
        """Whether it answers a request."""
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/healthz").status_code == 200
        return False

    def stop(self, signal_: int = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal_)
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    # -- requests

    def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        return httpx2.request(method, f"{self.url}/api{path}", timeout=PATIENCE_SECONDS, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        """The body of an answer that is no error."""
        answer = self.call("POST", path, json=body, headers={"X-Flux": "1"}, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def get(self, path: str, **options: Any) -> Any:
        answer = self.call("GET", path, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def start(self, workflow: str, value: Any = None, *, wait: float = 0, **more: Any) -> Any:
        return self.post(f"/workflows/{workflow}/executions?wait={wait}", {"input": value, **more})

    def until(self, execution_id: str, *states: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """The execution, when it is in one of these states."""
        shown: dict[str, Any] = {}

        def is_there() -> bool:
            shown.update(self.get(f"/executions/{execution_id}"))
            return shown["state"] in states

        wait_for(is_there, seconds=seconds)
        return shown


@contextlib.contextmanager
def serving(directory: Path, *words: str, **variables: str) -> Iterator[Served]:
    """A process that serves while this lasts."""
    served = Served(directory, *words, **variables)
    try:
        yield served.ready()
    finally:
        if served.process.poll() is None:
            served.stop(signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as bound:
        port: int = bound.getsockname()[1]
        return port


def note(path: Path, text: str) -> None:
    """Add a line to a file that several processes write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)
