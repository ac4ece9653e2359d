"""Actions as the nodes of a graph: drawn once, then called like a task."""

import asyncio
import inspect
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from typing import Any, Self

from flux.engine.concurrency import run_all
from flux.errors import InvalidValueError
from flux.tasks.combinator import combine

Action = Callable[..., Any]
Condition = Callable[[Any], Any]


class Graph:
    """Nodes that run as soon as what they need is there; branches run in parallel.

    The start node gets the input, and a node gets what the nodes before it returned: one argument for each edge that
    leads to it, in the order in which the edges were added.  A node waits until each of these edges is settled.  An
    edge is closed if its condition says no, or if the node before it was skipped; a closed edge gives None.  A node
    whose edges are all closed is skipped.  The graph is done when all its nodes are, and its result is what the end
    node returned, None if that was skipped.

    A graph keeps nothing between calls: one object serves any number of executions at once.

    Args:
        name: The call is `graph_{name}` in the history.

    Raises:
        InvalidValueError: The name is not a text.

    Example:
        >>> graph = (
        ...     Graph("order")
        ...     .add_node("check", check)
        ...     .add_node("ship", ship)
        ...     .add_edge("check", "ship", condition=lambda checked: checked.is_paid)
        ...     .start_with("check")
        ...     .end_with("ship")
        ... )
        >>> receipt = await graph(order)
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise InvalidValueError(f"a graph is named {name!r}: name it by a text, which the history shows")
        self.name = name
        self._actions: dict[str, Action] = {}
        self._edges: dict[str, dict[str, Condition | None]] = {}  # To each node: from which, on what condition.
        self._start: str | None = None
        self._end: str | None = None

    def add_node(self, name: str, action: Action) -> Self:
        """Add a node.

        Args:
            name: By which edges know it.
            action: A task, another graph, or any function, `async` or not; in a body, a function that is no task
                runs as a part of the body.

        Raises:
            InvalidValueError: There is a node of this name, or the action cannot be called.
        """
        if name in self._actions:
            raise self._wrong(f"has two nodes {name!r}: give one of them another name")
        if not callable(action):
            raise self._wrong(f"has a node {name!r} whose action is {action!r}: give it a task or a function")
        self._actions[name] = action
        return self

    def add_edge(self, start_node: str, end_node: str, condition: Condition | None = None) -> Self:
        """Let one node follow another.

        Args:
            start_node: The node before.
            end_node: The node after; it gets what the one before returned.
            condition: Given that, says whether the edge is open; `async` or not, and it may be a task.

        Raises:
            InvalidValueError: There is such an edge, or the condition cannot be called.
        """
        edges = self._edges.setdefault(end_node, {})
        if start_node in edges:
            raise self._wrong(f"has two edges from {start_node!r} to {end_node!r}: join their conditions in one")
        if condition is not None and not callable(condition):
            raise self._wrong(
                f"has an edge from {start_node!r} to {end_node!r} whose condition is {condition!r}: give it a function "
                "of the output, or leave it out"
            )
        edges[start_node] = condition
        return self

    def start_with(self, node: str) -> Self:
        """Say which node gets the input.

        Raises:
            InvalidValueError: Another one does already.
        """
        if self._start is not None:
            raise self._wrong(f"starts with {self._start!r} already: let {node!r} follow a node, as all others do")
        self._start = node
        return self

    def end_with(self, node: str) -> Self:
        """Say which node gives the result.

        Raises:
            InvalidValueError: Another one does already.
        """
        if self._end is not None:
            raise self._wrong(f"ends with {self._end!r} already: add a node that follows both, and end with that")
        self._end = node
        return self

    def validate(self) -> Self:
        """Make sure that the graph can be called, which each call does as well, before it records anything.

        Raises:
            InvalidValueError: It has no start or no end, names a node that it has not, or has a cycle or a node that
                nothing leads to.
        """
        start, end = self._ends()
        for name in (start, end, *self._edges, *(before for edges in self._edges.values() for before in edges)):
            if name not in self._actions:
                raise self._wrong(f"has no node {name!r}, which it names: add it with add_node()")
        reached = {start}
        for node in self._in_order():
            if reached.isdisjoint((node, *self._edges.get(node, ()))):
                raise self._wrong(f"is not connected: nothing leads from {start!r} to {node!r}, so add an edge to it")
            reached.add(node)
        return self

    async def __call__(self, input: Any = None) -> Any:  # noqa: A002 - as everywhere in Flux.
        """Run the graph; in a body it is one entry of the timeline, and the calls of its nodes stand below it.

        Args:
            input: What the start node gets.

        Raises:
            InvalidValueError: As `validate`; nothing is recorded.
            Exception: Whatever the first node or condition to fail raised.  No further node starts; those that run
                may finish for 2 seconds, then they are cancelled.
        """
        self.validate()
        start, end = self._ends()
        edges = {node: list(self._edges.get(node, {}).items()) for node in self._actions}
        return await combine(f"graph_{self.name}", _Run(self._actions, edges).result(start, end, input))

    def _ends(self) -> tuple[str, str]:
        if self._start is None:
            raise self._wrong("has no start: name the node that gets the input with start_with()")
        if self._end is None:
            raise self._wrong("has no end: name the node that gives the result with end_with()")
        return self._start, self._end

    def _in_order(self) -> list[str]:
        """The nodes, each after those before it."""
        try:
            return list(TopologicalSorter({node: self._edges.get(node, ()) for node in self._actions}).static_order())
        except CycleError as error:
            cycle = " → ".join(repr(node) for node in error.args[1])
            raise self._wrong(f"has a cycle, {cycle}: take out one of these edges, and loop in the body") from None

    def _wrong(self, what: str) -> InvalidValueError:
        return InvalidValueError(f"the graph {self.name!r} {what}")


class _Run:
    """One call of a graph.

    Args:
        actions: Of each node.
        edges: To each node: from which one, and on what condition.
    """

    def __init__(self, actions: dict[str, Action], edges: dict[str, list[tuple[str, Condition | None]]]) -> None:
        self._actions, self._edges = actions, edges
        self._outputs: dict[str, Any] = {}  # Of the nodes that ran.
        self._settled = {node: asyncio.Event() for node in actions}
        self._has_failed = False

    async def result(self, start: str, end: str, value: Any) -> Any:
        """Run all nodes; gives the output of the end node."""
        visits = [self._visit(node, [value] if node == start else None) for node in self._actions]
        await run_all(visits, max_concurrent=None, raise_on_error=True)
        return self._outputs.get(end)

    async def _visit(self, node: str, arguments: list[Any] | None) -> None:
        try:
            arguments = arguments or await self._arriving(node)
            if arguments and not self._has_failed:
                self._outputs[node] = await _resolved(self._actions[node](*arguments))
        except BaseException:
            self._has_failed = True  # Before the nodes that wait for this one are told.
            raise
        finally:
            self._settled[node].set()

    async def _arriving(self, node: str) -> list[Any] | None:
        """What the edges to a node give, or None if all of them are closed."""
        arriving, is_open = [], False
        for before, condition in self._edges[node]:
            await self._settled[before].wait()
            opens = before in self._outputs
            if opens and condition is not None:
                opens = bool(await _resolved(condition(self._outputs[before])))
            arriving.append(self._outputs[before] if opens else None)
            is_open = is_open or opens
        return arriving if is_open else None


async def _resolved(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
