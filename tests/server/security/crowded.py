"""A server with room for many subscribers, as a process of its own; what it streams is more than one can ignore.

Usage: crowded.py FOLDER TOKENS STREAMS.  It prints its port and the tokens, as JSON, and then at every
line on standard input how much waits for the subscriber that it waits for most, and how many are connected.
"""

import asyncio
import json
import socket
import sys
from pathlib import Path

from flux.api import listening, streams
from flux.api.guard import Limits
from server.security.hostile import Harmed, serving

ROUNDS, BYTES, SECONDS = 24, 8192, 0.25  # For 2,000 subscribers that is 65 MB/s.
most = 0


async def flood(here, after):
    """What each subscriber gets: so much for a while, and then nothing."""
    for number in range(ROUNDS):
        yield f"id: {number}\ndata: {'x' * BYTES}\n\n"
        await asyncio.sleep(SECONDS)
    yield "data: that was all\n\n"
    await asyncio.sleep(3600)


def main() -> None:
    folder, tokens, allowed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    streams._changes = flood
    listening.CONNECTIONS = allowed + 200
    harmed = Harmed(folder)
    given = [harmed.token(f"t{number}", "viewer") for number in range(tokens)]
    application = harmed.application(is_open=False, limits=Limits(streams=allowed))
    with serving(application) as (port, server):
        server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)  # So the system takes little of it.
        print(json.dumps({"port": port, "tokens": given}), flush=True)
        for _ in sys.stdin:
            transports = [each.transport for each in list(server._server.server_state.connections) if each.transport]
            waiting = max((each.get_write_buffer_size() for each in transports), default=0)
            print(json.dumps([waiting, len(transports)]), flush=True)
    harmed.close()


main()
