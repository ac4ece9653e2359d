"""What goes wrong in a seed, and the store through which a process meets it."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flux.errors import StoreError
from flux.ports import Append, AppendResult
from flux.store.memory import MemoryStore
from simulation.universe import describe

if TYPE_CHECKING:
    from simulation.process import Process

READS = frozenset({"get", "events", "pauses", "inbox", "addressed", "cached_result"})
FREE = frozenset({"news", "reopen", "list", "close", "memory", "kill"})


class Killed(BaseException):
    """The process that was running has died: nothing that it would still do happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How likely each fault is in a seed; most seeds lack most kinds, so that none hides another.

    Args:
        fails: Of a call of the store: nothing happens.
        loses: Of a write: it happens, and the answer is an error.
        dies: Of a write: it happens, and the process dies of it.
        sticks: Of a write: it happens, and the process stands still before it sees the answer.
        latency: Mean seconds of a commit's way there, and of its way back.
        crashes, stops, freezes, stalls, cuts, steps: Mean seconds between those of all processes; 0 for never.  A
            process that stops gives back what it owns; one that is frozen does nothing at all; of one that stalls, the
            heart still beats; one that is cut off meets no database; a step is one of its wall clock.
        skew: Most seconds by which a wall clock is wrong.
        leaves_proof: A crash leaves the proof of life, as that of a whole machine does: the lease must run out.
        arrives_late: What a process has sent arrives, even if it died meanwhile.
    """

    fails: float = 0.0
    loses: float = 0.0
    dies: float = 0.0
    sticks: float = 0.0
    latency: float = 0.0
    crashes: float = 0.0
    stops: float = 0.0
    freezes: float = 0.0
    stalls: float = 0.0
    cuts: float = 0.0
    steps: float = 0.0
    skew: float = 0.0
    leaves_proof: bool = False
    arrives_late: bool = False

    @classmethod
    def drawn(cls, chance: random.Random) -> "Mix":
        """The faults of a seed."""

        def often(*likely: float) -> float:
            return chance.choice([0.0, 0.0, *likely])

        return cls(
            fails=often(0.02, 0.1),
            loses=often(0.05, 0.25),
            dies=often(0.01, 0.04),
            sticks=often(0.01, 0.05),
            latency=chance.choice([0.0, 0.001, 0.03, 0.2]),
            crashes=often(1.5, 4.0),
            stops=often(2.0),
            freezes=often(1.5, 4.0),
            stalls=often(2.0),
            cuts=often(2.0, 4.0),
            steps=often(2.0),
            skew=often(0.3, 3.0),
            leaves_proof=chance.random() < 0.3,
            arrives_late=chance.random() < 0.3,
        )

    @property
    def is_faulty(self) -> bool:
        return self != self.of_twin()

    def of_twin(self) -> "Mix":
        """What a world without faults has, too."""
        return Mix(latency=self.latency)

    def of_people(self) -> "Mix":
        """Whoever insists on an answer does not die meanwhile."""
        return replace(self, dies=0.0, sticks=0.0)

    def healed(self) -> "Mix":
        """What is left of it when faults stop: clocks that are wrong stay wrong."""
        return Mix(latency=min(self.latency, 0.03), skew=self.skew)


class FaultyStore:
    """A process's way to the database, which is a real store on a memory that all share.

    Args:
        process: Whose.
        store: Where what arrives is done.
    """

    def __init__(self, process: "Process", store: MemoryStore) -> None:
        self._process, self._store = process, store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in FREE:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            self._process.must_live()
            return self._call(name, method, args, kwargs)

        setattr(self, name, call)
        return call

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Of a client, which creates an execution; a process's own appends go through its committer."""
        self._process.must_live()
        return self.arrived(appends)

    def arrived(self, appends: Sequence[Append]) -> list[AppendResult]:
        """An append that was sent, by a process that may be dead by now."""
        results: list[AppendResult] = self._call("append", self._store.append, (appends,), {})
        return results

    def _call(self, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        process, universe = self._process, self._process.universe
        mix, luck = process.mix, universe.chance.random()
        if process.is_cut_off() or luck < (mix.fails / 8 if name in READS else mix.fails):
            universe.note(process.name, f"{name} fails", fault="failed calls")
            raise StoreError("the database cannot be reached")
        result = method(*args, **kwargs)
        if name in READS:
            return result
        refused = "appends of superseded owners" if name == "append" and AppendResult.STALE in result else ""
        told = f"{name}{_gist(name, args, kwargs)} -> {describe(_outcome(result))}"
        universe.note(process.name, told, fault=refused)
        process.checker.written(process, name, args, kwargs, result)
        luck = universe.chance.random()
        if luck < mix.loses:
            universe.note(process.name, "and the answer is lost", fault="lost answers")
            raise StoreError("the connection was lost")
        if luck > 1 - mix.dies:
            process.kill("in a write")
            raise Killed
        if mix.dies < 1 - luck < mix.dies + mix.sticks:
            process.freeze(universe.lottery(1.0))
        return result


def _gist(name: str, args: Any, kwargs: Any) -> str:
    if name == "append":
        return " ".join(f" {each.execution_id[:6]}:{each.fence}:{_events_of(each)}{each.state}" for each in args[0])
    shown = {key: value for key, value in kwargs.items() if key in {"kind", "name", "fence", "client_id", "worker"}}
    return f" {args[0] if args else ''} {shown}"


def _events_of(append: Append) -> str:
    return ",".join(f"{event.type.value}({event.call_id})" for event in append.events) + " "


def _outcome(result: Any) -> Any:
    if isinstance(result, list):
        return [_outcome(each) for each in result]
    row = getattr(result, "row", None)
    return f"claimed {row.execution_id[:6]} {row.fence}" if row is not None else result
