"""The service with an engine of known speed: a call takes `SECONDS_PER_BATCH`, however many photos it has.

    python -m tests.chaos.slow_server --bundle … --port …

Capacity is then max_batch / SECONDS_PER_BATCH photos a second, whatever the machine, and queueing is what is tested.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from app.__main__ import main
from app.engine import Engine

SECONDS_PER_BATCH = 0.04
_score = Engine.score


def _slow(engine: Engine, pixels: Any) -> Any:
    began = time.monotonic()
    found = _score(engine, pixels)
    time.sleep(max(0.0, SECONDS_PER_BATCH - (time.monotonic() - began)))
    return found


if __name__ == "__main__":
    setattr(Engine, "score", _slow)  # noqa: B010
    sys.exit(main())
