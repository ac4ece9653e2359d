"""The command line beside a server: retry, fork, why, workflows and workers, here and by HTTP with the same output."""

import json
import re
import signal

import pytest

from e2e.command import HEAD, run, wait_for
from e2e.serving import free_port, serving

FILES = {
    "hello.py": """
@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"

@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    "Greets somebody."
    return await greet(ctx.input)
""",
    "more.py": """
@task
async def count(key):
    with open("counted", "a") as file:
        file.write(f"{key} ")
    return key

@task
async def check():
    if not pathlib.Path("mended").exists():
        raise RuntimeError("the ledger is closed")
    return "checked"

@workflow
async def ledger(ctx):
    return [await count(ctx.input), await check()]

@workflow
async def approve(ctx):
    return [ctx.input, await pause("approval")]

@workflow
async def paid(ctx):
    return await wait_for_signal("paid")

@workflow
async def stay(ctx):
    await asyncio.sleep(3600)

@workflow
async def stubborn(ctx):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@workflow
async def family(ctx):
    return [await approve(ctx.input)]
""",
}

pytestmark = pytest.mark.slow  # Each command is a process.


@pytest.fixture
def site(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(f"{HEAD}{text}", "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("server")
    for name, text in FILES.items():
        (directory / name).write_text(f"{HEAD}{text}", "utf-8")
    with serving(directory, "dev", "hello.py", "more.py", "--port", "0", "--no-reload") as served:
        yield served


def ask(server, *words, **variables):
    """A command that speaks to the server, from a directory that has no database."""
    elsewhere = server.directory / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    done = run(elsewhere, *words, FLUX_SERVER=server.url, **variables)
    assert not (elsewhere / ".flux").exists()
    return done


UNSTABLE = re.compile(r"\d+(\.\d)? (ms|s|min)\b( \d\d s)?|\s+$", re.MULTILINE)


def stable(text: str) -> str:
    return re.sub(r" +", " ", UNSTABLE.sub("", text))


@pytest.fixture(scope="module")
def executions(server):
    """One of each kind that can be shown."""
    server.start("hello", "World", wait=10, execution_id="first", attributes={"customer": "7"})
    server.start("approve", 1, wait=10, execution_id="waiting")
    server.start("ledger", 1, wait=10, execution_id="broken")
    server.start("family", 1, wait=10, execution_id="parent")
    server.start("stay", execution_id="asleep")
    server.until("asleep", "RUNNING", "SCHEDULED")


# -- the same by HTTP


@pytest.mark.parametrize(
    "words",
    [
        ("executions", "list"),
        ("executions", "list", "--json"),
        ("executions", "list", "--workflow", "approve", "--state", "paused", "--json"),
        ("executions", "list", "--attribute", "customer=7", "--since", "1h"),
        ("executions", "show", "first"),
        ("executions", "show", "waiting"),
        ("executions", "show", "broken"),
        ("executions", "show", "parent"),
        ("executions", "show", "nobody-knows"),
        ("executions", "show", "first", "--json"),
        ("executions", "show", "broken", "--json"),
        ("executions", "show", "parent", "--json"),
        ("executions", "why", "first"),
        ("executions", "why", "waiting"),
        ("executions", "why", "parent"),
        ("executions", "why", "broken", "--json"),
        ("executions", "why", "asleep"),
        ("workflows", "list"),
        ("workflows", "show", "hello"),
        ("workflows", "show", "hello", "--json"),
        ("workflows", "show", "hallo"),
        ("workers", "list"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("executions")
def test_what_a_server_shows_is_what_its_database_shows(server, words):
    here, there = run(server.directory, *words), ask(server, *words)

    expected, got = (stable(each.stdout.replace(f"{server.directory}/", "")) for each in (here, there))
    assert got == expected
    assert ("RuntimeError: the ledger is closed" in got.partition("Traceback")[2]) is ("show broken" in " ".join(words))
    assert (there.returncode, there.stderr) == (here.returncode, here.stderr)
    assert got or there.stderr


def test_an_execution_is_answered_signalled_cancelled_retried_and_forked_at_a_server(server):
    server.start("approve", 1, wait=10, execution_id="answered")
    answered = ask(server, "executions", "resume", "answered", "yes")
    assert (answered.returncode, json.loads(answered.stdout)) == (0, [1, "yes"]), answered.stderr

    server.start("paid", execution_id="signalled")
    sent = ask(server, "executions", "signal", "signalled", "paid", "30", "--json")
    assert sent.returncode == 0, sent.stderr
    assert server.until("signalled", "COMPLETED")["output"] == 30

    server.start("stay", execution_id="cancelled")
    cancelled = ask(server, "executions", "cancel", "cancelled")
    assert cancelled.returncode == 0, cancelled.stderr
    assert server.get("/executions/cancelled")["state"] == "CANCELLED"

    server.start("stubborn", execution_id="stubborn")
    ended = ask(server, "executions", "cancel", "stubborn", "--now")
    assert ended.returncode == 0, ended.stderr
    assert server.get("/executions/stubborn")["state"] == "CANCELLED"

    forked = ask(server, "executions", "fork", "answered", "--from", "1", "--input", "2", "--id", "forked", "--json")
    assert forked.returncode == 4, forked.stderr
    assert json.loads(forked.stdout)["state"] == "PAUSED"
    assert server.get("/executions/forked")["input"] == 2

    server.start("ledger", 5, wait=10, execution_id="mended")
    (server.directory / "mended").touch()
    retried = ask(server, "executions", "retry", "mended")
    (server.directory / "mended").unlink()
    assert (retried.returncode, json.loads(retried.stdout)) == (0, [5, "checked"]), retried.stderr
    assert (server.directory / "counted").read_text().split().count("5") == 1


def test_an_error_of_a_server_ends_the_command_as_one_of_the_database_does(server):
    server.start("hello", "World", wait=10, execution_id="over")
    for words, code in (
        (("executions", "resume", "over"), 2),
        (("executions", "signal", "over", "paid"), 2),
        (("executions", "retry", "over"), 2),
        (("executions", "fork", "over", "--from", "99"), 2),
        (("executions", "cancel", "nobody"), 3),
    ):
        here, there = run(server.directory, *words), ask(server, *words)
        assert (here.returncode, there.returncode) == (code, code), (words, here.stderr, there.stderr)
        assert here.stderr == there.stderr


def test_the_flags_name_a_server_as_the_environment_does(server):
    done = run(server.directory / "..", "executions", "--server", server.url, "list", "--limit", "1", "--json")

    assert done.returncode == 0, done.stderr


def test_a_server_that_cannot_be_reached_is_named_with_the_reason(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    done = run(tmp_path, "--server", url, "executions", "list")

    assert done.returncode == 1
    assert f"the server {url} cannot be reached: Connection refused; see that it runs" in done.stderr


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--server", "localhost:7600", "executions", "list"), "no address of a server"),
        (("--server", "http://x", "--database", "a.db", "executions", "list"), "two places"),
        (("--server", "http://x", "run", "hello.py"), "--server is not for run"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused(tmp_path, words, why):
    done = run(tmp_path, *words)

    assert done.returncode == 2
    assert why in done.stderr


def test_what_answers_but_is_no_server_of_ours_is_told_apart(server):
    done = run(server.directory, "--server", f"{server.url}/elsewhere", "executions", "list")

    assert done.returncode == 3
    assert "Not Found" in done.stderr


# -- retry, fork and why without a server


def test_a_failed_execution_is_retried_here_with_what_had_succeeded(site):
    assert run(site, "run", "more.py:ledger", "7", "--id", "broken").returncode == 1
    (site / "mended").touch()
    done = run(site, "executions", "retry", "broken", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["output"] == [7, "checked"]
    assert json.loads(done.stdout)["execution_id"] != "broken"
    assert (site / "counted").read_text() == "7 "
    assert run(site, "executions", "why", "broken").stdout.startswith("broken is FAILED: nobody must act next")


def test_a_fork_begins_with_another_input_and_leaves_the_first_as_it_was(site):
    assert run(site, "run", "more.py:approve", "1", "--id", "first").returncode == 4
    before = run(site, "executions", "show", "first", "--json").stdout
    done = run(site, "executions", "fork", "first", "--from", "1", "--input", "2", "--id", "second")

    assert done.returncode == 4, done.stderr
    assert "executions resume second VALUE" in done.stderr
    assert json.loads(run(site, "executions", "show", "second", "--json").stdout)["input"] == 2
    assert run(site, "executions", "show", "first", "--json").stdout == before


def test_why_names_who_must_act_next_and_how(site):
    run(site, "run", "more.py:approve", "1", "--id", "first")
    run(site, "executions", "resume", "first", "yes", "--no-run")
    scheduled = run(site, "executions", "why", "first").stdout
    assert "first is SCHEDULED: a worker must act next" in scheduled
    assert "no worker serves 'approve', start one, with its labels if it has some:  flux worker more.py" in scheduled

    run(site, "run", "more.py:approve", "1", "--id", "second")
    paused = run(site, "executions", "why", "second", "--json")
    assert json.loads(paused.stdout)["who"] == "someone outside"
    assert json.loads(paused.stdout)["why"] == [
        {"what": 'pause "approval"', "how": "flux executions resume second VALUE"}
    ]

    (site / "more.py").write_text(f"{HEAD}\n@workflow\nasync def approve(ctx):\n    return await pause('else')\n")
    run(site, "run", "more.py:approve", "--id", "first")
    blocked = run(site, "executions", "why", "first").stdout
    assert "first is BLOCKED: whoever writes the code must act next" in blocked
    assert "flux executions retry first" in blocked
    listed = run(site, "executions", "list", "--blocked", "--json").stdout
    assert json.loads(listed)["execution_id"] == "first"


def test_executions_are_found_since_a_time(site):
    run(site, "run", "hello.py", "World", "--id", "first")

    assert "first" in run(site, "executions", "list", "--since", "5m").stdout
    assert "first" in run(site, "executions", "list", "--since", "2001-01-01").stdout
    assert "no executions like that" in run(site, "executions", "list", "--since", "2999-01-01").stderr
    assert run(site, "executions", "list", "--since", "yesterday").returncode == 2
    assert run(site, "executions", "list", "--attribute", "customer").returncode == 2


def test_nothing_is_made_by_looking_at_workflows_and_workers(site):
    for words in (("workflows", "list"), ("workers", "list")):
        done = run(site, *words)
        assert (done.returncode, done.stdout) == (0, "")
        assert "start one with" in done.stderr
    assert run(site, "workflows", "show", "hello").returncode == 3
    assert not (site / ".flux").exists()


# -- flux dev


def test_dev_says_where_it_listens_what_it_serves_and_how_to_start(site):
    port = free_port()
    with serving(site, "dev", "hello.py", "--port", str(port)) as served:
        assert f"listening on http://127.0.0.1:{port}" in served.text
        assert "serving hello" in served.text
        (example,) = re.findall(r"try it:  (curl .*)", served.text)
        assert f"http://127.0.0.1:{port}/api/workflows/hello/executions?wait=30" in example
        assert """-d '{"input": "World"}'""" in example
        taken = run(site, "dev", "hello.py", "--port", str(port))
        assert taken.returncode == 1
        assert f"127.0.0.1:{port} cannot be listened on" in taken.stderr
        assert "--port" in taken.stderr
        assert served.stop(signal.SIGINT) == 130


LABELLED = f"""{HEAD}
@workflow.with_options(labels={{"gpu": "a100"}})
async def trained(ctx):
    return "trained"

@workflow
async def told(ctx):
    return "told"
"""


def test_an_execution_is_run_by_the_worker_that_has_its_labels(site):
    (site / "labelled.py").write_text(LABELLED)
    with (
        serving(site, "server", "labelled.py", "--port", "0") as server,
        serving(site, "worker", "labelled.py") as plain,
    ):
        waiting = server.start("trained")
        assert server.start("told", wait=20)["output"] == "told"
        assert server.get(f"/executions/{waiting['execution_id']}")["state"] == "SCHEDULED"
        assert "leaving trained to workers with  --label gpu=a100" in plain.text

        with serving(site, "worker", "labelled.py", "--label", "gpu=a100"):
            assert server.until(waiting["execution_id"], "COMPLETED")["output"] == "trained"


def test_labels_are_shown_of_workers_and_of_what_waits_for_them_here_and_at_a_server(site):
    (site / "labelled.py").write_text(LABELLED)
    with (
        serving(site, "server", "--port", "0") as server,
        serving(site, "worker", "labelled.py", "--label", "region=eu", "--label", "gpu=t4") as plain,
    ):
        wait_for(lambda: server.get("/workers") and server.get("/workers")[0]["process"])
        waiting = server.start("trained")["execution_id"]
        process = server.get("/workers")[0]["process"]

        for asked in (lambda *words: run(site, *words), lambda *words: ask(server, *words)):
            listed = asked("workers", "list")
            assert "gpu=t4, region=eu" in listed.stdout, listed.stderr
            assert json.loads(asked("workers", "list", "--json").stdout)["labels"] == {"gpu": "t4", "region": "eu"}
            assert re.search(r"^labels +gpu=a100$", asked("workflows", "show", "trained").stdout, re.MULTILINE)
            assert re.search(r"^labels +none$", asked("workflows", "show", "told").stdout, re.MULTILINE)
            told, lacking = asked("executions", "why", waiting).stdout.replace(f"{site}/", "").splitlines()[1:]
            assert told.startswith("no worker serves 'trained', which asks for gpu=a100; to start one:")
            assert told.endswith(":  flux worker labelled.py --label gpu=a100")
            assert lacking == f"{process} lacks gpu=a100"

        named = run(site, "--server", server.url, "executions", "why", waiting).stdout.replace(f"{site}/", "")
        assert "to start one:  flux worker labelled.py --label gpu=a100\n" in named  # No worker takes a --server.
        assert plain.stop() == 0


def test_a_worker_that_could_run_nothing_says_which_label_it_lacks(site):
    (site / "labelled.py").write_text(LABELLED.partition("@workflow\n")[0])
    refused = run(site, "worker", "labelled.py", "--label", "gpu=t4")

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: trained asks for labels: start the worker with  --label gpu=a100\n"
