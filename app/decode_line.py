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
    """Jobs in turns: one of each owner, then the next of each. An owner's own are in the order
    in which they came.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[object, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))

    def __iter__(self) -> Iterator[Job]:
        return chain.from_iterable(self._owners.values())

    def append(self, job: Job) -> None:
        """Let it wait behind the others of its owner."""
        self._owners.setdefault(job.owner, deque()).append(job)

    def put_back(self, job: Job) -> None:
        """It was taken, and is the next again."""
        self.discard(job)
        self._owners.setdefault(job.owner, deque()).appendleft(job)
        self._owners.move_to_end(job.owner, last=False)

    def take(self) -> Job:
        """The next; its owner goes behind the other owners."""
        owner, jobs = next(iter(self._owners.items()))
        job = jobs.popleft()
        self._owners.move_to_end(owner)
        if not jobs:
            del self._owners[owner]
        return job

    def next(self) -> Job | None:
        """What `take` would give; None while nobody waits."""
        return next(iter(self._owners.values()))[0] if self._owners else None

    def discard(self, job: Job) -> None:
        """Let it wait no longer, if it does."""
        jobs = self._owners.get(job.owner)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._owners[job.owner]

    def ahead_of(self, owner: object) -> int:
        """How many are taken before one that this owner would append."""
        mine = len(self._owners.get(owner, ()))
        if not mine:
            return len(self._owners)
        return mine + sum(min(len(jobs), mine + 1) for other, jobs in self._owners.items() if other != owner)
