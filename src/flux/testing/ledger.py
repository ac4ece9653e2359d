"""A ledger: what tasks did to the world, as a test sees it."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux import serde
from flux.engine.calls import current_attempt, current_body
from flux.errors import InvalidValueError

_file: int | None = None  # Of a process that may be killed: what was done must outlive it.


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that was done.

    Args:
        what: What it was.
        details: To whom, how much.
        key: By which the outside world knows a repeat.
        by: Who did it: a task, or the body of a workflow.
        line: Where in the code, as "file:line".
    """

    what: str
    details: tuple[Any, ...]
    key: str | None
    by: str
    line: str

    @property
    def identity(self) -> bytes:
        """What equal effects have in common."""
        return serde.encode((self.what, self.details))

    def __str__(self) -> str:
        return f"{self.what}({', '.join(map(repr, self.details))})"


class Ledger:
    """Stands for a world outside: tasks act on it, and tests look at what was done.

    It honours idempotency keys, as payment services do: what has the key of an earlier effect is not done again.

    Example:
        >>> ledger = Ledger()
        >>> @task.with_options(metadata=True)
        ... async def charge(order, amount, metadata):
        ...     ledger.act("charge", order, amount, key=metadata.idempotency_key)
    """

    def __init__(self) -> None:
        self._acts: list[Effect] = []

    @property
    def effects(self) -> list[Effect]:
        """What was done, in order; a repeat with a known key was not."""
        return effects_of(self._acts if _file is None else parsed(os.pread(_file, os.fstat(_file).st_size, 0)))

    def act(self, what: str, *details: Any, key: str | None = None) -> bool:
        """Do something outside.

        Args:
            what: Such as "charge".
            details: Of any type that Flux can record.
            key: Usually `metadata.idempotency_key`.

        Returns:
            Whether it was done; False if it had been, under this key.

        Raises:
            InvalidValueError: The key belongs to something else.
        """
        frame = sys._getframe(1)
        effect = Effect(what, details, key, _actor(), f"{frame.f_code.co_filename}:{frame.f_lineno}")
        known = next((each for each in self.effects if key is not None and each.key == key), None)
        if known is not None and known.identity != effect.identity:
            raise InvalidValueError(
                f"the key {key!r} belongs to {known}, and is given for {effect}: each request has a key of its own"
            )
        if _file is None:
            self._acts.append(effect)
        else:
            os.write(_file, serde.encode((what, details, key, effect.by, effect.line)) + b"\n")
        return known is None

    def count(self, what: str, *details: Any) -> int:
        """How often something was done; without details, to whomever."""
        return sum(each.what == what and details in ((), each.details) for each in self.effects)

    @property
    def state(self) -> Any:
        """All that was asked for so far; set it to go back there."""
        return list(self._acts)

    @state.setter
    def state(self, state: Any) -> None:
        self._acts[:] = state

    def __repr__(self) -> str:
        return f"<ledger: {', '.join(map(str, self.effects))}>"


def effects_of(acts: Iterable[Effect]) -> list[Effect]:
    """What came of what was asked for: a repeat with a known key changes nothing."""
    done: dict[object, Effect] = {}
    for number, effect in enumerate(acts):
        done.setdefault(number if effect.key is None else effect.key, effect)
    return list(done.values())


def parsed(content: bytes) -> list[Effect]:
    """What is in the file of a ledger."""
    return [Effect(*serde.decode(line)) for line in content.splitlines()]


def keep_in(path: Path) -> None:
    """Let every ledger of this process write to a file, from now on: in a body it could not be opened."""
    global _file  # noqa: PLW0603 - of this process.
    _file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def _actor() -> str:
    attempt = current_attempt() if current_body() is None else None
    if attempt is not None:
        return f"the task {attempt.call.name!r}"
    return "the body" if current_body() is not None else "plain code"
