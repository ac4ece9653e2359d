"""The API can be a part of a program that has an API of its own."""

from collections.abc import Iterator

import fastapi
import httpx2
import pytest
from starlette.testclient import TestClient

from flux.api.application import create_application
from flux.api.guard import Access
from flux.app import App
from server.workflows import hello


@pytest.fixture
def client(app: App) -> Iterator[TestClient]:
    access = Access(hosts={"testserver"}, find=app.catalogue.find_token, clock=app.clock, is_open=True)
    own = fastapi.FastAPI()
    own.mount("/flux", create_application(app.control([hello.definition]), access=access))
    with TestClient(own) as client:
        yield client


def test_it_answers_below_the_path_that_it_is_mounted_at(client: TestClient, app: App) -> None:
    started = client.post("/flux/api/workflows/hello/executions", json={"input": "World"})

    assert started.status_code == 202
    assert app.store.get(started.json()["execution_id"]) is not None
    assert client.get("/flux/healthz").json() == {"status": "ok"}
    assert client.get("/healthz").status_code == 404


def test_a_request_that_waits_there_is_told_of_news(client: TestClient, app: App) -> None:
    id_ = client.post("/flux/api/workflows/hello/executions", json={"input": "World"}).json()["execution_id"]

    app.run_on(hello.definition, id_)

    answer: httpx2.Response = client.get(f"/flux/api/executions/{id_}", params={"wait": 5})
    assert answer.json()["output"] == "Hello, World!"
