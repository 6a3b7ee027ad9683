"""Faults as HTTP answers: every error of the application takes the one shape of `app.faults`."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.faults import ERRORS, ErrorBody, ServiceError, body_of, forget_frames, shown
from app.telemetry.record import note_error
from app.web.paths import allowed_methods
from app.web.prefix import prefix_of
from contract.errors import PhotoError

log = logging.getLogger("food_vision")


def error_response(slug: str, message: str, retry_after: int = 1) -> JSONResponse:
    """The HTTP answer for a slug of the table; `retry_after` in seconds where trying again helps."""
    headers = {"Retry-After": str(retry_after)} if slug in ("overloaded", "not_ready") else {}
    if slug == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="food-vision"'
    if slug == "body_timeout":
        headers["Connection"] = "close"  # the rest of the body may still come, and is no next request
    note_error(slug)
    body = ErrorBody(error=message, error_type=slug).model_dump()
    return JSONResponse(body, status_code=ERRORS[slug].status, headers=headers)


def install_handlers(app: FastAPI) -> None:
    """Make every error of the application take the one shape."""

    @app.exception_handler(ServiceError)
    @app.exception_handler(PhotoError)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        body = body_of(error)
        forget_frames(error)
        return error_response(body.error_type, body.error, getattr(error, "retry_after", 1))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        what = f"The parameter {name} is wrong: {first['msg']}, not {shown(first['input'])}."
        return error_response("invalid_parameter", what)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        prefix, path = prefix_of(request.scope), request.scope["path"]
        if error.status_code == 404:
            return error_response("not_found", f"There is no route {prefix}{path}; see {prefix}/docs.")
        if error.status_code == 405:
            answer = error_response(
                "method_not_allowed", f"The route {prefix}{path} does not answer {request.method}; see {prefix}/docs."
            )
            answer.headers.update(error.headers or {})  # static files are no routes, and know their methods themselves
            if allowed := allowed_methods(request.app.routes, path):
                answer.headers["Allow"] = allowed
            return answer
        return error_response("bad_request", str(error.detail))

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> JSONResponse:
        return error_response("bad_request", "The client closed the connection before its request was complete.")

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error)  # the line of the request has its route
        body = body_of(error)
        return error_response(body.error_type, body.error)


def responses(*slugs: str) -> dict[int | str, dict[str, object]]:
    """OpenAPI entries for the errors that a route can answer."""
    by_status: dict[int, list[str]] = {}
    for slug in slugs:
        by_status.setdefault(ERRORS[slug].status, []).append(slug)
    return {
        status: {
            "model": ErrorBody,
            "description": "\n\n".join(f"`{slug}`: {ERRORS[slug].meaning}" for slug in same),
            "content": {"application/json": {"examples": {slug: _example(slug) for slug in same}}},
        }
        for status, same in by_status.items()
    }


def _example(slug: str) -> dict[str, object]:
    return {"value": ErrorBody(error=ERRORS[slug].meaning, error_type=slug).model_dump()}
