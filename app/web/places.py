"""Places for connections and turns for requests: however many come, a newcomer finds its way.

What waits for its client can be closed: a newcomer may be a health probe, and whoever opens many
connections must not keep it out. First goes whoever has waited longest for a request, or for its
answer to be read; then the body that has been on its way longest. A request that is whole is never
given up for a newcomer.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

log = logging.getLogger("food_vision")

KEPT_FREE = 16  # one of so many places is no place for requests at work: it is for heads, probes among them
OTHER_FILES = 256  # of a busy service, beside its connections: libraries, pipes to the decode processes, the bundle
AT_ONCE = 16  # requests that begin in one turn of the event loop


class Holder(Protocol):
    """What holds a place."""

    def give_way(self) -> None:
        """End at once: the place is needed."""


class Doing(IntEnum):
    """What a connection does, in the order in which it is closed for a newcomer."""

    WAITING = 0  # for a request, or for its client to read
    READING = 1  # the body of a request
    WORKING = 2


class Places:
    """Who holds the `most` places."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[Doing, dict[Holder, None]] = {doing: {} for doing in Doing}  # the longest first

    def enter(self, one: Holder) -> bool:
        """Take a place; whoever waits gives way. False where all others are at work."""
        self.put(one, Doing.WAITING)
        if sum(map(len, self._held.values())) <= self.most:
            return True
        for doing in (Doing.WAITING, Doing.READING):
            for other in self._held[doing]:
                if other is not one:
                    self.leave(other)
                    other.give_way()
                    return True
        return False

    def put(self, one: Holder, doing: Doing) -> None:
        """Note what it does from now on."""
        if one not in self._held[doing]:
            self.leave(one)
            self._held[doing][one] = None

    def leave(self, one: Holder) -> None:
        """Free its place, if it has one."""
        for held in self._held.values():
            held.pop(one, None)

    @property
    def full(self) -> bool:
        """Whether no further request may be taken on."""
        return len(self._held[Doing.WORKING]) >= self.most - self.most // KEPT_FREE


class Turns:
    """Begins requests in the order in which they come, `AT_ONCE` in each turn of the loop: a
    thousand that came at once must not hold it up.

    All that is ready runs in one turn of the loop, and only then does it accept, read, and look at
    the clock again. A thousand requests of some milliseconds each, and a health probe would wait
    for several turns of seconds.
    """

    def __init__(self) -> None:
        self._begun = 0  # in this turn
        self._next: deque[Callable[[], None]] = deque()

    def begin(self, start: Callable[[], None]) -> None:
        """Call `start` now, or when its turn has come."""
        if self._next or self._begun == AT_ONCE:
            self._next.append(start)
        else:
            self._begin(start)

    def _begin(self, start: Callable[[], None]) -> None:
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._turn)
        self._begun += 1
        start()

    def _turn(self) -> None:
        self._begun = 0
        while self._next and self._begun < AT_ONCE:
            self._begin(self._next.popleft())


def connections_allowed(wanted: int) -> int:
    """How many connections the limit of open files allows, at most `wanted`.

    The soft limit is raised if need be. Twice as many files are asked for: connections that give
    way and newcomers are open together for a moment.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = 2 * wanted + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= need:
        return wanted
    allowed = max(KEPT_FREE, min(wanted, (soft - OTHER_FILES) // 2))
    if allowed < wanted:
        text = "Only %d connections at a time instead of %d: %d files may be open. Raise the limit (ulimit -Hn)."
        log.warning(text, allowed, wanted, soft)
    return allowed
