"""What can be done with executions from outside: the one place that the API, the command line and Python share.

Everything here is refused before anything is recorded, or is durable when it returns.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flux import serde
from flux.catalogue import Catalogue, PublishedWorkflow
from flux.clock import Clock
from flux.domain import forks
from flux.domain.attributes import check_attributes
from flux.domain.definitions import WorkflowDefinition, start_digest
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.domain.redaction import Redactor
from flux.engine.children import scheduled
from flux.engine.launcher import MISSING
from flux.errors import (
    ExecutionConflictError,
    InvalidInputError,
    InvalidValueError,
    WorkflowNotFoundError,
)
from flux.ids import check_id, new_id
from flux.ports import Append, AppendResult, ExecutionRow, NewExecution, Store
from flux.server import schemas
from flux.server.messages import Messages
from flux.workflow import encode_input

EVERY = 1_000_000
Secrets = Callable[[Sequence[str]], Mapping[str, Any]]


class Start(NamedTuple):
    """A start that was checked, and is not recorded yet.

    Args:
        execution_id: Of the execution.
        create: What creates it, for nobody.
        input_data: Its encoded input.
        called: How the caller knows it; empty if its id was made here.
    """

    execution_id: str
    create: NewExecution
    input_data: bytes
    called: str


class Control(Messages):
    """The use cases.

    Args:
        store: Where executions are.
        catalogue: Where workflows that are not loaded here are known from.
        clock: For the times of what is sent.
        secrets: Finds secrets by name, to keep them out of inputs.
        nudge: Told of an execution that something was sent to: it may run here.
        workflows: The workflows that are loaded here, by name; executions of others can be started, too, if a worker
            has published them.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        clock: Clock,
        *,
        secrets: Secrets,
        nudge: Callable[[str], None],
        workflows: Mapping[str, WorkflowDefinition] | None = None,
    ) -> None:
        super().__init__(store, clock, nudge)
        self.catalogue = catalogue
        self.loaded: dict[str, WorkflowDefinition] = {}
        self._published: dict[str, PublishedWorkflow] = {}
        for workflow in (workflows or {}).values():
            self.load(workflow)
        self._secrets = secrets

    def load(self, workflow: WorkflowDefinition) -> None:
        """Check inputs of a workflow by its code from now on."""
        self.loaded[workflow.name] = workflow
        self._published[workflow.name] = schemas.published(workflow)

    # -- what there is

    def workflows(self) -> list[PublishedWorkflow]:
        """What can be started: what is loaded here, and what workers have published."""
        known = {each.name: each for each in self.catalogue.workflows()}
        known |= self._published
        return [known[name] for name in sorted(known)]

    def workflow(self, name: str) -> PublishedWorkflow:
        """One of them.

        Raises:
            WorkflowNotFoundError: There is none of that name.
        """
        known = {each.name: each for each in self.workflows()}
        if name not in known:
            names = ", ".join(known) or "none"
            raise WorkflowNotFoundError(
                f"there is no workflow {name!r} (there are: {names}): start a worker with the file that defines it"
            )
        return known[name]

    # -- starting

    def start(
        self,
        name: str,
        value: Any,
        *,
        execution_id: str | None = None,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> tuple[ExecutionRow, bool]:
        """Record an execution that a worker will run; the same again gives the same execution.

        Arguments and errors are those of `prepare` and of `record`.

        Returns:
            The execution, and whether this created it.
        """
        start = self.prepare(name, value, execution_id=execution_id, key=key, attributes=attributes)
        return self.record(start)

    def is_ready(self, name: str) -> bool:
        """Whether a start of this workflow is checked without a look into the database."""
        workflow = self.loaded.get(name)
        return workflow is not None and not workflow.secret_requests

    def prepare(
        self,
        name: str,
        value: Any,
        *,
        execution_id: str | None = None,
        key: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Start:
        """Check a start.

        Args:
            name: Of the workflow.
            value: Its input, as JSON has it.
            execution_id: By which to know it; made if it is not given.
            key: What tells a repeat from another start, in place of an id.
            attributes: To find it by; recorded when it is created.  A repeat neither changes nor compares them.

        Raises:
            WorkflowNotFoundError: There is none of that name.
            InvalidInputError: The input does not fit, or holds a secret that the workflow requests.
            InvalidValueError: The id or an attribute is none.
        """
        published, data = self._input(name, value)
        checked = check_attributes(attributes or {})
        id_ = check_id(execution_id) if execution_id is not None else _id_of(name, key) if key is not None else new_id()
        create = NewExecution(
            workflow=name,
            version=published.version,
            created_at=self.clock.now(),
            location=published.location,
            start_digest=start_digest(name, data),
            attributes=checked,
        )
        called = f"the execution {id_!r}" if execution_id is not None else f"the key {key!r}" if key is not None else ""
        return Start(id_, create, data, called)

    def record(self, start: Start) -> tuple[ExecutionRow, bool]:
        """Record an execution, for a worker to claim.

        Returns:
            The execution, and whether this created it.

        Raises:
            InvalidInputError: The input is too large.
            ExecutionConflictError: The id or the key was used for another start.
        """
        is_checked = start.create.workflow in self.loaded
        append = scheduled(start.execution_id, start.create, start.input_data, is_checked=is_checked)
        is_new = not self.is_known(start) and self._stored(append)
        return self.started(start, is_new=is_new), is_new

    def is_known(self, start: Start) -> bool:
        """Whether there is an execution of that name already."""
        return bool(start.called) and self.store.get(start.execution_id) is not None

    def started(self, start: Start, *, is_new: bool) -> ExecutionRow:
        """The execution of a start, which has just been created or was there.

        Raises:
            ExecutionConflictError: The id or the key was used for another start.
        """
        row, create = self.row(start.execution_id), start.create
        if not is_new and (row.workflow, row.start_digest) != (create.workflow, create.start_digest):
            raise ExecutionConflictError(
                f"{start.called} was used to start {row.workflow!r} with another input: take another one, or send the "
                "same input"
            )
        return row

    def _input(self, name: str, value: Any) -> tuple[PublishedWorkflow, bytes]:
        workflow = self.loaded.get(name)
        if workflow is None:
            published = self.workflow(name)
            schemas.check(published, value)
            return published, serde.encode(value)
        data = encode_input(workflow, value)
        if workflow.secret_requests:
            path = Redactor(self._secrets(workflow.secret_requests)).find(value, path="input")
            if path is not None:
                raise InvalidInputError(
                    f"the input of {name!r} holds a secret that it requests, at {path}, and would be recorded: leave "
                    "it out, and let the task that needs the secret request it"
                )
        return self._published[name], data

    def _stored(self, append: Append) -> bool:
        """Create an execution; False if its id was taken a moment ago."""
        (result,) = self.store.append([append])
        if result is AppendResult.REFUSED:
            raise InvalidInputError("the input is too large for the database: pass a path to it")
        return result is AppendResult.STORED

    # -- once more

    def retry(self, execution_id: str) -> ExecutionRow:
        """Try again: a blocked execution as it is; of one that failed or was cancelled, what did not succeed.

        The latter is a new execution, whose history begins with all that succeeded: a finished one never changes.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is under way, or has completed.
        """
        row = self.row(execution_id)
        if row.blocked_reason is not None:
            self.store.unblock(execution_id)
            return self.row(execution_id)
        if row.state not in {ExecutionState.FAILED, ExecutionState.CANCELLED}:
            raise ExecutionConflictError(
                f"execution {execution_id!r} is {row.state}, so there is nothing to retry: fork it to run it again "
                "from some event on"
            )
        events = self.store.events(execution_id)
        failed = forks.failed_call(events)
        if failed is None:
            return self._fork(row, events, until_seq=forks.end_of(events))
        return self._fork(row, events, until_seq=failed.seq - 1, again=failed.call_id)

    def fork(
        self, execution_id: str, *, seq: int, value: Any = MISSING, new_execution_id: str | None = None
    ) -> ExecutionRow:
        """A new execution that begins with the first events of another one, and goes on by itself.

        Args:
            execution_id: The other one.
            seq: The last event that it shares; 1 shares the input only.
            value: Another input, as JSON has it.
            new_execution_id: By which to know the fork.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            InvalidValueError: It has no event of that seq, or the new id is none.
            InvalidInputError: The input does not fit.
            ExecutionConflictError: The new id is taken.
        """
        row = self.row(execution_id)
        if not row.first_seq <= seq <= row.last_seq:
            raise InvalidValueError(
                f"execution {execution_id!r} has no event {seq}: it has events {row.first_seq} to {row.last_seq}"
            )
        data = None if value is MISSING else self._input(row.workflow, value)[1]
        new = check_id(new_execution_id) if new_execution_id is not None else None
        return self._fork(row, self.store.events(execution_id), until_seq=seq, input_data=data, new_id_=new)

    def _fork(
        self,
        row: ExecutionRow,
        events: Sequence[ExecutionEvent],
        *,
        until_seq: int,
        again: str | None = None,
        input_data: bytes | None = None,
        new_id_: str | None = None,
    ) -> ExecutionRow:
        execution_id = new_id_ or new_id()
        family = self.store.list(parent_id=row.execution_id, limit=EVERY)
        shared = forks.beginning(
            events,
            execution_id,
            until_seq=until_seq,
            children={child.parent_call for child in family if child.parent_call},
            again=again,
            input_data=input_data,
        )
        create = NewExecution(
            workflow=row.workflow,
            version=row.version,
            created_at=self.clock.now(),
            location=row.location,
            start_digest=start_digest(row.workflow, shared[0].data or b""),
            attributes=self.catalogue.attributes([row.execution_id]).get(row.execution_id, {}),
            forked_from=row.execution_id,
        )
        append = Append(
            execution_id=execution_id,
            fence=0,
            expected_seq=0,
            events=shared,
            create=create,
            state=ExecutionState.SCHEDULED,
        )
        if not self._stored(append):
            raise ExecutionConflictError(
                f"there is an execution {execution_id!r} already: take another id for the fork"
            )
        return self.row(execution_id)


def _id_of(workflow: str, key: str) -> str:
    """The execution that a key stands for: the same for the same key of the same workflow."""
    return hashlib.blake2b(json.dumps([workflow, key]).encode(), digest_size=16).hexdigest()
