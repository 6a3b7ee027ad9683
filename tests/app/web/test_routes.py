"""The cheap path of a route and FastAPI's own give the same answers and refusals."""

from __future__ import annotations

import httpx
import pytest
from fastapi import APIRouter, Depends, Request

from app.serving.schemas import Health
from app.web.routes import LeanRoute
from tests.app.photos import assert_error, drawn, encoded, scores

GOOD = encoded(drawn(3), "PNG")


def test_with_and_without_parameters_the_answer_is_the_same(server: str) -> None:
    lean = httpx.post(f"{server}/predict", content=GOOD)
    whole = httpx.post(f"{server}/predict?top_k=5", content=GOOD)
    late = httpx.post(f"{server}/predict", content=GOOD, headers={"x-request-timeout-ms": "9000"})
    for answer in (lean, whole, late):
        assert answer.status_code == 200
        assert list(answer.json()) == list(lean.json())
        assert scores(answer.json()) == scores(lean.json())
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers.keys() == lean.headers.keys()


def test_parameters_are_still_validated(server: str) -> None:
    assert_error(httpx.post(f"{server}/predict?top_k=0", content=GOOD), "invalid_parameter")
    late = httpx.post(f"{server}/predict", content=GOOD, headers={"X-Request-Timeout-Ms": "soon"})
    assert_error(late, "invalid_parameter")
    assert_error(httpx.get(f"{server}/predict"), "method_not_allowed")
    assert_error(httpx.post(f"{server}/predict", content=b"no photo"), "unsupported_format")


def test_a_function_that_needs_more_is_refused_when_it_is_declared() -> None:
    router = APIRouter(route_class=LeanRoute)
    with pytest.raises(AssertionError):

        @router.post("/needs")
        async def needs(request: Request, count: int) -> Health:
            return Health(status=str(count))

    with pytest.raises(AssertionError):

        @router.post("/depends", dependencies=[Depends(lambda: None)])
        async def depends(request: Request) -> Health:
            return Health(status="ok")
