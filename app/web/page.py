"""The pages for people: `/` to drop a photo on, and `/docs`. All their files are this server's.

Swagger UI's files are those that the package fastapi-offline carries; FastAPI's own pages would
load them from a CDN. The pages name their files relative to themselves, so they work behind a proxy
that adds a prefix. A file is always sent whole (RFC 9110, 14.2: a server may ignore `Range`):
Starlette's errors of ranges are plain text.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from app.serving.schemas import Links
from app.web.openapi import behind
from app.web.prefix import HEADER, is_bare, prefix_of

STATIC = Path(__file__).parent / "static"
SHARED_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Accept-Ranges": "none"}
# `blob:` is the preview of the photo that was just picked; it never leaves the browser.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Swagger UI sets style attributes and draws its icons from data URLs; scripts stay as strict as on the page.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

router = APIRouter()


def _whole(scope: Scope) -> Scope:
    """Without `Range`: files are small, and Starlette's refusals of it are not in the one error
    shape.
    """
    return {**scope, "headers": [field for field in scope["headers"] if field[0] != b"range"]}


class _Page(FileResponse):
    """A file that is sent as a whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(_whole(scope), receive, send)


class _Files(StaticFiles):
    """Static files that a browser asks for again after each update of the service, and never
    guesses the type of.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(_whole(scope), receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(SHARED_HEADERS | {"Cache-Control": "no-cache"})  # asks by ETag; 304 when unchanged
        return answer


def install_pages(app: FastAPI) -> None:
    """Add the pages and their files under `/static`."""
    app.include_router(router)
    app.mount("/static", _Files(packages=[("app.web", "static"), ("fastapi_offline", "static")]), name="static")


def wants_json(accept: str) -> bool:
    """Whether an `Accept` header asks for JSON rather than a page: browsers always name text/html."""
    return "application/json" in accept and "text/html" not in accept


@router.head("/", include_in_schema=False)
@router.get("/", response_model=Links, responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}})
async def page(request: Request) -> Response:
    """A page to drop a photo on; with `Accept: application/json`, the addresses of the service."""
    prefix = prefix_of(request.scope)
    if wants_json(request.headers.get("accept", "")):
        links = {name: prefix + path for name, path in Links().model_dump().items()}
        return JSONResponse(links, headers={"Vary": f"Accept, {HEADER}"})
    if is_bare(request.scope):
        return RedirectResponse(f"{prefix}/", headers={"Vary": f"Accept, {HEADER}"})
    return _html("page.html", PAGE_POLICY)


@router.head("/docs", include_in_schema=False)
@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Swagger UI over `/openapi.json`."""
    return _html("docs.html", DOCS_POLICY)


@router.head("/openapi.json", include_in_schema=False)
@router.get("/openapi.json", include_in_schema=False)
async def description(request: Request) -> Response:
    """The API description, for those on the client's side of a proxy."""
    document = behind(request.app.openapi(), prefix_of(request.scope))
    return JSONResponse(document, headers={"Vary": HEADER})


def _html(name: str, policy: str) -> Response:
    headers = SHARED_HEADERS | {"Content-Security-Policy": policy, "Cache-Control": "no-cache", "Vary": "Accept"}
    return _Page(STATIC / name, media_type="text/html", headers=headers)
