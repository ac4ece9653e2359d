"""The slot through which `workflow.run()`, which is low, reaches the app that runs it, which is high."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from flux.domain.definitions import WorkflowDefinition
from flux.domain.execution_context import ExecutionContext
from flux.errors import FluxError


class Missing:
    """The type of `MISSING`: an input that was not given, as opposed to None."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = Missing()
Attributes = Mapping[str, str] | None


class ExecutionHandle(Protocol):
    """An execution that was started and runs on its own."""

    @property
    def execution_id(self) -> str:
        """By which it is known; recorded durably before the handle is given."""
        ...

    async def result(self) -> ExecutionContext[Any]:
        """Wait until it is finished or paused."""
        ...

    def wait(self, timeout: float | None = None) -> ExecutionContext[Any]:
        """Block this thread until it is finished or paused, at most `timeout` seconds.

        Raises:
            TimeoutError: It was not, in that time.
        """
        ...

    def signal(self, name: str, value: Any = None, *, client_id: str | None = None) -> None:
        """Send it a signal; see `Workflow.signal`."""
        ...

    def cancel(self, *, now: bool = False) -> None:
        """Ask it to cancel; `result` tells how it ended.  With `now`, it ends without its clean-up."""
        ...


class Launcher(Protocol):
    """Runs workflows, and gives tasks that are awaited outside of them what they need."""

    def run(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> ExecutionContext[Any]: ...

    async def run_async(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> ExecutionContext[Any]: ...

    def resume(
        self, workflow: WorkflowDefinition, execution_id: str, value: Any, name: str | None
    ) -> ExecutionContext[Any]: ...

    async def resume_async(
        self, workflow: WorkflowDefinition, execution_id: str, value: Any, name: str | None
    ) -> ExecutionContext[Any]: ...

    def start(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> ExecutionHandle: ...

    def execution(self, workflow: WorkflowDefinition, execution_id: str) -> ExecutionHandle: ...

    def signal(
        self, workflow: WorkflowDefinition, execution_id: str, name: str, value: Any, client_id: str | None
    ) -> None: ...

    def cancel(self, workflow: WorkflowDefinition, execution_id: str, *, now: bool) -> ExecutionContext[Any]: ...

    async def cancel_async(
        self, workflow: WorkflowDefinition, execution_id: str, *, now: bool
    ) -> ExecutionContext[Any]: ...

    @property
    def secrets(self) -> object:
        """The `SecretManager`, which is of a higher layer."""
        ...

    def find_secrets(self, names: Sequence[str]) -> Mapping[str, Any]: ...

    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any: ...


class LoadingStopped(BaseException):
    """A file is being loaded for its workflows, and has come to where it would run one itself.

    It ends the loading there: without it, a script without a `__main__` guard would run its workflow once for
    everybody who only wants to know what is in it.
    """


Find = Callable[[], Launcher]

_find: Find | None = None
_is_loading = False


def install(find: Find | None) -> Find | None:
    """Fill the slot: `find` returns the launcher of the working directory.  Returns what was there before."""
    global _find
    before, _find = _find, find
    return before


def set_loading(*, is_loading: bool) -> None:
    """Say whether a file is being loaded for its workflows: `run()` then ends the loading."""
    global _is_loading  # noqa: PLW0603 - as above.
    _is_loading = is_loading


def current() -> Launcher:
    """The launcher to use now.

    Raises:
        LoadingStopped: The file that calls this is only being loaded.
    """
    if _is_loading:
        raise LoadingStopped
    if _find is None:
        raise FluxError("no app is installed: import `flux`, which installs one")
    return _find()
