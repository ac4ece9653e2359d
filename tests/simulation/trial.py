"""One universe from its first request to its last end: who is in it, what goes wrong, and when it is over."""

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

from flux import serde
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.engine import engine, launcher, lease
from flux.errors import StoreError
from flux.store.memory import Memory
from simulation.checker import Checker
from simulation.faults import Mix, without_faults
from simulation.people import Client
from simulation.process import Process
from simulation.programs import Request, draw_request, simulated
from simulation.rules import Violation
from simulation.universe import Trace, Universe
from simulation.world import Key, SimulatedWorld
from support.law import check_complete
from support.simulation import plain

FAULTY_SECONDS = 6.0
HEALTHY_SECONDS = 600.0
POLL_SECONDS = 0.4


@dataclass(frozen=True, slots=True)
class Plan:
    """What a seed is about: everything but the faults."""

    seed: int
    requests: tuple[Request, ...]
    are_started_by_workers: bool
    cancelled: tuple[str, ...]
    murmurs: int
    impatience: float
    workers: int
    unload_after_seconds: float

    @classmethod
    def drawn(cls, seed: int) -> "Plan":
        chance = random.Random(f"plan {seed}")
        requests = tuple(draw_request(chance, n) for n in range(chance.choice([1, 1, 2])))
        cancelled = tuple(each.execution_id for each in requests if chance.random() < 0.25)
        return cls(
            seed=seed,
            requests=requests,
            are_started_by_workers=chance.random() < 0.5,
            cancelled=cancelled,
            murmurs=chance.choice([0, 0, 2]),
            impatience=chance.choice([0.0, 0.3]),
            workers=chance.choice([2, 3]),
            unload_after_seconds=chance.choice([0.2, 10.0]),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a universe.

    Args:
        ends: State and output, by execution.
        effects: What has acted.
    """

    ends: dict[str, tuple[ExecutionState, Any]]
    effects: set[Key]


class Trial:
    """One universe: its processes, its people, and its end."""

    def __init__(self, plan: Plan, mix: Mix, trace: Trace) -> None:
        self.plan, self.mix = plan, mix
        self.universe = Universe(plan.seed, trace)
        self.memory = Memory()
        self.checker = Checker(self.universe, self.memory)
        client = self._process("client", mix.of_people())
        self.client = Client(client, self.memory, impatience=plan.impatience)
        self.workers: list[Process] = []
        self._is_faulty = mix != without_faults(mix)
        self._seen_changes = -1

    def run(self) -> Result:
        """Run it to its end.

        Raises:
            Violation: A rule was broken.
        """
        with _installed(self.universe):
            try:
                return self._run()
            finally:
                self.universe.end()

    def _run(self) -> Result:
        self._begin()
        self.universe.run(until=self._is_over, at_most=FAULTY_SECONDS)
        self._heal()
        if not self.universe.run(until=self._is_over, at_most=HEALTHY_SECONDS):
            rows = [each.row for each in self.memory.executions.values() if each.row.finished_at is None]
            raise Violation("liveness", f"{HEALTHY_SECONDS:g} s after the last fault this has not ended: {rows}")
        self._check_acknowledged()
        self._check_complete()
        roots = [each.execution_id for each in self.plan.requests]
        return Result({each: self._end_of(each) for each in roots}, self.checker.effects)

    # -- processes

    def _begin(self) -> None:
        plan, chance = self.plan, self.universe.chance
        for slot in range(plan.workers if self._is_faulty else 1):
            self.workers.append(self._worker(slot, 1))
        for request in plan.requests:
            if not plan.are_started_by_workers:
                self.client.start(request, chance.uniform(0, 0.5))
            self._approach(request.execution_id, chance.uniform(0, 2.0))
        self._plan_faults()

    def _approach(self, execution_id: str, delay: float) -> None:
        """Say something to an execution, as soon as it is there."""

        def speak() -> None:
            if execution_id not in self.memory.executions:
                self.universe.after(POLL_SECONDS, speak)
                return
            if self.plan.murmurs:
                self.client.murmur(execution_id, self.plan.murmurs)
            if execution_id in self.plan.cancelled and self._is_faulty:
                self.client.cancel(execution_id, self.universe.lottery(1.0))

        self.universe.after(delay, speak)

    def _process(self, name: str, mix: Mix) -> Process:
        unload_after = self.plan.unload_after_seconds
        return Process(self.universe, name, self.memory, self.checker, mix, unload_after_seconds=unload_after)

    def _worker(self, slot: int, life: int) -> Process:
        process = self._process(f"p{slot}.{life}", self.mix)
        process.world = SimulatedWorld(process, self.plan.seed, self.client)
        for request in self.plan.requests:
            process.serve(self._serve(process, request))
        return process

    async def _serve(self, process: Process, request: Request) -> None:
        """Drive an execution, as somebody does who waits for it, until it is finished."""
        app, definition = process.app, simulated.definition
        while True:
            try:
                if self.plan.are_started_by_workers or app.get(request.execution_id) is not None:
                    context = await app.run_async(definition, request.input, request.execution_id)
                    if context.has_finished:
                        return
            except StoreError as error:
                process.universe.note(process.name, f"cannot run {request.execution_id}: {error}")
            except Exception as error:
                process.universe.breach("error", f"{process.name} gets {error!r}")
                raise
            await asyncio.sleep(POLL_SECONDS)

    # -- faults

    def _plan_faults(self) -> None:
        mix = self.mix
        for mean, act in (
            (mix.crashes, self._crash),
            (mix.stops, self._stop),
            (mix.freezes, lambda process: process.freeze(self.universe.lottery(2.0))),
            (mix.stalls, lambda process: process.freeze(self.universe.lottery(1.0), wholly=False)),
            (mix.cuts, lambda process: process.cut_off(self.universe.lottery(1.0))),
            (mix.steps, lambda process: process.step_clock(self.universe.chance.uniform(-3.0, 3.0))),
        ):
            if mean:
                self._repeat(mean, act)
        if self.mix.dies:
            self._repeat(0.5, self._restart_if_dead)

    def _repeat(self, mean: float, act: Any) -> None:
        def strike() -> None:
            if self.mix.crashes or self.mix != self.mix.healed():
                act(self.universe.chance.choice(self.workers))
                self._repeat(mean, act)

        self.universe.after(self.universe.lottery(mean), strike)

    def _crash(self, process: Process) -> None:
        process.kill("between two steps")
        self._restart(process, self.universe.lottery(0.5))

    def _stop(self, process: Process) -> None:
        process.stop()
        self._restart(process, self.universe.lottery(0.5))

    def _restart_if_dead(self, process: Process) -> None:
        if not process.is_alive:
            self._restart(process, 0.0)

    def _restart(self, process: Process, delay: float) -> None:
        def restart() -> None:
            if process in self.workers:
                slot = self.workers.index(process)
                life = int(process.name.partition(".")[2]) + 1
                self.workers[slot] = self._worker(slot, life)

        self.universe.after(delay, restart)

    def _heal(self) -> None:
        """Faults stop, and whoever died comes back."""
        self.universe.note("all", "faults stop")
        self.mix, self._seen_changes = self.mix.healed(), -1
        for process in self.universe.living:
            process.mix = self.mix
            process.cut_off_until = 0
        for process in self.workers:
            if not process.is_alive:
                self._restart(process, 0.0)

    # -- the end

    def _is_over(self) -> bool:
        if self._seen_changes == self.memory.changes:
            return False  # As it was.
        self._seen_changes = self.memory.changes
        executions = self.memory.executions
        roots = [executions.get(each.execution_id) for each in self.plan.requests]
        return all(each is not None and each.row.finished_at is not None for each in roots) and all(
            each.row.finished_at is not None for each in executions.values()
        )

    def _end_of(self, execution_id: str) -> tuple[ExecutionState, Any]:
        found = self.memory.executions[execution_id]
        data = found.events[-1].data
        return found.row.state, plain(serde.decode(data)) if data is not None else None

    def _check_complete(self) -> None:
        """Every call has ended, and so has every rollback."""
        for found in self.memory.executions.values():
            try:
                check_complete(found.events)
            except AssertionError as error:
                raise Violation("once", f"{found.row.execution_id}: {error}") from error

    def _check_acknowledged(self) -> None:
        """Every acknowledged signal is in the history, once in a generation, in the order of its sender."""
        for execution_id, sent in self.client.signals.items():
            generations = [
                [serde.decode(data)["name"] for data in signals] for signals in self.checker.seen[execution_id].signals
            ]
            for names in generations:
                murmurs = [name for name in names if name.startswith("murmur")]
                if len(set(names)) < len(names) or murmurs != sorted(murmurs):
                    raise Violation("acks", f"{execution_id} has received {names}")
            received = {name for names in generations for name in names}
            lost = [name for name, _ in sent if name not in received]
            if lost:
                raise Violation("acks", f"{execution_id} has not received {lost}, but {generations}")
        for execution_id in self.client.cancelled:
            seen = self.checker.seen[execution_id]
            if seen.counts[Type.WORKFLOW_CANCELLING, ""] and seen.row.state is not ExecutionState.CANCELLED:
                raise Violation("acks", f"{execution_id} was to be cancelled, and is {seen.row.state}")


@contextlib.contextmanager
def _installed(universe: Universe) -> Iterator[None]:
    """What the engine finds in modules is the universe's meanwhile."""

    def running() -> Process:
        assert universe.running is not None
        return universe.running

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(lease, "new_id", lambda: f"worker-{universe.next_number()}"))
        stack.enter_context(mock.patch.object(engine, "NEWS_SECONDS", 0.2))
        before = launcher.install(lambda: running().app)
        stack.callback(launcher.install, before)
        logger = logging.getLogger("flux")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        yield
