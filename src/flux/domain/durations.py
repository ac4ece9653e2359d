"""Durations as users write them: seconds, or a `timedelta`."""

from datetime import timedelta

from flux.errors import InvalidValueError

Duration = float | timedelta


def in_seconds(name: str, duration: object) -> float:
    """A duration in seconds.

    Args:
        name: Of the option or argument, for the message.
        duration: What the user gave.

    Raises:
        InvalidValueError: It is not a duration, or is negative or without an end.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds < float("inf"):  # type: ignore[operator]
        raise InvalidValueError(f"{name} is {duration!r}: it is a number of seconds from 0, or a timedelta")
    return seconds  # type: ignore[return-value]
