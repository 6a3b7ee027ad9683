"""Requests and answers of the four faces, without a server."""

from __future__ import annotations

import json

import pytest

from benchmarks.load.connection import server_of
from benchmarks.load.routes import ROUTES, Route, WrongAnswer, outcome_of, parse_headers
from contract.errors import ContractError

SERVER = server_of("http://127.0.0.1:8000/base")
ANSWERS = {
    "predict": {"prediction": "Pizza"},
    "multipart": {"prediction": "Pizza"},
    "hf": [{"label": "Pizza"}],
    "oip": {"outputs": [{"name": "OTHER"}, {"name": "LABEL", "data": ["Pizza"]}]},
}


@pytest.mark.parametrize("name", ROUTES)
def test_labels(name: str) -> None:
    route = Route(name, SERVER, "m/1")
    assert route.label(json.dumps(ANSWERS[name]).encode()) == "Pizza"
    for wrong in (
        b"",
        b"<html>",
        b"[]" if name != "hf" else b"{}",
        b'{"outputs": []}',
        b'{"prediction": 5}',
        b"7",
        b"[" * 10**5,
    ):
        with pytest.raises(WrongAnswer):
            route.label(wrong)


def test_an_answer_that_does_not_know() -> None:
    assert Route("predict", SERVER).label(b'{"prediction": null}') == ""
    assert Route("hf", SERVER).label(b"[]") == ""


def test_paths() -> None:
    paths = {name: Route(name, SERVER, "m/1").path for name in ROUTES}
    assert paths == {
        "predict": "/base/predict", "multipart": "/base/predict", "hf": "/base/", "oip": "/base/v2/models/m%2F1/infer",
    }  # fmt: skip


def test_headers_of_the_user_replace_ours() -> None:
    route = Route("predict", SERVER, headers=parse_headers(["host: other", "X-Key:  a: b "]))
    head = route.request(b"12345", "image/jpeg").split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert [line for line in head if line.lower().startswith("host")] == ["host: other"]
    assert "X-Key: a: b" in head
    assert "Content-Length: 5" in head


@pytest.mark.parametrize(
    "text",
    ["hunter2", ": hunter2", "A B: hunter2", "X-Key: hunter2\r\nEvil: 1", "X: hünter2", "Content-Length: hunter2"],
)
def test_headers_that_are_none_are_refused_without_their_value(text: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_headers([text])
    assert "hunter2" not in str(caught.value)
    assert "hünter2" not in str(caught.value)


def test_outcomes() -> None:
    assert outcome_of(503, b'{"error_type": "overloaded"}') == "503 overloaded"
    for body in (b"", b"[]", b'{"error_type": 5}', b'{"error_type": "<b>|"}', b"[" * 10**5):
        assert outcome_of(500, body) == "500"
