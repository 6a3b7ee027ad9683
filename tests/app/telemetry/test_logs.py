"""Whatever a client sends, a line of the log is one line, and nobody writes a line but the service."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from app.telemetry.logs import JsonLines, TextLines
from tests.app.logged import logged, warnings
from tests.app.raw import PROBE, answers, connected
from tests.conftest import drawn_png

FORGED = "INFO food_vision: forged"
EVIL = {
    "line feed": "\n",
    "carriage return": "\r",
    "both": "\r\n",
    "colour": "\x1b[31m",
    "bell": "\x07",
    "null": "\x00",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "from right to left": "\u202e",
    "vertical tab": "\x0b",
}
LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR) [\w.]+: [ -~]+")


def requests(evil: bytes) -> list[bytes]:
    """Requests that carry it wherever a request has room for text."""
    text = b"a" + evil + FORGED.encode()
    encoded = b"".join(b"%%%02x" % byte for byte in text)
    photo = drawn_png(0)
    part = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n%b\r\n--cut--\r\n'
    form = part % (text, photo)
    described = b"Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: %d\r\n\r\n" % len(form)
    head = b"GET /labels HTTP/1.1\r\nHost: t\r\n"
    fields = (
        b"X-Request-Id",
        b"traceparent",
        b"X-Amzn-Trace-Id",
        b"User-Agent",
        b"Host",
        b"Expect",
        b"Upgrade",
        b"Origin",
    )
    return [
        b"GET /%b HTTP/1.1\r\nHost: t\r\n\r\n" % encoded,
        b"GET /v2/models/%b HTTP/1.1\r\nHost: t\r\n\r\n" % encoded,
        b"GET /%b HTTP/1.1\r\nHost: t\r\n\r\n" % text.replace(b" ", b"+"),
        b"GET /labels?top_k=%b HTTP/1.1\r\nHost: t\r\n\r\n" % encoded,
        b"POST /predict?top_k=%b HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\na" % encoded,
        b"%b /labels HTTP/1.1\r\nHost: t\r\n\r\n" % text.replace(b" ", b""),
        *(head + name + b": " + text + b"\r\n\r\n" for name in fields),
        head + text.replace(b" ", b"") + b": a\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: t\r\n" + described + form,
        b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(text) + text,
        b"POST /predict HTTP/1.1\r\nHost: t\r\nContent-Encoding: %b\r\nContent-Length: 1\r\n\r\na" % text,
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        + text,
    ]


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_request_breaks_a_line(bundle: Path, tmp_path: Path, style: str) -> None:
    file, count = tmp_path / "log", 0
    flags = ("--threads", 1, "--decode-processes", 1, "--log-level", "debug", "--log-format", style)
    with logged(bundle, file, *flags) as (url, _, _):
        for evil in EVIL.values():
            for sent in requests(evil.encode()):
                with connected(url) as line:
                    line.sendall(sent + PROBE)
                    found = answers(line)
                    assert all(status in range(200, 500) for status, _, _ in found)
                    assert not any("forged" in str(headers) for _, headers, _ in found)
                    count += len(found)
    text = file.read_text(encoding="utf-8")
    lines = text.removesuffix("\n").split("\n")
    assert "forged" not in text
    if style == "json":
        assert all({"time", "level", "logger"} <= set(json.loads(line)) and line.isprintable() for line in lines)
    else:
        assert [line for line in lines if not LINE.fullmatch(line)] == []
    mine = [line for line in lines if "food_vision.requests" in line and "/health/ready" not in line]
    assert len(mine) == count, "one line for each answer"


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_what_an_error_says_breaks_no_line(evil: str) -> None:
    try:
        raise ValueError(f"odd{evil}{FORGED}")
    except ValueError as error:
        given = logging.makeLogRecord(
            {
                "name": "food_vision",
                "levelname": "ERROR",
                "msg": f"odd{evil}{FORGED}",
                "exc_info": (ValueError, error, None),
            }
        )
    first, *rest = TextLines().format(given).split("\n")
    assert LINE.fullmatch(first), first
    assert rest
    assert all(line.startswith("  ") and line.isprintable() for line in rest), rest
    line = JsonLines().format(given)
    assert line.isprintable()
    assert json.loads(line)["message"] == f"odd{evil}{FORGED}"


def test_a_broken_form_is_no_warning(bundle: Path, tmp_path: Path) -> None:
    """The library that reads forms would warn the operator of each."""
    form = b"--cut\r\nA bad name: x\r\n\r\nx\r\n--cut--\r\n"
    kind = b"Content-Type: multipart/form-data; boundary=cut\r\nContent-Length: %d\r\n\r\n" % len(form)
    with logged(bundle, tmp_path / "log") as (url, _, lines), connected(url) as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: t\r\n" + kind + form + PROBE)
        assert [answer[0] for answer in answers(line)] == [400, 200]
        assert warnings(lines) == []
