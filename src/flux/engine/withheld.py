"""Calls whose arguments hold a secret that what they call requests: it is not recorded, and the call fails."""

from flux.domain.redaction import Redactor
from flux.engine.calls import Call
from flux.engine.loop import aside
from flux.engine.parts import Secrets
from flux.errors import FluxError, InvalidInputError


def path_to_secret(call: Call, secrets: Secrets) -> str | None:
    """Where in the arguments of a call a secret is, or None."""
    try:
        with aside():
            redactor = Redactor(secrets(call.target.secret_requests))
    except FluxError:  # Whoever is called meets it, too, and says it.
        return None
    return redactor.find(call.arguments.named, call.arguments.data, path="arguments")


def refusal(call: Call, secrets: Secrets) -> InvalidInputError:
    """Why a child is not even created; a task is refused by its attempt."""
    path = path_to_secret(call, secrets) or "arguments"  # The secret may be another one since.
    return InvalidInputError(
        f"{call.name!r} was called with a secret that it requests, at {path}, and its input would be recorded: leave "
        "it out, and let the task that needs the secret request it"
    )
