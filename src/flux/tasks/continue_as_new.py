"""Beginning anew: how an execution can live for ever."""

from typing import Any, NoReturn

from flux.engine.calls import require_body
from flux.engine.launcher import MISSING
from flux.workflow import encode_input


async def continue_as_new(input: Any = MISSING) -> NoReturn:  # noqa: A002
    """Start this execution over with another input and a fresh history; nothing after it runs.

    The execution keeps its id, its parent, and the signals that nobody took.  Calls that are open are cancelled, as
    at the body's end.  A history is replayed from its beginning, so a loop without an end should do this now and then.

    Args:
        input: What `ctx.input` is then.

    Raises:
        InvalidInputError: The input does not fit the workflow.
        BodyError: It was called outside the body of a workflow.

    Example:
        >>> if rounds == 1_000:
        ...     await continue_as_new({"balance": balance})
    """
    body = require_body("continue_as_new()")
    await body.start_over(encode_input(body.workflow, input))
