"""When photos will be read: learnt from those that were. Seconds; nothing here waits or starts
anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the two functions are for others too, who need no decoders
    from app.decoding.client import Decoder
    from app.decoding.line import Line

AVERAGE = 0.2  # weight of the last photo in the seconds that one takes


def rest(expected: float, so_far: float) -> float:
    """Seconds that something which takes so long still takes. If it is late, it may be as late
    again.
    """
    return abs(expected - so_far)


def shared(work: float, rests: list[float]) -> float:
    """Seconds until so many of work are done by some that are free after `rests`, and then share
    it; the soonest first.

    One that takes long holds up nobody else. `rests` is sorted in place.
    """
    rests.sort()
    done = work
    for count, free in enumerate(rests, 1):
        if count > 1 and free >= done:
            break
        work += free
        done = work / count
    return done


class ReadTimes:
    """What a pool's `decoders` take for a photo, and until when they have read those that stand in
    its `lines`.

    `seconds`: that a process reads one, by whether it is quick, averaged over the last; 0: not
    known. The lines are those of quick photos (True) and of others (False).
    """

    def __init__(self, decoders: Sequence[Decoder], lines: Mapping[bool, Line]) -> None:
        self.seconds = {True: 0.0, False: 0.0}
        self._decoders, self._lines = decoders, lines

    def took(self, quick: bool, seconds: float) -> None:
        """A process has read a photo, for so long."""
        last = self.seconds[quick]
        self.seconds[quick] = last + AVERAGE * (seconds - last) if last else seconds

    def begun_in(self, quick: bool, owner: object, *, may_go: bool) -> float:
        """Seconds until a photo of an owner that comes now would be begun, as far as is known; 0
        where a process is idle.

        `may_go`: whether an idle process may take one of its kind.
        """
        if may_go and any(decoder.ready and not decoder.jobs for decoder in self._decoders):
            return 0.0
        able = [decoder for decoder in self._decoders if decoder.ready]
        ahead = self._lines[quick].ahead_of(owner)
        seconds = ahead * self.seconds[quick]
        if len(able) == 1:  # both lines take turns at it
            seconds += min(len(self._lines[not quick]), ahead + 1) * self.seconds[not quick]
        alike = [self._remaining(decoder) for decoder in able if decoder.slow != quick]
        if not quick:  # they may have all but one, the soonest first
            others = sorted(self._remaining(decoder) for decoder in able if not decoder.slow)
            alike += others[: max(0, len(able) - 1 - len(alike))]
        return shared(seconds, alike or [self._remaining(decoder) for decoder in able])

    def all_read_in(self, quick: int, slow: int, before: Mapping[bool, int], owner: object) -> float:
        """Seconds until so many photos more of an owner would be read, behind all that wait and its
        own that come `before` them, by whether they are quick; as far as is known.
        """
        rests = sorted(self._remaining(decoder) for decoder in self._decoders if decoder.ready)
        if not rests:
            return 0.0
        work = dict[bool, float]()
        for kind, count in ((True, quick), (False, slow)):
            line, own = self._lines[kind], count + before[kind]
            newcomers = own if line.has_newcomers_beside(owner) else 0  # take every second turn while they come
            work[kind] = (own + newcomers + len(line)) * self.seconds[kind]
        every = shared(sum(work.values()), list(rests))
        if len(rests) == 1:
            return every
        if slow:  # one process reads none of these
            return max(every, shared(work[False], rests[:-1]))
        return min(every, rests[0] + work[True])

    def alone(self, quick: int, slow: int) -> float:
        """Seconds that all processes would take for so many photos, if they had nothing else to do."""
        quicks, slows = quick * self.seconds[True], slow * self.seconds[False]
        able = max(1, sum(decoder.ready for decoder in self._decoders))
        return max(slows / max(1, able - 1), (quicks + slows) / able)

    def _remaining(self, decoder: Decoder) -> float:
        """Seconds until it has read what it has."""
        if not decoder.jobs:
            return 0.0
        seconds = rest(self.seconds[decoder.jobs[0].quick], decoder.reading_seconds)
        for job in islice(decoder.jobs, 1, None):
            seconds += self.seconds[job.quick]
        return seconds
