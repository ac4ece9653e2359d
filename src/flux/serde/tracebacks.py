"""The text of tracebacks; this module is for showing users their own frames, also of errors read from a history."""

import os
from collections.abc import Iterator
from pathlib import Path
from traceback import StackSummary, TracebackException

RECORDED = "_flux_traceback"  # In the dict of an error that was read: it has no frames any more.
_FLUX = f"{Path(__file__).resolve().parent.parent}{os.sep}"
_CAUSED = "\nThe above exception was the direct cause of the following exception:\n\n"
_DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"


def traceback_of(error: BaseException) -> str:
    """The traceback of an error and of the chain that led to it, the oldest first, without Flux's own frames.

    Args:
        error: A live error, or one that was read: then the text is the recorded one.

    Returns:
        Text as `traceback.format_exception` gives it.

    Example:
        >>> print(traceback_of(ValueError("no such order")), end="")
        ValueError: no such order
    """
    return "".join(reversed(list(_chain(error))))


def own_traceback(error: BaseException) -> str:
    """The traceback of an error without its chain."""
    recorded = error.__dict__.get(RECORDED)
    if isinstance(recorded, str):
        return recorded
    try:
        formatted = TracebackException.from_exception(error, compact=True)
        _leave_out_flux(formatted)
        return "".join(formatted.format(chain=False))
    except Exception:  # noqa: BLE001 - formatting runs the user's code: reprs, attributes, notes.
        return f"{type(error).__module__}.{type(error).__qualname__}\n"


def _chain(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield own_traceback(link)
        cause = link.__cause__
        link, joint = (cause, _CAUSED) if cause else (None if link.__suppress_context__ else link.__context__, _DURING)
        if link is not None and id(link) not in seen:
            yield joint


def _leave_out_flux(formatted: TracebackException) -> None:
    formatted.stack = StackSummary.from_list([f for f in formatted.stack if not f.filename.startswith(_FLUX)])
    for member in formatted.exceptions or ():
        _leave_out_flux(member)
