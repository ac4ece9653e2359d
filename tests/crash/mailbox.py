"""Processes that send signals, and one that receives them and is killed again and again.

Usage: mailbox.py receive TOTAL: for each line on standard input, SECONDS, a process receives them, until all have come
or it is killed after so long.
mailbox.py send BUILD FIRST CLIENTS EACH: so many clients, each a thread, each with so many signals; some of them they
send again, as after an answer that was lost.
"""

import os
import random
import sys
import threading
import time
from typing import Any

from broken import no_quarantine
from mortal import serve

from flux import ExecutionContext, workflow
from flux.errors import StoreError
from flux.store.sqlite import SqliteStore
from flux.tasks import wait_for_signal

EXECUTION = "mailbox"


@workflow
async def collect(ctx: ExecutionContext[int]) -> list[str]:
    return [await wait_for_signal("news") for _ in range(ctx.input)]


# -- receiving


def receive(total: int) -> None:
    """Receive until there is nothing left to wait for; in between the execution is parked, and this looks for news."""
    while not collect.run(total, execution_id=EXECUTION).has_finished:
        time.sleep(0.002)


# -- sending


def ignore_client_ids() -> None:
    """BROKEN: a repeat is not recognised."""
    send = SqliteStore.send

    def careless(self: Any, execution_id: str, *, client_id: str | None = None, **message: Any) -> bool:
        return send(self, execution_id, **message)

    SqliteStore.send = careless


BUILDS = {"sound": lambda: None, "ignore_client_ids": ignore_client_ids}


def send_all(client: int, each: int) -> None:
    acks = os.open("acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random()
    for number in range(each):
        name = f"{client}-{number}"
        for _ in range(1 + (rng.random() < 0.1)):
            send(name)
        os.write(acks, f"{name}\n".encode())


def send(name: str) -> None:
    """A client that gets no answer sends it again, under the same id."""
    while True:
        try:
            collect.signal(EXECUTION, "news", name, client_id=name)
        except StoreError:
            continue
        return


def main() -> None:
    no_quarantine()
    match sys.argv[1:]:
        case ["receive", total]:
            serve(lambda: receive(int(total)))
        case ["send", build, first, clients, each]:
            BUILDS[build]()
            threads = [threading.Thread(target=send_all, args=(int(first) + n, int(each))) for n in range(int(clients))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    main()
