"""A worker runs those of its workflows whose labels it has, and leaves their executions to others where it has not."""

import asyncio

import pytest

from flux import ExecutionContext, workflow
from flux.catalogue import PublishedWorkflow
from flux.cli.output import CommandError
from flux.cli.retrying import _why
from flux.cli.serve import _labels
from flux.domain.execution import ExecutionState
from flux.errors import InvalidValueError
from worker.kit import Team, settled, start, state, until

COMPLETED = ExecutionState.COMPLETED


@workflow
async def anywhere(ctx: ExecutionContext[int]):
    return ctx.input


@workflow.with_options(labels={"gpu": "a100"})
async def on_gpu(ctx: ExecutionContext[int]):
    return ctx.input


@workflow.with_options(labels={"region": "eu"})
async def parent(ctx: ExecutionContext[int]):
    return await on_gpu(ctx.input)


async def test_an_execution_waits_until_a_worker_has_all_of_its_labels(site):
    app = site.app()
    async with Team() as team:
        team.add(site.app(), on_gpu, anywhere, labels={"gpu": "t4"})
        waiting, other = start(app, on_gpu, 1), start(app, anywhere, 2)
        assert await settled(app, other) == [COMPLETED]  # It came later: the first one was passed over.
        assert state(app, waiting) == "SCHEDULED"
        team.add(site.app(), on_gpu, labels={"gpu": "a100", "region": "eu"})
        assert await settled(app, waiting) == [COMPLETED]


async def test_a_child_is_left_to_the_worker_that_has_its_labels(site):
    app = site.app()
    async with Team() as team:
        team.add(site.app(), parent, on_gpu, labels={"region": "eu"})
        execution_id = start(app, parent, 3)
        await until(lambda: app.store.list(workflow="on_gpu"))
        for _ in range(3):  # It has looked for what it may run, and left this.
            passed_over = start(app, parent, 4)
            await until(lambda each=passed_over: app.store.list(parent_id=each))
        assert {row.state for row in app.store.list(workflow="on_gpu")} == {ExecutionState.SCHEDULED}
        team.add(site.app(), parent, on_gpu, labels={"gpu": "a100"})
        assert await settled(app, execution_id) == [COMPLETED]


async def test_a_worker_tells_what_it_has_what_it_serves_and_what_the_others_must_have(site):
    app = site.app()
    async with Team() as team:
        team.add(site.app(), on_gpu, anywhere, labels={"region": "eu"})
        assert await settled(app, start(app, anywhere, 1)) == [COMPLETED]
        (told,) = [(each.workflows, each.labels) for each in app.catalogue.workers() if each.process]
        assert told == (["anywhere"], {"region": "eu"})
        assert {each.name: each.labels for each in app.catalogue.workflows()} == {
            "anywhere": {},
            "on_gpu": {"gpu": "a100"},
        }


async def test_a_worker_that_was_taken_for_dead_tells_its_labels_anew(site):
    app, other = site.app(), site.app()
    async with Team() as team:
        team.add(app, on_gpu, labels={"gpu": "a100"})
        await until(lambda: [each for each in other.catalogue.workers() if each.process])
        (before,) = other.catalogue.workers()
        other.store.remove_worker(before.worker)  # What a rescue does.
        await asyncio.to_thread(app._lease.beat)
        await until(lambda: [each for each in other.catalogue.workers() if each.process])
        (after,) = other.catalogue.workers()
        assert (after.worker != before.worker, after.labels) == (True, {"gpu": "a100"})


# -- why an execution waits


def waiting(site, *, asked, **workers):
    """Why an execution waits whose workflow asks for some labels, while workers with some labels run."""
    app = site.app()
    known = PublishedWorkflow(name="trained", version="1", location="train.py", labels=asked)
    other = PublishedWorkflow(name="told", version="1", location="told.py")
    for name, labels in workers.items():
        app.store.register_worker(name, lease_expires_at=app.clock.now() + 10_000_000)
        app.catalogue.publish(name, process=name, labels=labels, workflows=[other], left=[known], now=app.clock.now())
    row, _ = app.control().start("trained", 1)
    return app, row, _why(app.control(), row, [])


def test_who_waits_for_labels_is_told_which_and_what_each_worker_lacks_the_nearest_first(site):
    asked = {"gpu": "a100", "region": "eu west"}
    had = {"one": {}, "two": {"gpu": "a100"}, "three": {"gpu": "t4", "region": "eu west"}}
    _, _, (who, reasons) = waiting(site, asked=asked, **had)

    assert who == "a worker"
    assert reasons == [
        (
            "no worker serves 'trained', which asks for gpu=a100, region=eu west; to start one",
            "flux worker train.py --label gpu=a100 --label 'region=eu west'",
        ),
        ("two lacks region=eu west", ""),
        ("three lacks gpu=a100", ""),
        ("one lacks gpu=a100, region=eu west", ""),
    ]


def test_a_worker_that_has_the_labels_but_not_the_code_is_told_apart(site):
    _, _, (_, reasons) = waiting(site, asked={"gpu": "a100"}, one={"gpu": "a100", "region": "eu"})

    assert reasons[1:] == [("one has them, but not its code", "")]


def test_of_many_workers_without_the_labels_the_nearest_are_named_and_the_others_counted(site):
    _, _, (_, reasons) = waiting(site, asked={"gpu": "a100"}, **{f"w{n}": {} for n in range(7)})

    assert [what for what, _ in reasons[1:]] == [
        *(f"w{n} lacks gpu=a100" for n in range(5)),
        "2 more do not serve it",
    ]
    assert reasons[-1][1] == "flux workers list"


def test_who_could_be_claimed_or_asks_for_no_labels_is_told_what_it_was(site):
    app, row, (_, without) = waiting(site, asked={}, one={"gpu": "a100"})
    assert without == [
        (
            "no worker serves 'trained', start one, with its labels if it has some",
            "flux worker train.py",
        )
    ]
    served = PublishedWorkflow(name="trained", version="1", location="train.py", labels={"gpu": "a100"})
    app.catalogue.publish("one", process="one", labels={"gpu": "a100"}, workflows=[served], now=1)
    assert _why(app.control(), row, []) == ("a worker", [("served by one", "")])


# -- what labels may be


async def test_an_embedded_run_needs_no_labels(site):
    ctx = await site.app().run_async(parent.definition, 4, None)
    assert ctx.output == 4


BAD = [{"gpu": 1}, {"": "a"}, {"gpu": ""}, {"a\nb": "c"}, {"a": "\x1b[31m"}, {"a=b": "c"}, {"a": "\ud800"}, {" a": "b"}]


@pytest.mark.parametrize("labels", [*BAD, {"a": "b" * 201}, {str(n): "x" for n in range(33)}, ["gpu"], None])
def test_bad_labels_are_refused_at_decoration(labels):
    with pytest.raises(InvalidValueError, match="label"):
        anywhere.with_options(labels=labels)


@pytest.mark.parametrize("given", [["gpu"], ["gpu=a", "gpu=b"], ["=a"], ["gpu="], ["gpu=\x1b[31m"], ["a=" + "b" * 201]])
def test_bad_labels_are_refused_on_the_command_line(given):
    with pytest.raises(CommandError, match="--label"):
        _labels(given)


def test_the_most_labels_and_the_longest_are_taken():
    most = {f"{n:0200}": "x" * 200 for n in range(32)}
    assert anywhere.with_options(labels=most).definition.labels == most
