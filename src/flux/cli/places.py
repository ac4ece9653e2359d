"""Where executions are: the database of this directory, or a server; this module is for commands that work on both."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Union

from flux import app as composition
from flux.app import App
from flux.cli.remote import Remote
from flux.errors import StoreError
from flux.settings import load

if TYPE_CHECKING:
    from flux.server.control import Control

Place = Union["Control", Remote]  # A `Remote` can be asked what a `Control` can.


def opened() -> App | None:
    """The app, unless there is no database yet: looking must not make one."""
    try:
        is_there = load().database.exists()
    except OSError:
        is_there = True  # It cannot be known: opening it says why.
    return composition.current() if is_there else None


def place() -> Place | None:
    """The server that was named, or the database, unless there is none yet."""
    server = os.environ.get("FLUX_SERVER")
    if server:
        return Remote(server, os.environ.get("FLUX_TOKEN"))
    app = opened()
    if app is None:
        return None
    with suppress(StoreError):  # Nobody runs what a dead process has left as RUNNING.
        app.store.rescue(now=app.clock.now())
    return app.control()
