"""What the engine needs from a database, as one Protocol with plain values.

Every method is synchronous and safe from any thread: the engine's committer decides on which thread a write
runs.  Times are integers, microseconds since the Unix epoch; the caller passes `now`, so that tests decide it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState


class Parent(NamedTuple):
    """The call that a child execution is."""

    execution_id: str
    call_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """An execution to be created by its first append."""

    workflow: str
    version: str
    created_at: int
    namespace: str = "default"
    location: str = ""  # Where the workflow's code is: "path/to/file.py" or "package.module".
    start_digest: bytes = b""  # Of the start request: a repeat with another input is refused.
    worker: str | None = None  # Claimed at birth (fence 1, RUNNING) by this worker, else SCHEDULED (fence 0).
    parent: Parent | None = None  # Whose call it is; it is told of the end, in the commit that holds it.
    attributes: Mapping[str, str] = field(default_factory=dict)  # To find it by.
    forked_from: str | None = None  # The execution whose history this one begins with.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionRow:
    """What is known of an execution without reading its history."""

    number: int
    execution_id: str
    namespace: str
    workflow: str
    version: str
    location: str
    start_digest: bytes
    state: ExecutionState
    worker: str | None
    fence: int
    first_seq: int  # Where its history begins: 1, or later when it was started over.
    last_seq: int
    wake_at: int | None  # SCHEDULED only: not to be claimed before; None is due now.
    blocked_reason: str | None
    blocked_version: str | None  # Which cannot run it; None beside a reason: no version can.
    created_at: int
    started_at: int | None
    finished_at: int | None
    parent_id: str | None = None
    parent_call: str | None = None
    forked_from: str | None = None


class Pause(NamedTuple):
    """An open pause: what a resume can be bound to."""

    call_id: str
    name: str


class MessageKind(StrEnum):
    """What an inbox row asks for."""

    RESUME = "resume"  # An answer to the pause `call_id`.
    SIGNAL = "signal"
    CANCEL = "cancel"
    CHILD = "child"  # The end of the child execution that the call `call_id` is.


NOW = "now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A request from outside, waiting in an execution's inbox until its owner moves it into the history."""

    id: int
    kind: MessageKind
    call_id: str  # The pause that a resume was bound to when it was sent; a child's call; else empty.
    name: str  # Of the pause or the signal; of a child, the type of its last event; `NOW` of a cancel without clean-up.
    data: bytes  # The encoded value; of a child, that of its last event (empty if it has none).
    sent_at: int

    @property
    def is_at_once(self) -> bool:
        """Whether it asks for an end without clean-up."""
        return self.kind is MessageKind.CANCEL and self.name == NOW


class CachedResult(NamedTuple):
    """A result that equal calls of other executions may answer with."""

    key: bytes
    data: bytes
    expires_at: int | None  # None: never.


class SealedSecret(NamedTuple):
    """A secret as it is stored: encrypted.

    Args:
        name: Of the secret.
        version: Counts its values, from 1.
        key_id: Of the key that it is encrypted with.
        data: The nonce and the ciphertext.
    """

    name: str
    version: int
    key_id: str
    data: bytes
    updated_at: int


@dataclass(slots=True, kw_only=True)
class Append:
    """One execution's part of a commit: compare, then append.

    It is stored if the row has this fence and `expected_seq` as its last seq, else refused.
    """

    execution_id: str
    fence: int
    expected_seq: int
    events: Sequence[ExecutionEvent]  # Seqs expected_seq + 1, + 2, …; may be empty.
    create: NewExecution | None = None  # The first append of an execution: expected_seq is 0.
    restart: bool = False  # A fresh history begins with these events: the older ones, and open pauses, are deleted.
    state: ExecutionState = ExecutionState.RUNNING  # The state afterwards; SCHEDULED and PAUSED park it.
    wake_at: int | None = None  # With SCHEDULED: when the next timer is due.
    opened: Sequence[Pause] = ()  # Pauses that these events open.
    closed: Sequence[str] = ()  # Call ids of pauses that these events close.
    consumed: Sequence[int] = ()  # Ids of inbox rows that these events move into the history.
    children: Sequence["Append"] = ()  # Creations of child executions, in the same transaction.
    cancels: Sequence[str] = ()  # Ids of children that are asked to cancel; finished ones need no asking.
    ends_children: bool = False  # All that are not finished are asked to cancel without their clean-up (`NOW`).
    cached: Sequence[CachedResult] = ()  # Results to be found by `cached_result`.
    blocked_reason: str | None = None  # With SCHEDULED: claims skip it until its version differs.
    blocked_version: str | None = None


class AppendResult(StrEnum):
    """What became of an append."""

    STORED = "stored"  # Durable; also the answer for one that turns out to be stored already, byte for byte.
    STALE = "stale"  # Another fence or another seq: this owner was superseded and must stop.
    EXISTS = "exists"  # `create` names an id that is taken.
    NEWS = "news"  # Nothing stored: it would park, but the inbox is not empty, or a child is awake.
    REFUSED = "refused"  # The row itself cannot be stored; its neighbours were.


class Claim(NamedTuple):
    """An execution that the caller now owns, with its history."""

    row: ExecutionRow
    events: list[ExecutionEvent]


class Store(Protocol):
    """The log, the claims and the inbox, in one database."""

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Store the appends in one transaction, durable on return; one answer each, in order.

        An append whose fence or seq does not match is answered STALE and does not disturb the others, unless
        exactly these events are already stored under this fence: then a commit's answer was lost, and it is
        STORED.  That makes the same batch safe to send again.

        Raises:
            StoreError: Nothing is known to be stored (disk full, I/O error): `reopen`, then send it again.
        """
        ...

    def try_append(self, appends: Sequence[Append]) -> list[AppendResult] | None:
        """`append`, or None at once if another thread or process is writing."""
        ...

    def claim(self, execution_id: str, *, worker: str, version: str, now: int) -> Claim | None:
        """Take one execution if it is SCHEDULED, due, and not blocked for this version; None otherwise."""
        ...

    def claim_ready(self, *, worker: str, workflows: Mapping[str, str], now: int, limit: int) -> list[Claim]:
        """Take up to `limit` due executions of these workflows (name to version), oldest first.

        One that is blocked for this version is left out.
        """
        ...

    def get(self, execution_id: str) -> ExecutionRow | None:
        """The row of an execution, or None."""
        ...

    def events(self, execution_id: str, *, after: int = 0) -> list[ExecutionEvent]:
        """The stored history from seq `after` + 1 on, verified against its checksums.

        Raises:
            CorruptedDatabaseError: An event's bytes are not those that were written.
        """
        ...

    def pauses(self, execution_id: str) -> list[Pause]:
        """The open pauses that no resume is bound to yet, oldest first."""
        ...

    def resume(
        self, execution_id: str, *, data: bytes, now: int, name: str | None = None, client_id: str | None = None
    ) -> Pause | None:
        """Bind a resume to the oldest open pause (of that name) and put it into the inbox, in one transaction.

        A parked execution becomes SCHEDULED, due now, and so do its parked ancestors.  A repeat with the same
        `client_id` changes nothing and answers the pause of the first.  None: there is no such open pause.
        """
        ...

    def send(
        self,
        execution_id: str,
        *,
        kind: MessageKind,
        data: bytes,
        now: int,
        name: str = "",
        client_id: str | None = None,
    ) -> bool:
        """Put a signal or a cancel into the inbox of an execution that is not finished.

        A parked one becomes SCHEDULED, due now, and so do its parked ancestors: whoever drives them drives it.  A
        repeat with the same `client_id` changes nothing.  False: there is no such execution, or it is finished.
        """
        ...

    def inbox(self, execution_id: str) -> list[Message]:
        """The messages that are not consumed yet, in the order in which they were sent."""
        ...

    def addressed(self, worker: str) -> list[str]:
        """The executions that this worker owns and that have something in their inbox, and their children to be run."""
        ...

    def release(self, execution_id: str, *, fence: int) -> bool:
        """Give an execution back: RUNNING under this fence becomes SCHEDULED, due now."""
        ...

    def unblock(self, execution_id: str) -> bool:
        """Clear `blocked_reason`, at a person's request; False if it was not blocked."""
        ...

    def register_worker(self, worker: str, *, lease_expires_at: int) -> None:
        """Make the worker known, and hold its proof of life as long as this store is open.

        It comes before the worker's first claim or creation; one that registers anew owns nothing.
        """
        ...

    def heartbeat(self, worker: str, *, lease_expires_at: int) -> bool:
        """Extend the lease; False if the worker was rescued meanwhile and owns nothing any more."""
        ...

    def remove_worker(self, worker: str) -> None:
        """Forget a worker that stops; what it still owned becomes SCHEDULED."""
        ...

    def rescue(self, *, now: int) -> int:
        """Make the executions of dead workers SCHEDULED again; returns how many.

        Dead is a worker whose proof of life is gone, or whose lease has expired.
        """
        ...

    def cached_result(self, key: bytes, *, now: int) -> bytes | None:
        """The result that was stored last under this key and has not expired, or None."""
        ...

    def secrets(self) -> list[SealedSecret]:
        """All secrets, encrypted as they are, in order of their names."""
        ...

    def put_secret(self, secret: SealedSecret, *, expected_version: int) -> bool:
        """Store a secret in place of the version that is there (0: none); False if another one is there by now."""
        ...

    def delete_secret(self, name: str) -> bool:
        """Remove a secret; False if there is none of that name."""
        ...

    def news(self) -> int:
        """A number that differs from the last answer whenever anything was written; costs no query."""
        ...

    def reopen(self) -> None:
        """Drop every connection and open the database anew, after an error.

        Raises:
            StoreError: It cannot be opened.
        """
        ...

    def close(self) -> None:
        """Release everything; harmless when repeated."""
        ...

    def list(  # Last: in the class it hides the type of that name from what follows.
        self,
        *,
        workflow: str | None = None,
        state: ExecutionState | None = None,
        parent_id: str | None = None,
        limit: int = 50,
    ) -> list[ExecutionRow]:
        """The newest executions first; with `parent_id`, the children of that one."""
        ...
