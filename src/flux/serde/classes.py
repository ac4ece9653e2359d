"""Names of classes and functions, and the way back to them; this module is for never importing to read a value."""

import sys
from importlib import import_module
from pathlib import PurePath
from typing import Any

MAIN = ("__main__", "__mp_main__")


class NotLoadedError(Exception):
    """What a name stands for is not among the loaded modules.

    Args:
        name: The name as recorded, `module:Qualified.Name`, or that of a package.
        advice: What to do about it.
    """

    def __init__(
        self, name: str, advice: str = "import the module that defines it, or put it back where it was"
    ) -> None:
        super().__init__(name)
        self.name = name
        self.advice = advice


def package(name: str) -> Any:
    """A package that Flux does without until a value needs it; the name is one of Flux's own, never a recorded one.

    Raises:
        NotLoadedError: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise NotLoadedError(name, f"install it, with 'pip install {name}'") from None


def name_of(thing: Any) -> str:
    """The name that a class or a function is recorded by, `module:Qualified.Name`; whether it can be found or not.

    A script is `__main__` when it is run and a module of its file's name when `flux run` loads it: it is recorded
    under the latter, so that both read each other's histories.
    """
    module = str(getattr(thing, "__module__", None) or "builtins")
    return f"{main_name() if module in MAIN else module}:{thing.__qualname__}"


def find(name: str) -> Any:
    """What a name stands for among the loaded modules.

    Raises:
        NotLoadedError: There is no such thing; nothing is imported to look further.
    """
    module, _, path = name.partition(":")
    for candidate in (module, *(MAIN if module == main_name() else ())):
        found: Any = sys.modules.get(candidate)
        for step in path.split("."):
            # Through the namespaces, not by getattr: a module's `__getattr__` may import.
            found = getattr(found, "__dict__", {}).get(step)
        if found is not None:
            return found
    raise NotLoadedError(name)


def reference(cls: type) -> Any:
    """What a value's class is recorded as: its name, or a list of a generic model's origin and arguments.

    Raises:
        NotLoadedError: The class would not be found again.
    """
    name = name_of(cls)
    try:
        found = find(name)
    except NotLoadedError:
        generic = getattr(cls, "__pydantic_generic_metadata__", None) or {}
        if generic.get("origin") is None or not all(isinstance(argument, type) for argument in generic["args"]):
            raise
        return [reference(generic["origin"]), *map(reference, generic["args"])]
    # By name and not by identity: after a reload, values of the class's former self are still under way.
    if not isinstance(found, type) or found.__qualname__ != cls.__qualname__:
        raise NotLoadedError(name)
    return name


def find_class(recorded: Any) -> Any:
    """The class that `reference` recorded.

    Raises:
        NotLoadedError: It is not among the loaded modules.
    """
    if isinstance(recorded, list):
        origin, *arguments = map(find_class, recorded)
        return origin[tuple(arguments)]
    found = find(recorded)
    if not isinstance(found, type):
        raise NotLoadedError(recorded)
    return found


def main_name() -> str:
    """What the script, or the module, that was run is called where it is imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    return str(spec.name) if spec else PurePath(file).stem if file else "__main__"
