"""When a failed attempt is tried again, and after how long."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and when to try again.

    Args:
        max_attempts: Attempts after the first one; 3 means up to 4 calls of the task.
        delay_seconds: Wait before the first retry.
        backoff: Each further wait is this many times the one before.
        max_delay_seconds: No wait is longer than this.
        jitter: Draw each wait evenly between zero and the computed one, so that many failures of one cause
            do not come back together.
        retry_on: Only these errors are tried again.
        no_retry_on: These are not, even if `retry_on` names a base class of theirs.
    """

    max_attempts: int = 0
    delay_seconds: float = 1.0
    backoff: float = 2.0
    max_delay_seconds: float = 600.0
    jitter: bool = False
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def allows(self, attempt: int, error: BaseException) -> bool:
        """Whether another attempt follows retry `attempt` (0: the original one), which failed with `error`."""
        return (
            attempt < self.max_attempts and isinstance(error, self.retry_on) and not isinstance(error, self.no_retry_on)
        )

    def delay_before(self, attempt: int) -> float:
        """Seconds to wait before retry `attempt`, from 1; with jitter a random part of them."""
        delay = self.longest_delay_before(attempt)
        return random.uniform(0, delay) if self.jitter else delay  # noqa: S311 - spreads load, hides nothing.

    def longest_delay_before(self, attempt: int) -> float:
        """`min(delay * backoff**(attempt - 1), max_delay)` seconds; 0 before the original attempt."""
        if attempt == 0 or self.delay_seconds == 0:
            return 0
        try:
            return min(self.delay_seconds * self.backoff ** (attempt - 1), self.max_delay_seconds)
        except OverflowError:
            return self.max_delay_seconds
