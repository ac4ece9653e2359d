"""Every example survives a crash at each of its durable writes."""

import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flux.testing import CrashTestError, Ledger, Signal, crash_everywhere, fake

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WITHOUT_A_WORKFLOW = {"demo.py"}


@dataclass(frozen=True)
class Case:
    """How an example is run.

    Args:
        input: Given the example's module, for its classes.
        world: What stands for the world outside.
        effects: How many there are without a crash.
    """

    file: str
    workflow: str
    input: Callable[[ModuleType], Any]
    options: dict[str, Any] = field(default_factory=dict)
    world: Callable[[ModuleType], AbstractContextManager[Any]] = lambda _: nullcontext()
    effects: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.workflow}-{self.effects}"


CASES = [
    Case("hello.py", "hello", lambda _: "World"),
    Case("pipeline.py", "add_up", lambda _: "3, 1, x, 2"),
    Case("parallel_and_map.py", "compare", lambda _: ["lisbon", "oslo", "rome"]),
    Case(
        "retries.py",
        "shop",
        lambda _: "tea",
        world=lambda m: fake(m.fetch_stock, script=[ConnectionError, ConnectionError, 12]),
    ),
    Case("approval.py", "approval", lambda m: m.Expense("Ann", 250), {"resumes": {"approval": "yes"}}),
    Case(
        "library_census.py",
        "library_census",
        lambda m: m.Census(root=str(Path(json.__file__).parent)),
        {"resumes": {"approval": "yes"}},
    ),
    Case("children.py", "library", lambda _: ["sea", "hills", "empty"]),
    Case("output_storage.py", "stock", lambda _: ["tea", "cup"]),
    Case("secret_requests.py", "signed", lambda _: "pay 5 to Ann"),
    Case("tasks_in_tasks.py", "backup", lambda _: "example.org", world=lambda m: fake(m.fetch, calls=len)),
    Case(
        "signals.py",
        "auction",
        lambda m: m.Lot("a clock", timedelta(minutes=1)),
        {
            "signals": [
                Signal("bid", {"who": "Ann", "price": 20}),
                Signal("bid", {"who": "Bob", "price": 30}, after=timedelta(seconds=59)),
                Signal("bid", {"who": "Eve", "price": 40}, after=timedelta(seconds=61)),
            ]
        },
    ),
    Case(
        "subscription.py",
        "subscription",
        lambda m: m.Account("Ann"),
        {"signals": [Signal("end", "moved away", after=timedelta(days=400))]},
    ),
    *(
        Case("order.py", "order", lambda m, it=items: m.Order(it, total=40), {"signals": signals}, effects=effects)
        for items, signals, effects in (
            ({"tea": 2, "cup": 1}, {"packed": "box 1"}, 6),
            ({"tea": 1, "gin": 1}, {"packed": "box 2"}, 4),
            ({"tea": 1}, {}, 4),
        )
    ),
    *(
        Case("saga.py", "saga", lambda m, city=city: m.Trip(city), effects=n)
        for city, n in (("Oslo", 3), ("Venice", 5))
    ),
]


@pytest.fixture
def load(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.setenv("FLUX_SECRET_SIGNING_KEY", "correct-horse-battery")

    def load(file: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"example_{Path(file).stem}", EXAMPLES / file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if (EXAMPLES / case.file).exists()], ids=str)
def test_an_example_survives_every_crash(
    case: Case, load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
):
    module, ledger = load(case.file), Ledger()
    if hasattr(module, "once"):  # How examples act on the world: the first text is the key, the last one what is done.
        monkeypatch.setattr(module, "once", lambda *texts: ledger.act(texts[-1], key=texts[0]))

    with case.world(module):
        report = crash_everywhere(getattr(module, case.workflow), case.input(module), ledger=ledger, **case.options)

    print(f"{case}: {report}")
    assert report.points >= 5
    assert report.interrupted == 0
    assert len(ledger.effects) == case.effects


def test_an_example_that_pays_without_a_key_does_not_survive(load: Callable[[str], ModuleType]):
    """The control of the above."""
    module, ledger = load("approval.py"), Ledger()

    with fake(module.pay, calls=lambda expense: ledger.act("pay", expense.who)):
        with pytest.raises(CrashTestError, match=r"pay\('Ann'\) was done 2 times"):
            crash_everywhere(module.approval, module.Expense("Ann", 250), resumes={"approval": "yes"}, ledger=ledger)


def test_every_example_is_crashed():
    assert {path.name for path in EXAMPLES.glob("*.py")} - WITHOUT_A_WORKFLOW <= {case.file for case in CASES}
