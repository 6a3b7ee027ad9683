"""What is remembered of one request, its id too: for its log line, metrics, header and trace.

The record is a context variable: tasks that a request starts share it, so that whoever knows
something can note it without being handed the request. Outside a request every `note_…` does
nothing.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

# What is echoed in a header and written to logs is never more than this.
_SANE = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
_AMAZON = re.compile(r"(?:^|;)\s*Root=([A-Za-z0-9-]{1,128})\s*(?:;|$)")
# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Record:
    """One request: `route` is a template (`/v2/models/{name}`), never a path, and `error` a slug of
    `ERRORS`.
    """

    id: str
    method: str
    route: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0  # 0: nothing was answered
    error: str | None = None
    bytes_in: int = 0
    timings_ms: list[Mapping[str, float]] = field(default_factory=list)  # one entry for each photo answered
    abstained: list[str] = field(default_factory=list)  # the reason for each photo left without an answer
    familiarity: list[float] = field(default_factory=list)  # of each photo answered, where it is told: 0 to 1
    unfamiliar: int = 0  # photos of those, which do not look like what the model was trained on
    refused: list[str] = field(default_factory=list)  # a slug for each photo refused in an answer that is 200

    @property
    def outcome(self) -> str:
        """`ok`, or the slug of the error."""
        if self.error is not None:
            return self.error
        if 200 <= self.status < 400:
            return "ok"
        by_status = {0: "internal_error", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed"}
        return by_status.get(self.status, "bad_request" if self.status < 500 else "internal_error")


current: ContextVar[Record | None] = ContextVar("request", default=None)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that a client or a load balancer gave a request, if it is sane, else a new one.

    `X-Request-Id`, else the root of `X-Amzn-Trace-Id`, else the trace id of `traceparent`, else 32
    random hex digits.
    """
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in (b"x-request-id", b"x-amzn-trace-id", b"traceparent"):
            found.setdefault(name, value.decode("latin-1").strip())
    given = found.get(b"x-request-id", "")
    if _SANE.fullmatch(given):
        return given
    if root := _AMAZON.search(found.get(b"x-amzn-trace-id", "")):
        return root[1]
    if trace := _TRACEPARENT.fullmatch(found.get(b"traceparent", "")):
        return trace[1]
    # An id is no secret; `os.urandom` would let go of the interpreter's lock, and the event loop wait to get it back.
    return f"{random.getrandbits(128):032x}"


def note_error(slug: str) -> None:
    """The request will be answered with this error."""
    if (record := current.get()) is not None:
        record.error = slug


def note_timings(timings_ms: Mapping[str, float]) -> None:
    """A photo of the request was answered; milliseconds by stage, `total` among them."""
    if (record := current.get()) is not None:
        record.timings_ms.append(timings_ms)


def note_abstained(reason: str) -> None:
    """A photo of the request was looked at, and left without an answer for this reason."""
    if (record := current.get()) is not None:
        record.abstained.append(reason)


def note_familiarity(familiarity: float, *, unfamiliar: bool) -> None:
    """How familiar a photo of the request is, 0 to 1, and whether that is too little."""
    if (record := current.get()) is not None:
        record.familiarity.append(familiarity)
        record.unfamiliar += unfamiliar


def note_refused(slug: str) -> None:
    """A photo of the request got an error of its own, while the request as a whole is answered."""
    if (record := current.get()) is not None:
        record.refused.append(slug)


def forget_refused() -> None:
    """The request as a whole fails with the error of one of its photos: none of them is counted by
    itself.
    """
    if (record := current.get()) is not None:
        record.refused.clear()
