"""The id of a request: what a client or load balancer gave, if sane; else a new one."""

from __future__ import annotations

import pytest

from app.telemetry.record import request_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
AMAZON = "Self=1-1-2;Root=1-67891233-abcdef012345678912345678;Sampled=1"


def of(**headers: str) -> str:
    return request_id([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()])


def test_what_was_given_is_kept_and_x_request_id_wins() -> None:
    assert of(x_request_id="abc-1") == "abc-1"
    assert of(traceparent=PARENT, x_request_id="abc-1", x_amzn_trace_id=AMAZON) == "abc-1"
    assert of(x_amzn_trace_id=AMAZON) == "1-67891233-abcdef012345678912345678"
    assert of(traceparent=PARENT) == TRACE
    assert of(x_request_id="", traceparent=PARENT) == TRACE


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_request_id": "a" * 129},
        {"x_request_id": "a b"},
        {"x_request_id": "a\r\nSet-Cookie: b"},
        {"x_request_id": 'a"b'},
        {"x_request_id": "é"},
        {"x_amzn_trace_id": "Root=" + "1" * 200},
        {"traceparent": f"ff-{TRACE}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"},
        {"traceparent": f"00-{TRACE.upper()}-00f067aa0ba902b7-01"},
        {"traceparent": PARENT[:-1]},
    ],
)
def test_anything_else_is_replaced(headers: dict[str, str]) -> None:
    first, second = of(**headers), of(**headers)
    assert first != second
    assert len(first) == 32
    assert set(first) <= set("0123456789abcdef")
