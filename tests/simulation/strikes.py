"""When faults strike, and whom."""

from collections.abc import Callable

from simulation.faults import Mix
from simulation.process import Process
from simulation.universe import Universe

Strike = Callable[[Process], None]

DOWN_SECONDS = 0.5
FROZEN_SECONDS, STALLED_SECONDS, CUT_OFF_SECONDS, STEP_SECONDS = 2.0, 1.0, 1.0, 3.0
WATCH_SECONDS = 0.5


class Strikes:
    """Strikes workers, until it is told to stop.

    Args:
        workers: The processes that live now, or have just died.
        restart: Puts another process in the place of one.
    """

    def __init__(
        self, universe: Universe, mix: Mix, workers: list[Process], restart: Callable[[Process], None]
    ) -> None:
        self._universe, self._workers, self._restart = universe, workers, restart
        self._is_over = False
        lottery = universe.lottery
        for mean, strike in (
            (mix.crashes, self._crash),
            (mix.stops, self._stop),
            (mix.freezes, lambda process: process.freeze(lottery(FROZEN_SECONDS))),
            (mix.stalls, lambda process: process.freeze(lottery(STALLED_SECONDS), wholly=False)),
            (mix.cuts, lambda process: process.cut_off(lottery(CUT_OFF_SECONDS))),
            (mix.cuts, self._cut_all_off),
            (mix.steps, lambda process: process.step_clock(universe.chance.uniform(-STEP_SECONDS, STEP_SECONDS))),
        ):
            if mean:
                self._repeat(mean, strike)
        if mix.dies:
            self._repeat(WATCH_SECONDS, self._revive)

    def stop(self) -> None:
        """Whoever is dead comes back, and nothing more happens to anybody."""
        self._is_over = True
        for process in tuple(self._workers):
            self._revive(process)

    def _repeat(self, mean: float, strike: Strike) -> None:
        def act() -> None:
            if not self._is_over:
                strike(self._universe.chance.choice(self._workers))
                self._repeat(mean, strike)

        self._universe.after(self._universe.lottery(mean), act)

    def _crash(self, process: Process) -> None:
        process.kill("between two steps")
        self._replace(process)

    def _stop(self, process: Process) -> None:
        process.stop()
        self._replace(process)

    def _replace(self, process: Process) -> None:
        self._universe.after(self._universe.lottery(DOWN_SECONDS), lambda: self._restart(process))

    def _revive(self, process: Process) -> None:
        if not process.is_alive:
            self._restart(process)

    def _cut_all_off(self, _: Process) -> None:
        seconds = self._universe.lottery(CUT_OFF_SECONDS)
        for process in self._workers:
            process.cut_off(seconds)
