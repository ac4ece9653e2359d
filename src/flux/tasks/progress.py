"""How far a task has come, for those who watch it."""

from collections.abc import Generator
from typing import Any

from flux import serde
from flux.engine import lineage
from flux.engine.calls import current_body
from flux.errors import BodyError


def progress(value: Any) -> "Noted":
    """Record how far the running task has come, as a `TASK_PROGRESS` event; from its thread as well.

    It does not wait until that is durable: what it returns may be awaited, and is ready.  Outside a workflow it does
    nothing, so that a task can be called anywhere.

    Args:
        value: Anything that can be recorded: a fraction, a count, a text.

    Raises:
        UnserializableValue: It cannot.
        BodyError: It was called in the body of a workflow.

    Example:
        >>> progress(done / total)
    """
    if current_body() is not None:
        raise BodyError("progress() was called in the body of a workflow: it belongs in a @task, so call it there")
    data, branch = serde.encode(value), lineage.current()
    if branch is not None:
        branch.attempt.progressed(data)
    return Noted()


class Noted:
    """What can be awaited, and is ready: both `progress(x)` and `await progress(x)` are well."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield
