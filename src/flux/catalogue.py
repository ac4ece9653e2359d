"""What a server shows and finds: executions by what they are, workers and their workflows, lines, tokens.

It is a Protocol of its own, beside `ports.Store`: nothing here moves an execution, and the engine does not know it.
Every method is synchronous and safe from any thread; times are integers, microseconds since the Unix epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.domain.figures import Figures
from flux.ports import ExecutionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWorkflow:
    """What workers tell of a workflow, for those who have no code of it.

    Args:
        description: The first paragraph of its docstring.
        input_schema: The JSON Schema of its input, as JSON; None: any value.
        output_schema: That of its result.
        labels: What a worker must have to run it.
    """

    name: str
    version: str
    location: str
    description: str = ""
    input_schema: str | None = None
    output_schema: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A process that runs executions.

    Args:
        process: "host:pid"; empty if it serves nothing, but only runs what it starts itself.
        workflows: The names of those that it serves.
        labels: What it has, and workflows may ask for.
        running: How many executions it owns.
    """

    worker: str
    process: str
    started_at: int | None
    lease_expires_at: int
    workflows: Sequence[str]
    labels: Mapping[str, str]
    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which executions are looked for; None and empty ask for nothing.

    Args:
        attributes: Each has exactly this value.
        before: A number: only those that were created before this one.
    """

    workflow: str | None = None
    state: ExecutionState | None = None
    is_blocked: bool | None = None
    id_prefix: str = ""
    parent_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    created_from: int | None = None
    created_to: int | None = None
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An execution that was created, or came into another state.

    Args:
        id: Counts the changes of all executions; only the last one of each is kept.
    """

    id: int
    row: ExecutionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a task printed or logged.

    Args:
        id: In the order in which they were stored.
        stream: "stdout", "stderr", or the level of a log record.
    """

    id: int
    execution_id: str
    call_id: str
    task: str
    stream: str
    text: str
    time_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token as it is stored: its hash.

    Args:
        digest: SHA-256 of the token.
        role: "viewer", "operator" or "admin".
        expires_at: Microseconds since the epoch; None: never.
    """

    name: str
    digest: bytes
    role: str
    created_at: int
    expires_at: int | None


class Catalogue(Protocol):
    """All of that, in one database."""

    def publish(
        self,
        worker: str,
        *,
        process: str,
        workflows: Sequence[PublishedWorkflow],
        now: int,
        labels: Mapping[str, str] | None = None,
        left: Sequence[PublishedWorkflow] = (),
    ) -> None:
        """Make known what a registered worker serves, and is, in place of what it told before.

        Args:
            labels: What it has.
            left: Workflows that it knows, but leaves to workers that have their labels.
        """
        ...

    def workflows(self) -> list[PublishedWorkflow]:
        """The workflows that were ever published, in order of their names, as the last worker published them."""
        ...

    def workers(self) -> list[WorkerRow]:
        """The workers that are registered, the oldest first."""
        ...

    def next_wake(self, workflows: Mapping[str, str]) -> int | None:
        """When the next execution of these workflows is due that waits for a time; of what versions, see a claim."""
        ...

    def search(self, search: Search) -> list[ExecutionRow]:
        """The newest executions first."""
        ...

    def counts(self, search: Search) -> dict[ExecutionState, int]:
        """How many there are in each state, whatever page and state is asked for."""
        ...

    def events(self, execution_id: str, *, after: int, limit: int) -> list[ExecutionEvent]:
        """A page of a history: events from seq `after` + 1 on, verified; of a long one no more is read than that.

        Raises:
            CorruptedDatabaseError: An event's bytes are not those that were written.
        """
        ...

    def figures(self, *, now: int) -> Figures:
        """What is worth watching; it takes the longer, the more executions there are."""
        ...

    def attributes(self, execution_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """The attributes of each of these that has some."""
        ...

    def changes(self, *, after: int, limit: int) -> list[Change]:
        """The executions that changed after this change, in order."""
        ...

    def last_change(self) -> int:
        """The number of the last change; 0 if there is none."""
        ...

    def add_lines(self, lines: Sequence[Line], *, most: int) -> None:
        """Keep what was printed, at most so many lines of an execution: the oldest go first.  Their ids are ignored."""
        ...

    def lines(self, execution_id: str, *, after: int, limit: int) -> list[Line]:
        """What the tasks of an execution printed, in order."""
        ...

    def tokens(self) -> list[StoredToken]:
        """All of them, in order of their names."""
        ...

    def find_token(self, digest: bytes) -> StoredToken | None:
        """The token of this hash, whether it has expired or not."""
        ...

    def add_token(self, token: StoredToken) -> bool:
        """Keep a token; False if the name is taken."""
        ...

    def delete_token(self, name: str) -> bool:
        """Revoke a token; False if there is none of that name."""
        ...
