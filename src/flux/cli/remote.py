"""A server as the place where executions are: what it shows is read as if it were a database of ours."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from flux import serde
from flux.catalogue import Line, PublishedWorkflow, Search, WorkerRow
from flux.cli.output import CommandError, Exit
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.engine.launcher import MISSING
from flux.ports import ExecutionRow, Pause

PATIENCE_SECONDS, WAIT_SECONDS = 30, 20
PAGE, EVENTS = 200, 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CODES = {400: Exit.USAGE, 404: Exit.NOT_FOUND, 409: Exit.USAGE, 422: Exit.USAGE}


class Remote:
    """Executions by HTTP.

    Args:
        server: Its address, as http://127.0.0.1:7600.
        token: If it wants one.

    Raises:
        CommandError: The address is none.
    """

    def __init__(self, server: str, token: str | None = None) -> None:
        url = urlsplit(server)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise CommandError(f"{server!r} is no address of a server: write http://HOST:PORT", Exit.USAGE)
        self._server, self._host, self._path = server, url.netloc.rpartition("@")[2], url.path.rstrip("/")
        self._is_secure = url.scheme == "https"
        self._headers = {"X-Flux": "1"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._shown: dict[str, dict[str, Any]] = {}  # What was shown last of each execution.
        self.store = self.catalogue = self.clock = self

    def now(self) -> int:
        return time.time_ns() // 1000

    def ask(self, method: str, path: str, body: Any = MISSING, query: Mapping[str, Any] | None = None) -> Any:
        """The answer of the server, decoded.

        Raises:
            CommandError: It cannot be reached, or refuses.
        """
        given = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
        from http.client import HTTPConnection, HTTPException, HTTPSConnection  # Only who asks need wait for that.

        url = f"{self._path}/api{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")
        headers = self._headers | ({} if body is MISSING else {"Content-Type": "application/json"})
        data = None if body is MISSING else json.dumps(body).encode()
        connection = (HTTPSConnection if self._is_secure else HTTPConnection)(self._host, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, url, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise CommandError(
                f"the server {self._server} cannot be reached: {why}; see that it runs, and that --server names it",
                Exit.FAILED,
            ) from None
        finally:
            connection.close()
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = None
        if answer.status >= 300 or decoded is None:
            raise self._refusal(answer.status, decoded)
        return decoded

    def _refusal(self, status: int, problem: Any) -> CommandError:
        if not isinstance(problem, dict) or "message" not in problem:
            return CommandError(
                f"{self._server} answers {status}, but not as a Flux server does: see what --server names", Exit.FAILED
            )
        hint = "name one by --token or FLUX_TOKEN" if status == 401 else problem.get("hint")
        return CommandError(f"{problem['message']}{f': {hint}' if hint else ''}", _CODES.get(status, Exit.FAILED))

    # -- what is shown

    def get(self, execution_id: str) -> ExecutionRow | None:
        try:
            return self._row(self.ask("GET", _path(execution_id)))
        except CommandError as error:
            if error.code is Exit.NOT_FOUND:
                return None
            raise

    def events(self, execution_id: str) -> Sequence[ExecutionEvent]:
        events: list[ExecutionEvent] = []
        while True:
            after = events[-1].seq if events else 0
            page = self.ask("GET", f"{_path(execution_id)}/events", query={"after": after, "limit": EVENTS})
            events += [_event(execution_id, each) for each in page]
            if len(page) < EVENTS:
                return events

    def pauses(self, execution_id: str) -> Sequence[Pause]:
        return [Pause("", name) for name in self._details(execution_id)["pauses"]]

    def traceback(self, execution_id: str) -> str:
        return self._details(execution_id).get("traceback") or ""  # An older server does not tell.

    def _details(self, execution_id: str) -> dict[str, Any]:
        """What is shown of it by itself, which a list leaves out."""
        if "pauses" not in self._shown.get(execution_id, ()):
            self.get(execution_id)
        return self._shown[execution_id]

    def list(self, *, parent_id: str | None = None, limit: int = 50) -> Sequence[ExecutionRow]:
        return self.search(Search(parent_id=parent_id, limit=limit))

    def search(self, search: Search) -> Sequence[ExecutionRow]:
        query = {
            "workflow": search.workflow,
            "state": search.state and search.state.value,
            "blocked": None if search.is_blocked is None else str(search.is_blocked).lower(),
            "id_prefix": search.id_prefix,
            "parent_id": search.parent_id,
            "attribute": [f"{name}={value}" for name, value in search.attributes.items()],
            "created_from": _text(search.created_from),
            "created_to": _text(search.created_to),
        }
        rows: list[ExecutionRow] = []
        cursor = None
        while len(rows) < search.limit:
            limit = min(PAGE, search.limit - len(rows))
            page = self.ask("GET", "/executions", query=query | {"limit": limit, "cursor": cursor})
            rows += [self._row(shown) for shown in page["executions"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        return rows

    def workflows(self) -> Sequence[PublishedWorkflow]:
        schemas = ("input_schema", "output_schema")
        return [
            PublishedWorkflow(
                name=each["name"],
                version=each["version"],
                location="",
                description=each["description"],
                labels=each["labels"],
                **{name: None if each[name] is None else json.dumps(each[name]) for name in schemas},
            )
            for each in self.ask("GET", "/workflows")
        ]

    def workers(self) -> Sequence[WorkerRow]:
        times = ("started_at", "lease_expires_at")
        return [
            WorkerRow(**each | {name: _microseconds(each[name]) for name in times})
            for each in self.ask("GET", "/workers")
        ]

    # -- what is sent

    def lines(self, execution_id: str, *, after: int, limit: int) -> Sequence[Line]:
        return [
            Line(
                id=shown["id"],
                execution_id=execution_id,
                call_id=shown["call_id"],
                task=shown["task"],
                stream=shown["stream"],
                text=shown["text"],
                time_us=_microseconds(shown["time"]),
            )
            for shown in self.ask("GET", f"{_path(execution_id)}/lines", query={"after": str(after), "limit": limit})
        ]

    def resume(self, execution_id: str, value: Any, *, name: str | None = None) -> None:
        self.ask("POST", f"{_path(execution_id)}/resume", {"input": value, "name": name})

    def signal(self, execution_id: str, name: str, value: Any) -> None:
        self.ask("POST", f"{_path(execution_id)}/signal", {"name": name, "value": value})

    def cancel(self, execution_id: str, *, now: bool = False) -> None:
        self.ask("POST", f"{_path(execution_id)}/cancel", query={"now": "true"} if now else None)

    def retry(self, execution_id: str) -> ExecutionRow:
        return self._row(self.ask("POST", f"{_path(execution_id)}/retry"))

    def fork(
        self, execution_id: str, *, seq: int, value: Any = MISSING, new_execution_id: str | None = None
    ) -> ExecutionRow:
        body = {"seq": seq, "execution_id": new_execution_id} | ({} if value is MISSING else {"input": value})
        return self._row(self.ask("POST", f"{_path(execution_id)}/fork", body))

    def settled(self, execution_id: str) -> ExecutionRow:
        """The execution, when it is finished, paused or blocked."""
        while True:
            row = self._row(self.ask("GET", _path(execution_id), query={"wait": WAIT_SECONDS}))
            if row.state.is_finished or row.state is ExecutionState.PAUSED or row.blocked_reason is not None:
                return row

    def _row(self, shown: dict[str, Any]) -> ExecutionRow:
        self._shown[shown["execution_id"]] = shown
        times = ("created_at", "started_at", "finished_at", "wake_at")
        as_they_are = ("execution_id", "workflow", "version", "last_seq", "blocked_reason", "parent_id", "forked_from")
        return ExecutionRow(
            number=0,
            namespace="default",
            location=shown.get("location", ""),
            start_digest=b"",
            state=ExecutionState(shown["state"]),
            worker=None,
            fence=0,
            first_seq=1,
            blocked_version=None,
            parent_call=shown.get("parent_call"),
            **{name: shown[name] for name in as_they_are},
            **{name: _microseconds(shown[name]) for name in times},
        )


def _path(execution_id: str) -> str:
    return f"/executions/{quote(execution_id, safe='')}"


def _event(execution_id: str, shown: dict[str, Any]) -> ExecutionEvent:
    values = [None if shown[name] is None else serde.encode(shown[name]) for name in ("value", "detail")]
    type_, time_us = ExecutionEventType(shown["type"]), _microseconds(shown["time"]) or 0
    return ExecutionEvent(execution_id, shown["seq"], type_, shown["call_id"], shown["name"], *values, time_us=time_us)


def _microseconds(text: str | None) -> Any:
    return None if text is None else (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def _text(microseconds: int | None) -> str | None:
    return None if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
