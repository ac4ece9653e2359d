"""Finds in workflow bodies what would not be the same in every replay, and says what to do instead.

It reads source, and runs none of it: the functions under `@workflow`, and those of the same file that they call.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flux.errors import InvalidInputError

_TASK = "do it in a @task"
_NOW = "await now() of flux.tasks, or " + _TASK
_CHANCE = "await randint(), randrange() or choice() of flux.tasks, or " + _TASK
_SLEEP = "await sleep() of flux.tasks, which survives restarts"
_THREAD = "a task that is a plain `def` runs in a thread: " + _TASK

# By the dotted name of what is called, or of a module whose every function counts; the longest match decides.
_CALLS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        "datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today time.time "
        "time.time_ns time.monotonic time.monotonic_ns time.perf_counter time.perf_counter_ns time.localtime "
        "time.gmtime time.ctime time.process_time".split(),
        ("reads the clock", _NOW),
    ),
    "time.sleep": ("blocks the process", _SLEEP),
    **dict.fromkeys("random secrets numpy.random os.urandom".split(), ("draws lots", _CHANCE)),
    **dict.fromkeys(
        "uuid.uuid1 uuid.uuid4 uuid.getnode".split(), ("makes another id in each replay", "await uuid4() of flux.tasks")
    ),
    **dict.fromkeys(
        "os.getenv os.environ os.getpid os.getcwd pathlib.Path.cwd pathlib.Path.home platform socket.gethostname "
        "sys.argv".split(),
        ("depends on where it runs", "pass it in as input, or " + _TASK),
    ),
    **dict.fromkeys(
        "open io.open os.open os.listdir os.scandir os.walk os.stat os.remove os.rename os.mkdir os.makedirs "
        "os.path.exists os.path.isfile os.path.getsize os.path.getmtime glob shutil tempfile sqlite3".split(),
        ("uses files", _TASK),
    ),
    **dict.fromkeys(
        "socket requests httpx httpx2 aiohttp urllib.request urllib3 http.client smtplib ftplib psycopg asyncpg "
        "boto3 redis".split(),
        ("uses the network", _TASK),
    ),
    **dict.fromkeys("subprocess os.system os.popen os.fork".split(), ("starts a process", _TASK)),
    **dict.fromkeys(
        "threading concurrent.futures multiprocessing asyncio.to_thread".split(), ("leaves the body's loop", _THREAD)
    ),
    **dict.fromkeys("id hash".split(), ("differs between processes", "use a key of your own")),
}
_FILE_METHODS = frozenset(
    "read_text write_text read_bytes write_bytes unlink mkdir touch iterdir rglob is_file is_dir".split()
)
_MUTATORS = frozenset(
    "append extend insert remove pop clear sort reverse add discard update setdefault popitem appendleft".split()
)
_BUILTINS = frozenset(("open", "id", "hash"))


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something in a body that would not be the same in every replay.

    Args:
        file: Where it is.
        line: From 1.
        workflow: In the body of which.
        what: What is done there.
        fix: What to do instead.
    """

    file: str
    line: int
    workflow: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what} in the body of {self.workflow!r}: {self.fix}"


def lint(path: Path) -> list[Finding]:
    """The findings of one file, by line.

    Args:
        path: A Python file; it is read, not run.

    Raises:
        InvalidInputError: It cannot be read, or is no Python.

    Example:
        >>> for finding in lint(Path("orders.py")):
        ...     print(finding)
    """
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInputError(f"{path} cannot be checked: {error}; name a Python file") from None
    return sorted(_Module(str(path), tree).findings())


class _Module:
    """One file: its imports, its functions, and the names that its top level gives to things that can change."""

    def __init__(self, file: str, tree: ast.Module) -> None:
        self.file, self._tree = file, tree
        self._aliases: dict[str, str] = {}
        self._functions: dict[str, ast.AST] = {}
        self._sets = _names_of_sets(tree.body)
        self.mutables = {name for statement in tree.body for name in _mutable_names(statement)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    first = name.name.partition(".")[0]
                    self._aliases[name.asname or first] = name.name if name.asname else first
            elif isinstance(node, ast.ImportFrom) and node.module:
                self._aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list:
                self._functions[node.name] = node

    def findings(self) -> Iterator[Finding]:
        seen: set[tuple[int, str]] = set()
        for node in ast.walk(self._tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and self._is_workflow(node):
                for line, what, fix in self._of_body(node, set()):
                    if (line, what) not in seen:
                        seen.add((line, what))
                        yield Finding(self.file, line, node.name, what, fix)

    def dotted(self, node: ast.AST) -> str:
        """The name of what an expression stands for, as its module calls it; empty if it is no plain name."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self._aliases.keys() | _BUILTINS:
            return ""
        return ".".join([self._aliases.get(node.id, node.id), *reversed(parts)])

    def _is_workflow(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        names = [self.dotted(each.func if isinstance(each, ast.Call) else each) for each in node.decorator_list]
        return any(name.removesuffix(".with_options").rpartition(".")[2] == "workflow" for name in names)

    def _of_body(self, body: ast.AST, visited: set[str]) -> Iterator[tuple[int, str, str]]:
        nodes = list(_walk(body))
        sets = self._sets | _names_of_sets(nodes)
        for node in nodes:
            for what, fix in _looked_at(self, node, sets):
                yield getattr(node, "lineno", 0), what, fix
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name in self._functions and name not in visited:
                yield from self._of_body(self._functions[name], visited | {name})


def _walk(body: ast.AST) -> Iterator[ast.AST]:
    """What runs in a body: not what a task that is defined in it does."""
    for node in ast.iter_child_nodes(body):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and getattr(node, "decorator_list", None):
            continue
        yield node
        yield from _walk(node)


def _looked_at(module: _Module, node: ast.AST, sets: set[str]) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Call(func=function):
            yield from _called(module, function)
        case ast.Subscript(value=value) if (found := _known(module.dotted(value))) is not None:
            yield f"{module.dotted(value)} {found[0]}", found[1]
        case ast.For(iter=items) | ast.AsyncFor(iter=items) | ast.comprehension(iter=items) if _is_set(items, sets):
            yield "the order of a set differs between processes", "iterate over sorted(...) of it"
        case ast.Global(names=names):
            yield f"the global {names[0]!r} is changed", "return values, or keep state in the body's own variables"
        case ast.Assign(targets=targets) | ast.Delete(targets=targets):
            for target in targets:
                yield from _changed(module, target)
        case ast.AugAssign(target=target):
            yield from _changed(module, target)


def _called(module: _Module, function: ast.AST) -> Iterator[tuple[str, str]]:
    name = module.dotted(function)
    found = _known(name)
    if found is not None:
        yield f"{name}() {found[0]}", found[1]
    elif isinstance(function, ast.Attribute) and function.attr in _FILE_METHODS:
        yield f".{function.attr}() uses files", _TASK
    elif isinstance(function, ast.Attribute) and function.attr in _MUTATORS:
        yield from _changed(module, function)
    elif isinstance(function, ast.Attribute) and function.attr == "run_in_executor":
        yield "run_in_executor() leaves the body's loop", _THREAD


def _known(name: str) -> tuple[str, str] | None:
    """What is known of a call, by its own name or that of the module that it is in."""
    while name:
        if name in _CALLS:
            return _CALLS[name]
        name = name.rpartition(".")[0]
    return None


def _changed(module: _Module, target: ast.AST) -> Iterator[tuple[str, str]]:
    """A change of something that the module's top level holds: it stays from replay to replay."""
    if not isinstance(target, ast.Attribute | ast.Subscript):
        return
    owner = target.value
    if isinstance(owner, ast.Name) and owner.id in module.mutables:
        yield f"the global {owner.id!r} is changed", "return values, or keep state in the body's own variables"
    elif module.dotted(owner) == "os.environ":
        yield "the environment is changed", _TASK


def _mutable_names(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.Assign(targets=targets, value=value):
            names = [target for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name() as name, value=ast.expr() as value):
            names = [name]
        case _:
            return
    makers = {"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict"}
    is_made = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in makers
    if is_made or isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp):
        yield from (name.id for name in names)


def _names_of_sets(nodes: Iterable[ast.AST]) -> set[str]:
    assigned = [node for node in nodes if isinstance(node, ast.Assign) and _is_set(node.value, set())]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def _is_set(items: ast.expr, sets: set[str]) -> bool:
    match items:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name):
            return name in sets
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Name(id="list" | "tuple" | "enumerate"), args=[inner, *_]):
            return _is_set(inner, sets)
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), left=left, right=right):
            return _is_set(left, sets) or _is_set(right, sets)
        case _:
            return False
