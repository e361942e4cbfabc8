"""How answers are written: JSON, links, and refusals (RFC 9457)."""

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from diffusionsat.service.limits import Problem

PROBLEMS = "application/problem+json"
_TITLES = {
    400: "Bad request",
    401: "A token is needed",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    415: "Not a raster",
    422: "Not possible",
    429: "The queue is full",
    500: "A fault of the service",
    503: "The service ends",
    507: "No room",
}


class Json(JSONResponse):
    """JSON in plain letters, so that whatever a client sent can be said back."""

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return json.dumps(content, allow_nan=False).encode()


def link(href: str, rel: str, kind: str = "application/json") -> dict[str, str]:
    """A link as OGC and STAC write it."""
    return {"href": href, "rel": rel, "type": kind}


def refusal(problem: Problem) -> Response:
    """A refusal as RFC 9457 writes it."""
    title = _TITLES.get(problem.status, "Error")
    body = {"type": problem.kind, "title": title, "status": problem.status, "detail": problem.detail}
    return Response(json.dumps(body).encode(), problem.status, dict(problem.headers), PROBLEMS)


def problem_of(error: Exception) -> Problem:
    """What is said of an error that a request has led to."""
    from fastapi.exceptions import RequestValidationError

    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        detail = "There is nothing at this address." if error.status_code == 404 else str(error.detail)
        return Problem(error.status_code, detail, error.headers or {})
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return Problem(422, f"{where} is not possible: {first['msg']}.")
    return Problem(500, f"{type(error).__name__}: a fault of diffusionsat. The log says more.")
