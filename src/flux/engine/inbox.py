"""What comes in from outside for an execution that runs here."""

import asyncio
import contextlib
from collections.abc import Callable

from flux.errors import StoreError
from flux.ports import Message, Store

NEWS_SECONDS = 0.05


class Inbox:
    """The unread messages of one execution, and a watch for new ones.

    Args:
        read: Called, on the host loop, when there may be new messages.
    """

    def __init__(self, store: Store, execution_id: str, read: Callable[[], None]) -> None:
        self._store, self._execution_id, self._read = store, execution_id, read
        self._host = asyncio.get_running_loop()
        self._received: set[int] = set()
        self._news_seen = -1
        self._poll: asyncio.TimerHandle | None = None

    def unread(self) -> list[Message]:
        """The messages that were not received yet, in the order in which they were sent."""
        return [each for each in self._store.inbox(self._execution_id) if each.id not in self._received]

    def receive(self, message: Message) -> bool:
        """Note that a message is being received, which leaves the stored inbox with the next commit only.

        Returns:
            Whether this is the first time.
        """
        is_new = message.id not in self._received
        self._received.add(message.id)
        return is_new

    def watch(self) -> None:
        """Look for new messages from other processes, soon; one look a call."""
        if self._poll is None:
            self._poll = self._host.call_later(NEWS_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._poll is not None:
            self._poll.cancel()

    def _look(self) -> None:
        self._poll = None
        with contextlib.suppress(StoreError):  # Whether the database is lost is for the committer to say.
            news = self._store.news()
            if news != self._news_seen:
                self._news_seen = news
                self._read()
                return
        self.watch()
