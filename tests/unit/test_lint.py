"""The lint: what differs between replays is found, with its line and the fix, and nothing else is."""

import textwrap
from pathlib import Path

import pytest

from flux.errors import InvalidInputError
from flux.lint import lint

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
import asyncio, glob, os, pathlib, random, secrets, socket, subprocess, threading, time, uuid
import datetime as dt
import urllib.request
from datetime import datetime
from pathlib import Path
from time import monotonic
from uuid import uuid4 as new_id

from flux import ExecutionContext, task, workflow

SEEN = []
COUNTS: dict[str, int] = {}
TAGS = {"a", "b"}
total = 0

@task
async def work(x): ...

def helper():
    return random.random()

@workflow
async def body(ctx: ExecutionContext):
"""
PLANTED = {
    "clock": ("x = datetime.now()", "reads the clock", "now()"),
    "clock of an alias": ("x = dt.date.today()", "reads the clock", "now()"),
    "a name from the clock": ("x = monotonic()", "reads the clock", "now()"),
    "a blocking sleep": ("time.sleep(1)", "blocks", "sleep()"),
    "chance": ("x = random.choice([1, 2])", "draws lots", "choice()"),
    "chance in a helper": ("x = helper()", "draws lots", "choice()"),
    "secret chance": ("x = secrets.token_hex()", "draws lots", "@task"),
    "an id": ("x = new_id()", "another id", "uuid4()"),
    "the environment": ("x = os.environ['HOME']", "where it runs", "input"),
    "the environment by get": ("x = os.getenv('HOME')", "where it runs", "input"),
    "an opened file": ("x = open('a').read()", "uses files", "@task"),
    "a path": ("x = Path('a').read_text()", "uses files", "@task"),
    "a folder": ("x = [each for each in glob.glob('*')]", "uses files", "@task"),
    "the network": ("x = urllib.request.urlopen('http://localhost')", "uses the network", "@task"),
    "a socket": ("x = socket.create_connection(('localhost', 1))", "uses the network", "@task"),
    "a process": ("subprocess.run(['true'])", "starts a process", "@task"),
    "a thread": ("x = await asyncio.to_thread(print)", "leaves the body's loop", "def"),
    "an executor": ("x = asyncio.get_running_loop().run_in_executor(None, print)", "leaves", "def"),
    "the order of a set": ("for x in {'a', 'b'}: await work(x)", "order of a set", "sorted"),
    "the order of a set with a name": ("names = set(ctx.input)\nfor x in names: await work(x)", "order of", "sorted"),
    "the order of a set of the module": ("x = [work(tag) for tag in TAGS]", "order of a set", "sorted"),
    "the order of a set made a list": ("for x in list(set(ctx.input)): await work(x)", "order of a set", "sorted"),
    "a global list": ("SEEN.append(1)", "global 'SEEN'", "return"),
    "a global dict": ("COUNTS['a'] = 1", "global 'COUNTS'", "return"),
    "a global number": ("global total\ntotal += 1", "global 'total'", "return"),
    "an address": ("x = id(ctx)", "differs between processes", "key"),
}
HARMLESS = """
from flux.tasks import now, uuid4, randint, choice
requests = [1]
requests.append(2)
items = {"b": 1}
items.update(a=2)
for name in items: await work(name)
for name in sorted({"b", "a"}): await work(name)
done, pending = await asyncio.wait([asyncio.create_task(work(1))])
for each in done: each.result()
size = len({"a", "b"})
print(await now(), await uuid4(), await randint(1, 2), await choice([1]), dt.timedelta(days=1), Path("a") / "b")

@task
async def inner():
    return time.time(), open("x")
"""


def written(tmp_path: Path, lines: str) -> Path:
    path = tmp_path / "flow.py"
    path.write_text(HEAD + textwrap.indent(lines, "    ") + "\n")
    return path


@pytest.mark.parametrize("name", PLANTED)
def test_it_finds(tmp_path: Path, name: str) -> None:
    lines, what, fix = PLANTED[name]
    path = written(tmp_path, lines)

    findings = lint(path)

    assert findings, name
    assert what in findings[0].what
    assert fix in findings[0].fix
    assert str(findings[0]).startswith(f"{path}:{findings[0].line}: ")
    assert "'body'" in str(findings[0])


def test_the_line_is_that_of_the_helper_where_it_happens(tmp_path: Path) -> None:
    (finding,) = lint(written(tmp_path, "await work(helper())\nhelper()"))

    assert HEAD.splitlines()[finding.line - 1].strip() == "return random.random()"


def test_what_replays_is_not_found(tmp_path: Path) -> None:
    assert [str(finding) for finding in lint(written(tmp_path, HARMLESS))] == []


def test_what_tasks_and_plain_functions_do_is_their_own(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    path.write_text(
        "import time\nfrom flux import task\n@task\ndef a(): return time.time()\ndef b(): return open('x')\n"
    )

    assert lint(path) == []


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_our_own_examples_are_clean(path: Path) -> None:
    assert [str(finding) for finding in lint(path)] == []


@pytest.mark.parametrize("text", [None, "def (:", "x = '\0'"])
def test_what_is_no_python_file_is_an_error(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "flow.py"
    if text is not None:
        path.write_text(text)

    with pytest.raises(InvalidInputError, match=r"flow\.py cannot be checked.*name a Python file"):
        lint(path)
