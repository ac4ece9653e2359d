"""The public names, pinned: one more or less is a decision."""

import inspect
from types import ModuleType

import pytest

import flux
import flux.domain.events
import flux.errors
import flux.tasks

# `call`, `cron`, `interval`, `once`, `TaskMetadata`, `Graph` and `progress` join with their subsystems.
SURFACE = {
    flux: "ExecutionContext ExecutionEvent ExecutionEventType ExecutionState pause task workflow",
    flux.tasks: "choice now parallel pause pipeline randint randrange sleep uuid4",
    flux.domain.events: "ExecutionEvent ExecutionEventType ExecutionState",
}
ERRORS = [error for _, error in inspect.getmembers(flux.errors, inspect.isclass)]


@pytest.mark.parametrize("module", SURFACE, ids=lambda module: module.__name__)
def test_a_module_exports_exactly_these_names(module: ModuleType) -> None:
    assert sorted(module.__all__) == SURFACE[module].split()
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", SURFACE, ids=lambda module: module.__name__)
def test_a_module_has_the_names_that_code_written_for_it_imports(module: ModuleType) -> None:
    assert [name for name in SURFACE[module].split() if not hasattr(module, name)] == []


def test_the_tree_of_errors_names_every_class_below_its_base() -> None:
    base_at: dict[int, str] = {}
    drawn: dict[str, str | None] = {}
    for line in (flux.errors.__doc__ or "").splitlines():
        name = line.strip(" │├└─").split(" ")[0]
        if not hasattr(flux.errors, name):
            continue
        depth = line.index(name)
        base_at[depth] = name
        above = [at for at in base_at if at < depth]
        drawn[name] = base_at[max(above)] if above else None

    assert drawn == {
        error.__name__: next((b.__name__ for b in error.__bases__ if b in ERRORS), None) for error in ERRORS
    }


def test_the_errors_are_these() -> None:
    names = (
        "BodyError CorruptedDatabaseError ExecutionConflictError ExecutionContextNotFoundError ExecutionError "
        "ExecutionTimeoutError FluxError InvalidInputError InvalidValueError NewerDatabaseError NonDeterminismError "
        "NotFoundError RetryError StoreError UnserializableValue WorkflowNotFoundError"
    )

    assert sorted(error.__name__ for error in ERRORS) == names.split()
    assert all(error.__doc__ for error in ERRORS)
