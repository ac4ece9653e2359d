"""One universe, from its first request to its last end."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from unittest import mock

from flux.domain.execution import POISON
from flux.engine import engine, launcher, lease
from flux.errors import StoreError
from flux.store.memory import Memory
from simulation.checker import Checker
from simulation.faults import Mix
from simulation.loop import OrderedGroup
from simulation.people import Client
from simulation.plan import Plan
from simulation.process import NEWS_SECONDS, Process
from simulation.programs import Request, simulated
from simulation.rules import Violation
from simulation.strikes import Strikes
from simulation.universe import Trace, Universe
from simulation.verdict import Result, check_acknowledged, check_all_ended, end_of
from simulation.world import SimulatedWorld

FAULTY_SECONDS = 6.0
HEALTHY_SECONDS = 600.0
POLL_SECONDS = 0.4


class Trial:
    """A universe with its processes and its people.

    Args:
        mix: What goes wrong.
        trace: Is told of all that happens.
    """

    def __init__(self, plan: Plan, mix: Mix, trace: Trace) -> None:
        self.plan, self.mix = plan, mix
        self.universe = Universe(plan.seed, trace)
        self.memory = Memory()
        self.checker = Checker(self.universe, self.memory)
        self.client = Client(self._process("client", mix.of_people()), self.memory, impatience=plan.impatience)
        self.workers: list[Process] = []
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
        self.workers += [self._worker(f"p{slot}.1") for slot in range(self.plan.workers if self.mix.is_faulty else 1)]
        strikes = Strikes(self.universe, self.mix, self.workers, self._restart)
        for request in self.plan.requests:
            self._ask_for(request)
        self.universe.run(until=self._is_over, at_most=FAULTY_SECONDS)
        self._heal()
        strikes.stop()
        if not self.universe.run(until=self._is_over, at_most=HEALTHY_SECONDS):
            rows = [each.row for each in self.memory.executions.values() if each.row.finished_at is None]
            raise Violation("liveness", f"{HEALTHY_SECONDS:g} s after the last fault this has not ended: {rows}")
        check_acknowledged(self.client, self.checker.seen)
        check_all_ended(self.memory)
        ends = {each.execution_id: end_of(self.memory, each.execution_id) for each in self.plan.requests}
        return Result(ends, self.checker.effects)

    def _is_over(self) -> bool:
        if self._seen_changes == self.memory.changes:
            return False  # As it was.
        self._seen_changes = self.memory.changes
        executions = self.memory.executions
        are_there = all(each.execution_id in executions for each in self.plan.requests)
        return are_there and all(each.row.finished_at is not None for each in executions.values())

    def _heal(self) -> None:
        self.universe.note("all", "faults stop")
        self.mix, self._seen_changes = self.mix.healed(), -1
        for process in self.universe.living:
            process.mix, process.cut_off_until = self.mix, 0

    # -- people

    def _ask_for(self, request: Request) -> None:
        chance = self.universe.chance
        if not self.plan.are_started_by_workers:
            self.client.start(request, chance.uniform(0, 0.5))
        self._approach(request.execution_id, chance.uniform(0, 2.0))

    def _approach(self, execution_id: str, delay: float) -> None:
        """Say something to an execution, as soon as it is there."""

        def speak() -> None:
            if execution_id not in self.memory.executions:
                self.universe.after(POLL_SECONDS, speak)
                return
            if self.plan.murmurs:
                self.client.murmur(execution_id, self.plan.murmurs)
            if execution_id in self.plan.cancelled and self.mix.is_faulty:
                self.client.cancel(execution_id, self.universe.lottery(1.0))

        self.universe.after(delay, speak)

    # -- processes

    def _process(self, name: str, mix: Mix) -> Process:
        unload_after = self.plan.unload_after_seconds
        return Process(self.universe, name, self.memory, self.checker, mix, unload_after_seconds=unload_after)

    def _worker(self, name: str) -> Process:
        process = self._process(name, self.mix)
        process.world = SimulatedWorld(process, self.plan.seed, self.client)
        for request in self.plan.requests:
            process.serve(self._serve(process, request))
        return process

    def _restart(self, process: Process) -> None:
        if process in self.workers:  # Else it has happened already.
            slot, _, life = process.name.partition(".")
            self.workers[self.workers.index(process)] = self._worker(f"{slot}.{int(life) + 1}")

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
                if POISON not in str(error):  # Else a person asks again for it: it has met much misfortune.
                    process.universe.breach("error", f"{process.name} gets {error!r}")
                    raise
            await asyncio.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _installed(universe: Universe) -> Iterator[None]:
    """What the engine finds in modules is the universe's meanwhile."""

    def running() -> Process:
        assert universe.running is not None
        return universe.running

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(asyncio, "TaskGroup", OrderedGroup))
        stack.enter_context(mock.patch.object(lease, "new_id", lambda: f"worker-{universe.next_number()}"))
        stack.enter_context(mock.patch.object(engine, "NEWS_SECONDS", NEWS_SECONDS))
        stack.callback(launcher.install, launcher.install(lambda: running().app))
        logger = logging.getLogger("flux")
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)
        yield
