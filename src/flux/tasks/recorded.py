"""Time, ids and chance, recorded: the same in every replay."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from flux.task import task

if TYPE_CHECKING:
    import uuid

T = TypeVar("T")


@task.with_options(pure=True)
async def now() -> datetime:
    """The current time, aware and in UTC."""
    return datetime.now(UTC)


@task.with_options(pure=True)
async def uuid4() -> "uuid.UUID":
    """A random UUID."""
    import uuid  # It imports more than all of this package.

    return uuid.uuid4()


@task.with_options(pure=True)
async def randint(a: int, b: int) -> int:
    """A random integer from `a` to `b`, both included."""
    return random.randint(a, b)  # noqa: S311 - for decisions, not for secrets.


@task.with_options(pure=True)
async def randrange(start: int, stop: int | None = None, step: int = 1) -> int:
    """A random element of `range(start, stop, step)`."""
    return random.randrange(start, stop, step)  # noqa: S311 - as above.


@task.with_options(pure=True)
async def choice(options: Sequence[T]) -> T:
    """A random element of a sequence that is not empty."""
    return random.choice(options)  # noqa: S311 - as above.
