"""Waiting for a person or a program."""

import asyncio
from typing import Any

from flux import serde
from flux.domain.definitions import Arguments
from flux.domain.durations import Duration, in_seconds
from flux.engine.calls import PauseRequest, require_body
from flux.errors import ExecutionTimeoutError, InvalidValueError


async def pause(name: str, *, output: Any = None, timeout: Duration | None = None) -> Any:
    """Wait until somebody resumes the execution; returns what they send.

    A paused execution is a row in the database, and costs no memory.

    Args:
        name: What is waited for; a resume may choose by it, and people read it.
        output: Shown to whoever decides.
        timeout: Seconds, or a `timedelta`, after which the wait is given up.

    Raises:
        ExecutionTimeoutError: Nobody resumed it in time.
        InvalidValueError: The name is not a text, or the timeout not a duration.
        UnserializableValue: `output` cannot be recorded.
        BodyError: It was called outside the body of a workflow.

    Example:
        >>> approval = await pause("approval", output={"amount": 5})
    """
    body = require_body("pause()")
    if not isinstance(name, str) or not name:
        raise InvalidValueError(f"a pause is named {name!r}: name it by a text that says what is waited for")
    seconds = None if timeout is None else in_seconds("timeout", timeout)
    arguments = {"name": name}
    request = PauseRequest(name, serde.encode(output))
    call = body.call(request, Arguments(arguments, serde.encode_arguments(arguments)))
    if seconds is None:
        return await call
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise ExecutionTimeoutError(f"Pause {name} was not resumed in time ({seconds:g}s).") from None
