"""The `flux` command as a process of its own, for those who test what it promises."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flux

HEAD = """
import asyncio, pathlib
from flux import ExecutionContext, pause, task, workflow
from flux.tasks import parallel, wait_for_signal
"""


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    source = str(Path(flux.__file__).parents[1])
    return {**inherited, "PYTHONPATH": source, "COLUMNS": "80", **more}


def start(directory: Path, *words: str, variables=None, **options) -> "subprocess.Popen[str]":
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    command = [sys.executable, "-m", "flux", *words]
    return subprocess.Popen(command, cwd=directory, env=environment(**(variables or {})), encoding="utf-8", **pipes)


def run(directory: Path, *words: str, stdin: str | None = None, **variables) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, with some variables of the environment and something on its standard input."""
    process = start(
        directory, *words, variables=variables, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE
    )
    out, err = process.communicate(stdin, timeout=20)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def wait_for(what, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def without_rights() -> list[str]:
    """What stands before a command so that the rights of files count for root, too."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("runs as root, and there is no setpriv: run the tests as another user to cover this")
    without = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}"]
