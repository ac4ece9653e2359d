"""Messages to a running execution."""

import asyncio
from typing import Any

from flux import serde
from flux.domain.durations import Duration, in_seconds
from flux.engine.calls import require_body
from flux.errors import ExecutionTimeoutError, InvalidValueError
from flux.tasks.combinator import combine


async def wait_for_signal(name: str, *, timeout: Duration | None = None) -> Any:
    """Wait for the next signal of this name, and return its value.

    Signals are a durable mailbox: one that was sent early waits, each is given once, and in the order in which they
    were sent.  Waiting costs no memory when nothing else is to be done.

    Args:
        name: Of the signal.
        timeout: Seconds, or a `timedelta`, after which the wait is given up; a signal that comes later waits.

    Raises:
        ExecutionTimeoutError: None came in time.
        InvalidValueError: The name is not a text, or the timeout not a duration.
        BodyError: It was called outside the body of a workflow.

    Example:
        >>> payment = await wait_for_signal("paid", timeout=timedelta(days=3))
    """
    body = require_body("wait_for_signal()")
    if not isinstance(name, str) or not name:
        raise InvalidValueError(f"a signal is named {name!r}: name it by a text that says what has happened")
    seconds = None if timeout is None else in_seconds("timeout", timeout)
    arguments = serde.encode_arguments({"name": name})
    if seconds is None:
        return await combine("wait_for_signal", body.mailbox.take(name), arguments)
    try:
        async with asyncio.timeout(seconds):
            return await combine("wait_for_signal", body.mailbox.take(name), arguments)
    except TimeoutError:
        raise ExecutionTimeoutError(f"Signal {name} did not come in time ({seconds:g}s).") from None
