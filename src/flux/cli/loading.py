"""Files and modules as a source of workflows; this module is for loading them without running them."""

import difflib
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from flux import serde
from flux.cli.output import CommandError, Exit, command
from flux.engine import launcher
from flux.engine.launcher import LoadingStopped
from flux.errors import WorkflowNotFoundError
from flux.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Target:
    """What a command line names: a file or a dotted module, and perhaps a workflow in it."""

    source: str
    workflow: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `FILE[:WORKFLOW]`; a file whose own name holds a colon is found all the same."""
        source, colon, workflow = text.rpartition(":")
        if not colon or not source or Path(text).exists() or os.sep in workflow:
            return cls(text)
        return cls(source, workflow or None)

    def __str__(self) -> str:
        return f"{self.source}:{self.workflow}" if self.workflow else self.source


@dataclass(frozen=True, slots=True)
class Loaded:
    """The workflows of a module, by the names of the variables that hold them.

    Args:
        source: As it was named.
        stopped_at: The line at which the loading ended, because the module runs a workflow there itself.
    """

    source: str
    module: str
    workflows: dict[str, Workflow[Any, Any]] = field(default_factory=dict)
    stopped_at: int | None = None

    def pick(self, name: str | None, *, words: Sequence[str] = ("run",)) -> Workflow[Any, Any]:
        """The workflow of this name, or of this variable; the only one, if no name is given.

        Args:
            words: The command that asks, for the commands that the error proposes.

        Raises:
            CommandError: There is none, or there are several to choose from.
        """
        if name is not None:
            return self._named(name)
        own = {id(w): w for w in self.workflows.values() if w.func.__module__ == self.module}
        candidates = list((own or {id(w): w for w in self.workflows.values()}).values())
        if not candidates:
            raise CommandError(f"{self.source} has no workflow: {self._how_to_define()}", Exit.USAGE)
        if len(candidates) > 1:
            names = ", ".join(workflow.name for workflow in candidates)
            example = command(*words, f"{self.source}:{candidates[0].name}")
            raise CommandError(
                f"{self.source} has {len(candidates)} workflows ({names}): name one, as in {example}", Exit.USAGE
            )
        return candidates[0]

    def _named(self, name: str) -> Workflow[Any, Any]:
        by_name = {id(w): w for w in self.workflows.values() if w.name == name}
        if len(by_name) == 1:
            return next(iter(by_name.values()))
        if name in self.workflows:
            return self.workflows[name]
        if by_name:
            variables = ", ".join(key for key, workflow in self.workflows.items() if workflow.name == name)
            raise CommandError(
                f"{self.source} has {len(by_name)} workflows named {name!r}: choose by variable ({variables})",
                Exit.USAGE,
            )
        names = sorted({*(w.name for w in self.workflows.values())})
        there_are = f"it has {', '.join(names)}" if names else self._how_to_define()
        raise WorkflowNotFoundError(
            f"{self.source} has no workflow {name!r}: {there_are}{did_you_mean(name, [*names, *self.workflows])}"
        )

    def _how_to_define(self) -> str:
        if self.stopped_at is not None:
            return (
                f"loading ended at line {self.stopped_at}, where it runs one itself; "
                "put that below \"if __name__ == '__main__':\""
            )
        return "put @workflow on a function that takes its ExecutionContext"


def load(source: str) -> Loaded:
    """Load a file, or else a dotted module, up to the end or to where it runs a workflow itself.

    Raises:
        CommandError: There is no such thing, or it cannot be loaded.
    """
    path = Path(source)
    if path.is_file():
        return _load_file(source, path.resolve())
    if path.is_dir():
        raise CommandError(f"{source} is a directory: name a file in it", Exit.USAGE)
    if path.suffix == ".py" or os.sep in source:
        raise CommandError(f"there is no file {source}{_near_file(path)}", Exit.NOT_FOUND)
    return _load_module(source)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """A near match, as the end of a sentence; empty if there is none."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _load_file(source: str, path: Path) -> Loaded:
    name = path.stem.replace(".", "_")
    if name in sys.stdlib_module_names or name in sys.modules:
        name += "_"  # Not over a module that others go on using: a file may well be called queue.py.
    loader = SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    _prepend(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    with _Explained(source):
        # Compiled afresh: a cached one is compared by whole seconds, and people edit faster.
        code = loader.source_to_code(loader.get_data(str(path)), str(path))
    return _run(source, module, code)


def _load_module(source: str) -> Loaded:
    _prepend(str(Path.cwd()))
    not_found = CommandError(
        f"there is no file and no module {source!r} here: name a .py file, or a module that can be imported from "
        f"{Path.cwd()}",
        Exit.NOT_FOUND,
    )
    with _Explained(source):
        try:
            launcher.set_loading(is_loading=True)
            with redirect_stdout(sys.stderr):
                spec = importlib.util.find_spec(source)  # Imports the packages that it is in.
        except (ModuleNotFoundError, ValueError) as error:
            missing = getattr(error, "name", None) or source
            if source == missing or source.startswith(f"{missing}."):
                raise not_found from None
            raise
        finally:
            launcher.set_loading(is_loading=False)
        loader: Any = spec.loader if spec is not None else None
        code = loader.get_code(source) if hasattr(loader, "get_code") else None
    if spec is None or not isinstance(code, CodeType):
        raise not_found
    return _run(source, importlib.util.module_from_spec(spec), code)


def _run(source: str, module: ModuleType, code: CodeType) -> Loaded:
    sys.modules[module.__name__] = module
    stopped_at = None
    launcher.set_loading(is_loading=True)
    try:
        with _Explained(source), redirect_stdout(sys.stderr):
            try:
                exec(code, module.__dict__)  # noqa: S102 - what `python FILE` does.
            except LoadingStopped as stop:
                stopped_at = _line_in(code.co_filename, stop)
    finally:
        launcher.set_loading(is_loading=False)
    workflows = {name: thing for name, thing in vars(module).items() if isinstance(thing, Workflow)}
    return Loaded(source, module.__name__, workflows, stopped_at)


class _Explained:
    """Turns what goes wrong in the user's file into an error of the command."""

    def __init__(self, source: str) -> None:
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        match error:
            case SyntaxError(filename=str(file), lineno=int(line)):
                shown = f"{error.text.rstrip()}\n{' ' * ((error.offset or 1) - 1)}^\n" if error.text else ""
                raise CommandError(f"{file}:{line}: {error.msg}", Exit.USAGE, traceback=shown) from None
            case SystemExit():
                raise CommandError(
                    f"{self._source} ended itself with sys.exit({error.code!r}) while it was loaded: "
                    "put that below \"if __name__ == '__main__':\"",
                    Exit.USAGE,
                ) from None
            case Exception() if not isinstance(error, CommandError):
                raise CommandError(
                    f"{self._source} cannot be loaded: {type(error).__name__}: {error}{_relative_hint(error)}",
                    Exit.USAGE,
                    traceback=serde.traceback_of(error),
                ) from error


def _relative_hint(error: Exception) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "; name it as a module: flux run package.module"
    return ""


def _line_in(filename: str, stop: BaseException) -> int | None:
    traceback, line = stop.__traceback__, None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == filename:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _prepend(directory: str) -> None:
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def _near_file(path: Path) -> str:
    try:
        names = [each.name for each in path.parent.iterdir() if each.suffix == ".py"]
    except OSError:
        return f": nor a directory {path.parent}"
    return did_you_mean(path.name, names) or ": look at the spelling and the directory"
