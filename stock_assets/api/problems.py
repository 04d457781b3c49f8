"""What goes wrong, told as problem+json after RFC 9457: a sentence that says what to do."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from stock_assets.api.answers import Problem
from stock_assets.errors import DatabaseError, DropError, SetupError, StockAssetsError

_log = structlog.get_logger("stock_assets.api")
_MOST_SHOWN = 80  # characters of what was not expected
_PLACES = {"body", "query", "path"}
MEDIA_TYPE = "application/problem+json"

_MEANINGS = {
    HTTPStatus.UNAUTHORIZED: "No valid key",
    HTTPStatus.FORBIDDEN: "The key lacks the scope",
    HTTPStatus.NOT_FOUND: "Not known",
    HTTPStatus.CONFLICT: "Not there yet",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Too large",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "No form with a file",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Not as expected",
    HTTPStatus.TOO_MANY_REQUESTS: "Too many requests",
    HTTPStatus.BAD_GATEWAY: "Dagster says no",
    HTTPStatus.SERVICE_UNAVAILABLE: "Something does not answer",
}
_OF_ACCESS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
_WORDS = {
    400: "The body cannot be read. Expected a JSON document in UTF-8.",
    404: "There is no such address. What there is stands in /openapi.json.",
    405: "This address does not take that method. What it takes stands in /openapi.json.",
    413: "The body is too large for this address.",
}


class ProblemError(StockAssetsError):
    """An answer that is no success."""

    def __init__(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, those of access among them, as OpenAPI lists them."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        int(status): {"description": _MEANINGS[status], "content": content}
        for status in (*_OF_ACCESS, *statuses)
    }


def problem(
    request_id: str, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that tells a problem."""
    told = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id
    )
    return Response(told.model_dump_json(), status, headers, MEDIA_TYPE)


def tell_problems(app: FastAPI) -> None:
    """Have every error of the app told as a problem."""

    @app.exception_handler(ProblemError)
    async def of_ours(request: Request, error: ProblemError) -> Response:
        return problem(request.state.request_id, error.status, str(error), error.headers)

    @app.exception_handler(HTTPException)
    async def of_routing(request: Request, error: HTTPException) -> Response:
        return _of_framework(request, error)

    @app.exception_handler(RequestValidationError)
    async def of_input(request: Request, error: RequestValidationError) -> Response:
        return problem(request.state.request_id, 422, _faults(error))

    @app.exception_handler(DropError)
    async def of_file(request: Request, error: DropError) -> Response:
        return problem(request.state.request_id, 422, str(error))

    @app.exception_handler(SetupError)
    async def of_setup(request: Request, error: SetupError) -> Response:
        return problem(request.state.request_id, 503, str(error))

    @app.exception_handler(DatabaseError)
    @app.exception_handler(sa.exc.DBAPIError)
    async def of_database(request: Request, error: Exception) -> Response:
        return problem(request.state.request_id, 503, no_database(error))

    @app.exception_handler(sa.exc.TimeoutError)
    async def of_waiting(request: Request, _: sa.exc.TimeoutError) -> Response:
        detail = "Too many requests wait for the database. Try again in a moment."
        return problem(request.state.request_id, 503, detail)


def _of_framework(request: Request, error: HTTPException) -> Response:
    status, headers = error.status_code, error.headers
    detail = _WORDS.get(status, f"{error.detail}.")
    if status == HTTPStatus.BAD_REQUEST:  # FastAPI's word for some bodies
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"Allow": _allowed(request)}
    return problem(request.state.request_id, status, detail, headers)


def _allowed(request: Request) -> str:
    """The methods of an address; Starlette tells those of one of its routes."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0].value]
    methods = {method for route in routes for method in getattr(route, "methods", ("GET", "HEAD"))}
    return ", ".join(sorted(methods))


def no_database(error: Exception) -> str:
    """What to say where the database does not answer; the log has its driver's words."""
    said = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    _log.warning("database does not answer", error=str(said).strip())
    return "The database does not answer; the service's log tells more. Try again in a moment."


def _faults(error: RequestValidationError) -> str:
    told = []
    for fault in error.errors():
        names = [str(part) for part in fault["loc"] if part not in _PLACES]
        found = "" if fault["type"] == "missing" else f", not {_shown(fault)}"
        if fault["type"] == "json_invalid":
            names, found = [], f" ({fault['ctx']['error']} at character {names[0]})"
        told.append(f"{'.'.join(names) or 'The body'}: {fault['msg']}{found}.")
    return " ".join(told[:10])


def _shown(fault: Mapping[str, Any]) -> str:
    text = repr(fault["input"])
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
