"""Every error that Flux raises on purpose.

    FluxError
    ├── ExecutionError               a task or an execution failed; also an instance of the original class
    │   ├── ExecutionTimeoutError    an attempt ran longer than its timeout (also a TimeoutError)
    │   ├── RetryError               every attempt failed; inner_exception is the last error
    │   ├── TaskInterruptedError     an attempt that may run at most once was interrupted
    │   └── ExecutionCancelledError  a child execution was cancelled
    ├── NonDeterminismError          the body asked for something else than its history holds
    ├── BodyError                    a body did what only a task may do (also a RuntimeError)
    ├── InvalidValueError            a value was refused before anything was recorded (also a ValueError)
    │   ├── UnserializableValue      no codec for a value; names the path inside it (also a TypeError)
    │   └── InvalidInputError        an input does not fit the workflow or the execution
    ├── NotFoundError                there is no such thing (also a LookupError)
    │   ├── WorkflowNotFoundError
    │   ├── ExecutionContextNotFoundError
    │   └── SecretNotFoundError      (also a ValueError)
    ├── ExecutionConflictError       the execution is not in a state that allows this
    ├── SecretError                  a secret, or its key, cannot be used
    └── StoreError                   the database cannot be used
        ├── NewerDatabaseError       written by a newer Flux
        └── CorruptedDatabaseError   damaged; nothing is served from it

A message says what happened, why, and what to do next.
"""


class FluxError(Exception):
    """The base of every error of Flux."""


class ExecutionError(FluxError):
    """A task, or an execution, failed.

    What a failed task raises in a body is an `ExecutionError` and an instance of the original
    error's class at once, so that `except ValueError` and `except ExecutionError` both catch it.

    Args:
        message: What happened; never empty when shown.
        inner_exception: The error that caused this one, where there is one.
    """

    inner_exception: BaseException | None = None

    def __init__(self, message: str = "", *, inner_exception: BaseException | None = None) -> None:
        super().__init__(message)
        self.inner_exception = inner_exception

    @property
    def message(self) -> str:
        """The text of this error."""
        return str(self)


class ExecutionTimeoutError(ExecutionError, TimeoutError):
    """An attempt ran longer than its `timeout`."""


class RetryError(ExecutionError):
    """Every attempt of a task failed; `inner_exception` is the last attempt's error."""


class TaskInterruptedError(ExecutionError):
    """An attempt of a task with `at_most_once=True` was interrupted: how far it came is not known."""


class ExecutionCancelledError(ExecutionError):
    """A child execution was cancelled, by somebody else than its parent."""


class NonDeterminismError(FluxError):
    """The body asked for something else than its history holds: its code changed, or it is not pure."""


class BodyError(FluxError, RuntimeError):
    """A workflow body did what only a task may do."""


class InvalidValueError(FluxError, ValueError):
    """A value was refused before anything was recorded."""


class UnserializableValue(InvalidValueError, TypeError):  # noqa: N818 - the name users know.
    """No codec holds a value exactly; the message names the path inside the value."""


class InvalidInputError(InvalidValueError):
    """An input does not fit the workflow's annotation, or another one is recorded."""


class NotFoundError(FluxError, LookupError):
    """There is no such thing."""


class WorkflowNotFoundError(NotFoundError):
    """No workflow of that name is loaded."""


class ExecutionContextNotFoundError(NotFoundError):
    """No execution of that id is recorded."""


class SecretNotFoundError(NotFoundError, ValueError):
    """A secret that was requested is not there."""


class ExecutionConflictError(FluxError):
    """The execution is not in a state that allows this."""


class SecretError(FluxError):
    """A secret cannot be decrypted, or its key cannot be read."""


class StoreError(FluxError):
    """The database cannot be used."""


class NewerDatabaseError(StoreError):
    """The database was written by a newer Flux; this one would not understand it."""


class CorruptedDatabaseError(StoreError):
    """The database is damaged; nothing is served from it."""
