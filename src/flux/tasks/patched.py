"""`patched()`: lets old executions finish on the old code, and new ones begin on the new."""

from flux.engine.calls import require_body
from flux.errors import InvalidValueError


def patched(patch_id: str) -> bool:
    """Whether this execution is to run the changed code here.

    Executions that had come past this place before the change say no, and so keep to the code that fits their history;
    all others say yes, from then on and in every replay.  When no execution that said no is left, take the old code
    and this call out together with `version=` of the workflow, if it has one.

    Args:
        patch_id: Names the change; the same text for every place that belongs to it.

    Raises:
        BodyError: This does not run in the body of a workflow.
        InvalidValueError: The id is no text, or empty.

    Example:
        >>> if patched("check-fraud-first"):
        ...     await check_fraud(order)
    """
    body = require_body("patched()")
    if not isinstance(patch_id, str) or not patch_id:
        raise InvalidValueError(f"a patch has the id {patch_id!r}: name the change by a text")
    return body.is_patched(patch_id)
