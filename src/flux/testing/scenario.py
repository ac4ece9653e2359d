"""A scenario: a workflow, and what the world outside does while it runs; played to its end on a bed, or continued."""

import asyncio
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.errors import ExecutionConflictError
from flux.ports import Pause
from flux.tasks import choice, randint, randrange, uuid4
from flux.testing.bed import Bed, watch_writes
from flux.testing.fakes import fake
from flux.testing.virtual_time import EPOCH_US, MICROSECONDS
from flux.workflow import Workflow

ID = "crash-test"
EVERYTHING = 1_000_000


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that somebody sends.

    Args:
        name: Of the signal.
        value: What `wait_for_signal` returns.
        after: How long after the start; at once by default.
    """

    name: str
    value: Any = None
    after: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is played.

    Args:
        input: Of the workflow.
        resumes: The answers to pauses, by their names.
    """

    workflow: Workflow[Any, Any]
    input: Any
    resumes: Mapping[str, Any] = field(default_factory=dict)
    signals: Sequence[Signal] = ()

    def play(self, bed: Bed) -> None:
        """Start the execution, or continue it, until it is finished; the bed is closed afterwards.

        Raises:
            ExecutionConflictError: It waits for something that nobody brings.
        """
        with bed.installed(), _repeatable():
            bed.run(_Play(self, bed).play())


class _Play:
    def __init__(self, scenario: Scenario, bed: Bed) -> None:
        self._scenario, self._app, self._store, self._time = scenario, bed.app, bed.store, bed.time
        self._has_paused = asyncio.Event()
        self._has_paused.set()  # An earlier process may have left open pauses.

    async def play(self) -> None:
        watch_writes(self._store, after=self._look)
        handle = self._app.start(self._scenario.workflow.definition, self._scenario.input, ID)
        senders = [asyncio.ensure_future(self._send(*each)) for each in enumerate(self._scenario.signals)]
        answering = asyncio.ensure_future(self._keep_answering())
        try:
            while not (context := await handle.result()).has_finished:
                is_paused = self._app.row(ID).state is ExecutionState.PAUSED  # Else something was sent meanwhile.
                if is_paused and not await self._answer():
                    await self._until_sent([sender for sender in senders if not sender.done()], context)
        finally:
            for task in (answering, *senders):
                task.cancel()

    def _look(self, write: str, arguments: tuple[Any, ...]) -> None:
        if write == "append" and any(append.opened for append in arguments[0]):
            self._has_paused.set()

    async def _keep_answering(self) -> None:
        """While tasks and timers go on: a pause with a timeout, for one, must not time out."""
        while True:
            await self._has_paused.wait()
            self._has_paused.clear()
            while await self._answer():
                pass

    async def _answer(self) -> bool:
        """Answer the next open pause, if there is one that can be answered."""
        found = min(self._open_pauses(), key=lambda each: each[0], default=None)
        if found is not None:
            due_us, execution_id, pause = found
            await self._until(due_us)
            if pause in self._store.pauses(execution_id):
                self._app.send_resume(execution_id, self._scenario.resumes[pause.name], name=pause.name)
        return found is not None

    def _open_pauses(self) -> Iterator[tuple[int, str, Pause]]:
        """Each with its own moment after it was opened: what happens at once may happen in another order."""
        for row in self._store.list(limit=EVERYTHING):
            # The store's id of a pause may have more behind the "#" than the call's.
            pauses = {pause.call_id.partition("#")[0]: pause for pause in self._store.pauses(row.execution_id)}
            for event in self._store.events(row.execution_id) if pauses else ():
                pause = pauses.get(event.call_id)
                if pause is not None and event.type is Type.TASK_PAUSED and pause.name in self._scenario.resumes:
                    yield event.time_us + event.seq, row.execution_id, pause

    async def _send(self, number: int, signal: Signal) -> None:
        await self._until(EPOCH_US + round(signal.after.total_seconds() * MICROSECONDS))
        with suppress(ExecutionConflictError):  # It was finished before.
            self._app.send_signal(ID, signal.name, signal.value, client_id=f"signal {number}")

    async def _until(self, us: int) -> None:
        await asyncio.sleep(max(0, us - self._time.now()) / MICROSECONDS)

    async def _until_sent(self, senders: "list[asyncio.Task[None]]", context: ExecutionContext[Any]) -> None:
        if senders:
            await asyncio.wait(senders, return_when=asyncio.FIRST_COMPLETED)
            return
        rows = self._store.list(limit=EVERYTHING)
        pauses = [pause.name for row in rows for pause in self._store.pauses(row.execution_id)]
        signals = [event.value["name"] for event in context.events if event.type is Type.WORKFLOW_PAUSED]
        what, name = ("resumes", pauses[0]) if pauses else ("signals", signals[-1] if signals else "NAME")
        raise ExecutionConflictError(
            f"the execution waits for {name!r}, and nobody brings it: give crash_everywhere {what}={{{name!r}: ...}}"
        )


@contextmanager
def _repeatable() -> Iterator[None]:
    """What the tasks of `flux.tasks` draw depends on the call alone, so that it is the same after a crash."""

    def drawn(draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, metadata, **kwargs: draw(random.Random(metadata.idempotency_key), *args, **kwargs)  # noqa: S311

    with ExitStack() as fakes:
        fakes.enter_context(fake(uuid4, calls=drawn(lambda chance: uuid.UUID(int=chance.getrandbits(128), version=4))))
        for task, draw in (
            (randint, random.Random.randint),
            (randrange, random.Random.randrange),
            (choice, random.Random.choice),
        ):
            fakes.enter_context(fake(task, calls=drawn(draw)))
        yield
