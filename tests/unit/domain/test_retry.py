"""When a failed attempt is tried again, and after how long."""

import pytest

from flux.domain.retry import RetryPolicy


@pytest.mark.parametrize(
    ("policy", "delays"),
    [
        (RetryPolicy(), [1, 2, 4, 8, 16]),
        (RetryPolicy(delay_seconds=0), [0, 0, 0]),
        (RetryPolicy(delay_seconds=3, backoff=1), [3, 3, 3]),
        (RetryPolicy(delay_seconds=8, backoff=0.5), [8, 4, 2, 1]),
        (RetryPolicy(max_delay_seconds=3), [1, 2, 3, 3]),
        (RetryPolicy(delay_seconds=1000), [600, 600]),
    ],
    ids=repr,
)
def test_each_wait_is_the_one_before_times_the_backoff_up_to_the_maximum(
    policy: RetryPolicy, delays: list[float]
) -> None:
    assert [policy.delay_before(n) for n in range(1, len(delays) + 1)] == delays


@pytest.mark.parametrize(("backoff", "attempt"), [(1e300, 3), (2.0, 5000), (2, 5000), (1e-300, 9)])
def test_no_number_of_attempts_is_too_large_to_compute(backoff: float, attempt: int) -> None:
    assert 0 <= RetryPolicy(backoff=backoff).delay_before(attempt) <= 600


def test_no_delay_stays_no_delay_however_large_the_backoff_grows() -> None:
    assert RetryPolicy(delay_seconds=0, backoff=1e300).delay_before(5) == 0


def test_jitter_is_even_between_zero_and_the_computed_wait() -> None:
    policy = RetryPolicy(delay_seconds=10, jitter=True)

    drawn = [policy.delay_before(3) for _ in range(500)]

    assert all(0 <= wait <= 40 for wait in drawn)
    assert 15 < sum(drawn) / 500 < 25
    assert min(drawn) < 4
    assert max(drawn) > 36


@pytest.mark.parametrize(
    ("attempt", "error", "allowed"),
    [
        (0, ValueError(), True),
        (1, ValueError(), True),
        (2, ValueError(), False),
        (0, UnicodeError(), False),
        (0, KeyError(), False),
    ],
    ids=repr,
)
def test_an_attempt_follows_while_there_are_some_left_and_the_error_is_one_of_those(
    attempt: int, error: Exception, allowed: bool
) -> None:
    policy = RetryPolicy(max_attempts=2, retry_on=(ValueError,), no_retry_on=(UnicodeError,))

    assert policy.allows(attempt, error) is allowed
