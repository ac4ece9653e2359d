"""Crashes in memory: what a crash would leave is noted at each durable write, and continued from there."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flux.domain.events import ExecutionEventType as Type
from flux.domain.history import History
from flux.ids import child_id
from flux.store.memory import Memory, MemoryStore
from flux.testing import fakes
from flux.testing.bed import Bed, watch_writes
from flux.testing.differences import Course, Difference, Survival, Witness, ending_of
from flux.testing.fakes import FakedCall
from flux.testing.ledger import Ledger
from flux.testing.scenario import EVERYTHING, Scenario
from flux.testing.virtual_time import RememberingLoop, VirtualTime

_UNSTEADY = (
    "what a task has called is found again by the order in which the task makes its calls and its asyncio tasks: let "
    "that be the same in each attempt"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """What is stored when a process dies, and how far time and the world outside have come."""

    text: str
    line: str
    memory: Memory
    states: Sequence[Any]
    mark: Sequence[int]  # The time, and how much the world outside has seen.


class Rehearsal:
    """Crashes a scenario in memory.

    Args:
        ledger: What its tasks act on, beside the fakes that are in place.
    """

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        self._scenario, self._ledger, self._fakes = scenario, ledger, list(fakes.active)
        self._moments: list[Moment] = []
        self._end = self._states()

    def learn(self) -> Sequence[Moment]:
        self._ledger.state = []
        bed, memory = Bed(loop=RememberingLoop), Memory()
        witness = Witness(bed.app.engine)

        def note(side: str, write: str, arguments: tuple[Any, ...]) -> None:
            mark = [bed.time.us, len(self._ledger.state), *(len(faked.calls) for faked in self._fakes)]
            last, line = self._moments[-1] if self._moments else None, witness.line(write, arguments)
            if last is None or last.memory is not memory or last.mark != mark:  # Else nothing has happened since.
                text = f"right {side} {witness.text(write, arguments)}"
                self._moments.append(Moment(text, line, memory, self._states(), mark))

        def note_after(write: str, arguments: tuple[Any, ...]) -> None:
            nonlocal memory
            assert isinstance(bed.store, MemoryStore)
            memory = bed.store.memory.snapshot()
            note("after", write, arguments)

        watch_writes(bed.store, lambda *written: note("before", *written), note_after)
        self._scenario.play(bed)
        self._course, self._end = Course(ending_of(bed.store), self._ledger.effects), self._states()
        self._asked = {(faked, call.key, call.attempt) for faked in self._fakes for call in faked.calls}
        return self._moments

    def survivals(self) -> Iterator[Survival]:
        return map(self._survive, self._moments)

    def close(self) -> None:
        self._set(self._end)

    def _survive(self, moment: Moment) -> Survival:
        self._set(moment.states)
        bed = Bed(moment.memory.snapshot(), time=VirtualTime(moment.mark[0]), loop=RememberingLoop)
        try:
            self._scenario.play(bed)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from going on is what the user is to know.
            return Survival([Difference(f"it cannot be continued: {type(error).__name__}: {error}")])
        course = Course(ending_of(bed.store), self._ledger.effects)
        return self._course.compare(course, lambda was_interrupted: self._asked_otherwise(moment, was_interrupted))

    def _asked_otherwise(self, moment: Moment, was_interrupted: bool) -> Iterator[Difference]:  # noqa: FBT001
        finished = _finished(moment.memory)
        for faked, state in zip(self._fakes, moment.states[1:], strict=True):
            for call in faked.calls[len(state[0]) :]:
                if call.attempt <= finished.get(call.key, 0):
                    yield Difference(f"{faked.name!r} was asked again for what was finished: {_shown(call)}", _UNSTEADY)
                elif not was_interrupted and (faked, call.key, call.attempt) not in self._asked:
                    what = f"{faked.name!r} was asked for what it is not without a crash: {_shown(call)}"
                    yield Difference(what, _UNSTEADY)

    def _states(self) -> list[Any]:
        return [self._ledger.state, *(faked.state for faked in self._fakes)]

    def _set(self, states: Sequence[Any]) -> None:
        self._ledger.state = states[0]
        for faked, state in zip(self._fakes, states[1:], strict=True):
            faked.state = state


def _finished(memory: Memory) -> dict[str, float]:
    """How many attempts of each call are over, by its key."""
    store, finished = MemoryStore(memory), dict[str, float]()
    for row in store.list(limit=EVERYTHING):
        history = History(store.events(row.execution_id))
        started = next((event for event in history.events if event.type is Type.WORKFLOW_STARTED), None)
        generation = started.detail.get("generation", 1) if started is not None else 1
        for call_id, record in history.calls.items():
            failed = sum(event.type is Type.TASK_RETRY_FAILED for event in record.progress)
            finished[child_id(row.execution_id, generation, call_id)] = failed if record.outcome is None else math.inf
    return finished


def _shown(call: FakedCall) -> str:
    return f"call {call.call_id} with {dict(call.arguments)!r}, attempt {call.attempt}"
