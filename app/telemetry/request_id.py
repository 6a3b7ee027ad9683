"""The id of a request: the one that a client or a load balancer gave it, if it is sane, else a new one."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

# What is echoed in a header and written to logs is never more than this.
_SANE = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")
_AMAZON = re.compile(r"(?:^|;)\s*Root=([A-Za-z0-9-]{1,128})\s*(?:;|$)")
# https://www.w3.org/TR/trace-context/#traceparent-header: version, trace id, parent id, flags
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """`X-Request-Id`, else the root of `X-Amzn-Trace-Id`, else the trace id of `traceparent`, else 32 random hex digits."""
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
