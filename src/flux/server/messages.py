"""What can be sent to executions from outside: a resume, a signal, a cancel.

Everything here is refused before anything is recorded, or is durable when it returns; whoever runs the execution
delivers it.
"""

from collections.abc import Callable
from typing import Any

from flux import serde
from flux.clock import Clock
from flux.engine import at_once
from flux.engine.calls import refuse_in_body, refuse_secrets
from flux.errors import ExecutionConflictError, ExecutionContextNotFoundError, InvalidValueError
from flux.ports import NOW, ExecutionRow, MessageKind, Store


class Messages:
    """Puts messages into the inboxes of a store.

    Args:
        store: Where the executions are.
        clock: For the times of what is sent.
        nudge: Told of an execution that something was sent to: it may run here.
    """

    def __init__(self, store: Store, clock: Clock, nudge: Callable[[str], None]) -> None:
        self.store, self.clock, self._nudge = store, clock, nudge

    def row(self, execution_id: str) -> ExecutionRow:
        """The row of an execution.

        Raises:
            ExecutionContextNotFoundError: There is none of that id.
        """
        row = self.store.get(execution_id)
        if row is None:
            raise unknown(execution_id)
        return row

    def resume(
        self,
        execution_id: str,
        value: Any,
        *,
        workflow: str | None = None,
        name: str | None = None,
        client_id: str | None = None,
    ) -> ExecutionRow:
        """Put a resume into an execution's inbox, durably; whoever runs it delivers it.

        Args:
            execution_id: Which execution.
            value: What the pause returns in the body.
            workflow: The name that the execution's workflow must have.
            name: Answer the pause of this name, not the oldest one.
            client_id: Of this resume: a repeat with the same one is ignored.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It has no such open pause, or belongs to another workflow.
            UnserializableValue: The value cannot be recorded.
        """
        row = self.row(execution_id)
        check_workflow(row, workflow)
        data = serde.encode(value)
        refuse_secrets("a resume", value)
        now = self.clock.now()
        if self.store.resume(execution_id, data=data, now=now, name=name, client_id=client_id) is None:
            raise _not_resumable(row, name)
        self._nudge(execution_id)
        return row

    def signal(
        self,
        execution_id: str,
        name: str,
        value: Any,
        *,
        workflow: str | None = None,
        client_id: str | None = None,
    ) -> ExecutionRow:
        """Put a signal into an execution's inbox, durably.

        Args:
            execution_id: Which execution.
            name: Of the signal.
            value: What `wait_for_signal` returns in the body.
            workflow: The name that the execution's workflow must have.
            client_id: Of this signal: a repeat with the same one is ignored.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is finished, or belongs to another workflow.
            InvalidValueError: The name is not a text.
            UnserializableValue: The value cannot be recorded.
        """
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"a signal is named {name!r}: name it by a text that says what has happened")
        refuse_secrets("a signal", value)
        return self._send(MessageKind.SIGNAL, execution_id, workflow, serde.encode(value), name, client_id)

    def cancel(self, execution_id: str, *, workflow: str | None = None, now: bool = False) -> ExecutionRow:
        """Ask an execution to cancel, durably; also one that is blocked, which ends without its clean-up then.

        Args:
            execution_id: Which execution.
            workflow: The name that the execution's workflow must have.
            now: End it and its children without any clean-up: who runs it does so at once, and of those that nobody
                runs this call does.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is finished, or belongs to another workflow.
        """
        refuse_in_body("a cancel")
        row = self.store.get(execution_id)
        if now and row is not None and row.state.is_finished:
            check_workflow(row, workflow)
            if at_once.end(self.store, self.clock, execution_id, self._nudge):
                return row  # Whoever ended it before died before it could end its children.
        row = self._send(MessageKind.CANCEL, execution_id, workflow, serde.encode(None), NOW if now else "", None)
        if now:
            at_once.end(self.store, self.clock, execution_id, self._nudge)
        elif row.blocked_reason is not None:
            self.store.unblock(execution_id)
        return row

    def _send(
        self,
        kind: MessageKind,
        execution_id: str,
        workflow: str | None,
        data: bytes,
        name: str,
        client_id: str | None,
    ) -> ExecutionRow:
        refuse_in_body(f"a {kind}")
        row = self.row(execution_id)
        check_workflow(row, workflow)
        now = self.clock.now()
        if not self.store.send(execution_id, kind=kind, data=data, now=now, name=name, client_id=client_id):
            raise ExecutionConflictError(
                f"execution {execution_id!r} is {self.row(execution_id).state}, so a {kind} would change nothing: "
                "start a new execution instead"
            )
        self._nudge(execution_id)
        return row


def check_workflow(row: ExecutionRow, name: str | None) -> None:
    """Raises: ExecutionConflictError: The execution belongs to another workflow."""
    if name is not None and row.workflow != name:
        raise ExecutionConflictError(
            f"execution {row.execution_id!r} belongs to the workflow {row.workflow!r}, not to {name!r}: "
            f"continue it through {row.workflow!r}"
        )


def unknown(execution_id: str) -> ExecutionContextNotFoundError:
    """The error of an id that nothing has."""
    return ExecutionContextNotFoundError(
        f"there is no execution {execution_id!r} in this database: 'flux executions list' shows those that there are"
    )


def _not_resumable(row: ExecutionRow, name: str | None) -> ExecutionConflictError:
    if row.state.is_finished:
        return ExecutionConflictError(
            f"execution {row.execution_id!r} is {row.state} and waits for nothing: start a new one instead"
        )
    which = f"no open pause named {name!r}" if name else "no open pause"
    return ExecutionConflictError(
        f"execution {row.execution_id!r} is {row.state} and has {which} that is not answered yet: "
        f"'flux executions show {row.execution_id}' tells what it waits for"
    )
