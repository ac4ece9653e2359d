"""The OpenAPI document that is kept in the repository is the one that the server gives."""

import json
from pathlib import Path
from typing import Any

from server.openapi import document

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def outline(text: str) -> dict[str, Any]:
    """What clients depend on; how it is written out differs between releases of the libraries."""
    shown = json.loads(text)
    routes = {
        f"{method.upper()} {path}": [
            route["summary"],
            sorted(each["name"] for each in route.get("parameters", ())),
            sorted(route["responses"]),
        ]
        for path, methods in shown["paths"].items()
        for method, route in methods.items()
    }
    fields = {name: sorted(each.get("properties", ())) for name, each in shown["components"]["schemas"].items()}
    return routes | fields


def test_the_document_in_the_repository_is_that_of_the_server():
    assert outline(DOCUMENT.read_text("utf-8")) == outline(document()), (
        "the API has changed: write the document anew with  python tests/server/openapi.py > docs/openapi.json"
    )


def test_every_route_says_what_it_does_and_answers_problems_in_one_form():
    paths = json.loads(document())["paths"]

    for path, methods in paths.items():
        for method, route in methods.items():
            assert route["summary"], (path, method)
            if path.startswith("/api"):
                assert route["responses"]["404"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
