"""`flux dev`, `flux server` and `flux worker`: processes that serve until they are told to stop."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flux import app as composition
from flux.app import App
from flux.cli import loading, output
from flux.cli.output import CommandError, Exit, command
from flux.domain.definitions import WorkflowDefinition
from flux.settings import load

if TYPE_CHECKING:
    from flux.worker.worker import Worker

PORT = 7600
GRACE_SECONDS = 30.0
RELOAD_SECONDS = 0.3
STREAMS_END_SECONDS = 2

logger = logging.getLogger("flux.serve")

FilesArgument = Annotated[list[str], typer.Argument(metavar="FILES...", help="Python files or modules with workflows.")]
HostOption = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")]
PortOption = Annotated[int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes a free one.")]
ConcurrencyOption = Annotated[int, typer.Option("--concurrency", metavar="N", min=1, help="Executions at once.")]
LogFormatOption = Annotated[str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json.")]
LogLevelOption = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
]
GraceOption = Annotated[float, typer.Option("--grace", metavar="SECONDS", min=0, help="For tasks to end at a stop.")]


def dev(
    files: FilesArgument,
    host: HostOption = "127.0.0.1",
    port: PortOption = PORT,
    reload: Annotated[bool, typer.Option("--reload/--no-reload", help="Start anew when a file changes.")] = True,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
) -> int:
    """Serve workflows on this machine: the API and a worker in one process, anew whenever a file changes.

    \b
    Example:
      flux dev hello.py
      curl -X POST localhost:7600/api/workflows/hello/executions?wait=30 \\
        -H 'Content-Type: application/json' -d '{"input": "World"}'
    """
    _log(log_format, log_level)
    served = _load(files)
    app = composition.current()
    watched = _sources(served) if reload else {}
    stopped = asyncio.run(_serve(app, served, address=(host, port), grace_seconds=1.0, watched=watched))
    if stopped == "changed":
        composition.close_all()
        os.execv(sys.executable, [sys.executable, "-m", "flux", *sys.argv[1:]])  # noqa: S606 - this very command.
    return Exit.OK


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
    asyncio.run(_serve(composition.current(), _load(files or []), address=(host, port), has_worker=False))
    return Exit.OK


def worker(
    files: FilesArgument,
    concurrency: ConcurrencyOption = 100,
    grace: GraceOption = GRACE_SECONDS,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is due and nothing runs.")] = False,
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
    _log(log_format, log_level)
    asyncio.run(
        _serve(
            composition.current(), _load(files), concurrency=concurrency, grace_seconds=grace, once=once, address=None
        )
    )
    return Exit.OK


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


def _sources(served: Sequence[WorkflowDefinition]) -> dict[Path, float]:
    """The files of the working directory that are loaded, and when they were changed."""
    del served
    here, sources = Path.cwd(), {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is not None and Path(file).is_relative_to(here) and "site-packages" not in file:
            with suppress(OSError):
                sources[Path(file)] = Path(file).stat().st_mtime
    return sources


# -- serving


async def _serve(
    app: App,
    served: Sequence[WorkflowDefinition],
    *,
    address: tuple[str, int] | None,
    has_worker: bool = True,
    concurrency: int = 100,
    grace_seconds: float = GRACE_SECONDS,
    once: bool = False,
    watched: dict[Path, float] | None = None,
) -> str:
    """Serve until a signal comes, or a watched file changes; returns which."""
    if has_worker:
        app.keep_output()
    running = app.worker(served, concurrency=concurrency, grace_seconds=grace_seconds) if has_worker else None
    http = _http_server(app, served, address, running) if address is not None else None
    stop = _Stop()
    rescuer = app.rescuer()
    rescuer.start()
    with stop.on_signals():
        parts = [asyncio.ensure_future(http.serve())] if http is not None else []
        if running is not None:
            message(f"serving {', '.join(workflow.name for workflow in served)}")
            parts.append(asyncio.ensure_future(running.run(once=once)))
        if watched:
            parts.append(asyncio.ensure_future(_watch(watched, stop)))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopping, *parts], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running is not None:
            running.stop()
        if http is not None:
            http.should_exit = True
        if watched:
            parts.pop().cancel()
        await asyncio.gather(*parts)
    await rescuer.stop()
    return stop.why


async def _watch(watched: dict[Path, float], stop: "_Stop") -> None:
    """Stop when a file has changed, and can be compiled."""
    while True:
        await asyncio.sleep(RELOAD_SECONDS)
        for path, changed_at in watched.items():
            with suppress(OSError):
                now = path.stat().st_mtime
                if now == changed_at:
                    continue
                watched[path] = now
                try:
                    compile(path.read_text("utf-8"), str(path), "exec")
                except (SyntaxError, ValueError) as error:
                    message(f"not loaded anew: {path.name}: {error}")
                    break
                message(f"{path.name} has changed")
                stop.now("changed")
                return


class _Stop:
    """Waits for a signal; a second one ends the process at once."""

    def __init__(self) -> None:
        self.why = ""
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    def now(self, why: str) -> None:
        if self.why:
            os._exit(Exit.INTERRUPTED)
        self.why = why
        self._event.set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)
        for each in signals:
            loop.add_signal_handler(each, self.now, each.name)
        try:
            yield
        finally:
            for each in signals:
                loop.remove_signal_handler(each)


# -- HTTP


def _http_server(
    app: App, served: Sequence[WorkflowDefinition], address: tuple[str, int], running: "Worker | None"
) -> Any:
    from flux.api.application import create_application
    from flux.api.guard import Access

    host, port = address
    is_local = _is_loopback(host)
    if not is_local and not app.catalogue.tokens():
        raise CommandError(
            f"{host} can be reached from other machines, and there is no token yet: make one with  "
            f"{command('tokens', 'create', 'NAME')}",
            Exit.USAGE,
        )
    bound = _bound(host, port)
    names = {"localhost", "127.0.0.1", "::1"} if is_local else {host, socket.gethostname().lower(), "localhost"}
    access = Access(hosts=frozenset(names), find=app.catalogue.find_token, clock=app.clock, is_open=is_local)
    work = running.wake if running is not None else lambda: None
    application = create_application(app.control(served), access=access, work=work)
    message(f"listening on http://{host}:{bound.getsockname()[1]}")
    return _Http(application, bound)


class _Http:
    """uvicorn, on a socket of ours, without its signal handlers."""

    def __init__(self, application: Any, bound: socket.socket) -> None:
        import uvicorn

        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=STREAMS_END_SECONDS,
        )
        self._server: uvicorn.Server = uvicorn.Server(config)
        self._socket = bound

    @property
    def should_exit(self) -> bool:
        return self._server.should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._server.should_exit = value

    async def serve(self) -> None:
        await self._server._serve([self._socket])  # `serve` would take the signals.


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise CommandError(
            f"{host}:{port} cannot be listened on: {error.strerror}; choose another with --port", Exit.FAILED
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
