"""`crash_everywhere(real=True)`: real processes, a real file, SIGKILL."""

import asyncio
import os
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, TaskMetadata, pause, task, workflow
from flux.errors import FluxError, InvalidValueError
from flux.tasks import sleep, wait_for_signal
from flux.testing import CrashTestError, Ledger, crash_everywhere, fake

LEDGER = Ledger()


@dataclass
class Order:
    customer: str
    amount: int


@task.with_options(metadata=True, retry_max_attempts=1)
async def charge(order: Order, *, metadata: TaskMetadata) -> str:
    LEDGER.act("charge", order.customer, order.amount, key=metadata.idempotency_key)
    await asyncio.sleep(3)
    if metadata.attempt == 1:
        raise ConnectionError("no answer")
    return f"receipt for {order.customer}"


@task
def refund(order: Order) -> None:
    LEDGER.act("refund", order.customer)


@workflow
async def shop(ctx: ExecutionContext[Order]) -> str:
    receipt = await charge(ctx.input)
    await sleep(timedelta(days=3))
    if await pause("approval") == "no":
        await refund(ctx.input)
    return f"{receipt}, {await wait_for_signal('packed')}"


@pytest.mark.slow
def test_a_workflow_survives_every_real_kill(capfd: pytest.CaptureFixture[str]):
    before = set(Path(tempfile.gettempdir()).glob("flux-crash-*"))
    order = Order("Ann", 5)

    report = crash_everywhere(shop, order, resumes={"approval": "yes"}, signals={"packed": "a box"}, real=True)

    assert report.points >= 20
    assert report.points % 2 == 0  # Before and after each write.
    assert set(Path(tempfile.gettempdir()).glob("flux-crash-*")) == before
    assert LEDGER.effects == []  # What was done was done in other processes.
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_a_double_effect_is_found_by_a_real_kill():
    with pytest.raises(CrashTestError) as caught:
        crash_everywhere(shop, Order("Ann", 5), resumes={"approval": "no"}, signals={"packed": "a box"}, real=True)

    text = str(caught.value)
    assert "dies right before the append of TASK_COMPLETED of 'refund'" in text
    assert f"at {__file__}:{shop.func.__code__.co_firstlineno + 5}: await refund(ctx.input)" in text
    assert "refund('Ann') was done 2 times, and once without the crash: by the task 'refund'" in text


@workflow
async def acting_in_the_body(ctx: ExecutionContext[Any]) -> None:
    LEDGER.act("mail")
    await sleep(1)


@pytest.mark.slow
def test_an_effect_of_the_body_is_found_by_a_real_kill():
    with pytest.raises(CrashTestError, match=r"mail\(\) was done 2 times, and once without the crash: by the body"):
        crash_everywhere(acting_in_the_body, real=True)


@task
async def end_the_process() -> None:
    os._exit(7)


@workflow
async def ending_the_process(ctx: ExecutionContext[Any]) -> None:
    await end_the_process()


def test_a_process_that_ends_by_itself_is_told():
    with pytest.raises(FluxError, match="the process ended with 7"):
        crash_everywhere(ending_the_process, real=True)


def test_fakes_are_refused_because_they_would_have_no_effect():
    with fake(refund, returns=None), pytest.raises(InvalidValueError, match="fakes have no effect in another process"):
        crash_everywhere(shop, Order("Ann", 5), real=True)


def test_a_workflow_that_no_module_holds_is_refused():
    @workflow
    async def local(ctx: ExecutionContext[Any]) -> None: ...

    with pytest.raises(InvalidValueError, match="another process would not find the workflow 'local'"):
        crash_everywhere(local, real=True)


def test_a_module_that_cannot_be_loaded_again_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "once_only.py"
    file.write_text("from flux import workflow\n@workflow\nasync def once(ctx): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("once_only")
    file.write_text("raise LookupError('gone')")

    with pytest.raises(FluxError, match=r"cannot be loaded in another process: LookupError\('gone'\)"):
        crash_everywhere(module.once, real=True)
