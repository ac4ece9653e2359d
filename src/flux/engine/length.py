"""How long a history may grow: it is replayed from its beginning, so one without an end is a fault."""

import logging

from flux import telemetry
from flux.errors import BodyError

logger = logging.getLogger("flux.engine")

LONG_HISTORY = 10_000  # Events, from which on a warning says how to begin anew.
ADVICE = "let it begin anew with continue_as_new(), or give parts of the work to child executions"


class Length:
    """Watches the length of one execution's history.

    Args:
        limit: In events.

    Attributes:
        noticed_from: A shorter history need not be checked.
    """

    def __init__(self, execution_id: str, limit: int) -> None:
        self._execution_id, self._limit = execution_id, limit
        self.noticed_from = min(LONG_HISTORY, limit)
        self._has_warned = False

    def restart(self) -> None:
        """A fresh history begins."""
        self._has_warned = False

    def check(self, events: int) -> BodyError | None:
        """Warn once of a long history; gives an error when it is too long."""
        if events >= LONG_HISTORY and not self._has_warned:
            self._has_warned = True
            whose = {"execution_id": self._execution_id}
            logger.warning(
                "the history of execution %s has %d events: %s", self._execution_id, events, ADVICE, extra=whose
            )
            telemetry.emit("history.grew_long", execution_id=self._execution_id, events=events)
        if events < self._limit:
            return None
        return BodyError(f"the history has reached its limit of {self._limit:,} events: {ADVICE}")
