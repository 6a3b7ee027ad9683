"""How near the service is to its end, in percent, as one number: what an autoscaler needs.

It is the share of the busiest part, and there are three. The engine: what its calls were worth of
its time (`app.engine.load`), on a GPU or on the host. The host: decoding photos and the event loop,
of all processors. The event loop: one thread, which has one processor at most. What an engine's
threads do on the host does not count twice: waiting for a GPU, they may spin.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

WINDOW = 25.0  # seconds: scraped every 15 or 30, it is the last half minute
LEAST = 1.0  # seconds between two looks that are kept, and of which something can be said: less is a call or two
PARTS = ("engine", "host", "event_loop")


class Worked(NamedTuple):
    """Seconds until now, each only growing: worth of engine calls, decoding photos, the event loop's processor time."""

    engine: float = 0.0
    decoding: float = 0.0
    event_loop: float = 0.0


class Load:
    """Shares since the newest look that is at least `WINDOW` seconds old, or the oldest there is.

    Pulled: whoever looks leaves a look behind, and nothing runs in between.
    """

    def __init__(self, processors: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._processors, self._clock = processors, clock
        self._looks: deque[tuple[float, Worked]] = deque()

    def look(self, now: Worked) -> dict[str, float]:
        """Percent by part; all 0 at the first look and for `LEAST` seconds after it, and never below 0."""
        at, looks = self._clock(), self._looks
        while len(looks) > 1 and at - looks[1][0] >= WINDOW:
            looks.popleft()
        if not looks or at - looks[-1][0] >= LEAST:
            looks.append((at, now))
        since, before = looks[0]
        if at - since < LEAST:
            return dict.fromkeys(PARTS, 0.0)
        engine, decoding, loop = (max(0.0, b - a) / (at - since) for a, b in zip(before, now, strict=True))
        shares = (engine, (decoding + loop) / self._processors, loop)
        return {part: 100 * min(1.0, share) for part, share in zip(PARTS, shares, strict=True)}
