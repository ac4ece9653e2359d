"""People outside: they start, answer, signal and cancel, and try again until they are told that it has arrived."""

import concurrent.futures
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from flux.engine import hosts
from flux.errors import ExecutionConflictError, StoreError
from flux.store.memory import Memory
from simulation.process import Process
from simulation.programs import Request, simulated

LOOK_SECONDS = 0.4
RETRY_SECONDS = 0.3
MURMUR = "murmur "


class _Nowhere(hosts.Background):
    """Whoever starts an execution here leaves it to the workers."""

    def spawn(self, work: Coroutine[Any, Any, Any]) -> hosts.Running:
        work.close()
        return concurrent.futures.Future()


class Client:
    """Somebody with an app of their own, that runs nothing.

    Args:
        process: The client's.
        memory: To see what there is to answer, as a person does who looks at a list.
        impatience: How likely it is that something is sent twice.
    """

    def __init__(self, process: Process, memory: Memory, *, impatience: float = 0.0) -> None:
        self._process, self._memory, self._impatience = process, memory, impatience
        self._universe = process.universe
        self._app = process.app
        self._app.background = _Nowhere()
        self.asked: Counter[tuple[str, str]] = Counter()  # Signals: how many, by execution and name.
        self.signals: dict[str, list[str]] = {}  # Those that were acknowledged: their names, by execution.
        self.cancelled: set[str] = set()  # Acknowledged.
        self._is_asked: set[str] = set()
        process.after(LOOK_SECONDS, self._look)

    def start(self, request: Request, delay: float) -> None:
        """Start an execution, which others run."""
        self._insist(delay, lambda: self._app.start(simulated.definition, request.input, request.execution_id))

    def signal(self, execution_id: str, name: str, value: Any, *, client_id: str) -> None:
        """Send a signal, once, however often this is asked for."""
        key = f"{execution_id} {client_id}"
        if key not in self._is_asked:
            self._is_asked.add(key)
            self.asked[execution_id, name] += 1
            self._insist(
                self._universe.lottery(0.1),
                lambda: self._app.send_signal(execution_id, name, value, client_id=key),
                lambda: self.signals.setdefault(execution_id, []).append(name),
            )

    def murmur(self, execution_id: str, count: int) -> None:
        """Send some signals that nobody waits for, one after the other."""

        def next_one(n: int) -> None:
            self.signals.setdefault(execution_id, []).append(f"{MURMUR}{n}")
            if n < count:
                send(n + 1)

        def send(n: int) -> None:
            self.asked[execution_id, f"{MURMUR}{n}"] += 1

            def sent() -> Any:
                return self._app.send_signal(execution_id, f"{MURMUR}{n}", n, client_id=f"{MURMUR}{n}")

            self._insist(self._universe.lottery(0.5), sent, lambda: next_one(n))

        send(1)

    def cancel(self, execution_id: str, delay: float) -> None:
        """Cancel an execution."""
        self._insist(delay, lambda: self._app.send_cancel(execution_id), lambda: self.cancelled.add(execution_id))

    def _insist(self, delay: float, ask: Callable[[], Any], told: Callable[[], Any] = lambda: None) -> None:
        """Ask until there is an answer."""

        def attempt() -> None:
            try:
                ask()
                if self._universe.chance.random() < self._impatience:
                    ask()
            except StoreError:
                self._process.after(RETRY_SECONDS, attempt)
            except ExecutionConflictError:
                pass  # It is finished.
            else:
                told()

        self._process.after(delay, attempt)

    def _look(self) -> None:
        """Answer some of the pauses that are open, and ask again for what was put aside."""
        self._process.after(LOOK_SECONDS, self._look)
        for execution_id, found in tuple(self._memory.executions.items()):
            if found.row.blocked_reason is not None:
                with contextlib.suppress(StoreError):  # It is looked at again.
                    self._app.store.unblock(execution_id)
            if found.row.finished_at is None:
                for pause, is_answered in tuple(found.pauses.values()):
                    if not is_answered and self._universe.chance.random() < 0.5:
                        self._answer(execution_id, pause.name)

    def _answer(self, execution_id: str, name: str) -> None:
        try:
            self._app.send_resume(execution_id, name, name=name)
            if self._universe.chance.random() < self._impatience:
                self._app.send_resume(execution_id, name, name=name)
        except (StoreError, ExecutionConflictError):
            pass  # It is looked at again.
