"""The watch over bodies that do not let go."""

import threading

from flux import telemetry
from flux.engine.loop import Drain
from flux.engine.watch import Watch


def seen_by(look):
    events = []
    detach = telemetry.attach(lambda name, fields: events.append((name, fields)))
    try:
        look()
    finally:
        detach()
    return events


def test_a_body_that_computes_for_more_than_a_second_is_reported_once_with_its_stack(caplog):
    drain = Drain(began=10.0, thread=threading.get_ident())
    watch = Watch(lambda: [drain])

    assert seen_by(lambda: watch.look(10.9)) == []
    (event,) = seen_by(lambda: watch.look(11.5))
    assert event[0] == "body.stalled"
    assert "test_a_body_that_computes" in event[1]["stack"]
    assert "move the work into a @task" in caplog.text
    assert seen_by(lambda: watch.look(20.0)) == []


def test_each_stall_is_reported():
    drains = [Drain(began=10.0, thread=1)]
    watch = Watch(lambda: drains)

    assert len(seen_by(lambda: watch.look(12.0))) == 1
    drains[:] = [Drain(began=20.0, thread=1)]
    assert len(seen_by(lambda: watch.look(22.0))) == 1
