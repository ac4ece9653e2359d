"""The `flux` command, with every SQL statement that it sends written to a file: `python counted.py FILE WORDS...`."""

import sqlite3
import sys

from flux.cli.main import main

if __name__ == "__main__":
    log = open(sys.argv[1], "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as the process lives.
    connect = sqlite3.connect

    def traced(*args, **named):
        connection = connect(*args, **named)
        connection.set_trace_callback(lambda statement: log.write(f"{' '.join(statement.split())}\n"))
        return connection

    sqlite3.connect = traced
    main(sys.argv[2:])
