"""Waiting for a person or a program."""

import asyncio
from datetime import timedelta
from typing import Any

from flux import serde
from flux.domain.definitions import Arguments
from flux.engine.calls import PauseRequest, require_body
from flux.errors import ExecutionTimeoutError


async def pause(name: str, *, output: Any = None, timeout: float | timedelta | None = None) -> Any:
    """Wait until somebody resumes the execution; returns what they send.

    A paused execution is a row in the database, and costs no memory.

    Args:
        name: What is waited for; a resume may choose by it, and people read it.
        output: Shown to whoever decides.
        timeout: Seconds, or a `timedelta`, after which the wait is given up.

    Raises:
        ExecutionTimeoutError: Nobody resumed it in time.
        UnserializableValue: `output` cannot be recorded.
        BodyError: It was called outside the body of a workflow.

    Example:
        >>> approval = await pause("approval", output={"amount": 5})
    """
    body = require_body("pause()")
    arguments = {"name": name}
    request = PauseRequest(name, serde.encode(output))
    call = body.call(request, Arguments(arguments, serde.encode_arguments(arguments)))
    if timeout is None:
        return await call
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise ExecutionTimeoutError(f"Pause {name} was not resumed in time ({seconds:g}s).") from None
