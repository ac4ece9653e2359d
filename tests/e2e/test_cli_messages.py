"""Signals, cancels and answers from the command line: sent durably, and delivered by whoever runs the execution."""

import json
import shlex
from pathlib import Path

import pytest

from e2e.command import HEAD, run, start, wait_for

FILES = {
    "pay.py": """
@workflow
async def pay(ctx):
    return ["paid", await wait_for_signal("paid"), await wait_for_signal("sent")]
""",
    "approve.py": """
@workflow
async def approve(ctx):
    return [await pause("approval"), await wait_for_signal("paid")]
""",
    "tidy.py": """
@task
async def note(what):
    with open(f"{ctx_id}.txt", "a") as file:
        file.write(what)

ctx_id = ""

@workflow
async def tidy(ctx):
    global ctx_id
    ctx_id = ctx.execution_id
    try:
        return await pause("stop")
    except asyncio.CancelledError:
        await note("tidied")
        if ctx.input == "stubborn":
            return "done all the same"
        raise
""",
    "family.py": """
@workflow
async def youngest(ctx):
    return await pause("ok?")

@workflow
async def middle(ctx):
    return await youngest(ctx.input)

@workflow
async def eldest(ctx):
    return ["eldest", await middle(ctx.input)]
""",
    "work.py": """
@task
async def work():
    pathlib.Path("working").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)

@workflow
async def working(ctx):
    await work()
    return await wait_for_signal("news")
""",
}
GONE = "\n@workflow\nasync def gone(ctx): return await wait_for_signal('news')\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A directory with workflows; tests that share it use ids of their own."""
    directory = tmp_path_factory.mktemp("messages")
    for name, source in FILES.items():
        (directory / name).write_text(HEAD + source)
    (directory / "gone.py").write_text(HEAD + GONE)
    run(directory, "run", "gone.py", "--id", "gone-1")
    run(directory, "run", "pay.py", "--id", "refused-1")
    (directory / "gone.py").unlink()
    return directory


def data(result) -> dict:
    return json.loads(result.stdout)


def state(directory: Path, execution_id: str) -> str:
    return data(run(directory, "executions", "show", execution_id, "--json"))["state"]


# -- signals


def test_a_signal_is_delivered_and_the_execution_run_on_until_it_waits_again(project):
    started = run(project, "run", "pay.py", "--id", "pay-1")
    shown = run(project, "executions", "show", "pay-1")
    command = next(line for line in started.stderr.splitlines() if "answer with" in line).partition("answer with  ")[2]
    first = run(project, *[word.replace("VALUE", '{"sum": 0}') for word in shlex.split(command)[1:]])
    second = run(project, "executions", "signal", "pay-1", "sent", "--json")

    assert started.returncode == 4
    assert f'signal "paid": {command}' in shown.stdout
    assert "waiting" in shown.stdout
    assert (first.returncode, first.stdout) == (4, "")
    assert "executions signal pay-1 sent VALUE" in first.stderr
    assert second.returncode == 0
    assert data(second) == {
        "execution_id": "pay-1",
        "workflow": "pay",
        "state": "COMPLETED",
        "output": ["paid", {"sum": 0}, None],
        "error": None,
    }


@pytest.mark.slow
def test_a_signal_that_is_only_sent_waits_for_whoever_runs_the_execution(project):
    run(project, "run", "approve.py", "--id", "early-1")
    sent = run(project, "executions", "signal", "early-1", "paid", "7", "--no-run", "--json")
    answered = run(project, "executions", "resume", "early-1", "yes", "--no-run")
    before = state(project, "early-1")
    result = run(project, "run", "approve.py", "--id", "early-1")

    assert (sent.returncode, data(sent)["state"], data(sent)["output"]) == (0, "SCHEDULED", None)
    assert (answered.returncode, answered.stdout) == (0, "")
    assert "run it on with  flux run approve.py:approve --id early-1" in answered.stderr
    assert before == "SCHEDULED"
    assert (result.returncode, json.loads(result.stdout)) == (0, ["yes", 7])


def test_a_signal_reaches_the_process_that_runs_the_execution_and_its_sender_does_not_wait(tmp_path):
    (tmp_path / "work.py").write_text(HEAD + FILES["work.py"])
    owner = start(tmp_path, "run", "work.py", "--id", "work-1")
    wait_for((tmp_path / "working").exists)
    sent = run(tmp_path, "executions", "signal", "work-1", "news", "[1]", "--json")
    (tmp_path / "go").touch()
    out, _ = owner.communicate(timeout=20)

    assert (sent.returncode, data(sent)["state"]) == (0, "RUNNING")
    assert "the process that runs it delivers it" in sent.stderr
    assert (owner.returncode, json.loads(out)) == (0, [1])


def test_without_the_code_a_signal_is_sent_all_the_same(project):
    sent = run(project, "executions", "signal", "gone-1", "news", "yes")
    (project / "back.py").write_text(HEAD + GONE)
    result = run(project, "run", "back.py:gone", "--id", "gone-1")

    assert (sent.returncode, sent.stdout) == (0, "")
    assert "it was sent, but the execution cannot be run on here" in sent.stderr
    assert (result.returncode, result.stdout) == (0, "yes\n")


# -- cancels


def test_a_cancelled_execution_cleans_up_and_the_command_succeeds(project):
    run(project, "run", "tidy.py", "--id", "tidy-1")
    result = run(project, "executions", "cancel", "tidy-1", "--json")
    again = run(project, "executions", "cancel", "tidy-1")

    assert (result.returncode, data(result)["state"]) == (0, "CANCELLED")
    assert (project / "tidy-1.txt").read_text() == "tidied"
    assert (again.returncode, again.stdout) == (2, "")
    assert "is CANCELLED" in again.stderr


def test_a_body_that_swallows_the_cancel_completes_and_its_output_is_printed(project):
    run(project, "run", "tidy.py", "stubborn", "--id", "tidy-2")
    result = run(project, "executions", "cancel", "tidy-2")

    assert (result.returncode, result.stdout) == (0, "done all the same\n")


@pytest.mark.slow
def test_a_cancel_that_is_only_sent_is_carried_out_by_whoever_runs_it_next(project):
    run(project, "run", "tidy.py", "--id", "tidy-3")
    sent = run(project, "executions", "cancel", "tidy-3", "--no-run")
    before = (state(project, "tidy-3"), (project / "tidy-3.txt").exists())
    result = run(project, "run", "tidy.py", "--id", "tidy-3")

    assert sent.returncode == 0
    assert before == ("SCHEDULED", False)
    assert result.returncode == 1
    assert (state(project, "tidy-3"), (project / "tidy-3.txt").exists()) == ("CANCELLED", True)


def test_a_cancel_ends_an_execution_that_runs_in_another_process(tmp_path):
    (tmp_path / "work.py").write_text(HEAD + FILES["work.py"])
    owner = start(tmp_path, "run", "work.py", "--id", "work-1", "--json")
    wait_for((tmp_path / "working").exists)
    sent = run(tmp_path, "executions", "cancel", "work-1")
    out, _ = owner.communicate(timeout=20)

    assert (sent.returncode, sent.stdout) == (0, "")
    assert (owner.returncode, json.loads(out)["state"]) == (1, "CANCELLED")


def test_a_cancel_at_once_ends_what_nobody_runs_without_its_code_or_clean_up(project):
    run(project, "run", "tidy.py", "--id", "tidy-now")
    (project / "tidy.py").rename(project / "gone.py")
    result = run(project, "executions", "cancel", "tidy-now", "--now", "--json")
    (project / "gone.py").rename(project / "tidy.py")
    again = run(project, "executions", "cancel", "tidy-now", "--now")

    assert (result.returncode, data(result)["state"]) == (0, "CANCELLED")
    assert not (project / "tidy-now.txt").exists()
    assert (again.returncode, again.stdout) == (2, "")
    assert "is CANCELLED" in again.stderr


def test_a_cancel_at_once_ends_an_execution_that_runs_in_another_process(tmp_path):
    (tmp_path / "work.py").write_text(HEAD + FILES["work.py"])
    owner = start(tmp_path, "run", "work.py", "--id", "work-1", "--json")
    wait_for((tmp_path / "working").exists)
    sent = run(tmp_path, "executions", "cancel", "work-1", "--now")
    out, _ = owner.communicate(timeout=20)

    assert sent.returncode == 0, sent.stderr
    assert (owner.returncode, json.loads(out)["state"]) == (1, "CANCELLED")


# -- what is refused

BAD = {
    "a signal to what is unknown": ("signal nope-1 x", 3, "no execution 'nope-1'"),
    "a cancel of what is unknown": ("cancel nope-1", 3, "no execution 'nope-1'"),
    "a signal without a name": ("signal refused-1", 2, "missing argument"),
    "a signal to what is finished": ("signal done-1 x", 2, "is CANCELLED, so a signal would change nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_sent_is_said_in_one_line_and_changes_nothing(project, case):
    words, code, text = BAD[case]
    if "done-1" in words:
        run(project, "run", "pay.py", "--id", "done-1")
        run(project, "executions", "cancel", "done-1")
    result = run(project, "executions", *words.split())

    assert (result.returncode, result.stdout) == (code, "")
    assert text in result.stderr.splitlines()[-1]
    assert state(project, "refused-1") == "PAUSED"


def test_a_parent_that_waits_for_a_child_says_how_to_answer_the_child_and_is_run_on_by_that(project: Path) -> None:
    paused = run(project, "run", "family.py:eldest", "--id", "family")
    listed = [json.loads(line) for line in run(project, "executions", "list", "--json").stdout.splitlines()]
    child = next(each["execution_id"] for each in listed if each["workflow"] == "youngest")
    shown = run(project, "executions", "show", "family")
    data = json.loads(run(project, "executions", "show", child, "--json").stdout)

    assert paused.returncode == 4
    assert f"flux executions resume {child} VALUE" in paused.stderr
    assert f"flux executions resume {child} VALUE" in shown.stdout
    assert "waiting" in shown.stdout
    assert data["parent_id"] != "family"
    assert f"{data['parent_id']}  middle  PAUSED" in shown.stdout
    answered = run(project, "executions", "resume", child, "fine", "--json")
    assert json.loads(answered.stdout)["execution_id"] == "family"
    assert json.loads(answered.stdout)["output"] == ["eldest", "fine"]
