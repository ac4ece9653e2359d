"""Tasks with serializer="pickle": any object in and out, by copies, and only what is signed comes back."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flux import ExecutionContext, serde, task, workflow
from flux.errors import (
    CorruptedDatabaseError,
    InvalidValueError,
    NonDeterminismError,
    UnserializableValue,
)
from flux.serde import keys as keys_slot
from flux.tasks import parallel, sleep
from functional.kit import Kit, types

KEY = b"k" * 32


class Basket:
    """An object of no codec."""

    def __init__(self, *items: str) -> None:
        self.items = list(items)


class Sealed:
    """Shows nothing of what it holds."""

    __slots__ = ("held",)

    def __init__(self, held: str) -> None:
        self.held = held

    def __repr__(self) -> str:
        return "Sealed"


@pytest.fixture(autouse=True)
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The keys that sign; the first one is in use."""
    keys = [KEY]
    monkeypatch.setattr(keys_slot, "_find_keys", lambda: keys)
    yield keys


MADE: list[Basket] = []


@task.with_options(serializer="pickle")
async def pack(*items: str) -> Basket:
    MADE.append(Basket(*items))
    return MADE[-1]


@task.with_options(serializer="pickle")
async def add(basket: Basket, item: str) -> list[str]:
    basket.items.append(item)
    return basket.items


@workflow
async def shopping(ctx: ExecutionContext[None]) -> Any:
    basket = await pack("tea")
    longer = await add(basket, "milk")
    return type(basket).__name__, basket is MADE[-1], basket.items, longer


def test_a_body_gets_a_copy_of_the_result_and_a_task_a_copy_of_the_argument(both: Kit) -> None:
    ctx = both.run(shopping, None, "e")

    assert ctx.output == ("Basket", False, ["tea"], ["tea", "milk"])
    events = both.stored("e").events
    assert events[1].value == {"items": ("tea",)}
    assert (type(events[2].value), events[2].value.items) == (Basket, ["tea"])
    assert events[3].value == {"basket": f"{__name__}:Basket", "item": "milk"}
    assert events[2].display().startswith("<pickle, ")


def test_a_result_is_read_back_after_a_crash(kit: Kit, ring: list[bytes]) -> None:
    made = []

    @task.with_options(serializer="pickle")
    async def make() -> Basket:
        made.append(1)
        return Basket("tea")

    @workflow
    async def slow(ctx: ExecutionContext[None]) -> list[str]:
        basket = await make()
        await sleep(100)
        return basket.items

    kit.run_for(10, slow.run_async(None, execution_id="e"))
    ring.insert(0, b"new" * 10)

    assert kit.run(slow, execution_id="e").output == ["tea"]
    assert made == [1]


def test_a_result_whose_key_was_removed_is_not_read(kit: Kit, ring: list[bytes]) -> None:
    @workflow
    async def slow(ctx: ExecutionContext[None]) -> list[str]:
        basket = await pack("tea")
        await sleep(100)
        return basket.items

    kit.run_for(10, slow.run_async(None, execution_id="e"))
    ring[:] = [b"other" * 6]

    with pytest.raises(CorruptedDatabaseError, match="key ring"):
        kit.run(slow, execution_id="e")
    assert types(kit.stored("e")) == ["WS", "TS", "TC"]


def test_retries_and_fallbacks_may_give_objects_too(both: Kit) -> None:
    @task.with_options(serializer="pickle", retry_max_attempts=2, retry_delay=1)
    async def second(basket: Basket) -> Basket:
        basket.items.append("tried")
        if len(both.stored("e").events) < 5:
            raise ValueError("first")
        return basket

    def instead(basket: Basket) -> Basket:
        return Basket("instead", *basket.items)

    @task.with_options(serializer="pickle", fallback=instead)
    async def never(basket: Basket) -> Basket:
        raise ValueError("always")

    @workflow
    async def trying(ctx: ExecutionContext[None]) -> Any:
        basket = Basket("tea")
        return [(await second(basket)).items, (await never(basket)).items, basket.items]

    ctx = both.run(trying, None, "e")

    assert ctx.output == [["tea", "tried"], ["instead", "tea"], ["tea"]]
    values = {str(event.type): event.value for event in both.stored("e").events}
    assert values["TASK_RETRY_COMPLETED"]["output"].items == ["tea", "tried"]
    assert values["TASK_FALLBACK_STARTED"] == {"basket": f"{__name__}:Basket"}
    assert values["TASK_FALLBACK_COMPLETED"].items == ["instead", "tea"]


def test_a_combinator_gives_the_objects_of_its_calls(both: Kit) -> None:
    @workflow
    async def packing(ctx: ExecutionContext[None]) -> list[list[str]]:
        return [basket.items for basket in await parallel(pack("tea"), pack("milk"))]

    ctx = both.run(packing, None, "e")

    assert ctx.output == [["tea"], ["milk"]]
    assert both.stored("e").events[-2].value == [f"{__name__}:Basket"] * 2


def test_a_task_inside_a_task_may_be_pickled(both: Kit) -> None:
    @task
    async def outer() -> list[str]:
        basket = await pack("tea")
        return await add(basket, "milk")

    @workflow
    async def nested(ctx: ExecutionContext[None]) -> list[str]:
        return await outer()

    assert both.run(nested).output == ["tea", "milk"]


def test_a_cached_result_may_be_an_object(kit: Kit) -> None:
    made = []

    @task.with_options(serializer="pickle", cache=True)
    async def make(item: str) -> Basket:
        made.append(item)
        return Basket(item)

    @workflow
    async def twice(ctx: ExecutionContext[None]) -> list[str]:
        return [*(await make("tea")).items, *(await make("tea")).items]

    assert kit.run(twice).output == ["tea", "tea"]
    assert kit.run(twice).output == ["tea", "tea"]
    assert made == ["tea"]


def test_what_cannot_be_pickled_is_refused_at_the_call_and_as_a_result(both: Kit) -> None:
    @task.with_options(serializer="pickle")
    async def lock() -> Any:
        return threading.Lock()

    @workflow
    async def locking(ctx: ExecutionContext[None]) -> list[str]:
        refused = []
        for call in (lambda: add(threading.Lock(), "x"), lock):  # type: ignore[arg-type, list-item]
            try:
                await call()
            except UnserializableValue as error:
                refused.append(str(error))
        return refused

    ctx = both.run(locking)

    assert types(ctx) == ["WS", "TS", "TF", "WC"]  # No event of the first call.
    assert [text.split(":")[0] for text in ctx.output] == ["basket", "value"]
    assert all("nor pickled" in text for text in ctx.output)


def test_without_the_option_nothing_is_pickled(both: Kit) -> None:
    @task
    async def make() -> Basket:
        return Basket("tea")

    @workflow
    async def making(ctx: ExecutionContext[None]) -> Basket:
        return await make()

    ctx = both.run(making)

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert isinstance(ctx.output, UnserializableValue)
    assert "serializer='pickle'" in str(ctx.output)


def test_a_workflow_gives_nothing_that_has_no_codec(both: Kit) -> None:
    @workflow
    async def making(ctx: ExecutionContext[None]) -> Basket:
        return await pack("tea")

    ctx = both.run(making)

    assert types(ctx) == ["WS", "TS", "TC", "WF"]
    assert isinstance(ctx.output, UnserializableValue)


def test_a_call_with_an_object_of_another_class_has_diverged(kit: Kit) -> None:
    kind: list[Any] = [Basket]

    @workflow
    async def changing(ctx: ExecutionContext[None]) -> Any:
        await add(kind[0]("tea"), "milk")
        await sleep(100)

    kit.run_for(10, changing.run_async(None, execution_id="e"))
    kind[0] = Sealed

    with pytest.raises(NonDeterminismError, match=r"Basket.*Sealed"):
        kit.run(changing, execution_id="e")


def test_a_secret_inside_an_object_is_found(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    class Secrets:
        def find(self, names: Any) -> dict[str, str]:
            return dict.fromkeys(names, "correct horse battery")

    monkeypatch.setattr(type(kit.app), "secrets", Secrets(), raising=False)

    @task.with_options(serializer="pickle", secret_requests=["PASSWORD"], retry_max_attempts=0)
    async def leak(secrets: dict[str, str]) -> Sealed:
        return Sealed(secrets["PASSWORD"])

    @workflow
    async def leaking(ctx: ExecutionContext[None]) -> Any:
        return await leak()

    ctx = kit.run(leaking, None, "e")

    assert isinstance(ctx.output, InvalidValueError)
    assert "holds a secret" in str(ctx.output)
    assert not any(b"correct horse" in (event.data or b"") for event in kit.stored("e").events)


def test_a_pickled_task_outside_a_workflow_just_runs(kit: Kit) -> None:
    assert kit.drive(pack("tea")).items == ["tea"]


def test_a_result_that_somebody_wrote_into_the_database_is_not_run(kit: Kit) -> None:
    @workflow
    async def slow(ctx: ExecutionContext[None]) -> list[str]:
        basket = await pack("tea")
        await sleep(100)
        return basket.items

    kit.run_for(10, slow.run_async(None, execution_id="e"))
    gadget = b"cos\nabort\n(tR."
    forged = b"p1" + bytes(32) + gadget
    event = next(e for e in kit.stored("e").events if str(e.type) == "TASK_COMPLETED")
    genuine = serde.decode
    with pytest.MonkeyPatch.context() as patch:
        # As it is read from the database, whose checksums whoever writes to it can make as well.
        patch.setattr(serde, "decode", lambda data: genuine(forged if data == event.data else data))
        with pytest.raises(CorruptedDatabaseError, match="not signed"):
            kit.run(slow, execution_id="e")
