"""Makes processes that are killed after a while: forked, so that they need not import everything again and again."""

import os
import signal
import sys
import time
from collections.abc import Callable


def serve(live: Callable[..., None]) -> None:
    """For each line on standard input, SECONDS ARGUMENTS…, make a process that lives as told, and print its exit code.

    It is killed after so long, if it has not ended by then.
    """
    for line in sys.stdin:
        seconds, *arguments = line.split()
        child = os.fork()
        if child == 0:
            try:
                live(*arguments)
            except BaseException as error:  # noqa: BLE001 - the test is told.
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(_end_of(child, time.monotonic() + float(seconds)), flush=True)


def _end_of(child: int, deadline: float) -> int:
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
