"""What the engine tells the outside: it emits, and whoever is interested attaches.

An event name is `noun.verb_past`; the names and their fields are documented API (docs/telemetry.md).
"""

import logging
from collections.abc import Callable
from typing import Any

Handler = Callable[[str, dict[str, Any]], None]

logger = logging.getLogger("flux")
_handlers: list[Handler] = []


def attach(handler: Handler) -> Callable[[], None]:
    """Call `handler(name, fields)` for every event from now on; returns a function that detaches it."""
    _handlers.append(handler)
    return lambda: _handlers.remove(handler)


def attached() -> bool:
    """Whether anybody listens: costly fields need not be built for nobody."""
    return bool(_handlers)


def emit(name: str, **fields: Any) -> None:
    """Tell every attached handler; one that fails is logged and does not disturb the others."""
    for handler in tuple(_handlers):
        try:
            handler(name, fields)
        except Exception:
            logger.exception("telemetry handler failed", extra={"telemetry_event": name})
