"""Which web pages of other origins may call the service from a browser: none, unless `cors_origins` names them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from app.web.errors import error_response


class Cors(CORSMiddleware):
    """Starlette's middleware, which tells a refused preflight so in the one error shape.

    Pages may send a key but no cookies, and may read the request's id, its timings and when to try again.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Api-Key", "X-Request-Id", "X-Request-Timeout-Ms"],
            expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """See `CORSMiddleware`."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        refused = error_response("bad_request", f"{bytes(answer.body).decode()}; see the setting cors_origins.")
        refused.headers["Vary"] = answer.headers.get("Vary", "Origin")
        return refused
