"""Graphs: what runs when, what each node gets, and that a crash anywhere changes nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import ExecutionError, InvalidValueError
from flux.tasks import Graph, parallel, sleep
from functional.kit import BEGINNING_US, Kit, failure, recorded_ids, run_script, shape, times, types, whole
from support.simulation import Simulation, cuts, finished_calls
from support.world import work


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def broken(x: Any) -> Any:
    raise ValueError(f"no {x}")


@task
async def is_even(x: int) -> bool:
    return x % 2 == 0


def after(seconds: float, name: str) -> Any:
    """A task that takes a while, and returns what it got."""

    @task.with_options(name=name)
    async def slow(*arrived: Any) -> Any:
        await asyncio.sleep(seconds)
        return [name, *arrived]

    return slow


def parrot(*arrived: Any) -> list[Any]:
    return list(arrived)


def chain(name: str, *actions: Any) -> Graph:
    """Node after node, named by their numbers."""
    graph = Graph(name).start_with("0").end_with(str(len(actions) - 1))
    for i, action in enumerate(actions):
        graph.add_node(str(i), action)
    for i in range(len(actions) - 1):
        graph.add_edge(str(i), str(i + 1))
    return graph


def diamond(left: Any, right: Any, join: Any = parrot, **conditions: Any) -> Graph:
    """A start with two ways to a join."""
    return (
        Graph("diamond")
        .add_node("start", parrot)
        .add_node("left", left)
        .add_node("right", right)
        .add_node("join", join)
        .add_edge("start", "left", condition=conditions.get("to_left"))
        .add_edge("start", "right", condition=conditions.get("to_right"))
        .add_edge("right", "join", condition=conditions.get("from_right"))
        .add_edge("left", "join", condition=conditions.get("from_left"))
        .start_with("start")
        .end_with("join")
    )


def outcome(kit: Kit, graph: Graph, value: Any = None) -> ExecutionContext[Any]:
    """An execution whose body is one call of a graph, as it is and as it is stored."""

    @workflow.with_options(name="calling")
    async def calling(ctx: ExecutionContext[Any]) -> Any:
        return await graph(ctx.input)

    ctx = kit.run(calling, value)
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))
    return ctx


def test_a_graph_has_a_start_and_an_end_with_its_nodes_between(both: Kit) -> None:
    ctx = outcome(both, chain("g", double, double), 1)

    assert shape(ctx) == [
        ("WS", "calling", 1),
        ("TS", "graph_g", {}),
        ("TS", "double", {"x": 1}),
        ("TC", "double", 2),
        ("TS", "double", {"x": 2}),
        ("TC", "double", 4),
        ("TC", "graph_g", 4),
        ("WC", "calling", 4),
    ]
    assert [e.detail.get("parent") for e in ctx.events if e.name == "double" and e.type == "TASK_STARTED"] == ["1", "1"]


def test_a_graph_of_one_node_starts_and_ends_with_it(both: Kit) -> None:
    assert outcome(both, chain("one", double), 4).output == 8


def test_the_input_is_none_unless_it_is_given(both: Kit) -> None:
    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        return await chain("g", parrot)()

    assert both.run(calling).output == [None]


def test_a_node_may_be_any_function(both: Kit) -> None:
    async def twice(x: int) -> tuple[int, int]:
        return x, x

    @task
    def total(pair: tuple[int, int]) -> int:
        return sum(pair)

    graph = chain("g", lambda x: x + 1, twice, total, chain("inner", double))
    ctx = outcome(both, graph, 1)

    assert ctx.output == 8
    assert [name for _, name, _ in shape(ctx) if name.startswith("graph")] == [
        "graph_g",
        "graph_inner",
        "graph_inner",
        "graph_g",
    ]


def test_branches_run_in_parallel_and_a_join_waits_for_all_of_them(both: Kit) -> None:
    ctx = outcome(both, diamond(after(3, "slow"), after(1, "fast")), "x")

    assert ctx.output == [["fast", ["x"]], ["slow", ["x"]]]
    assert (ctx.events[-1].time - ctx.events[0].time).total_seconds() == 3


def test_a_join_gets_the_outputs_in_the_order_of_its_edges_whoever_is_first(both: Kit) -> None:
    ctx = outcome(both, diamond(after(1, "left"), after(3, "right")), "x")

    assert ctx.output == [["right", ["x"]], ["left", ["x"]]]


def test_the_start_of_a_node_waits_for_its_own_edges_only(both: Kit) -> None:
    """A long way and a short one: nothing on the long one waits for the short one."""
    graph = (
        Graph("ways")
        .add_node("start", parrot)
        .add_node("a1", after(1, "a1"))
        .add_node("a2", after(1, "a2"))
        .add_node("b", after(5, "b"))
        .add_node("end", lambda *_: None)
        .start_with("start")
        .add_edge("start", "a1")
        .add_edge("a1", "a2")
        .add_edge("start", "b")
        .add_edge("a2", "end")
        .add_edge("b", "end")
        .end_with("end")
    )
    ctx = outcome(both, graph)

    ended = {e.name: round((e.time_us - BEGINNING_US) / 1e6) for e in ctx.events if e.type == "TASK_COMPLETED"}
    assert ended == {"a1": 1, "a2": 2, "b": 5, "graph_ways": 5}


def test_the_lines_of_a_graph_may_come_in_any_order(both: Kit) -> None:
    graph = Graph("g").end_with("b").add_edge("a", "b").start_with("a").add_node("b", double).add_node("a", double)

    assert outcome(both, graph.validate(), 1).output == 4


# -- conditions


async def yes(_: Any) -> bool:
    return True


async def no(_: Any) -> bool:
    return False


@pytest.mark.parametrize(
    "closed", [lambda _: False, no, lambda _: no(_), lambda _: ""], ids="sync async lambda ''".split()
)
def test_a_node_behind_a_closed_edge_is_skipped_and_gives_a_join_none(both: Kit, closed: Any) -> None:
    ctx = outcome(both, diamond(after(1, "left"), after(1, "right"), to_left=closed, to_right=yes), "x")

    assert ctx.output == [["right", ["x"]], None]
    assert [name for _, name, _ in shape(ctx)].count("left") == 0


def test_a_condition_is_given_the_output_of_the_node_before(both: Kit) -> None:
    routed = [
        outcome(both, diamond(double, double, to_left=lambda x: x == [1], to_right=lambda x: x == [2]), x).output
        for x in (1, 2, 3)
    ]

    assert routed == [[None, [1, 1]], [[2, 2], None], None]


def test_a_closed_edge_into_a_join_gives_none_though_its_node_ran(both: Kit) -> None:
    ctx = outcome(both, diamond(after(1, "left"), after(1, "right"), from_left=no), "x")

    assert ctx.output == [["right", ["x"]], None]
    assert [name for _, name, _ in shape(ctx)].count("left") == 2


def test_skipping_goes_on_to_the_end_and_the_result_is_none(both: Kit) -> None:
    ctx = outcome(both, diamond(broken, broken, to_left=no, to_right=no, join=broken), 1)

    assert (ctx.state, ctx.output) == (ExecutionState.COMPLETED, None)
    assert types(ctx) == ["WS", "TS", "TC", "WC"]


def test_a_condition_of_a_skipped_node_is_not_asked(both: Kit) -> None:
    ctx = outcome(both, diamond(double, double, to_left=no, from_left=broken), [1])

    assert ctx.output == [[[1], [1]], None]


def test_a_condition_may_be_a_task_and_is_recorded_as_one(both: Kit) -> None:
    graph = (
        Graph("g")
        .add_node("a", double)
        .add_node("b", double)
        .add_edge("a", "b", condition=is_even)
        .start_with("a")
        .end_with("b")
    )
    ctx = outcome(both, graph, 1)

    assert ctx.output == 4
    assert [name for _, name, _ in shape(ctx)].count("is_even") == 2


def test_the_graph_waits_for_nodes_that_do_not_lead_to_its_end(both: Kit) -> None:
    graph = chain("g", double, double).add_node("audit", after(9, "audit")).add_edge("0", "audit")
    ctx = outcome(both, graph, 1)

    assert ctx.output == 4
    assert types(ctx)[-3:] == ["TC", "TC", "WC"]
    assert shape(ctx)[-3] == ("TC", "audit", ["audit", 2])


# -- failures


def test_a_failing_node_fails_the_graph_and_cancels_the_rest_after_two_seconds(both: Kit) -> None:
    ctx = outcome(both, diamond(after(60, "left"), broken, join=after(1, "join")), "x")

    error = failure(ValueError, "no ['x']")
    assert shape(ctx) == [
        ("WS", "calling", "x"),
        ("TS", "graph_diamond", {}),
        ("TS", "left", {"arrived": (["x"],)}),
        ("TS", "broken", {"x": ["x"]}),
        ("TF", "broken", error),
        ("TIMER_FIRED", "timer", None),
        ("TASK_CANCELLED", "left", None),
        ("TF", "graph_diamond", error),
        ("WF", "calling", error),
    ]
    assert (ctx.events[-1].time - ctx.events[0].time).total_seconds() == 2


def test_no_node_starts_after_one_has_failed(both: Kit) -> None:
    """What runs may finish within the two seconds; what would follow it does not begin."""
    graph = (
        diamond(after(1, "left"), broken, join=after(1, "join"))
        .add_node("next", after(0, "next"))
        .add_edge("left", "next")
    )
    ctx = outcome(both, graph, "x")

    assert [(type_, name) for type_, name, _ in shape(ctx)][4:] == [
        ("TF", "broken"),
        ("TC", "left"),
        ("TF", "graph_diamond"),
        ("WF", "calling"),
    ]


def test_a_failing_graph_without_branches_fails_at_once(both: Kit) -> None:
    ctx = outcome(both, chain("g", double, broken, double), 1)

    assert types(ctx) == ["WS", "TS", "TS", "TC", "TS", "TF", "TF", "WF"]
    assert ctx.events[-1].time == ctx.events[0].time


@pytest.mark.parametrize("condition", [lambda x: x["nothing"], broken], ids=["sync", "a task"])
def test_a_failing_condition_fails_the_graph(both: Kit, condition: Any) -> None:
    ctx = outcome(both, diamond(double, double, to_left=condition), 1)

    assert ctx.has_failed
    assert isinstance(ctx.output, TypeError if condition is not broken else ValueError)


def test_a_body_may_catch_the_failure_of_a_graph_and_call_it_again(both: Kit) -> None:
    @task
    async def picky(x: int) -> int:
        if x == 1:
            raise ValueError("not 1")
        return x

    graph = chain("g", picky, double)

    @workflow
    async def catching(ctx: ExecutionContext[None]) -> Any:
        try:
            return await graph(1)
        except ExecutionError as error:
            return [str(error), await graph(2)]

    assert both.run(catching).output == ["not 1", 4]


def test_a_graph_that_is_given_up_cancels_its_nodes(both: Kit) -> None:
    @workflow
    async def hasty(ctx: ExecutionContext[None]) -> Any:
        try:
            async with asyncio.timeout(1):
                await diamond(after(60, "left"), after(60, "right"))("x")
        except TimeoutError:
            return "late"

    ctx = both.run(hasty)

    assert ctx.output == "late"
    assert [name for type_, name, _ in shape(ctx) if type_ == "TASK_CANCELLED"] == ["left", "right", "graph_diamond"]


# -- one object, many calls


def test_one_graph_serves_many_executions_at_once(both: Kit) -> None:
    graph = diamond(
        after(2, "left"), after(1, "right"), to_left=lambda x: x[0] % 2 == 0, to_right=lambda x: x[0] % 3 == 0
    )

    @workflow
    async def calling(ctx: ExecutionContext[int]) -> Any:
        return await parallel(graph(ctx.input), graph(ctx.input + 1))

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(calling.run_async(x) for x in range(12)))

    def expected(x: int) -> Any:
        right, left = (["right", [x]] if x % 3 == 0 else None), (["left", [x]] if x % 2 == 0 else None)
        return [right, left] if right or left else None

    assert [ctx.output for ctx in both.drive(all_at_once())] == [[expected(x), expected(x + 1)] for x in range(12)]


def test_a_graph_that_grows_while_it_runs_changes_later_calls_only() -> None:
    def grow(x: int) -> int:
        graph.add_node(f"late {x}", seen.append).add_edge("0", f"late {x}")
        return x

    seen: list[int] = []
    graph = chain("g", grow)

    assert [asyncio.run(graph(x)) for x in (1, 2)] == [1, 2]
    assert seen == [2]


# -- graphs that make no sense

FINE = Graph("g").add_node("a", double).add_node("b", double).add_edge("a", "b").start_with("a").end_with("b")


def edged(*edges: str) -> Graph:
    graph = Graph("g").start_with("a").end_with("b")
    for name in "abcd":
        graph.add_node(name, double)
    for start, end in edges:
        graph.add_edge(start, end)
    return graph


@pytest.mark.parametrize(
    ("graph", "what"),
    [
        (Graph("g"), "has no start"),
        (Graph("g").add_node("a", double).end_with("a"), "has no start"),
        (Graph("g").add_node("a", double).start_with("a"), "has no end"),
        (Graph("g").add_node("a", double).start_with("z").end_with("a"), "no node 'z'"),
        (Graph("g").add_node("a", double).start_with("a").end_with("z"), "no node 'z'"),
        (edged("ab", "bc", "cd", "dz"), "no node 'z'"),
        (edged("ab", "bc", "cd", "za"), "no node 'z'"),
        (edged("ab", "bc"), "nothing leads from 'a' to 'd'"),
        (edged("ab", "bc", "dc"), "nothing leads from 'a' to 'd'"),
        (edged("ab", "bc", "da"), "nothing leads from 'a' to 'd'"),
        (edged("ab", "bc", "cb", "cd"), "cycle, '[bc]' → '[bc]' → '[bc]'"),
        (edged("ab", "bc", "cd", "da"), "cycle"),
        (edged("ab", "bc", "cd", "dd"), "cycle, 'd' → 'd'"),
        (edged("ab", "cd", "dc"), "cycle"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused_before_anything_is_recorded(kit: Kit, graph: Graph, what: str) -> None:
    @workflow
    async def calling(ctx: ExecutionContext[int]) -> Any:
        return await graph(ctx.input)

    with pytest.raises(ValueError, match=what) as refused:
        graph.validate()
    ctx = kit.run(calling, 1)

    assert type(refused.value) is InvalidValueError
    assert types(ctx) == ["WS", "WF"]
    assert str(ctx.output) == str(refused.value)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: Graph(""), "named ''"),
        (lambda: Graph(None), "named None"),  # type: ignore[arg-type]
        (lambda: edged().add_node("a", double), "two nodes 'a'"),
        (lambda: edged().add_node("x", 7), "action is 7"),  # type: ignore[arg-type]
        (lambda: edged("ab").add_edge("a", "b", yes), "two edges from 'a' to 'b'"),
        (lambda: edged().add_edge("a", "b", True), "condition is True"),  # type: ignore[arg-type]
        (lambda: edged().start_with("b"), "starts with 'a' already"),
        (lambda: edged().end_with("a"), "ends with 'b' already"),
    ],
)
def test_a_line_that_contradicts_another_is_refused_where_it_stands(build: Any, what: str) -> None:
    with pytest.raises(InvalidValueError, match=what):
        build()


def test_a_graph_that_makes_sense_is_returned_by_its_validation() -> None:
    assert FINE.validate() is FINE
    assert edged("ab", "bc", "ad", "dc").validate()


# -- crashes


@workflow.with_options(version="1")
async def crossing(ctx: ExecutionContext[Any]) -> Any:
    graph = (
        Graph("crossing")
        .add_node("start", work)
        .add_node("even", work)
        .add_node("odd", work)
        .add_node("both", lambda *arrived: work(list(arrived)))
        .add_node("end", lambda *arrived: work(list(arrived)))
        .add_edge("start", "even")
        .add_edge("start", "odd")
        .add_edge("odd", "both")
        .add_edge("even", "both")
        .add_edge("even", "end", condition=work)
        .add_edge("both", "end", condition=lambda _: sleeping())
        .start_with("start")
        .end_with("end")
    )
    return await parallel(graph("x"), graph("y"))


async def sleeping() -> bool:
    await sleep(1)
    return bool(await pause("open?"))


@pytest.mark.parametrize("remembers", [True, False], ids=["remembers", "forgets"])
def test_a_graph_continues_exactly_from_every_event(tmp_path: Path, remembers: bool) -> None:
    simulation = Simulation(tmp_path, crossing, seed=5)
    live = simulation.run()
    assert live.state is ExecutionState.COMPLETED

    for k in cuts(live.events):
        again = simulation.run_from(live.events[:k], remembers=remembers)

        assert again.state is ExecutionState.COMPLETED
        assert again.world.called & finished_calls(live.events[:k]) == set(), k
        if remembers:
            assert (k, again.output) == (k, live.output)
            assert (k, again.shape) == (k, live.shape)


def test_a_killed_graph_goes_on_where_it_was(home: Path) -> None:
    text = """
    from flux.tasks import Graph

    @task
    async def left(x):
        count("left")
        return x + 1

    @task
    async def right(x):
        count("right")
        if once("right died"):
            await asyncio.sleep(0.3)
            die()
        return x + 2

    graph = (
        Graph("g").add_node("a", lambda x: x).add_node("l", left).add_node("r", right)
        .add_node("j", lambda *both: list(both))
        .add_edge("a", "l").add_edge("a", "r").add_edge("l", "j").add_edge("r", "j").start_with("a").end_with("j")
    )

    @workflow
    async def joined(ctx: ExecutionContext[int]):
        return await graph(ctx.input)

    if __name__ == "__main__":
        print(joined.run(1, execution_id="x").output)
    """
    run_script(home, text, code=-9)

    assert run_script(home, text) == "[2, 3]\n"
    assert (times(home, "left"), times(home, "right")) == (1, 2)


# -- outside a body


def test_outside_a_body_a_graph_just_runs(home: Path) -> None:
    graph = diamond(double, double, to_right=lambda x: x == [1])

    assert asyncio.run(graph(1)) == [[1, 1], [1, 1]]
    assert asyncio.run(graph(2)) == [None, [2, 2]]
    with pytest.raises(ValueError, match="no"):
        asyncio.run(chain("g", broken)(1))
    assert recorded_ids() == []
