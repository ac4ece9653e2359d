"""What a crash makes different, in words: for `crash_everywhere`."""

import linecache
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flux import serde
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.history import is_inner
from flux.engine.engine import Engine
from flux.ports import Append, Store
from flux.serde.likeness import alike
from flux.testing.histories import often
from flux.testing.ledger import Effect
from flux.testing.scenario import EVERYTHING, ID

_AGAIN = (
    "a task that was interrupted runs again: give the outside world its idempotency key (metadata.idempotency_key), by "
    "which it knows a repeat; or let the task run at most once (at_most_once=True), and find out what became of it"
)
_IN_BODY = "a body runs again at every replay: do it in a @task, and await that"
_CHANCE = (
    "what ran again did not do the same: let now(), uuid4(), randint() … of flux.tasks decide; keep in the body's "
    "variables what a global variable forgets; and fake a task that answers by chance"
)
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Difference:
    """What is not as it is without a crash, and what helps."""

    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a scenario ended.

    Args:
        calls: What the bodies of all executions have called: workflow, name and arguments.
        was_interrupted: Whether a task that may run at most once was, and failed for that.
    """

    state: ExecutionState
    last: ExecutionEvent
    calls: Counter[tuple[str, str, bytes]]
    was_interrupted: bool

    def __str__(self) -> str:
        return f"{self.state} with {repr(self.last.display())[:_SHOWN]}"


def ending_of(store: Store) -> Ending:
    """How the scenario ended whose executions are in a store."""
    rows = store.list(limit=EVERYTHING)
    events = [(row.workflow, event) for row in rows for event in store.events(row.execution_id)]
    calls = Counter(
        (workflow, event.name, event.data or b"")
        for workflow, event in events
        if event.type is Type.TASK_STARTED and not is_inner(event.call_id)
    )
    failures = [event for _, event in events if event.type in {Type.TASK_FAILED, Type.TASK_RETRY_FAILED}]
    facts = [data for event in failures for data in (event.data, event.detail_data) if data]
    interrupted = any(b"flux.errors:TaskInterruptedError" in data for data in facts)
    (row,) = (row for row in rows if row.execution_id == ID)
    return Ending(row.state, store.events(ID)[-1], calls, interrupted)


@dataclass(frozen=True, slots=True)
class Survival:
    """What became of an execution after a crash.

    Args:
        found: How it differs from the one without a crash; nothing if it survived.
        was_interrupted: Whether a task that may run at most once noticed that it was.
    """

    found: Sequence[Difference]
    was_interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Course:
    """A scenario played to its end, and what it did outside."""

    ending: Ending
    effects: Sequence[Effect]

    def compare(self, actual: "Course", others: Callable[[bool], Iterable[Difference]]) -> Survival:
        """How another course differs from this one, which had no crash.

        A task that notices that it was interrupted may be made good in another way, but nothing may be done again.

        Args:
            others: Further differences, given whether that is so.
        """
        was_interrupted = actual.ending.was_interrupted and not self.ending.was_interrupted
        found = list(_between_effects(self.effects, actual.effects, was_interrupted=was_interrupted))
        if not was_interrupted:
            found += _between(self.ending, actual.ending)
        return Survival([*found, *others(was_interrupted)], was_interrupted)


def _between(expected: Ending, actual: Ending) -> Iterator[Difference]:
    if expected.state is not actual.state or not alike(expected.last.data, actual.last.data):
        yield Difference(f"it ended {actual}, and {expected} without the crash", _CHANCE)
    for call in {**expected.calls, **actual.calls}:
        if expected.calls[call] != actual.calls[call]:
            workflow, name, data = call
            what = f"the body of {workflow!r} called {name}({_shown(data)})"
            yield Difference(f"{what} {_times(actual.calls[call], expected.calls[call])}", _CHANCE)


def _between_effects(
    expected: Sequence[Effect], actual: Sequence[Effect], *, was_interrupted: bool
) -> Iterator[Difference]:
    wanted, done = (Counter(effect.identity for effect in effects) for effects in (expected, actual))
    for identity, effect in {effect.identity: effect for effect in (*expected, *actual)}.items():
        times, is_again = _times(done[identity], wanted[identity]), done[identity] > wanted[identity] > 0
        if done[identity] != wanted[identity] and (is_again or not was_interrupted):
            advice = _IN_BODY if effect.by == "the body" else _AGAIN if is_again else _CHANCE
            yield Difference(f"{effect} was done {times}: by {effect.by}, at {with_source(effect.line)}", advice)


class Witness:
    """Tells of each write to a store what it is, and where in the code its cause is.

    Args:
        engine: Whose bodies write.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lines: dict[tuple[str, str], str] = {}

    def line(self, write: str, arguments: tuple[Any, ...]) -> str:
        """Where the body has made the call that is written about first; else where it is now."""
        written = [(each.execution_id, e) for each in arguments[0] for e in each.events] if write == "append" else []
        for execution_id, event in written:
            if event.type is Type.TASK_STARTED and not is_inner(event.call_id):
                self._lines[execution_id, event.call_id] = self._engine.line_of(execution_id)
        calls = [(execution_id, event.call_id.partition("/")[0]) for execution_id, event in written if event.call_id]
        return (self._lines.get(calls[0]) if calls else None) or self._engine.line_of(ID)

    def text(self, write: str, arguments: tuple[Any, ...]) -> str:
        """The write, in words."""
        what = " and ".join(map(_described, arguments[0])) if write == "append" else arguments[0]
        return f"the {write} of {what}"


def _described(append: Append) -> str:
    events = append.events
    if not events:
        return f"the state {append.state}"
    names = [f"{event.type} of {event.name!r}" if event.call_id else event.type.value for event in events]
    seqs = f"event {events[0].seq}" if len(events) == 1 else f"events {events[0].seq}-{events[-1].seq}"
    whose = f" of the child {append.execution_id}" if append.execution_id != ID else ""
    return f"{', '.join(names)} ({seqs}{whose})"


def with_source(line: str) -> str:
    """A line of code, as "file:line", followed by what stands there."""
    file, _, number = line.rpartition(":")
    source = linecache.getline(file, int(number)).strip() if number.isdecimal() else ""
    return f"{line}: {source}" if source else line


def _times(actual: int, expected: int) -> str:
    return f"{often(actual)}, and {often(expected)} without the crash"


def _shown(arguments: bytes) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in serde.display(arguments).items())[:_SHOWN]
