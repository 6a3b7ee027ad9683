"""Photos that wait for a process: which are quick, and whose turn it is."""

from __future__ import annotations

import asyncio
import struct
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from contract.pixels import Pixels

QUICK_PIXELS = 1_000_000  # of a PNG or a progressive JPEG: some ten milliseconds
QUICK_BASELINE_PIXELS = 16_000_000  # of a JPEG that can be decoded smaller
QUICK_BYTES, QUICK_PNG_BYTES = 8 << 20, 256 << 10
MOST_SEGMENTS = 64  # of a JPEG before its size; phones write about ten
PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
BASELINE, PROGRESSIVE = (0xC0, 0xC1), 0xC2  # markers that begin a JPEG's frame


@dataclass(eq=False, slots=True)
class Job:
    """A photo, who waits for its pixels, and the request that it came with."""

    photo: bytes
    future: asyncio.Future[Pixels]
    owner: object
    quick: bool  # as `is_quick` says
    ends: float = 0.0  # when nobody waits any more, by the event loop's clock; 0: it need not wait
    half: float = 0.0  # of the seconds that it had at first
    deaths: int = 0  # of processes that may have been reading it
    size: int = field(init=False)  # bytes, known when the photo itself has been let go

    def __post_init__(self) -> None:
        self.size = len(self.photo)


def is_quick(photo: bytes) -> bool:
    """Whether the header says that it is decoded in some ten milliseconds; nothing is decoded to
    find out.

    So says a JPEG of up to 16 million pixels, and a small PNG or progressive JPEG. Of other formats
    a few bytes may take seconds.
    """
    if photo.startswith(PNG_HEAD) and len(photo) >= len(PNG_HEAD) + 8:
        width, height = struct.unpack_from(">II", photo, len(PNG_HEAD))
        return len(photo) <= QUICK_PNG_BYTES and width * height <= QUICK_PIXELS
    if not photo.startswith(b"\xff\xd8") or len(photo) > QUICK_BYTES:
        return False
    at = 2
    for _ in range(MOST_SEGMENTS):
        if at + 9 > len(photo) or photo[at] != 0xFF:
            return False
        marker, length, height, width = struct.unpack_from(">BHxHH", photo, at + 1)
        if marker in BASELINE:
            return bool(width * height <= QUICK_BASELINE_PIXELS)
        if marker == PROGRESSIVE:
            return bool(width * height <= QUICK_PIXELS)
        at += 2 + length
    return False


class Line:
    """Jobs in turns: one of an owner who comes for the first time, then the next of those who have
    had one and have more. An owner's own are in the order in which they came.

    So nobody waits behind all of a crowd: neither a newcomer behind those who have many, nor these
    behind newcomers that never end.
    """

    def __init__(self) -> None:
        self._new, self._again = OrderedDict[object, deque[Job]](), OrderedDict[object, deque[Job]]()
        self._last_new = False

    def __len__(self) -> int:
        return sum(map(len, chain(self._new.values(), self._again.values())))

    def __iter__(self) -> Iterator[Job]:
        return chain.from_iterable(chain(self._new.values(), self._again.values()))

    @property
    def _turn(self) -> OrderedDict[object, deque[Job]]:
        return self._again if self._again and (self._last_new or not self._new) else self._new

    def _of(self, owner: object) -> OrderedDict[object, deque[Job]]:
        return self._again if owner in self._again else self._new

    def append(self, job: Job) -> None:
        """Let it wait behind the others of its owner."""
        self._of(job.owner).setdefault(job.owner, deque()).append(job)

    def put_back(self, job: Job) -> None:
        """It was taken, and is the next again."""
        self.discard(job)
        owners = self._of(job.owner)
        owners.setdefault(job.owner, deque()).appendleft(job)
        owners.move_to_end(job.owner, last=False)
        self._last_new = owners is self._again

    def take(self) -> Job:
        """The next; its owner goes behind the others who have had one."""
        owners = self._turn
        owner, jobs = owners.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._again[owner] = jobs
        self._last_new = owners is self._new
        return job

    def next(self) -> Job | None:
        """What `take` would give; None while nobody waits."""
        owners = self._turn
        return next(iter(owners.values()))[0] if owners else None

    def discard(self, job: Job) -> None:
        """Let it wait no longer, if it does."""
        owners = self._of(job.owner)
        jobs = owners.get(job.owner)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del owners[job.owner]

    def has_newcomers_beside(self, owner: object) -> bool:
        """Whether others wait who have had none."""
        return len(self._new) > (owner in self._new)

    def ahead_of(self, owner: object) -> int:
        """How many are taken before one that this owner would append, as long as nobody else comes."""
        mine = len(self._of(owner).get(owner, ()))
        others = len(self) - mine
        if mine:  # at least every second turn is for those who have many
            return mine + min(others, mine + len(self._new) * (owner in self._new))
        new = len(self._new)
        return new + min(others - new, new + self._last_new)
