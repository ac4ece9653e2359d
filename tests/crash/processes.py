"""Child processes that are started, stopped, continued and killed, and that no test leaves behind."""

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import flux

SOURCE = str(Path(flux.__file__).parent.parent)
HERE = Path(__file__).parent
PATIENCE_SECONDS = 30.0


class Child:
    """A Python program in a directory of its own; it talks in lines."""

    def __init__(self, program: str, directory: Path, *arguments: str, prefix: tuple[str, ...] = (), **env: str):
        self._process = subprocess.Popen(
            [*prefix, sys.executable, str(HERE / program), *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._unread = b""
        self.pid = self._process.pid

    def line(self, beginning: str = "") -> str | None:
        """The next line that begins so; None if the program ended without one."""
        while True:
            line = self._next_line()
            if line is None or line.startswith(beginning):
                return line

    def say(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """Freeze it; returns when it is frozen."""
        self.signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def kill_after(self, seconds: float) -> bool:
        """Kill it after so long; False if it had come to its end before."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        code = self.end()
        assert code in {0, -signal.SIGKILL}, f"it ended by itself, with {code}"
        return code != 0

    def end(self) -> int:
        """Wait for its end; returns the exit code, and shows what went wrong."""
        out, err = self._process.communicate(timeout=PATIENCE_SECONDS)
        if self._process.returncode not in {0, -signal.SIGKILL}:
            print(out.decode(), err.decode(), sep="\n")
        return self._process.returncode

    def _next_line(self) -> str | None:
        assert self._process.stdout
        deadline = time.monotonic() + PATIENCE_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(f"process {self.pid} said nothing for {PATIENCE_SECONDS:.0f} s")
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    return None
                self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def bury(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@contextmanager
def child(program: str, directory: Path, *arguments: str, prefix: tuple[str, ...] = (), **env: str) -> Iterator[Child]:
    """A process that is gone when the block is left."""
    process = Child(program, directory, *arguments, prefix=prefix, **env)
    try:
        yield process
    finally:
        process.bury()
