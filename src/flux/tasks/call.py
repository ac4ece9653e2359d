"""Child executions, by name."""

from typing import Any

from flux.engine.launcher import MISSING
from flux.errors import InvalidValueError
from flux.workflow import Workflow, call_child, find_workflow


async def call(workflow: str | Workflow[Any, Any], input: Any = MISSING) -> Any:  # noqa: A002
    """Execute a workflow as a child of the one in whose body this is awaited; gives its result.

    It is `await workflow(input)` for a workflow that is known by its name only.

    Args:
        workflow: Its name, or itself.
        input: What `ctx.input` is in the child.

    Raises:
        WorkflowNotFoundError: No workflow of that name is loaded.
        ExecutionError: The child failed; also an instance of the original error's class.
        InvalidInputError: The input does not fit.
        InvalidValueError: It is no workflow.
        BodyError: This is not awaited in the body of a workflow.

    Example:
        >>> receipt = await call("charge_card", {"amount": 5})
    """
    found = find_workflow(workflow) if isinstance(workflow, str) else workflow
    if not isinstance(found, Workflow):
        raise InvalidValueError(f"call() executes a workflow, not {found!r}: give it one, or its name; await a task")
    return await call_child(found.definition, input)
