"""`flux dev`, `flux server` and `flux worker`: processes that serve until they are told to stop."""

import asyncio
import ipaddress
import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from flux import app as composition
from flux.app import App
from flux.cli import loading, output
from flux.cli.output import CommandError, Exit, command
from flux.domain.attributes import check_labels
from flux.domain.definitions import WorkflowDefinition
from flux.errors import InvalidValueError
from flux.settings import load

if TYPE_CHECKING:
    from flux.api.guard import Access
    from flux.api.listening import HttpServer
    from flux.worker.worker import Worker

PORT = 7600
GRACE_SECONDS, DEV_GRACE_SECONDS = 30.0, 1.0
END_SECONDS, RELEASE_SECONDS = 1.5, 0.4  # After the grace, for the end itself; of that, for a last write.
RELOAD_SECONDS = 0.3
CHANGED = "changed"

logger = logging.getLogger("flux.serve")

FilesArgument = Annotated[list[str], typer.Argument(metavar="FILES...", help="Python files or modules with workflows.")]
HostOption = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")]
PortOption = Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes a free one.")]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", metavar="N", min=1, help="Executions at once.")]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="What workflows may ask for; repeatable.")
]
LogFormatOption = Annotated[str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json.")]
LogLevelOption = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
]
GraceOption = Annotated[float, typer.Option("--grace", metavar="SECONDS", min=0, help="For tasks to end at a stop.")]


def dev(
    files: FilesArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = PORT,
    *,
    label: LabelOption = None,
    reload: Annotated[bool, typer.Option("--reload/--no-reload", help="Start anew when a file changes.")] = True,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
    load_only: Annotated[bool, typer.Option("--load-only", help="Load the files, and end.")] = False,
) -> int:
    """Serve workflows on this machine: the API and a worker in one process, anew whenever a file changes.

    \b
    Example:
      flux dev hello.py
      curl -X POST localhost:7600/api/workflows/hello/executions?wait=30 \\
        -H 'Content-Type: application/json' -d '{"input": "World"}'
    """
    _log(log_format, log_level)
    labels, served = _labels(label), _load(files)
    if load_only:
        return Exit.OK
    stop = _Stop(DEV_GRACE_SECONDS)
    watched = _Watched(files) if reload else None
    return _until_stopped(stop, _serve(served, stop, address=(host, port), labels=labels, watched=watched))


def server(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILES...]", help="Only for what they tell of workflows: a worker runs them."),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = PORT,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> int:
    """Serve the API; workers run the executions.

    \b
    Example:
      flux server --port 7600
    """
    _log(log_format, log_level)
    served, stop = _load(files or []), _Stop(0)
    return _until_stopped(stop, _serve(served, stop, address=(host, port), has_worker=False))


def worker(
    files: FilesArgument,
    concurrency: ConcurrencyOption = 100,
    grace: GraceOption = GRACE_SECONDS,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is due and nothing runs.")] = False,
    *,
    label: LabelOption = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="PORT", min=0, max=65535, help="Serve /metrics; 0 takes a free one."),
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option("--metrics-host", metavar="ADDRESS", help="Where to serve them [default: 127.0.0.1].")
    ] = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> int:
    """Run executions of these workflows, whoever starts them.

    On SIGTERM it claims nothing more, lets tasks end for the grace, and gives the rest back; a second SIGTERM ends it
    at once.

    \b
    Example:
      flux worker orders.py reports.monthly --concurrency 20
    """
    if metrics_host is not None and metrics_port is None:
        raise CommandError("--metrics-host is for metrics, which are off: name a --metrics-port", Exit.USAGE)
    _log(log_format, log_level)
    labels, served, stop = _labels(label), _load(files), _Stop(grace)
    measured_at = (metrics_host or "127.0.0.1", metrics_port) if metrics_port is not None else None
    return _until_stopped(
        stop,
        _serve(served, stop, address=None, measured_at=measured_at, labels=labels, concurrency=concurrency, once=once),
    )


# -- what is said


def _log(form: str | None, level: str | None) -> None:
    """Begin the log; what the files of users set up beside it comes later."""
    from flux.observability import logs

    settings = load(log_format=form, log_level=level)
    logs.install(settings.log_format, settings.log_level, sys.stderr)


def message(text: str) -> None:
    """Say something on stderr, as a record if that is for programs."""
    from flux.observability.logs import JsonFormatter

    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers):
        logger.info(text)
    else:
        output.message(text)


# -- what is served


def _load(files: Sequence[str]) -> list[WorkflowDefinition]:
    """The workflows of these files, each under a name of its own.

    Raises:
        CommandError: A file has none, or two have the same name.
    """
    found: dict[str, tuple[str, WorkflowDefinition]] = {}
    for file in files:
        loaded = loading.load(file)
        workflows = {id(workflow): workflow for workflow in loaded.workflows.values()}.values()
        if not workflows:
            raise CommandError(f"{file} has no workflow: put @workflow on a function in it", Exit.USAGE)
        for workflow in workflows:
            other = found.get(workflow.name)
            if other is not None and other[1] is not workflow.definition:
                raise CommandError(
                    f"{file} and {other[0]} both have a workflow {workflow.name!r}: give one another name", Exit.USAGE
                )
            found[workflow.name] = file, workflow.definition
    return [definition for _, definition in found.values()]


def _labels(given: Sequence[str] | None) -> dict[str, str]:
    """The labels of a worker.

    Raises:
        CommandError: One is no label, or is there twice.
    """
    labels: dict[str, str] = {}
    for each in given or ():
        name, is_named, value = each.partition("=")
        if not is_named or name in labels:
            what = "is there twice" if is_named else "has no value"
            raise CommandError(f"--label {each!r} {what}: write each label once, as in --label gpu=a100", Exit.USAGE)
        labels[name] = value
    try:
        return check_labels(labels)
    except InvalidValueError as error:
        raise CommandError(f"--label: {error}", Exit.USAGE) from None


def _fitting(served: Sequence[WorkflowDefinition], labels: Mapping[str, str]) -> list[WorkflowDefinition]:
    """The workflows that a worker with these labels runs; it says which it leaves to others.

    Raises:
        CommandError: None.
    """
    fitting = [workflow for workflow in served if workflow.fits(labels)]
    for workflow in served:
        if workflow not in fitting:
            missing = shlex.join(output.label_options(workflow.labels))
            if not fitting:
                raise CommandError(f"{workflow.name} asks for labels: start the worker with  {missing}", Exit.USAGE)
            message(f"leaving {workflow.name} to workers with  {missing}")
    return fitting


# -- serving


def _until_stopped(stop: "_Stop", serving: Coroutine[Any, Any, None]) -> int:
    asyncio.run(serving)
    stop.release()
    if stop.why == CHANGED:
        composition.close_all()
        _start_anew()
    return stop.code


async def _serve(
    served: Sequence[WorkflowDefinition],
    stop: "_Stop",
    *,
    address: tuple[str, int] | None,
    measured_at: tuple[str, int] | None = None,
    has_worker: bool = True,
    labels: Mapping[str, str] | None = None,
    concurrency: int = 100,
    once: bool = False,
    watched: "_Watched | None" = None,
) -> None:
    """Serve until a signal comes, or a watched file changes."""
    from flux.worker.garbage import relax

    app = composition.current()
    measuring = _metrics_server(app, measured_at) if measured_at is not None else nullcontext()
    running, fitting = None, list(served)
    if has_worker:
        fitting = _fitting(served, labels or {})
        app.keep_output()
        running = app.worker(served, labels=labels, concurrency=concurrency, grace_seconds=stop.grace_seconds)
    http = _http_server(app, served, address, running) if address is not None else None
    relax()
    rescuer = app.rescuer()
    rescuer.start()
    async with measuring:  # To the end, so that a drain is seen.
        with stop.on_signals(running):
            parts = [asyncio.ensure_future(http.serve())] if http is not None else []
            if running is not None:
                message(f"serving {', '.join(workflow.name for workflow in fitting)}")
                parts.append(asyncio.ensure_future(running.run(once=once)))
            if address is not None and address[1] and fitting:
                message(f"try it:  {_example(fitting[0], address)}")
            watching = [asyncio.ensure_future(watched.until_changed(stop))] if watched is not None else []
            await _until_told(stop, parts, watching)
            if running is not None:
                running.stop()
            if http is not None:
                http.stop()
            await asyncio.gather(*parts)
    await rescuer.stop()


async def _until_told(
    stop: "_Stop", parts: Sequence["asyncio.Task[None]"], watching: Sequence["asyncio.Task[None]"]
) -> None:
    """Wait until this is to stop, or a part has ended."""
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
    for each in (stopping, *watching):
        each.cancel()


def _example(workflow: WorkflowDefinition, address: tuple[str, int]) -> str:
    """A command that starts an execution."""
    from flux.server.schemas import published

    kind = json.loads(published(workflow).input_schema or "{}").get("type")
    examples = {"string": "World", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}
    body = json.dumps({"input": examples.get(kind)})
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    url = f"http://{host}:{address[1]}/api/workflows/{workflow.name}/executions?wait=30"
    return shlex.join(["curl", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", body])


class _Watched:
    """The files of the working directory that are loaded.

    Args:
        files: What the command line named.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        here = Path.cwd()
        loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        paths = {Path(file) for file in loaded if file} | {Path(file).resolve() for file in files}
        self._changed_at = {path: _changed_at(path) for path in paths if _is_own(path, here)}

    async def until_changed(self, stop: "_Stop") -> None:
        """Stop when one has changed, and everything can be loaded; what cannot leaves the old code serving."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            changed = [path for path, before in self._changed_at.items() if _changed_at(path) != before]
            if not changed:
                continue
            self._changed_at |= {path: _changed_at(path) for path in changed}
            command = [*_THIS, "dev", "--load-only", "--", *self._files]
            loading = await asyncio.create_subprocess_exec(*command)
            if await loading.wait() == 0:
                message(f"{changed[0].name} has changed")
                stop.now(CHANGED)
                return
            message("the code from before goes on being served")


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_own(path: Path, here: Path) -> bool:
    return path.suffix == ".py" and path.is_relative_to(here) and "site-packages" not in path.parts


class _Stop:
    """Waits for a signal; a second one ends the process at once, and so does time.

    Args:
        grace_seconds: How long tasks may go on.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.grace_seconds = grace_seconds
        self.why, self.code = "", Exit.OK
        self._event = asyncio.Event()
        self._worker: Worker | None = None

    async def wait(self) -> None:
        await self._event.wait()

    def now(self, why: str) -> None:
        """Stop, for this reason."""
        if self.why not in {"", CHANGED}:
            os._exit(Exit.INTERRUPTED)
        self.why = why
        self.code = Exit.INTERRUPTED if why == signal.SIGINT.name else Exit.OK
        if self._worker is not None:
            self._worker.stop()  # Before anything else runs on this loop.
        last = threading.Timer(self.grace_seconds + END_SECONDS, self._end)
        last.daemon = True
        last.start()
        self._event.set()

    def release(self) -> None:
        """Let others have, at once, what could not be given back."""
        if self._worker is not None:
            self._worker.retire()

    def _end(self) -> None:
        """End, although some task does not: a thread cannot be stopped, and a database may hang."""
        releasing = threading.Thread(target=self.release, daemon=True)
        releasing.start()
        releasing.join(RELEASE_SECONDS)
        if self.why == CHANGED:
            _start_anew()
        os._exit(self.code)

    @contextmanager
    def on_signals(self, worker: "Worker | None") -> Iterator[None]:
        """Stop on SIGINT and SIGTERM, and tell this worker."""
        self._worker = worker
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, self.now, each.name)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


_THIS = (sys.executable, "-m", "flux")


def _start_anew() -> NoReturn:
    os.execv(sys.executable, [*_THIS, *sys.argv[1:]])  # noqa: S606 - this very command.


# -- HTTP


def _http_server(
    app: App, served: Sequence[WorkflowDefinition], address: tuple[str, int], running: "Worker | None"
) -> "HttpServer":
    from flux.api.application import create_application
    from flux.api.listening import HttpServer

    access, bound = _access(app, address[0]), _bound(*address)
    application = create_application(app.control(served), access=access, worker=running, keeper=lambda: app.secrets)
    message(f"listening on http://{address[0]}:{bound.getsockname()[1]}")
    return HttpServer(application, bound, ending=application.state.surroundings.news.end)


def _metrics_server(app: App, address: tuple[str, int]) -> AbstractAsyncContextManager[None]:
    """Serves the metrics meanwhile; it listens when this returns."""
    from flux.api.listening import HttpServer
    from flux.api.measuring import create_metrics_application
    from flux.observability.metrics import Metrics

    access, bound = _access(app, address[0]), _bound(*address, option="--metrics-port")
    application = create_metrics_application(Metrics(app.catalogue, app.clock), access=access)
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    message(f"metrics on http://{host}:{bound.getsockname()[1]}/metrics")
    return _served(HttpServer(application, bound))


@asynccontextmanager
async def _served(http: "HttpServer") -> AsyncIterator[None]:
    serving = asyncio.ensure_future(http.serve())
    try:
        yield
    finally:
        http.stop()
        await serving


def _access(app: App, host: str) -> "Access":
    """Who may use what listens there.

    Raises:
        CommandError: Others can reach it, and there is no token.
    """
    from flux.api.guard import Access, Limits

    is_local = _is_loopback(host)
    if not is_local and not app.catalogue.tokens():
        raise CommandError(
            f"{host} can be reached from other machines, and there is no token yet: make one with  "
            f"{command('tokens', 'create', 'NAME')}",
            Exit.USAGE,
        )
    own = {"localhost", "127.0.0.1", "::1"} if is_local else {host.lower(), socket.gethostname().lower(), "localhost"}
    others = {name.strip().lower() for name in app.settings.server_names.split(",")}
    return Access(
        hosts=frozenset(own | others) - {""},
        find=app.catalogue.find_token,
        clock=app.clock,
        is_open=is_local,
        any_address=host in {"0.0.0.0", "::"},  # noqa: S104 - it is what is asked for.
        limits=Limits(body_bytes=app.settings.max_body_bytes),
    )


def _bound(host: str, port: int, *, option: str = "--port") -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family)
        # asyncio does that for sockets of its own only; without it an answer waits 40 ms for the client to acknowledge.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise CommandError(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another with {option}", Exit.FAILED
        ) from None
    return bound


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
