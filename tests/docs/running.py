"""Documents as programs: their Python blocks are executed, their console blocks are typed into a shell.

Each document runs in an empty directory, top to bottom, and its blocks share a namespace. A Python or TOML block whose
first line is a comment with a file's name is also that file; with ", continued" it is added to the file's end. One that
is named test_… is only that file: it is for pytest. Of a console block the output is compared: `...` stands for
anything, as do durations, times, process ids and ids of executions for any other.
"""

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "console", "toml", "text"}
PATIENCE_SECONDS = 15

FILE_NAME = re.compile(r"# ([\w.]+\.(?:py|toml))(, continued)?\n")
KILLED = re.compile(r"(?P<command>.+) & sleep \d+; kill -9 \$!")
SERVED = re.compile(r"(?P<command>flux (?:dev|server|worker) .+) &")
PORT = "7600"  # In documents; when they are run it is one that is free.
UNSTABLE = [
    (re.compile(r"\x1b\[[\d;]*m"), ""),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"), "<at>"),
    (re.compile(r"\b\d+ (?:min \d\d s|h \d\d min|d \d+ h)\b"), "<time>"),
    (re.compile(r"\b\d+(?:\.\d)? m?s\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" ?\n"), "\n"),
]


def run(path: Path, directory: Path) -> int:
    """Run a document in a directory, which must be the working directory; returns how many blocks it has.

    Raises:
        Exception: Whatever a block raised, or its output is another one.
    """
    shell = Shell(directory)
    python = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    python.codeblock_parser = CodeBlockParser("python", _Both(PythonEvaluator()))
    parsers = [python, CodeBlockParser("console", shell.evaluate), CodeBlockParser("toml", _write)]
    document = Sybil(parsers=parsers).parse(path)
    # Classes of the document are looked up in a module, as those of any file are.
    module = ModuleType(f"document_{path.stem}")
    document.namespace = module.__dict__
    sys.modules[module.__name__] = module
    try:
        return sum(example.evaluate() is None for example in document.examples())
    finally:
        shell.close()
        del sys.modules[module.__name__]


class _Both:
    """Writes a block that names a file, and executes it, unless it is for pytest."""

    def __init__(self, execute: Callable[[Example], None]) -> None:
        self._execute = execute

    def __call__(self, example: Example) -> None:
        header = FILE_NAME.match(example.parsed)
        if header:
            _write(example)
        if not header or not header[1].startswith("test_"):
            self._execute(example)


def _write(example: Example) -> None:
    header = FILE_NAME.match(example.parsed)
    assert header, f"line {example.line}: the first line of this block names its file, as in '# flux.toml'"
    if header[1].endswith(".toml"):
        tomllib.loads(example.parsed)
    with Path(header[1]).open("a" if header[2] else "w", encoding="utf-8") as file:
        file.write(f"\n\n{example.parsed}" if header[2] else example.parsed)


class Shell:
    """Types the commands of a document, and compares what they print with what it shows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.code = 0
        self.port = PORT
        self._served: list[subprocess.Popen[str]] = []
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
        self.environment |= {"NO_COLOR": "1", "COLUMNS": "120", "PYTHONUNBUFFERED": "1"}
        self.environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    def evaluate(self, example: Example) -> str | None:
        """Run a console block; returns what is wrong with it, if something is."""
        for command, expected in commands(example.parsed):
            killed, served = KILLED.fullmatch(command), SERVED.fullmatch(command)
            if served:
                actual = self._serve(served["command"], expected)
            else:
                command = command.replace(f":{PORT}", f":{self.port}")
                actual = self._kill(killed["command"], expected) if killed else self._type(command)
            actual = actual.replace(f":{self.port}", f":{PORT}")
            if not matches(expected, actual):
                return f"$ {command}\nexpected:\n{expected}\nactual:\n{actual}"
        return None

    def close(self) -> None:
        """End what was started in the background."""
        for process in self._served:
            process.terminate()
            with process:
                process.wait(PATIENCE_SECONDS)

    def _serve(self, command: str, expected: str) -> str:
        """Start a command in the background, on a free port; returns as many lines of what it prints as expected."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            self.port = str(bound.getsockname()[1])
        process = subprocess.Popen(
            [*shlex.split(command), "--port", self.port],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._served.append(process)
        assert process.stdout is not None
        return "".join(process.stdout.readline() for _ in expected.splitlines())

    def _type(self, command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", f"(exit {self.code})\n{command}"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        self.code = done.returncode
        return done.stdout

    def _kill(self, command: str, expected: str) -> str:
        """Kill a command when it has printed what is shown, and not after so many seconds: no machine is too slow."""
        process = subprocess.Popen(
            shlex.split(command),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        actual, patience = "", threading.Timer(PATIENCE_SECONDS, process.kill)
        patience.start()
        with process:
            while not matches(expected, actual) and (line := process.stdout.readline()):
                actual += line
            process.send_signal(signal.SIGKILL)
        patience.cancel()
        self.code = 128 + signal.SIGKILL
        return actual


def commands(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0], "a console block begins with '$ '"
    for part in parts[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def matches(expected: str, actual: str) -> bool:
    """Whether an output is the one that is shown, but for what differs from run to run."""
    pattern = re.escape(_stable(expected)).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, _stable(actual), flags=re.DOTALL) is not None


def _stable(text: str) -> str:
    for pattern, name in UNSTABLE:
        text = pattern.sub(name, text)
    return text.strip()


def languages(text: str) -> list[str]:
    """The info strings of the fences of a document."""
    return re.findall(r"^```([^\n`]*)\n.*?^```$", text, flags=re.MULTILINE | re.DOTALL)
