"""What comes in from outside for the executions that run here."""

import asyncio
import itertools
from collections.abc import Callable

from flux.errors import StoreError
from flux.ports import Message, MessageKind, Store

FOR_THE_WORKFLOW = frozenset({MessageKind.SIGNAL, MessageKind.CANCEL})  # The others are for one of its calls.
MESSAGES_AT_ONCE = 1000  # More would be a long step, all of which is lost if the process dies in it.


class Inbox:
    """The unread messages of one execution.

    Args:
        post: Tells of new ones.
        read: Called, on the host loop, when there are some.
        is_new: Whether the execution is not stored yet: nobody can have sent it anything.
    """

    def __init__(
        self, store: Store, execution_id: str, post: "Post", read: Callable[[], None], *, is_new: bool = False
    ) -> None:
        self.execution_id, self.read = execution_id, read
        self._is_new = is_new
        self._store, self._post = store, post
        self._received: set[int] = set()

    def open(self) -> None:
        """Be told of new messages from now on."""
        self._post.add(self)

    def unread(self) -> list[Message]:
        """The messages that were not received yet, in the order in which they were sent, or the first of very many."""
        if self._is_new:
            self._is_new = False
            return []
        unread = (each for each in self._store.inbox(self.execution_id) if each.id not in self._received)
        return list(itertools.islice(unread, MESSAGES_AT_ONCE))

    def receive(self, message: Message) -> bool:
        """Note that a message is being received, which leaves the stored inbox with the next commit only.

        Returns:
            Whether this is the first time.
        """
        is_new = message.id not in self._received
        self._received.add(message.id)
        return is_new

    def close(self) -> None:
        """Be told no more."""
        self._post.remove(self)


class Post:
    """Looks for messages for all executions of one host loop at once, when anything was written.

    Args:
        worker: By which the store knows this process.
        host: The loop on which it looks.
        seconds: How often.
    """

    def __init__(
        self, store: Store, worker: Callable[[], str], host: asyncio.AbstractEventLoop, *, seconds: float
    ) -> None:
        self._store, self._worker, self._host, self._seconds = store, worker, host, seconds
        self._inboxes: dict[str, Inbox] = {}
        self._news = -1
        self._timer: asyncio.TimerHandle | None = None

    def add(self, inbox: Inbox) -> None:
        """Look for this one, too."""
        self._inboxes[inbox.execution_id] = inbox
        self._news = -1  # What came for this one may have been seen, when nobody cared for it.
        if self._timer is None:
            self._timer = self._host.call_later(self._seconds, self._look)

    def remove(self, inbox: Inbox) -> None:
        """Look for this one no more."""
        if self._inboxes.get(inbox.execution_id) is inbox:
            del self._inboxes[inbox.execution_id]
        if not self._inboxes and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self._host.call_later(self._seconds, self._look)
        try:
            news = self._store.news()
            if news == self._news:
                return
            self._news = news
            addressed = self._store.addressed(self._worker())
        except StoreError:
            self._news = -1  # Whether the database is lost is for the committer to say.
            return
        for execution_id in addressed:
            inbox = self._inboxes.get(execution_id)
            if inbox is not None:
                inbox.read()
