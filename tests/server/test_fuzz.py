"""Whatever fits the OpenAPI document is answered as the document says, and nothing makes the server fail."""

import collections
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck

from server.kit import Served

EXAMPLES = 40  # Of requests for each route.


@pytest.fixture(scope="module")
def schema(served: Served) -> Iterator[Any]:
    yield schemathesis.openapi.from_url(f"{served.url}/api/openapi.json")


def test_no_request_makes_the_server_fail_or_break_its_word(served: Served, schema: Any) -> None:
    known = served.start("survey", wait=10)["execution_id"]
    finished = served.start("hello", "x")["execution_id"]
    answers: collections.Counter[int] = collections.Counter()
    for found in schema.get_all_operations():
        operation = found.ok()
        if "stream" not in operation.path:
            fuzz(operation, {"execution_id": [known, finished], "name": ["hello", "order"]}, answers)

    print(answers)
    assert {200, 201, 202, 404, 409, 422} <= set(answers)
    assert max(answers) < 500


def fuzz(operation: Any, names: dict[str, list[str]], answers: "collections.Counter[int]") -> None:
    """Send what fits the document, often to what there is."""

    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @hypothesis.given(case=operation.as_strategy(), number=hypothesis.strategies.integers(0, 2))
    def send(case: Any, number: int) -> None:
        for name in set(names) & set(case.path_parameters or {}):
            if number < 2:
                case.path_parameters[name] = names[name][number]
        if case.query and "wait" in case.query:
            case.query["wait"] = 0
        answer = case.call()
        answers[answer.status_code] += 1
        case.validate_response(answer, excluded_checks=[schemathesis.checks.positive_data_acceptance])

    send()
