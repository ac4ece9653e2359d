"""Histories made by hand, for what is drawn of them."""

from typing import Any

import pytest

from flux import serde
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type


class Story:
    """Writes events one after the other; times are milliseconds since `START`."""

    START = 1_700_000_000_000_000

    def __init__(self) -> None:
        self.events: list[ExecutionEvent] = []

    def tell(self, at: float, type_: Type, call_id: str, name: str, value: Any = None, **detail: Any) -> "Story":
        failed = isinstance(value, BaseException)
        data = serde.encode_failure(value) if failed else serde.encode(value)
        facts = serde.encode(detail) if detail else None
        time_us = self.START + round(at * 1000)
        self.events.append(
            ExecutionEvent("x", len(self.events) + 1, type_, call_id, name, data, facts, time_us=time_us)
        )
        return self

    def call(self, call_id: str, name: str, start: float, end: float, **detail: Any) -> "Story":
        """A call that gave 1."""
        self.tell(start, Type.TASK_STARTED, call_id, name, {}, **detail)
        return self.tell(end, Type.TASK_COMPLETED, call_id, name, 1)


@pytest.fixture
def story() -> Story:
    return Story()
