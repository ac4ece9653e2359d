"""Histories as text: for keeping them with the code as regression tests, and for looking at them elsewhere.

A JSON object with the keys `flux_history` (the version of this format), `execution_id`, `workflow`, `state` and
`events`, one event a line.  Values stand in it as they are stored, so nothing is lost: as text, or `{"base64": ...}`.
"""

import base64
import json
from typing import Any

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.errors import InvalidInputError

FORMAT = 1


def export_history(context: ExecutionContext[Any]) -> str:
    """An execution with its whole history, as JSON text; the same execution gives the same text.

    Example:
        >>> Path("histories/order-7.json").write_text(export_history(context))
    """
    head = {
        "flux_history": FORMAT,
        "execution_id": context.execution_id,
        "workflow": context.name,
        "state": context.state.value,
    }
    start = ",\n".join(f' "{key}": {_text(value)}' for key, value in head.items())
    events = ",\n".join(f"  {_text(_exported(event))}" for event in context.events)
    return f'{{\n{start},\n "events": [\n{events}\n ]\n}}\n'


def import_history(text: str) -> ExecutionContext[Any]:
    """The execution that `export_history` gave the text for.

    Raises:
        InvalidInputError: It is no such text, or of a format that this Flux does not know.
    """
    try:
        data = json.loads(text)
        if data["flux_history"] != FORMAT:
            raise InvalidInputError(
                f"the history is of format {data['flux_history']!r}, and this Flux reads {FORMAT}: export it again"
            )
        events = [_imported(data["execution_id"], fields) for fields in data["events"]]
        state = ExecutionState(data["state"])
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"this is no exported history ({type(error).__name__}: {error}): 'flux executions export ID' makes one"
        ) from None
    if [event.seq for event in events] != list(range(events[0].seq, events[0].seq + len(events)) if events else ()):
        raise InvalidInputError("events are missing in the exported history: export it again")
    return ExecutionContext(data["execution_id"], data["workflow"], events, state)


def _exported(event: ExecutionEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "type": event.type.value,
        "call_id": event.call_id,
        "name": event.name,
        "time_us": event.time_us,
        "data": _value(event.data),
        "detail": _value(event.detail_data),
    }


def _imported(execution_id: str, fields: dict[str, Any]) -> ExecutionEvent:
    return ExecutionEvent(
        execution_id,
        fields["seq"],
        ExecutionEventType(fields["type"]),
        fields["call_id"],
        fields["name"],
        _bytes(fields["data"]),
        _bytes(fields["detail"]),
        time_us=fields["time_us"],
    )


def _value(data: bytes | None) -> Any:
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data or b"").decode()}


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"], validate=True)
    return None if value is None else str(value).encode()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
