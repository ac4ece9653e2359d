"""A program that does with its secrets all that goes wrong, each in a way of its own; `test_secret_canary` runs it."""

import asyncio
import base64
import dataclasses
import json
import logging
import os
import reprlib
import sys
import urllib.parse
from pathlib import Path

from flux import ExecutionContext, task, workflow
from flux.domain.redaction import Redactor
from flux.errors import FluxError
from flux.secret_managers import SecretManager
from flux.tasks import progress

COUNT = 30
if os.environ.get("CONTROL"):  # Nothing is covered and nothing refused: then each way must be seen to leak.
    Redactor.text = lambda self, text: text
    Redactor.find = lambda self, *_, **__: None


@workflow
async def echo(ctx: ExecutionContext):
    return ctx.input


@dataclasses.dataclass
class Login:
    user: str
    password: str


@task
async def tell(note):
    return len(str(note))


@task
async def fails_inside(login):
    raise PermissionError(f"no {login()}")


def in_text(key):
    raise ValueError(f"cannot log in with {key}")


def in_arguments(key):
    raise ValueError("cannot log in", {"headers": [("Authorization", key.encode())]})


def in_repr(key):
    raise ValueError(repr(Login("ada", key)))


def in_attribute(key):
    error = RuntimeError("cannot log in")
    error.login = Login("ada", key)
    raise error


def in_note(key):
    error = RuntimeError("cannot log in")
    error.add_note(f"as {key}")
    raise error


def in_cause(key):
    try:
        raise KeyError(key)
    except KeyError as error:
        raise RuntimeError("cannot log in") from error


def in_group(key):
    raise ExceptionGroup("several", [ValueError("one"), ValueError({key: 1})])


def in_url(key):
    raise OSError(f"GET https://host/?key={urllib.parse.quote(key, safe='')} failed")


def in_json(key):
    raise ValueError(json.dumps({"key": key}))


def in_base64(key):
    raise ValueError(f"Basic {base64.b64encode(f'user:{key}'.encode()).decode()}")


def in_hexadecimal(key):
    raise ValueError(key.encode().hex())


def in_part(key):
    raise ValueError(reprlib.repr(key))


def in_what_is_cut(key):
    raise ValueError("-" * 1_480 + key + "-" * 100_000)


def in_exit(key):
    sys.exit(f"cannot log in with {key}")


def in_result(key):
    return {"key": [key]}


def in_bytes(key):
    return b"\x00" + key.encode()


def in_encoded_result(key):
    return base64.b64encode(key.encode()).decode()


async def in_progress(key):
    await progress(f"with {key}")
    raise ValueError("cannot log in")


async def in_inner_argument(key):
    await tell({"key": key})


async def in_inner_error(key):
    class Hidden:
        def __call__(self):
            return key

    global hidden
    hidden = Hidden()
    await fails_inside(call_hidden)


def in_another_execution(key):
    echo.run({"key": key})


def call_hidden():
    return hidden()


def in_fallback(key):
    global hidden
    hidden = lambda: key  # noqa: E731
    raise ValueError("cannot log in")


def says_it(*_):
    raise ValueError(f"neither with {hidden()}")


def gives_it(*_):
    return {"key": hidden()}


WAYS = [
    in_text,
    in_arguments,
    in_repr,
    in_attribute,
    in_note,
    in_cause,
    in_group,
    in_url,
    in_json,
    in_base64,
    in_hexadecimal,
    in_part,
    in_what_is_cut,
    in_exit,
    in_result,
    in_bytes,
    in_encoded_result,
    in_progress,
    in_inner_argument,
    in_inner_error,
    in_another_execution,
]


def leak(number):
    """A task that is given secret `number`, and lets it out in a way of its own."""
    way = WAYS[number % len(WAYS)]
    options = {"name": f"leak_{number}", "secret_requests": [f"S{number}"]}
    if number == 21:
        way, options["fallback"] = in_fallback, says_it
    elif number == 22:
        way, options["fallback"] = in_fallback, gives_it
    elif number == 23:
        way, options["rollback"] = in_fallback, says_it
    elif number == 24:
        options |= {"retry_max_attempts": 1, "retry_delay": 0}
    elif number in {25, 26}:
        options["name"] = "leak {note}"  # Called with the secret.

    async def body(note=None, *, secrets):
        done = way(secrets[f"S{number}"])
        return await done if asyncio.iscoroutine(done) else done

    return task.with_options(**options)(body)


@task.with_options(executor="process", secret_requests=["S27"])
def leak_in_process(*, secrets):
    raise ValueError(f"the process says {secrets['S27']}")


LEAKS = {number: leak(number) for number in range(COUNT)}
LEAKS[27] = leak_in_process


@task
async def wait():
    Path("waiting").touch()
    await asyncio.sleep(1000)


@workflow
async def leaks(ctx: ExecutionContext):
    said = []
    for number in range(COUNT - 2):
        arguments = [os.environ["NOTE"].split("\n")[number - 25]] if number in {25, 26} else []
        try:
            said.append(await LEAKS[number](*arguments))
        except (OSError, RuntimeError, ValueError, FluxError, ExceptionGroup) as error:
            said.append(f"{error} {error!r}")
    if ctx.input == "wait":
        await wait()
    return said if ctx.input == "said" else await LEAKS[28]()


@workflow.with_options(secret_requests=["S29"])
async def given(ctx: ExecutionContext):
    return ctx.input


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    ctx = leaks.run(None)
    print(ctx.to_json(), ctx.to_dict(), ctx.summary(), ctx.events, repr(ctx.output))
    for event in ctx.events:
        print(event, event.value, getattr(event.value, "__dict__", None), event.detail)
    print(SecretManager.current().all())
    try:
        given.run(asyncio.run(SecretManager.current().get(["S29"])))
    except ValueError as error:
        print(error)
