"""Combinators in the history: a start and an end of their own, and the calls between them name them as parent."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from flux import serde
from flux.domain.events import ExecutionEventType
from flux.engine.body import NO_ARGUMENTS
from flux.engine.calls import PARENT, current_body

R = TypeVar("R")


async def combine(name: str, work: Coroutine[Any, Any, R], arguments: bytes = NO_ARGUMENTS) -> R:
    """Await `work` as a combinator of this name; outside a body just await it.

    Args:
        arguments: Encoded; recorded with its start.
    """
    body = current_body()
    if body is None:
        return await work
    try:
        call_id = body.combinator_begins(name, arguments)
    except BaseException:
        work.close()
        raise
    token = PARENT.set(call_id)
    try:
        result = await work
        data = serde.encode_by_name(result)  # To be shown: a replay combines the results of the calls again.
    except asyncio.CancelledError:
        body.combinator_ends(call_id, ExecutionEventType.TASK_CANCELLED, serde.encode(None))
        raise
    except Exception as error:
        body.combinator_ends(call_id, ExecutionEventType.TASK_FAILED, serde.encode_failure(error))
        raise
    finally:
        PARENT.reset(token)
    body.combinator_ends(call_id, ExecutionEventType.TASK_COMPLETED, data)
    return result
