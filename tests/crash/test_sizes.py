"""Values of a hundred megabytes are files beside the database, at a few times their size in memory; errors are cut."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash.processes import HERE, SOURCE

MEGABYTE = 1 << 20
COPIES = 6  # The value, its encoding and what is decoded, some of them twice at one moment.

pytestmark = pytest.mark.slow


def store(directory: Path, what: str, megabytes: int, build: str = "sound") -> dict[str, int | str]:
    ended = subprocess.run(
        [sys.executable, str(HERE / "sizes.py"), what, str(megabytes), build],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("megabytes", [1, 10, 100])
@pytest.mark.parametrize("what", ["input", "result"])
def test_a_large_value_is_a_file_beside_the_database(tmp_path, what, megabytes):
    told = store(tmp_path, what, megabytes)

    assert told["output"] == megabytes * MEGABYTE
    assert told["database"] < MEGABYTE
    assert 0 <= told["files"] - megabytes * MEGABYTE < 1000
    assert told["grew"] <= COPIES * megabytes + 5


def test_control_without_files_beside_it_the_database_grows(tmp_path):
    assert store(tmp_path, "result", 10, "no_overflow")["database"] > 10 * MEGABYTE


@pytest.mark.parametrize("megabytes", [1, 100])
def test_a_large_error_is_recorded_with_what_fits_and_says_what_was_left_out(tmp_path, megabytes):
    told = store(tmp_path, "error", megabytes)

    assert told["largest"] <= 64 * 1024
    assert told["database"] < MEGABYTE
    assert "characters left out" in told["output"]
    assert told["grew"] <= COPIES * megabytes + 5
