"""An execution that takes signals, and the clients that send them.  See test_signals.py.

Arguments: "run" and how many there are to take; or "send", how many clients, how many signals of each, and "careless"
for clients that repeat themselves without saying so.
Each acknowledged signal is a line of the file `acks`.
"""

import logging
import os
import sys
import threading
import time

from flux import ExecutionContext, workflow
from flux.errors import ExecutionContextNotFoundError, StoreError
from flux.tasks import wait_for_signal


@workflow
async def box(ctx: ExecutionContext[int]) -> list[str]:
    return [await wait_for_signal("mail") for _ in range(ctx.input)]


def client(number: int, count: int, *, careless: bool) -> None:
    acks = os.open("acks", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for n in range(count):
        mail = f"{number}-{n}"
        repeats = 2 if n % 3 == 0 else 1  # Whoever is not sure sends it again.
        while repeats:
            try:
                box.signal("x", "mail", mail, client_id=None if careless else mail)
            except (StoreError, ExecutionContextNotFoundError):
                continue
            repeats -= 1
        os.write(acks, f"{mail}\n".encode())


def main(role: str, *numbers: str) -> None:
    logging.disable(logging.WARNING)
    if role == "run":
        while not (context := box.run(int(numbers[0]), execution_id="x")).has_finished:
            time.sleep(0.02)  # It has taken all that there was, and waits for somebody outside.
        print("done", len(context.output))
        return
    clients, count, careless = int(numbers[0]), int(numbers[1]), numbers[2:] == ("careless",)
    options = {"careless": careless}
    threads = [threading.Thread(target=client, args=(number, count), kwargs=options) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
