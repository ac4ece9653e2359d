"""Errors as answers: `{type, message, hint}`, whatever went wrong."""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from flux.api.models import Problem
from flux.errors import (
    ExecutionConflictError,
    FluxError,
    InvalidInputError,
    InvalidValueError,
    NotFoundError,
    StoreError,
)

logger = logging.getLogger("flux.api")

_STATUS: tuple[tuple[type[FluxError], int], ...] = (
    (NotFoundError, 404),
    (ExecutionConflictError, 409),
    (InvalidValueError, 422),
    (StoreError, 503),
)


class RefusedError(Exception):
    """A request is not let in; it carries the answer."""

    def __init__(self, status: int, kind: str, message: str, hint: str = "", **headers: str) -> None:
        super().__init__(message)
        self.answer = problem(status, kind, message, hint, **headers)


def problem(status: int, kind: str, message: str, hint: str = "", **headers: str) -> JSONResponse:
    """An error as an answer."""
    return JSONResponse({"type": kind, "message": message, "hint": hint}, status, headers=headers)


def install(app: FastAPI) -> None:
    """Answer every error in the one form."""
    app.add_exception_handler(FluxError, _flux_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)


def problem_of(error: FluxError) -> Problem:
    """One of our errors as it is shown: its message says what to do after the last colon.

    What does not fit an input is a list, with a colon in each item: there it is all that follows the first.
    """
    text = str(error)
    at = text.find(": ") if isinstance(error, InvalidInputError) else text.rfind(": ")
    message, hint = (text[:at], text[at + 2 :]) if at >= 0 else (text, "")
    return Problem(type=type(error).__name__, message=message, hint=hint)


def of(error: FluxError) -> JSONResponse:
    """One of our errors as an answer."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return JSONResponse(problem_of(error).model_dump(), status)


async def _flux_error(_: Request, error: Any) -> JSONResponse:
    return of(error)


async def _invalid(_: Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem(
        422, "InvalidRequest", f"{where}: {first['msg']}"[:2000], "see the OpenAPI document, /api/openapi.json"
    )


async def _http_error(_: Request, error: Any) -> JSONResponse:
    hint = "GET /api/openapi.json lists what there is" if error.status_code in {404, 405} else ""
    return problem(error.status_code, "HTTPError", str(error.detail), hint, **(error.headers or {}))


def fault(error: Exception) -> JSONResponse:
    """An error of ours that nobody foresaw: the log has it, and the client is told no more."""
    logger.error("a request failed", exc_info=error)
    return problem(500, "InternalError", "the server failed", "its log has the traceback")
