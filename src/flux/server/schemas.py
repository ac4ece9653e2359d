"""Inputs and results of workflows as JSON Schema: what a worker publishes, and a server without the code checks."""

import inspect
import json
import typing
from functools import cache
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from flux import serde
from flux.catalogue import PublishedWorkflow
from flux.domain.definitions import WorkflowDefinition
from flux.errors import InvalidInputError
from flux.workflow import input_annotation


def published(workflow: WorkflowDefinition) -> PublishedWorkflow:
    """What is told of a workflow."""
    return PublishedWorkflow(
        name=workflow.name,
        version=workflow.version,
        location=workflow.location,
        description=(inspect.getdoc(workflow.func) or "").split("\n\n")[0],
        input_schema=_schema(input_annotation(workflow)),
        output_schema=_schema(_output_annotation(workflow)),
        labels=workflow.labels,
    )


def check(workflow: PublishedWorkflow, value: Any) -> None:
    """Check an input as far as its schema tells; the worker checks it again, by its annotation.

    Raises:
        InvalidInputError: It does not fit.
    """
    if workflow.input_schema is None or value is None:
        return
    error = best_match(_validator(workflow.input_schema).iter_errors(value))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "it"
        raise InvalidInputError(
            f"the input does not fit the workflow {workflow.name!r}: {where}: {error.message[:1000]}; give it what its "
            "schema says"
        )


@cache
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _schema(annotation: Any) -> str | None:
    if annotation is Any:
        return None
    try:
        schema = serde.adapter(annotation).json_schema()
    except Exception:  # noqa: BLE001 - classes of users take part in this, and may raise anything.
        return None
    return json.dumps(schema) if schema else None


def _output_annotation(workflow: WorkflowDefinition) -> Any:
    try:
        return typing.get_type_hints(workflow.func, include_extras=True).get("return", Any)
    except Exception:  # noqa: BLE001 - as above.
        return Any
