"""The public names, pinned: one more or less is a decision."""

import importlib
import inspect
import subprocess
import sys
from types import ModuleType

import pytest

import flux
import flux.domain.events
import flux.errors
import flux.output_storage
import flux.secret_managers
import flux.tasks

# `flux.task` and `flux.workflow` are the decorators; the modules of these names are imported from, not shown.
TASK, WORKFLOW = sys.modules["flux.task"], sys.modules["flux.workflow"]

SURFACE = {
    flux: "ExecutionContext ExecutionEvent ExecutionEventType ExecutionState TaskMetadata call patched pause "
    "task workflow",
    flux.tasks: "Graph call choice continue_as_new now parallel patched pause pipeline progress randint randrange "
    "sleep uuid4 wait_for_signal",
    flux.domain: "ExecutionContext ExecutionEvent ExecutionEventType ExecutionState",
    flux.domain.events: "ExecutionEvent ExecutionEventType ExecutionState",
    flux.output_storage: "InlineOutputStorage LocalFileStorage OutputStorage OutputStorageReference",
    flux.secret_managers: "KeyRing SecretManager",
}
# Schedules are to bring `cron`, `interval` and `once`.
IMPORTS = {
    "flux": "task workflow ExecutionContext ExecutionEvent ExecutionEventType ExecutionState TaskMetadata call pause",
    "flux.task": "task TaskMetadata",
    "flux.workflow": "workflow",
    "flux.tasks": "now uuid4 choice randint randrange parallel sleep pipeline pause call Graph progress",
    "flux.domain": "ExecutionContext",
    "flux.domain.events": "ExecutionEvent ExecutionEventType ExecutionState",
    "flux.domain.execution_context": "ExecutionContext",
    "flux.errors": "ExecutionError ExecutionTimeoutError RetryError WorkflowNotFoundError "
    "ExecutionContextNotFoundError",
    "flux.output_storage": "OutputStorage OutputStorageReference InlineOutputStorage LocalFileStorage",
    "flux.secret_managers": "SecretManager",
}
ERRORS = [error for _, error in inspect.getmembers(flux.errors, inspect.isclass)]


@pytest.mark.parametrize("module", SURFACE, ids=lambda module: module.__name__)
def test_a_module_exports_exactly_these_names(module: ModuleType) -> None:
    assert sorted(module.__all__) == SURFACE[module].split()
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", IMPORTS)
def test_code_that_users_have_finds_what_it_imports(module: str) -> None:
    found = importlib.import_module(module)

    assert [name for name in IMPORTS[module].split() if not hasattr(found, name)] == []


def test_one_thing_has_one_identity_wherever_it_is_imported_from() -> None:
    assert flux.task is TASK.task
    assert flux.workflow is WORKFLOW.workflow
    assert flux.TaskMetadata is TASK.TaskMetadata
    assert flux.pause is flux.tasks.pause
    assert flux.call is flux.tasks.call
    assert flux.ExecutionState is flux.domain.events.ExecutionState is flux.domain.ExecutionState
    assert flux.ExecutionContext is flux.domain.ExecutionContext


def test_every_public_name_says_what_it_is() -> None:
    undocumented = [
        f"{module.__name__}.{name}"
        for module in SURFACE
        for name in module.__all__
        if not inspect.getdoc(getattr(module, name))
    ]

    assert undocumented == []


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
        "BodyError CorruptedDatabaseError ExecutionCancelledError ExecutionConflictError "
        "ExecutionContextNotFoundError ExecutionError ExecutionTimeoutError FluxError InvalidInputError "
        "InvalidValueError NewerDatabaseError NonDeterminismError NotFoundError RetryError SecretError "
        "SecretNotFoundError StoreError TaskInterruptedError UnserializableValue WorkflowNotFoundError"
    )

    assert sorted(error.__name__ for error in ERRORS) == names.split()
    assert all(error.__doc__ for error in ERRORS)


def test_importing_flux_imports_nothing_that_few_programs_need() -> None:
    few_need = {"pickle", "uuid", "zoneinfo", "flux.engine.engine", "flux.engine.processes", "flux.store.sqlite"}
    code = f"import sys, flux; print(sorted({few_need} & {{*sys.modules}}))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
