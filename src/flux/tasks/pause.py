"""Waiting for a person or a program."""

import asyncio
from typing import Any

from flux import serde
from flux.domain.definitions import Arguments, TaskDefinition
from flux.domain.durations import Duration, in_seconds
from flux.engine import lineage
from flux.engine.attempt import Attempt
from flux.engine.calls import PauseRequest, current_body, require_body
from flux.errors import BodyError, ExecutionTimeoutError, InvalidValueError


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
        BodyError: It was called outside a workflow, or in a task that may run at most once.

    Example:
        >>> approval = await pause("approval", output={"amount": 5})
    """
    if not isinstance(name, str) or not name:
        raise InvalidValueError(f"a pause is named {name!r}: name it by a text that says what is waited for")
    seconds = None if timeout is None else in_seconds("timeout", timeout)
    request, named = PauseRequest(name, serde.encode(output), seconds), {"name": name}
    arguments = Arguments(named, serde.encode_arguments(named))
    branch = None if current_body() is not None else lineage.current()
    if branch is not None:
        _refuse_at_most_once(branch.attempt)
        return await branch.attempt.make_call(branch, request, arguments)
    call = require_body("pause()").call(request, arguments)
    if seconds is None:
        return await call
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        raise ExecutionTimeoutError(request.timeout_text) from None


def _refuse_at_most_once(attempt: Attempt) -> None:
    """A task that pauses runs again when it is resumed."""
    for each in attempt.enclosing():
        task = each.call.target
        if isinstance(task, TaskDefinition) and task.at_most_once:
            raise BodyError(
                f"pause() was called in the task {each.call.name!r}, which may run at most once, but would run again "
                "after the pause: pause in the body, before or after the task"
            )
