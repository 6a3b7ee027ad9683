"""Log lines as text or as JSON, one object a line; a line written during a request carries the
request's id.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Literal

from app.telemetry.record import Record, current

log = logging.getLogger("food_vision.requests")


def request_line(record: Record, *, quiet: bool) -> None:
    """One line for a request that has ended; with `quiet` (health and metrics) only at level debug.

    No header, path, query or body is written: a route is its template.
    """
    level = logging.DEBUG if quiet and record.outcome == "ok" else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "id": record.id,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "outcome": record.outcome,
        "milliseconds": round(1000 * (time.perf_counter() - record.started), 3),
        "bytes_in": record.bytes_in,
    }
    text = "%(method)s %(route)s %(status)d %(outcome)s %(milliseconds).1f ms, %(bytes_in)d bytes in, id %(id)s"
    log.log(level, text, fields, extra={"request": fields})


class TextLines(logging.Formatter):
    """`LEVEL logger: message`, and the request's id where there is one; the lines of a traceback
    are indented.

    What is not printable is escaped: what an error says may come from a photo or a client.
    """

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = _printable(super().formatMessage(record).rstrip("\n"))  # uvicorn's may end with one
        request = current.get()
        return line if request is None or hasattr(record, "request") else f"{line} (id {request.id})"

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  {_printable(line)}" for line in super().formatException(ei).split("\n"))


def _printable(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, id; a request's line has its
    fields in place of text.
    """

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        found: dict[str, Any] = {
            "time": f"{clock}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        request = current.get()
        if hasattr(record, "request"):
            found |= record.request
        else:
            found["message"] = record.getMessage()
            if request is not None:
                found["id"] = request.id
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json.dumps(found, default=str)


def configure_logs(level: str, style: Literal["text", "json"]) -> None:
    """Send every logger, the server's own among them, to stderr in one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of what a client gets an answer to
