"""What the `flux` command promises to whoever types it, proved with real processes."""

import json
import os
import pty
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import flux
from e2e.command import HEAD, environment, run, start, wait_for, without_rights

FILES = {
    "hello.py": """
@task
async def hello(name: str) -> str:
    print("hello was called")
    return f"Hello {name}"

@workflow
async def greet(ctx: ExecutionContext[str]):
    return await hello(ctx.input)
""",
    "approve.py": """
@workflow
async def approve(ctx: ExecutionContext[int]):
    return [ctx.input, await pause("approval")]
""",
    "fails.py": """
@task
async def divide(x):
    return x / 0

@workflow
async def fails(ctx):
    return await divide(1)
""",
    "two.py": """
@workflow
async def first(ctx): return 1

@workflow.with_options(name="second-one")
async def second(ctx): return ctx.input
""",
    "unguarded.py": """
@workflow
async def only(ctx): return await pause("stop")

only.run()
""",
    "escapes.py": """
@task
async def shout(text): raise ValueError("\\x1b[31m[bold]red\\x07")

@workflow
async def escapes(ctx):
    try:
        await shout("x")
    except ValueError:
        pass
    return "\\x1b[2Jclear\\u202e"
""",
    "odd.py": "@workflow\nasync def odd(ctx): return open(__file__)\n",
    "none.py": "x = 1\n",
    "broken.py": "def oops(:\n",
    "raises.py": "def boom():\n    raise OSError('no settings')\n\nboom()\n",
    "exits.py": "raise SystemExit(3)\n",
    "gone.py": "\n@workflow\nasync def gone(ctx): return await pause('stop')\n",
    "slow.py": """
@task
async def step(number):
    with open("steps.txt", "a") as file:
        file.write(f"{number}\\n")
    while number == 3 and not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)
    return number

@workflow
async def slow(ctx):
    return [await step(number) for number in range(6)]
""",
    "branches.py": """
@task
async def until_released():
    while not pathlib.Path("released").exists():
        await asyncio.sleep(0.02)
    return "released"

@workflow
async def branches(ctx):
    return await parallel(pause("answer"), until_released())
""",
}
PREPARE = """
import os, sqlite3, approve, gone, hello
hello.greet.run("World", execution_id="done-1")
approve.approve.run(3, execution_id="wait-1")
approve.approve.run(3, execution_id="wait-2")
gone.gone.run(None, execution_id="gone-1")
os.remove("gone.py")
sqlite3.connect("newer.db").execute("PRAGMA user_version = 999").connection.close()
open("damaged.db", "wb").write(b"no database " * 1000)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A directory with workflows, of which some have been run; tests that share it use ids of their own."""
    directory = tmp_path_factory.mktemp("project")
    for name, source in FILES.items():
        (directory / name).write_text(HEAD + source if "workflow" in source else source)
    subprocess.run([sys.executable, "-c", PREPARE], cwd=directory, env=environment(), check=True, timeout=20)
    return directory


def steps(directory: Path) -> list[str]:
    path = directory / "steps.txt"
    return path.read_text().split() if path.exists() else []


# -- data on stdout, messages on stderr, exit codes


def test_stdout_holds_the_output_and_nothing_else(project):
    result = run(project, "run", "hello.py", "007")

    assert (result.returncode, result.stdout) == (0, "Hello 007\n")
    assert "hello was called" in result.stderr
    assert "completed greet " in result.stderr


def test_a_result_as_json_names_its_execution(project):
    result = run(project, "run", "two.py:second", '{"a": [1, null]}', "--id", "json-1", "--json")

    assert result.returncode == 0
    assert json.loads(result.stdout) == {
        "execution_id": "json-1",
        "workflow": "second-one",
        "state": "COMPLETED",
        "output": {"a": [1, None]},
        "error": None,
    }


def test_a_failure_exits_with_1_and_shows_the_frames_of_the_user_alone(project):
    result = run(project, "run", "fails.py", "--json")

    assert result.returncode == 1
    assert json.loads(result.stdout)["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}
    assert "return x / 0" in result.stderr
    assert str(Path(flux.__file__).parent) not in result.stderr


def test_a_pause_exits_with_4_and_the_command_that_it_prints_answers_it(project):
    paused = run(project, "run", "approve.py", "7", "--id", "pause-1")
    again = run(project, "run", "approve.py", "--id", "pause-1")
    command = next(line for line in paused.stderr.splitlines() if "answer with" in line).partition("answer with  ")[2]
    resumed = run(project, *[word.replace("VALUE", "true") for word in shlex.split(command)[1:]])

    assert (paused.returncode, paused.stdout) == (4, "")
    assert (again.returncode, again.stdout) == (4, "")
    assert command in again.stderr
    assert (resumed.returncode, json.loads(resumed.stdout)) == (0, [7, True])


def test_a_finished_execution_is_shown_again_and_not_run_again(project):
    result = run(project, "run", "hello.py", "World", "--id", "done-1")

    assert (result.returncode, result.stdout) == (0, "Hello World\n")
    assert "hello was called" not in result.stderr


# -- what is refused

BAD = {
    "a syntax error": ("run broken.py", 2, ["broken.py:1: ", "def oops(:"]),
    "an exception while loading": ("run raises.py", 2, ["in boom", "raises.py cannot be loaded: OSError: no settings"]),
    "an exit while loading": ("run exits.py", 2, ["sys.exit(3)"]),
    "no workflow": ("run none.py", 2, ["none.py has no workflow"]),
    "two workflows, none chosen": ("run two.py", 2, ["first, second-one", "flux run two.py:first"]),
    "an unknown workflow": ("run two.py:frist", 3, ["did you mean first?"]),
    "an unknown file": ("run helo.py", 3, ["there is no file helo.py; did you mean hello.py?"]),
    "an unknown module": ("run no.such", 3, ["no module 'no.such'"]),
    "an input that does not fit": ("run approve.py seven", 2, ["does not fit", "valid integer"]),
    "an input that is nearly JSON": ("run approve.py {3", 2, ["it is not JSON"]),
    "another input for a known id": ("run hello.py Moon --id done-1", 2, ["another input"]),
    "an id of another workflow": ("run two.py:first --id done-1", 2, ["belongs to the workflow 'greet'"]),
    "an impossible id": ("run hello.py x --id a/b", 2, ["cannot be an execution id"]),
    "an output that cannot be recorded": ("run odd.py", 1, ["UnserializableValue"]),
    "an unknown command": ("rnu hello.py", 2, ["did you mean 'run': see  flux --help"]),
    "an unknown option": ("run hello.py --jsn", 2, ["--json"]),
    "an unknown state": ("executions list --state pausd", 2, ["did you mean paused?"]),
    "an unknown execution": ("executions show dome-1", 3, ["did you mean done-1?"]),
    "too short an abbreviation": ("executions show don", 3, ["4 characters or more"]),
    "an ambiguous abbreviation": ("executions show wait", 2, ["wait-2, wait-1"]),
    "resuming what is finished": ("executions resume done-1 x", 2, ["is COMPLETED and waits for nothing"]),
    "resuming what is unknown": ("executions resume nope-1 x", 3, ["no execution 'nope-1'"]),
    "resuming another pause": ("executions resume wait-1 x --name approvl", 3, ["did you mean approval?"]),
    "resuming through another workflow": ("executions resume wait-1 x --file hello.py:greet", 2, ["'approve'"]),
    "resuming without the code": ("executions resume gone-1 x", 3, ["--file FILE:gone", "nothing was sent"]),
    "a database from the future": ("--database newer.db executions list", 1, ["newer Flux"]),
    "a damaged database": ("executions list --database damaged.db", 1, ["damaged"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_said_in_one_line(project, case):
    words, code, texts = BAD[case]
    result = run(project, *words.split())

    assert (result.returncode, result.stdout) == (code, "")
    for text in texts:
        assert text in result.stderr
    assert "src/flux" not in result.stderr
    if code != 1 or "database" in case:
        assert [
            line for line in result.stderr.splitlines() if line.startswith("error: ")
        ] == result.stderr.splitlines()[-1:]


def test_what_was_refused_changed_nothing(project):
    listed = run(project, "executions", "list", "--json", "--state", "paused")
    ids = [json.loads(line)["execution_id"] for line in listed.stdout.splitlines()]

    assert {"wait-1", "wait-2", "gone-1"} <= set(ids)


def test_an_execution_that_waits_for_no_answer_cannot_be_resumed(tmp_path):
    (tmp_path / "slow.py").write_text(HEAD + FILES["slow.py"])
    process = start(tmp_path, "run", "slow.py", "--id", "slow-1")
    wait_for(lambda: "3" in steps(tmp_path))
    refused = run(tmp_path, "executions", "resume", "slow-1", "x")
    (tmp_path / "go").touch()

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is RUNNING and has no open pause" in refused.stderr
    assert process.communicate(timeout=20)[0] == "[\n  0,\n  1,\n  2,\n  3,\n  4,\n  5\n]\n"


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "hello.py").write_text(HEAD + FILES["hello.py"])
    tmp_path.chmod(0o500)
    command = [*without_rights(), sys.executable, "-m", "flux", "run", "hello.py", "x"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=20, check=False
    )

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert "writable" in result.stderr


# -- crashes and interruptions


def test_the_same_command_continues_after_kill_9_without_repeating_a_step(tmp_path):
    (tmp_path / "slow.py").write_text(HEAD + FILES["slow.py"])
    command = ("run", "slow.py", "--id", "slow-1", "--json")
    process = start(tmp_path, *command)
    wait_for(lambda: "3" in steps(tmp_path))
    process.kill()
    process.communicate(timeout=20)
    shown = run(tmp_path, "executions", "show", "slow-1")
    (tmp_path / "go").touch()
    result = run(tmp_path, *command)

    assert "a process to run it: flux run slow.py:slow --id slow-1" in shown.stdout
    assert "interrupted" in shown.stdout
    assert (result.returncode, json.loads(result.stdout)["output"]) == (0, [0, 1, 2, 3, 4, 5])
    assert steps(tmp_path) == ["0", "1", "2", "3", "3", "4", "5"]


def test_ctrl_c_exits_with_130_and_the_command_that_it_prints_continues(tmp_path):
    (tmp_path / "slow.py").write_text(HEAD + FILES["slow.py"])
    process = start(tmp_path, "run", "slow.py", "in put")
    wait_for(lambda: "3" in steps(tmp_path))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    command = next(line for line in err.splitlines() if line.startswith("interrupted: ")).partition("continue with  ")[
        2
    ]
    (tmp_path / "go").touch()
    result = run(tmp_path, *shlex.split(command)[1:])

    assert (process.returncode, out) == (130, "")
    assert (result.returncode, json.loads(result.stdout)) == (0, [0, 1, 2, 3, 4, 5])
    assert steps(tmp_path) == ["0", "1", "2", "3", "3", "4", "5"]


def test_an_answer_reaches_the_process_that_runs_the_execution(tmp_path):
    (tmp_path / "branches.py").write_text(HEAD + FILES["branches.py"])
    owner = start(tmp_path, "run", "branches.py", "--id", "both-1", "--json")
    wait_for(lambda: "pause" in run(tmp_path, "executions", "show", "both-1").stdout)
    answerer = start(tmp_path, "executions", "resume", "both-1", "42", "--json")
    wait_for(lambda: "[running]" in "".join(status(tmp_path, "both-1")))
    (tmp_path / "released").touch()
    results = [json.loads(process.communicate(timeout=20)[0])["output"] for process in (owner, answerer)]

    assert results == [[42, "released"], [42, "released"]]
    assert (owner.returncode, answerer.returncode) == (0, 0)


def status(directory: Path, execution_id: str) -> list[str]:
    """Its events that tell of the resume, as `[running]` when it is in the history."""
    shown = json.loads(run(directory, "executions", "show", execution_id, "--json").stdout)
    return ["[running]" for event in shown["events"] if event["type"] == "TASK_RESUMED"]


# -- loading


def test_a_script_without_a_guard_is_loaded_and_not_run(project):
    result = run(project, "run", "unguarded.py", "--id", "only-1")
    listed = run(project, "executions", "list", "--workflow", "only", "--json")

    assert result.returncode == 4
    assert [json.loads(line)["execution_id"] for line in listed.stdout.splitlines()] == ["only-1"]


def test_a_resume_finds_the_code_from_elsewhere(project, tmp_path):
    database = str(project / ".flux" / "flux.db")
    run(project, "run", "approve.py", "1", "--id", "far-away-1")
    result = run(tmp_path, "executions", "resume", "far-aw", '"yes"', "--database", database)

    assert (result.returncode, json.loads(result.stdout)) == (0, [1, "yes"])


def test_a_module_of_a_package_is_run_by_its_dotted_name(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "prices.py").write_text("PRICE = 5\n")
    (tmp_path / "shop" / "orders.py").write_text(
        f"{HEAD}from .prices import PRICE\n@workflow\nasync def order(ctx): return [PRICE, await pause('p')]\n"
    )
    paused = run(tmp_path, "run", "shop.orders", "--id", "order-1")
    resumed = run(tmp_path, "executions", "resume", "order-1", "-2")

    assert paused.returncode == 4
    assert (resumed.returncode, json.loads(resumed.stdout)) == (0, [5, -2])


# -- looking


def test_looking_makes_no_database(tmp_path):
    listed, shown = run(tmp_path, "executions", "list"), run(tmp_path, "executions", "show", "some-1")

    assert (listed.returncode, listed.stdout, shown.returncode) == (0, "", 3)
    assert "flux run FILE" in listed.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_a_history_holds_is_obeyed_by_the_terminal(project):
    ran = run(project, "run", "escapes.py", "--id", "escapes-1")
    shown = run(project, "executions", "show", "escapes-1")
    as_json = run(project, "executions", "show", "escapes-1", "--json")

    assert ran.stdout == "\\x1b[2Jclear\\u202e\n"
    assert "ValueError: \\x1b[31m[bold]red\\x07" in shown.stdout
    for text in (ran.stdout, ran.stderr, shown.stdout, as_json.stdout):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert json.loads(as_json.stdout)["output"] == "\x1b[2Jclear\u202e"


def test_a_reader_that_leaves_early_gets_no_traceback(project):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(project, "executions", "show", "done-1", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=20)

    assert (process.returncode, err) == (141, "")


def test_on_a_terminal_the_progress_is_drawn_and_stdout_stays_data(project):
    ours, terminal = pty.openpty()
    process = start(project, "run", "hello.py", "World", stderr=terminal)
    os.close(terminal)
    out, _ = process.communicate(timeout=20)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)

    assert (process.returncode, out) == (0, "Hello World\n")
    assert "\x1b[" in drawn
    assert "hello was called" in drawn


def test_help_does_not_wait_for_rich_and_shows_an_example():
    code = "import sys; from flux.cli.main import execute; execute(['run', '--help']); print('rich' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, encoding="utf-8", timeout=20, check=True
    )

    assert "flux run hello.py World" in result.stdout
    assert result.stdout.endswith("False\n")


def test_the_version_is_printed(tmp_path):
    assert run(tmp_path, "--version").stdout == f"flux {flux.__version__}\n"


def test_a_raised_schema_version_of_a_used_database_is_refused(tmp_path):
    (tmp_path / "hello.py").write_text(HEAD + FILES["hello.py"])
    run(tmp_path, "run", "hello.py", "x")
    with sqlite3.connect(tmp_path / ".flux" / "flux.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    result = run(tmp_path, "run", "hello.py", "x")

    assert (result.returncode, result.stdout) == (1, "")
    assert "written by a newer Flux" in result.stderr


def test_run_records_attributes_by_which_list_finds(tmp_path):
    (tmp_path / "hello.py").write_text(HEAD + FILES["hello.py"])
    both = ("--attribute", "customer=7", "--attribute", "b=c=d")
    started = run(tmp_path, "run", "hello.py", "World", "--id", "one", *both)
    again = run(tmp_path, "run", "hello.py", "World", "--id", "one", "--attribute", "customer=8")
    listed = run(tmp_path, "executions", "list", *both, "--json")

    assert (started.returncode, again.returncode, json.loads(listed.stdout)["execution_id"]) == (0, 0, "one")
    assert run(tmp_path, "executions", "list", "--attribute", "customer=8", "--json").stdout == ""


@pytest.mark.parametrize("words", [["customer"], ["=7"], ["a=1", "--attribute", "a=2"], [f"a={'x' * 257}"]])
def test_run_refuses_what_is_no_attribute_before_it_records_anything(tmp_path, words):
    (tmp_path / "hello.py").write_text(HEAD + FILES["hello.py"])
    refused = run(tmp_path, "run", "hello.py", "World", "--attribute", *words)

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / ".flux").exists()


def test_a_negative_number_behind_an_option_is_its_value(tmp_path):
    refused = run(tmp_path, "executions", "list", "--limit", "-1")

    assert refused.returncode == 2
    assert "invalid value for '--limit'" in refused.stderr
