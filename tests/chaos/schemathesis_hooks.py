"""What schemathesis must know beyond openapi.json, so that each request shows something. Loaded by schemathesis itself.

Photos are real ones: a request that fits the description must then be accepted. (What is no photo `tests.chaos.requests`
sends.) The deadline of a request is left out: its least value is 1 ms, and a request that is late shows nothing else.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.transport.serialization import Binary

from tests.chaos.requests import FORMATS, picture

PHOTOS = [picture(random.Random(seed), form, size=16) for seed, form in enumerate(FORMATS)]

photos = st.sampled_from(PHOTOS)
schemathesis.openapi.format("binary", photos.map(Binary))
schemathesis.openapi.format("byte", photos.map(lambda photo: base64.b64encode(photo).decode()))
schemathesis.openapi.media_type("image/*", photos)


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Leave out the deadline; `tests/app/web/test_deadline_header.py` has it."""
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            given = operation.get("parameters", [])
            operation["parameters"] = [one for one in given if one["name"] != "X-Request-Timeout-Ms"]
