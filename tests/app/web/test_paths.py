"""Paths of the application: each is counted under its route's template, and unknown ones under one name."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.staticfiles import StaticFiles

from app.web.paths import RouteTable


def test_a_route_is_its_template_and_nothing_else() -> None:
    app, router = FastAPI(), APIRouter()
    router.add_api_route("/models/{name}", lambda name: name)
    app.include_router(router, prefix="/v2")
    app.mount("/static", StaticFiles(directory="."))
    table = RouteTable(app.routes)
    found = {
        path: table.template(path) for path in ("/v2/models/food", "/models/food", "/static/a/b.js", "/docs", "/x")
    }
    assert found == {
        "/v2/models/food": "/v2/models/{name}", "/models/food": "other", "/static/a/b.js": "/static/{path}",
        "/docs": "/docs", "/x": "other",
    }  # fmt: skip
