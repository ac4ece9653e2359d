"""Everything that can be done with an execution can be done over HTTP."""

import json
import threading
from typing import Any

import httpx2
import pytest

from server import workflows
from server.kit import Served


def events_of(served: Served, execution_id: str) -> list[str]:
    return [event["type"] for event in served.get(f"/executions/{execution_id}/events")]


def test_a_start_that_waits_gives_the_result(served: Served) -> None:
    answer = served.http.post("/workflows/hello/executions", params={"wait": 10}, json={"input": "World"})

    assert answer.status_code == 200
    execution = answer.json()
    assert (execution["state"], execution["output"], execution["input"]) == ("COMPLETED", "Hello, World!", "World")
    assert answer.headers["location"] == f"/api/executions/{execution['execution_id']}"


@pytest.mark.parametrize(("workflow", "value"), [("hello", "World"), ("hello", "ü" * 300_000), ("nap", 0.0)])
def test_a_start_that_waits_is_answered_with_what_is_shown_later(served: Served, workflow: str, value: Any) -> None:
    body = {"input": value, "attributes": {"customer": "7"}}
    answer = served.http.post(f"/workflows/{workflow}/executions", params={"wait": 10}, json=body)

    assert answer.status_code == 200
    assert answer.json()["attributes"] == {"customer": "7"}
    assert answer.json() == served.get(f"/executions/{answer.json()['execution_id']}")


def test_a_failed_execution_is_shown_with_the_place_where_its_error_was_raised(served: Served) -> None:
    workflows.broken.add("torn-0")
    answer = served.http.post("/workflows/steps/executions", params={"wait": 10}, json={"input": "torn"})
    later = served.get(f"/executions/{answer.json()['execution_id']}")

    assert answer.json() == later
    assert later["output"] == {"type": "ValueError", "message": "torn-0 is broken"}
    assert later["traceback"].startswith("Traceback (most recent call last):")
    assert later["traceback"].endswith("ValueError: torn-0 is broken")
    assert "in act" in later["traceback"]


def test_a_start_that_does_not_end_is_answered_when_the_wait_is_over(served: Served) -> None:
    answers = [
        served.http.post("/workflows/nap/executions", params={"wait": 0.2}, json={"input": seconds})
        for seconds in (5.0, 500.0)  # Kept in memory, and put aside.
    ]

    assert [answer.status_code for answer in answers] == [202, 202]
    for answer in answers:
        path = f"/executions/{answer.json()['execution_id']}/cancel"
        ended = served.http.post(path, params={"wait": 10}, headers={"x-flux": "1"})
        assert ended.json()["state"] == "CANCELLED"


def test_a_start_that_does_not_wait_is_durable_when_it_is_answered(served: Served) -> None:
    answer = served.http.post("/workflows/nap/executions", json={"input": 0.05})

    assert answer.status_code == 202
    id_ = answer.json()["execution_id"]
    assert served.app.store.get(id_) is not None
    assert served.get(f"/executions/{id_}", wait=10)["output"] == "awake"


def test_the_same_start_gives_the_same_execution_and_another_one_is_refused(served: Served, request: Any) -> None:
    id_ = f"same-{request.node.callspec.id}"
    first = served.start("hello", "a", execution_id=id_)

    assert served.start("hello", "a", execution_id=id_) == first
    other = served.http.post("/workflows/hello/executions", json={"input": "b", "execution_id": id_})
    assert (other.status_code, other.json()["type"]) == (409, "ExecutionConflictError")
    assert id_ in other.json()["message"]
    assert other.json()["hint"]


def test_a_key_stands_for_one_execution_of_a_workflow(served: Served, request: Any) -> None:
    def start(workflow: str, value: Any) -> httpx2.Response:
        headers = {"Idempotency-Key": request.node.name}
        return served.http.post(f"/workflows/{workflow}/executions", json={"input": value}, headers=headers)

    first, again, other, elsewhere = start("hello", "a"), start("hello", "a"), start("hello", "b"), start("nap", 0)

    assert first.status_code in {200, 202}  # It may be quick.
    assert again.json()["execution_id"] == first.json()["execution_id"]
    assert other.status_code == 409
    assert elsewhere.json()["execution_id"] != first.json()["execution_id"]


@pytest.mark.parametrize(
    ("workflow", "value"),
    [("hello", 5), ("order", {"items": {"tea": "many"}}), ("order", "tea"), ("nap", "soon"), ("order", {})],
)
def test_an_input_that_does_not_fit_is_refused_before_anything_is_recorded(
    served: Served, workflow: str, value: Any
) -> None:
    before = served.get("/counts")

    answer = served.http.post(f"/workflows/{workflow}/executions", json={"input": value})

    assert (answer.status_code, answer.json()["type"]) == (422, "InvalidInputError")
    assert answer.json()["message"].startswith("the input does not fit the workflow")
    assert ": " not in answer.json()["message"]  # All that does not fit is together, in the hint.
    assert served.get("/counts") == before


def test_an_input_is_given_to_the_body_as_its_annotation_has_it(served: Served) -> None:
    assert served.start("order", {"items": {"tea": 2, "cup": 1}})["output"] == 3


def test_a_pause_answers_whoever_waits_at_once_and_is_resumed_once(served: Served) -> None:
    execution = served.start("survey", wait=30)
    id_ = execution["execution_id"]
    assert (execution["state"], execution["pauses"]) == ("PAUSED", ["mood"])

    def resume(**body: Any) -> httpx2.Response:
        return served.http.post(f"/executions/{id_}/resume", params={"wait": 10}, json=body)

    wrong = resume(input=1, name="weather")
    assert (wrong.status_code, wrong.json()["type"]) == (409, "ExecutionConflictError")
    assert resume(input="good", name="mood", client_id="one").json()["pauses"] == ["weather"]
    assert resume(input="good", name="mood", client_id="one").json()["pauses"] == ["weather"]
    assert resume(input="wet").json()["output"] == ["good", "wet"]
    assert resume(input="late").status_code == 409
    assert events_of(served, id_).count("WORKFLOW_RESUMED") == 2


def test_a_signal_reaches_the_execution_once(served: Served) -> None:
    id_ = served.start("listen", wait=10)["execution_id"]

    for _ in range(2):
        sent = served.http.post(f"/executions/{id_}/signal", json={"name": "news", "value": [1], "client_id": "s"})
        assert sent.is_success or sent.status_code == 409  # It may have finished by the second time.

    assert served.get(f"/executions/{id_}", wait=10)["output"] == [1]
    late = served.http.post(f"/executions/{id_}/signal", json={"name": "news"})
    assert late.status_code == 409


def test_a_cancel_ends_an_execution_that_waits(served: Served) -> None:
    id_ = served.start("nap", 1000, wait=0)["execution_id"]

    cancelled = served.http.post(f"/executions/{id_}/cancel", params={"wait": 10}, json={}).json()

    assert cancelled["state"] == "CANCELLED"
    assert served.http.post(f"/executions/{id_}/cancel", json={}).status_code == 409


def test_a_cancel_at_once_ends_an_execution_without_its_clean_up(served: Served) -> None:
    one, *several = [served.start("nap", 1000, wait=0)["execution_id"] for _ in range(3)]

    ended = served.http.post(f"/executions/{one}/cancel", params={"wait": 10, "now": True}, json={}).json()
    served.http.post("/bulk", json={"action": "cancel", "execution_ids": several, "now": True}).raise_for_status()

    assert ended["state"] == "CANCELLED"
    for each in (one, *several):
        assert served.get(f"/executions/{each}", wait=10)["state"] == "CANCELLED"
        cancelling = [e for e in served.get(f"/executions/{each}/events") if e["type"] == "WORKFLOW_CANCELLING"]
        assert [event["detail"] for event in cancelling] == [{"now": True}]


def test_a_retry_makes_only_what_did_not_succeed(served: Served, request: Any) -> None:
    name = request.node.callspec.id
    workflows.broken.add(f"{name}-1")
    failed = served.start("steps", name)
    assert (failed["state"], failed["output"]["message"]) == ("FAILED", f"{name}-1 is broken")
    workflows.broken.clear()

    answer = served.http.post(f"/executions/{failed['execution_id']}/retry", json={})
    retried = served.get(f"/executions/{answer.json()['execution_id']}", wait=10)

    assert (answer.status_code, retried["forked_from"]) == (201, failed["execution_id"])
    assert retried["output"] == [f"{name}-0", f"{name}-1", f"{name}-2"]
    assert [each for each in workflows.done if each.startswith(name)] == retried["output"]
    assert served.get(f"/executions/{failed['execution_id']}") == failed
    again = served.http.post(f"/executions/{retried['execution_id']}/retry", json={})
    assert again.status_code == 409


def test_a_fork_shares_the_beginning_and_may_have_another_input(served: Served, request: Any) -> None:
    name = f"fork-{request.node.callspec.id}"
    first = served.start("steps", name)
    id_ = first["execution_id"]
    seqs = [event["seq"] for event in served.get(f"/executions/{id_}/events") if event["type"] == "TASK_COMPLETED"]

    def fork(**body: Any) -> Any:
        answer = served.http.post(f"/executions/{id_}/fork", json=body)
        return served.get(f"/executions/{answer.json()['execution_id']}", wait=10) if answer.is_success else answer

    assert fork(seq=seqs[1])["output"] == first["output"]
    assert workflows.done.count(f"{name}-0") == 1
    assert workflows.done.count(f"{name}-2") == 2
    assert fork(seq=1, input="other")["output"] == ["other-0", "other-1", "other-2"]
    assert fork(seq=10_000).status_code == 422
    assert fork(seq=1, input=5).status_code == 422
    assert fork(seq=1, execution_id=id_).status_code == 409


def test_a_child_is_linked_and_a_fork_of_its_parent_has_its_result(served: Served, request: Any) -> None:
    name = f"child-{request.node.callspec.id}"
    done = served.start("parent", name)
    assert done["output"] == f"Hello, {name}!{name}-after"

    fork = served.http.post(f"/executions/{done['execution_id']}/fork", json={"seq": done["last_seq"]}).json()

    assert served.get(f"/executions/{fork['execution_id']}", wait=10)["output"] == done["output"]


def test_executions_are_found_by_what_they_are_in_pages(served: Served, request: Any) -> None:
    name = request.node.callspec.id
    ids = [
        served.start("hello", f"{n}", attributes={"find": name, "parity": str(n % 2)})["execution_id"] for n in range(5)
    ]

    def find(**query: Any) -> dict[str, Any]:
        return served.get("/executions", **query)

    page = find(attribute=f"find={name}", limit=2)
    found = [each["execution_id"] for each in page["executions"]]
    while page["next_cursor"]:
        page = find(attribute=f"find={name}", limit=2, cursor=page["next_cursor"])
        found += [each["execution_id"] for each in page["executions"]]

    assert found == ids[::-1]
    odd = find(attribute=[f"find={name}", "parity=1"])["executions"]
    assert [each["execution_id"] for each in odd] == [ids[3], ids[1]]
    assert find(attribute=f"find={name}", state="FAILED")["executions"] == []
    assert served.get("/counts", attribute=f"find={name}")["COMPLETED"] == 5
    assert find(id_prefix=ids[2])["executions"][0]["attributes"] == {"find": name, "parity": "0"}


def test_several_are_cancelled_at_once_and_a_refusal_is_told_for_its_own(served: Served) -> None:
    sleeping = [served.start("nap", 1000, wait=0)["execution_id"] for _ in range(2)]
    over = served.start("hello", "x")["execution_id"]

    results = served.http.post("/bulk", json={"action": "cancel", "execution_ids": [*sleeping, over, "nobody"]}).json()

    assert [each["execution_id"] for each in results] == [*sleeping, over, "nobody"]
    kinds = [each["problem"] and each["problem"]["type"] for each in results]
    assert kinds == [None, None, "ExecutionConflictError", "ExecutionContextNotFoundError"]
    assert all(served.get(f"/executions/{each}", wait=10)["state"] == "CANCELLED" for each in sleeping)


def test_a_stream_has_every_event_once_also_after_a_reconnect(served: Served) -> None:
    id_ = served.start("survey", wait=10)["execution_id"]

    def follow(last: int | None, stop_after: str) -> list[int]:
        headers = {} if last is None else {"Last-Event-ID": str(last)}
        seqs = []
        with served.http.stream("GET", f"/executions/{id_}/stream", headers=headers) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {") and '"seq"' in line:
                    event = json.loads(line.removeprefix("data: "))
                    seqs.append(event["seq"])
                    if event["type"] == stop_after:
                        return seqs
                if line == "event: end":
                    return seqs
        raise AssertionError

    first = follow(None, "WORKFLOW_PAUSED")
    answering = threading.Timer(0.2, lambda: [resume(served, id_, each) for each in ("good", "wet")])
    answering.start()
    rest = follow(first[-1], "never")
    answering.join()

    assert first + rest == list(range(1, served.get(f"/executions/{id_}")["last_seq"] + 1))


def resume(served: Served, execution_id: str, value: str) -> None:
    served.http.post(f"/executions/{execution_id}/resume", params={"wait": 10}, json={"input": value})


def test_the_stream_of_changes_tells_of_every_execution(served: Served) -> None:
    seen: dict[str, list[str]] = {}
    with served.http.stream("GET", "/stream") as stream:
        lines = stream.iter_lines()
        id_ = served.start("survey", wait=0)["execution_id"]
        for line in lines:
            if line.startswith("data: {"):
                change = json.loads(line.removeprefix("data: "))
                seen.setdefault(change["execution_id"], []).append(change["state"])
                if change["state"] == "PAUSED" and change["execution_id"] == id_:
                    break
    assert seen[id_][-1] == "PAUSED"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/executions/unknown", None, 404),
        ("GET", "/executions/unknown/events", None, 404),
        ("GET", "/executions/unknown/stream", None, 404),
        ("GET", "/workflows/unknown", None, 404),
        ("POST", "/workflows/unknown/executions", {"input": 1}, 404),
        ("POST", "/executions/unknown/resume", {}, 404),
        ("POST", "/executions/unknown/signal", {"name": "x"}, 404),
        ("POST", "/executions/unknown/signal", {}, 422),
        ("POST", "/executions/unknown/cancel", {}, 404),
        ("POST", "/executions/unknown/retry", {}, 404),
        ("POST", "/executions/unknown/fork", {"seq": 1}, 404),
        ("POST", "/executions/unknown/fork", {"seq": 0}, 422),
        ("POST", "/workflows/hello/executions", {"inputs": "typo"}, 422),
        ("POST", "/workflows/hello/executions", {"input": "x", "execution_id": "../etc"}, 422),
        ("POST", "/workflows/hello/executions", {"input": "x", "attributes": {"a": "x" * 1000}}, 422),
        ("GET", "/executions?cursor=nonsense", None, 422),
        ("GET", "/executions?limit=0", None, 422),
        ("GET", "/executions?state=HAPPY", None, 422),
        ("GET", "/nothing", None, 404),
        ("PATCH", "/executions", None, 405),
    ],
)
def test_what_cannot_be_is_refused_with_a_problem(
    served: Served, method: str, path: str, body: Any, status: int
) -> None:
    before = served.app.catalogue.last_change()

    answer = served.http.request(method, path, json=body) if body is not None else served.http.request(method, path)

    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"type", "message", "hint"}
    assert served.app.catalogue.last_change() == before


def test_workflows_and_workers_are_shown(served: Served) -> None:
    hello = served.get("/workflows/hello")
    assert (hello["description"], hello["input_schema"]["type"]) == ("Say hello.", "string")
    assert {each["name"] for each in served.get("/workflows")} == {each.name for each in workflows.ALL}

    (worker,) = served.get("/workers")
    assert set(worker["workflows"]) == {each.name for each in workflows.ALL}
    assert (hello["labels"], worker["labels"]) == ({}, {"region": "eu"})
