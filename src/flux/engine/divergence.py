"""What is said when a body does not fit its history: the recorded and the actual, the line, and the ways out."""

from flux import serde
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.history import History
from flux.engine.lines import running_line
from flux.errors import NonDeterminismError

WAYS_OUT = (
    "The code was changed while this execution was in flight, or its body is not deterministic (clock, random, "
    "iteration over a set of strings): put the old code back, let flux.patched('id') choose between the old code and "
    "the new, or move what is not deterministic into a @task; nothing was lost, and the execution continues when the "
    "code fits again"
)
_SHOWN = 200


def other_call(recorded: ExecutionEvent, name: str, data: bytes | None, line: str) -> NonDeterminismError:
    """The code made another call than the recorded one.

    Args:
        line: Where the body waits, in case no line of it is running.
    """
    actual = f"the code made {_call(name, data)}"
    return _error(f"history has {_call(recorded.name, recorded.data)}, {actual}", recorded, line)


def not_a_timer(recorded: ExecutionEvent | None, name: str) -> NonDeterminismError:
    """The code made a call where history has a timer."""
    return _error(f"history has a timer, the code called {name!r}", recorded)


def other_end(recorded: ExecutionEvent, outcome: ExecutionEventType) -> NonDeterminismError:
    """A combinator ended otherwise than recorded."""
    return _error(f"history ended {recorded.name!r} with {recorded.type}, the code with {outcome}", recorded)


def not_recorded(call_id: str, name: str, history: History, line: str) -> NonDeterminismError:
    """The code made a call that history does not have at this place."""
    after = next((e for e in history.events if e.call_id == call_id), None)
    if after is not None and after.type is ExecutionEventType.TIMER_FIRED:
        return not_a_timer(after, name)
    return _error(f"the code called {name!r} as call {call_id}, history has no such call there", after, line)


def not_made(recorded: ExecutionEvent, line: str) -> NonDeterminismError:
    """History has a call that the code, which waits at this line, did not make."""
    return _error(f"history has {_call(recorded.name, recorded.data)}, the code did not make that call", recorded, line)


def cannot_go_on(recorded: ExecutionEvent, failure: BaseException) -> NonDeterminismError:
    """The code fails in a way that no body can catch, where the history went on."""
    actual = f"the code failed before that with {type(failure).__name__}: {failure}"
    return _error(f"history has {recorded.type} of {recorded.name!r}, {actual}", recorded)


def other_ending(
    recorded: ExecutionEvent, what: str, name: str = "", data: bytes | None = None, line: str = ""
) -> NonDeterminismError:
    """A history is finished, and the code ends otherwise, or goes on."""
    actual = f"{what} {_call(name, data)}" if name else what
    return _error(f"history ended with {_call(recorded.type, recorded.data)}, the code {actual}", recorded, line)


def _error(what: str, recorded: ExecutionEvent | None, line: str = "") -> NonDeterminismError:
    call = f", call {recorded.call_id}" if recorded is not None and recorded.call_id else ""
    place = f" (event {recorded.seq}{call})" if recorded is not None else ""
    line = running_line() or line
    return NonDeterminismError(f"{what}{place}{f', at {line}' if line else ''}. {WAYS_OUT}")


def _call(name: str, data: bytes | None) -> str:
    if data is None:
        return name
    try:
        shown = serde.decode(data)
        text = ", ".join(f"{k}={v!r}" for k, v in shown.items()) if isinstance(shown, dict) else repr(shown)
    except Exception:  # noqa: BLE001 - a message must not fail for a value that cannot be shown.
        text = "…"
    return f"{name}({text[:_SHOWN]})"
