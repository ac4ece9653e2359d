"""What the timeline of an execution says, to the letter."""

from textwrap import dedent

from flux.cli.timeline import calls, render
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState


def drawn(story, *, end: float, state=ExecutionState.SCHEDULED, bars: bool = False, width: int = 80, **options) -> str:
    rows = calls(story.events, state=state)
    end_us = story.START + round(end * 1000)
    lines = render(rows, start_us=story.START, end_us=end_us, width=width, bars=bars, **options)
    return "\n".join(line.plain.rstrip() for line in lines)


def expected(text: str) -> str:
    return dedent(text).strip("\n")


def retries(story, call_id: str, name: str, errors: list[Exception]):
    for number, error in enumerate(errors):
        value = {"current_attempt": number, "max_attempts": len(errors)}
        story.tell(number + 1, Type.TASK_RETRY_FAILED, call_id, name, value, error=error, due_at=0)
        story.tell(number + 1.5, Type.TASK_RETRY_STARTED, call_id, name, {**value, "current_attempt": number + 1})
    return story


def test_calls_stand_in_order_of_their_start_within_their_parents(story):
    story.call("1", "fetch", 0, 12.4).tell(13, Type.TASK_STARTED, "2", "parallel", {})
    story.tell(13, Type.TASK_STARTED, "3", "parse", {}, parent="2").call("5", "count", 13, 14)
    story.call("4", "parse", 13.5, 1500, parent="2").tell(1600, Type.TASK_COMPLETED, "3", "parse", 1)
    story.tell(1601, Type.TASK_COMPLETED, "2", "parallel", [1, 1])

    assert drawn(story, end=1602) == expected("""
        call      id   start    took  state
        fetch      1   +0 ms   12 ms  done
        parallel   2  +13 ms   1.6 s  done
          parse    3  +13 ms   1.6 s  done
          parse    4  +14 ms   1.5 s  done
        count      5  +13 ms  1.0 ms  done
    """)


def test_attempts_are_counted_and_each_failure_is_told(story):
    story.tell(0, Type.TASK_STARTED, "1", "upload", {})
    retries(story, "1", "upload", [ConnectionError("reset"), ConnectionError("busy")])
    story.tell(9, Type.TASK_COMPLETED, "1", "upload", "ok")

    assert drawn(story, end=10) == expected("""
        call    id  start    took  state
        upload   1  +0 ms  9.0 ms  done, 3 attempts
            attempt 1: ConnectionError: reset
            attempt 2: ConnectionError: busy
    """)


def test_many_failed_attempts_are_cut_short(story):
    story = retries(story.tell(0, Type.TASK_STARTED, "1", "f", {}), "1", "f", [ValueError("no")] * 5)

    assert drawn(story, end=20, state=ExecutionState.RUNNING).splitlines()[-2:] == [
        "    attempt 3: ValueError: no",
        "    … and 2 more failed attempts",
    ]


def test_what_became_of_a_failed_call_is_its_state(story):
    for call_id, name, kind in (("1", "price", "FALLBACK"), ("2", "book", "ROLLBACK")):
        story.tell(0, Type.TASK_STARTED, call_id, name, {})
        story.tell(1, Type[f"TASK_{kind}_STARTED"], call_id, name, {}, error=KeyError("gone"), inner=None)
        story.tell(2, Type[f"TASK_{kind}_COMPLETED"], call_id, name, 1)
    story.tell(3, Type.TASK_COMPLETED, "1", "price", 1).tell(3, Type.TASK_FAILED, "2", "book", KeyError("gone"))
    story.tell(3, Type.TASK_STARTED, "3", "send", {}).tell(4, Type.TASK_FAILED, "3", "send", OSError("a\nb\x1b[2J"))
    story.tell(4, Type.TASK_STARTED, "4", "wait", {}).tell(5, Type.TASK_CANCELLED, "4", "wait")

    assert drawn(story, end=5) == expected("""
        call   id    start    took  state
        price   1    +0 ms  3.0 ms  fallback
            KeyError: 'gone'
        book    2    +0 ms  3.0 ms  rolled back
            KeyError: 'gone'
        send    3  +3.0 ms  1.0 ms  failed
            OSError: a b\\x1b[2J
        wait    4  +4.0 ms  1.0 ms  cancelled
    """)


def test_pauses_have_their_names_and_timers_the_time_at_which_they_fired(story):
    story.tell(0, Type.TASK_STARTED, "1", "pause", {"name": "approval"})
    story.tell(0, Type.TASK_PAUSED, "1", "pause", "approval")
    story.tell(61_000, Type.TIMER_FIRED, "2", "timer", None, due_at=story.START)

    assert drawn(story, end=3_723_000) == expected("""
        call              id        start        took  state
        pause "approval"   1        +0 ms  1 h 02 min  paused
        timer              2  +1 min 01 s              fired
    """)


def test_an_open_call_is_running_only_while_somebody_runs_it(story):
    story.tell(0, Type.TASK_STARTED, "1", "nap", {})

    assert drawn(story, end=2000, state=ExecutionState.RUNNING).splitlines()[1] == "nap    1  +0 ms  2.0 s  running"
    assert drawn(story, end=2000).splitlines()[1] == "nap    1  +0 ms        interrupted"


def crowd(story):
    story.call("1", "list_files", 0, 1)
    for number in range(2, 1014):
        story.call(str(number), "parse_file", 1, 1 + (30.6 if number == 7 else 0.4))
    story.tell(2, Type.TASK_STARTED, "1014", "parse_file", {})
    return story.tell(3, Type.TASK_FAILED, "1014", "parse_file", ValueError("row 7"))


def test_a_crowd_of_siblings_is_one_line_and_the_failed_ones(story):
    assert drawn(crowd(story), end=40) == expected("""
        call            id    start    took  state
        list_files       1    +0 ms  1.0 ms  done
        parse_file × 1,013  done 1,012  failed 1  0.4 ms … 31 ms
          parse_file  1014  +2.0 ms  1.0 ms  failed
              ValueError: row 7
    """)


def test_all_shows_the_crowd(story):
    assert len(drawn(crowd(story), end=40, show_all=True).splitlines()) == 1 + 1 + 1013 + 1


def test_twenty_siblings_are_no_crowd(story):
    for number in range(20):
        story.call(str(number), "f", 0, 1)

    assert len(drawn(story, end=1).splitlines()) == 21


def test_bars_show_when_a_call_was_and_fit_the_terminal(story):
    story.call("1", "first", 0, 50).call("2", "second" * 12, 50, 75)
    story.tell(75, Type.TASK_STARTED, "3", "third 日本", {})

    assert drawn(story, end=100, state=ExecutionState.RUNNING, bars=True) == expected("""
        call                                        id   start   took            state
        first                                        1   +0 ms  50 ms  ████      done
        secondsecondsecondsecondsecondsecondsecon…   2  +50 ms  25 ms      ██    done
        third 日本                                   3  +75 ms  25 ms        ░░  running
    """)


def test_an_execution_without_calls_has_no_timeline(story):
    assert drawn(story.tell(0, Type.WORKFLOW_STARTED, "", "w", 1), end=1) == ""
