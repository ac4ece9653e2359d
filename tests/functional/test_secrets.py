"""Secrets in tasks: given to those that request them, and in nothing that is recorded, whatever the tasks do."""

import asyncio
import contextlib
import contextvars
from pathlib import Path
from typing import Any

import pytest

import flux.app
from flux import ExecutionContext, pause, task, workflow
from flux.engine.open_calls import OpenCalls
from flux.errors import BodyError, ExecutionError, InvalidInputError, InvalidValueError, RetryError, SecretError
from flux.output_storage import LocalFileStorage
from flux.secret_managers import SecretManager
from flux.tasks import progress
from flux.tasks.signal import wait_for_signal
from functional.kit import Kit, recorded_ids, run_script, types, whole

SECRET = "correct-horse-battery-staple"
MISSING = "The following secrets were not found: ['K']"
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def keys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the keys, of this test alone."""
    SEEN.clear()
    path = tmp_path_factory.mktemp("keys") / "secret.keys"
    monkeypatch.setenv("FLUX_SECRET_KEY_FILE", str(path))
    return path


@task.with_options(secret_requests=["K"])
async def use(note: Any = None, *, secrets: dict[str, Any]) -> int:
    SEEN.append((note, secrets))
    return len(secrets["K"])


@task
async def tell(note: Any) -> None:
    SEEN.append(note)


def calling(function: Any, *arguments: Any, **options: Any) -> Any:
    """A workflow that calls one task."""

    @workflow.with_options(name="caller", **options)
    async def caller(ctx: ExecutionContext[Any]) -> Any:
        return await function(*arguments)

    return caller


def on_disk(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())


def assert_clean(kit: Kit, home: Path, ctx: Any, secret: str = SECRET) -> None:
    """Nothing of the secret is in the history, on the disk, or in what is shown of the execution."""
    for text in (ctx.to_json(), str(ctx.output), repr(whole(ctx)), on_disk(home).decode("latin-1")):
        assert secret[:12] not in text
        assert secret[-12:] not in text
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))


# -- given


def test_a_task_is_given_what_it_requests_and_the_history_has_none_of_it(both: Kit, home: Path) -> None:
    both.app.secrets.save("K", SECRET)
    ctx = both.run(calling(use, 1))

    assert ctx.output == len(SECRET)
    assert SEEN == [(1, {"K": SECRET})]
    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert ctx.events[1].value == {"note": 1}
    assert_clean(both, home, ctx)


def test_what_a_task_does_to_its_secrets_stays_with_it(kit: Kit) -> None:
    kit.app.secrets.save("K", {"a": "first-value"})

    @task.with_options(secret_requests=["K"])
    async def spoil(*, secrets: dict[str, Any]) -> None:
        secrets.clear()

    @workflow
    async def body(ctx: ExecutionContext[Any]) -> int:
        await spoil()
        return await use()

    assert kit.run(body).output == 1


def test_the_names_of_users_code_read_and_write_secrets(home: Path) -> None:
    manager = SecretManager.current()
    manager.save("K", SECRET)

    assert manager.all() == ["K"]
    assert asyncio.run(SecretManager.current().get(["K"])) == {"K": SECRET}
    manager.remove("K")
    assert manager.all() == []


def test_a_secret_is_found_while_others_read_the_database(home: Path) -> None:
    """It is looked up in the middle of a body, where the guard refuses to open files, as another reader would."""
    SecretManager.current().save("K", SECRET)

    @workflow
    async def telling_then_using(ctx: ExecutionContext[Any]) -> Any:
        await tell("first")
        return await use()

    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(flux.app.current().store._database.read())  # type: ignore[attr-defined]
        assert telling_then_using.run().output == len(SECRET)


def test_a_task_outside_a_workflow_is_given_its_secrets_too(home: Path) -> None:
    SecretManager.current().save("K", SECRET)

    assert asyncio.run(use("plain")) == len(SECRET)

    @task.with_options(secret_requests=["K"])
    async def fail(*, secrets: dict[str, Any]) -> None:
        raise ValueError(f"refused: {secrets['K']}")

    with pytest.raises(ValueError, match=r"refused: \[secret K\]"):
        asyncio.run(fail())


def test_tasks_in_threads_and_in_processes_are_given_their_secrets_and_their_errors_are_covered(home: Path) -> None:
    out = run_script(
        home,
        """
        from flux.secret_managers import SecretManager

        @task.with_options(secret_requests=["K"], executor="process")
        def in_process(*, secrets): raise ValueError(f"process {secrets['K']}")

        @task.with_options(secret_requests=["K"])
        def in_thread(*, secrets): raise ValueError(f"thread {secrets['K']}")

        @workflow
        async def both(ctx):
            found = []
            for each in (in_process, in_thread):
                try:
                    await each()
                except ValueError as error:
                    found.append(str(error))
            return found

        if __name__ == "__main__":
            SecretManager.current().save("K", "correct-horse-battery-staple")
            print(both.run().output)
        """,
    )

    assert out == "['process [secret K]', 'thread [secret K]']\n"
    assert SECRET.encode() not in on_disk(home / ".flux")


# -- missing, and not to be opened


def test_a_missing_secret_fails_the_task_with_the_documented_error(both: Kit) -> None:
    ctx = both.run(calling(use))

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert isinstance(ctx.output, ExecutionError)
    assert isinstance(ctx.output.inner_exception, ValueError)
    assert str(ctx.output) == str(ctx.output.inner_exception) == MISSING
    assert SEEN == []


def test_a_secret_that_comes_while_the_task_retries_is_found(kit: Kit) -> None:
    patient = use.with_options(retry_max_attempts=2, retry_delay=10)

    async def later() -> Any:
        running = asyncio.ensure_future(calling(patient).run_async())
        await asyncio.sleep(15)
        kit.app.secrets.save("K", SECRET)
        return await running

    assert kit.drive(later()).output == len(SECRET)


def test_a_workflow_whose_secrets_are_missing_is_not_even_recorded(home: Path) -> None:
    needy = calling(tell, 1, secret_requests=["K"])

    for start in (needy.run, needy.start, lambda: asyncio.run(needy.run_async())):
        with pytest.raises(ValueError) as raised:
            start()
        assert str(raised.value) == MISSING
    assert recorded_ids() == []
    assert SEEN == []
    SecretManager.current().save("K", SECRET)
    assert needy.run().has_succeeded


def test_without_the_right_key_nothing_runs_and_the_message_says_which_is_missing(home: Path, keys: Path) -> None:
    SecretManager.current().save("K", SECRET)
    keys.rename(keys.with_name("away"))
    SecretManager.current().keys._keys = None  # As another process.
    needy = calling(use, 1, secret_requests=["K"])

    with pytest.raises(SecretError, match="encrypted with the key .*, which is not here"):
        needy.run()
    assert recorded_ids() == []
    ctx = calling(use).run()
    assert isinstance(ctx.output, SecretError)
    assert SEEN == []
    assert not keys.exists()
    assert SECRET.encode() not in on_disk(home)


# -- results


@pytest.mark.parametrize("shown", [str, lambda s: {"a": [s]}, lambda s: f"https://u:{s}@x", lambda s: s.encode()])
def test_a_result_that_holds_the_secret_fails_the_call_and_is_not_tried_again(kit: Kit, home: Path, shown: Any) -> None:
    kit.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"], retry_max_attempts=3)
    async def give(*, secrets: dict[str, Any]) -> Any:
        SEEN.append("given")
        return shown(secrets["K"])

    ctx = kit.run(calling(give))

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert isinstance(ctx.output, InvalidValueError)
    assert "the result of 'give' holds a secret that it requested, at value" in str(ctx.output)
    assert SEEN == ["given"]
    assert_clean(kit, home, ctx)


def test_a_result_that_holds_the_secret_does_not_reach_an_output_storage(kit: Kit, home: Path) -> None:
    kit.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"], output_storage=LocalFileStorage(home / "outputs"))
    async def give(*, secrets: dict[str, Any]) -> Any:
        return {"a": secrets["K"]}

    ctx = kit.run(calling(give))

    assert "at value['a']" in str(ctx.output)
    assert not (home / "outputs").exists()
    assert_clean(kit, home, ctx)


# -- arguments


def test_an_argument_that_holds_the_secret_is_not_recorded_and_fails_the_call(both: Kit, home: Path) -> None:
    both.app.secrets.save("K", SECRET)

    @workflow
    async def body(ctx: ExecutionContext[Any]) -> Any:
        try:
            await use({"x": f"token {SECRET}"})  # The body knows it by itself: from its code, or the environment.
        except InvalidValueError as error:
            return [str(error), await pause("p"), await use("well")]

    paused = both.run(body, None, "one")
    ctx = both.resume(body, "one", "yes")

    assert "'use' was called with a secret that it requests, at arguments['note']['x']" in ctx.output[0]
    assert ctx.output[1:] == ["yes", len(SECRET)]
    assert [note for note, _ in SEEN] == ["well"]
    assert paused.events[1].value == "[the arguments held a secret]"
    assert_clean(both, home, ctx)


def test_a_task_that_does_not_request_the_secret_records_what_it_is_given(kit: Kit, home: Path) -> None:
    """The control: what is passed as an ordinary value is one, and looking for it on the disk finds it."""
    kit.app.secrets.save("K", SECRET)
    ctx = kit.run(calling(tell, SECRET))

    assert ctx.has_succeeded
    with pytest.raises(AssertionError):
        assert_clean(kit, home, ctx)


def test_a_name_that_is_made_of_a_secret_argument_is_not_recorded(both: Kit, home: Path) -> None:
    both.app.secrets.save("K", SECRET)
    named = use.with_options(name="use {note}")
    ctx = both.run(calling(named, SECRET))

    assert ctx.events[1].name == "use {note}"
    assert isinstance(ctx.output, InvalidValueError)
    assert_clean(both, home, ctx)


def test_a_call_that_was_refused_is_refused_again_after_a_crash(kit: Kit, home: Path, monkeypatch: Any) -> None:
    kit.app.secrets.save("K", SECRET)
    from flux.engine.performer import Performer

    with monkeypatch.context() as patch:
        patch.setattr(Performer, "perform", lambda *_, **__: None)  # It dies between the start and the first attempt.
        kit.run_for(5, calling(use, SECRET).run_async(None, execution_id="one"))
    ctx = kit.run(calling(use, SECRET), None, "one")

    assert isinstance(ctx.output, InvalidValueError)
    assert SEEN == []
    assert_clean(kit, home, ctx)


def test_an_input_that_holds_a_secret_of_the_workflow_is_refused_before_anything_is_recorded(home: Path) -> None:
    SecretManager.current().save("K", SECRET)
    needy = calling(tell, 1, secret_requests=["K"])

    for start in (needy.run, needy.start):
        with pytest.raises(InvalidInputError, match=r"holds a secret that it requests, at input\['a'\]"):
            start({"a": SECRET})
    assert recorded_ids() == []
    assert SECRET.encode() not in on_disk(home)


# -- children


@workflow.with_options(secret_requests=["K"])
async def needing(ctx: ExecutionContext[Any]) -> Any:
    return await use(ctx.input["x"] if ctx.input else None)


@workflow
async def mother(ctx: ExecutionContext[Any]) -> Any:
    try:
        await needing({"x": f"token {SECRET}"})
    except InvalidInputError as error:
        return [str(error), await pause("p"), await needing({"x": "well"})]


def test_the_input_of_a_child_that_holds_a_secret_of_the_child_is_not_recorded_and_fails_the_call(
    both: Kit, home: Path
) -> None:
    both.app.secrets.save("K", SECRET)

    paused = both.run(mother, None, "one")
    assert [row.execution_id for row in both.store.list()] == ["one"]
    ctx = both.resume(mother, "one", "yes")

    assert "'needing' was called with a secret that it requests, at arguments['input']['x']" in ctx.output[0]
    assert ctx.output[1:] == ["yes", len(SECRET)]
    assert paused.events[1].value == "[the arguments held a secret]"
    assert_clean(both, home, ctx)


def test_a_child_that_was_refused_is_refused_again_after_a_crash(kit: Kit, home: Path, monkeypatch: Any) -> None:
    kit.app.secrets.save("K", SECRET)
    with monkeypatch.context() as patch:
        patch.setattr(OpenCalls, "_refuse", lambda *_: None)  # It dies between the start and the refusal.
        kit.run_for(5, mother.run_async(None, execution_id="one"))
    kit.app.secrets.save("K", "another-secret-by-now")
    ctx = kit.run(mother, None, "one")

    assert [event.type for event in ctx.events if event.call_id == "1"] == ["TASK_STARTED", "TASK_FAILED"]
    assert "'needing' was called with a secret that it requests, at arguments, and" in str(ctx.events[2].value)
    assert_clean(kit, home, ctx)


def test_a_child_that_is_given_up_before_it_is_refused_was_never_there(kit: Kit, home: Path) -> None:
    kit.app.secrets.save("K", SECRET)

    @workflow
    async def hasty(ctx: ExecutionContext[Any]) -> Any:
        child = asyncio.ensure_future(needing({"x": SECRET}))
        await asyncio.sleep(0)
        child.cancel()
        return await asyncio.gather(child, return_exceptions=True)

    ctx = kit.run(hasty, None, "one")

    assert types(ctx) == ["WS", "TS", "TASK_CANCELLED", "WC"]
    assert [row.execution_id for row in kit.store.list()] == ["one"]
    assert_clean(kit, home, ctx)


async def _pause(text: str) -> Any:
    return await pause("p", output=text)


@workflow
async def other(ctx: ExecutionContext[Any]) -> Any:
    return await wait_for_signal("news")


@pytest.mark.parametrize(
    ("callee", "name", "path"),
    [
        (lambda text: tell([text]), "tell", "arguments['note'][0]"),
        (use, "use", "arguments['note']"),
        (_pause, "pause", "arguments['output']"),
    ],
    ids=["a task", "a task that requests it too", "a pause"],
)
def test_a_task_cannot_hand_its_secret_to_a_call_that_it_makes(
    both: Kit, home: Path, callee: Any, name: str, path: str
) -> None:
    both.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"])
    async def outer(*, secrets: dict[str, Any]) -> Any:
        return await callee(secrets["K"])

    ctx = both.run(calling(outer))

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert f"'{name}' was given a secret that the task 'outer' requested, at {path}" in str(ctx.output)
    assert SEEN == []
    assert_clean(both, home, ctx)


@pytest.mark.parametrize("how", ["run", "start", "signal"])
def test_a_task_cannot_send_its_secret_to_another_execution(home: Path, how: str) -> None:
    SecretManager.current().save("K", SECRET)
    other.run(None, execution_id="other")

    @task.with_options(secret_requests=["K"])
    def send(*, secrets: dict[str, Any]) -> Any:
        match how:
            case "run":
                other.run({"a": secrets["K"]})
            case "start":
                other.start({"a": secrets["K"]})
            case "signal":
                other.signal("other", "news", {"a": secrets["K"]})

    ctx = calling(send).run()

    assert "was given a secret that the task 'send' requested, at value['a']" in str(ctx.output)
    assert SECRET.encode() not in on_disk(home)


_hidden: contextvars.ContextVar[str] = contextvars.ContextVar("hidden")


@task
async def inner(how: str) -> Any:
    if how == "raise":
        raise ValueError(f"inner {_hidden.get()}")
    if how == "return":
        return _hidden.get()
    await tell(_hidden.get())


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("raise", "inner [secret K]"),
        ("return", "the result of 'inner' holds a secret"),
        ("call", "'tell' was given a secret"),
    ],
)
def test_what_a_task_knows_the_tasks_inside_it_do_not_record(both: Kit, home: Path, how: str, text: str) -> None:
    both.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"])
    async def outer(*, secrets: dict[str, Any]) -> Any:
        _hidden.set(secrets["K"])
        return await inner(how)

    ctx = both.run(calling(outer))

    assert text in str(ctx.output)
    assert_clean(both, home, ctx)


# -- errors, progress, and what follows a failure


def test_errors_of_all_attempts_are_covered_with_their_causes_attributes_and_tracebacks(both: Kit, home: Path) -> None:
    both.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"], retry_max_attempts=1, retry_delay=1)
    async def fail(*, secrets: dict[str, Any]) -> None:
        key = secrets["K"]
        try:
            raise KeyError({"header": [key.encode()]})
        except KeyError as cause:
            error = RuntimeError(f"cannot log in as {key!r}", secrets)
            error.key = key
            error.add_note(f"with {key[:20]}…")
            raise error from cause

    ctx = both.run(calling(fail))

    assert types(ctx) == ["WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_FAILED", "TF", "WF"]
    assert isinstance(ctx.output.inner_exception, RetryError)
    assert "cannot log in as '[secret K]'" in str(ctx.output)
    assert_clean(both, home, ctx)


def test_progress_is_covered(both: Kit, home: Path) -> None:
    both.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"])
    async def report(*, secrets: dict[str, Any]) -> None:
        await progress({"with": secrets["K"]})
        await asyncio.sleep(1)

    ctx = both.run(calling(report))

    assert [event.value for event in ctx.events if event.type == "TASK_PROGRESS"] == [{"with": "[secret K]"}]
    assert_clean(both, home, ctx)


@pytest.mark.parametrize("option", ["fallback", "rollback"])
def test_what_follows_a_failure_is_given_the_arguments_and_no_secrets(both: Kit, home: Path, option: str) -> None:
    both.app.secrets.save("K", SECRET)

    async def after(*arguments: Any, **keywords: Any) -> str:
        SEEN.append((arguments, keywords))
        return "after"

    @task.with_options(secret_requests=["K"], **{option: after})
    async def fail(x: int, *, secrets: dict[str, Any]) -> None:
        raise ValueError(secrets["K"])

    ctx = both.run(calling(fail, 7))

    assert SEEN == [((7,), {})]
    assert ctx.has_succeeded is (option == "fallback")
    assert_clean(both, home, ctx)


@pytest.mark.parametrize("option", ["fallback", "rollback"])
def test_what_follows_a_failure_does_not_record_the_secret_either(both: Kit, home: Path, option: str) -> None:
    both.app.secrets.save("K", SECRET)

    @task.with_options(secret_requests=["K"], **{option: lambda: SECRET})
    async def fail(*, secrets: dict[str, Any]) -> None:
        raise ValueError("no")

    ctx = both.run(calling(fail))

    assert ctx.has_failed
    assert_clean(both, home, ctx)


# -- bodies


def test_the_body_of_a_workflow_is_not_given_secrets(home: Path) -> None:
    SecretManager.current().save("K", SECRET)

    @workflow
    async def body(ctx: ExecutionContext[Any]) -> Any:
        return await SecretManager.current().get(["K"])

    ctx = body.run()

    assert isinstance(ctx.output, BodyError)
    assert "secret_requests" in str(ctx.output)
