"""The largest frame that an AVIF file can make its decoder produce, read from the AV1 data itself.

libavif believes the container's size (`ispe`), decodes whatever size the AV1 data has, up to 2^28 px, and scales it: some
hundred bytes that call themselves 30 x 30 can take half a second and hundreds of MB. So the sequence headers of the data
are read too. Boxes: ISO 14496-12 (iloc, stco, co64); OBUs and sequence header: AV1 specification, 5.3 and 5.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_CONTAINERS = {
    b"moov": 0,
    b"trak": 0,
    b"mdia": 0,
    b"minf": 0,
    b"stbl": 0,
    b"meta": 4,
}  # and bytes before the boxes in it
_SEQUENCE_HEADER = 1
_STEPS = 10_000  # boxes, parts and OBUs that are looked at; a photo has about a hundred, a long animation some thousand
_DEPTH = 8
_HEADER = 256  # bytes of a sequence header that are looked at, and no more are copied: parts may overlap


class _Budget:
    """A hostile file can nest and repeat without end in a few bytes."""

    left = _STEPS

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OverflowError


def largest_frame(data: bytes) -> int:
    """Pixels of the largest frame, over all images and what follows the first frame of all tracks.

    0 if none is understood: the decoder says what is wrong. `2**62` if there is too much to look at.
    """
    largest, budget = 0, _Budget()
    try:
        for start, end in _payloads(data, budget):
            for frame in _frames(data, start, end, budget):
                largest = max(largest, frame)
    except OverflowError:
        return 1 << 62
    except (IndexError, struct.error):
        pass
    return largest


def _boxes(data: bytes, at: int, end: int, budget: _Budget, depth: int = _DEPTH) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the contents of all boxes, those within boxes too."""
    while at + 8 <= end:
        budget.spend()
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            size, start = struct.unpack_from(">Q", data, start)[0], at + 16
        stop = min(end, at + size) if size else end
        if stop < start:
            return
        yield kind, start, stop
        if kind in _CONTAINERS and depth:
            yield from _boxes(data, start + _CONTAINERS[kind], stop, budget, depth - 1)
        at = stop


def _payloads(data: bytes, budget: _Budget) -> Iterator[tuple[int, int]]:
    """Start and end of what may be AV1 data."""
    boxes = list(_boxes(data, 0, len(data), budget))
    inside = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    for kind, start, _ in boxes:
        if kind == b"iloc":
            yield from _items(data, start, inside, budget)
        elif kind in (b"stco", b"co64"):
            count, width = struct.unpack_from(">I", data, start + 4)[0], 4 if kind == b"stco" else 8
            if count:  # only the first frame is decoded
                yield int.from_bytes(data[start + 8 : start + 8 + width]), len(data)


def _items(data: bytes, at: int, inside: int, budget: _Budget) -> Iterator[tuple[int, int]]:
    version, sizes = data[at], struct.unpack_from(">H", data, at + 4)[0]
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide, at = (4 if version == 2 else 2), at + 6

    def number(width: int) -> int:
        nonlocal at
        at += width
        if at > len(data):
            raise IndexError
        return int.from_bytes(data[at - width : at])

    for _ in range(number(wide)):
        budget.spend()
        number(wide)  # item id
        method = number(2) & 15 if version else 0
        number(2)  # data reference
        origin = number(base) + (inside if method == 1 else 0)
        for _ in range(number(2)):
            budget.spend()
            if version:
                number(index)
            start, size = origin + number(offset), number(length)
            yield start, min(start + size, len(data)) if size else len(data)


def _frames(data: bytes, at: int, end: int, budget: _Budget) -> Iterator[int]:
    """Pixels by each sequence header among the OBUs."""
    while at < end:
        budget.spend()
        header = data[at]
        kind, extended, sized = header >> 3 & 15, header >> 2 & 1, header >> 1 & 1
        if header & 0x81 or not sized:  # no OBU, or the last
            if not header & 0x81 and kind == _SEQUENCE_HEADER:
                at += 1 + extended
                yield _frame(data[at : min(end, at + _HEADER)])
            return
        at, size = at + 1 + extended, 0
        for shift in range(0, 56, 7):  # leb128
            size |= (data[at] & 0x7F) << shift
            at += 1
            if not data[at - 1] & 0x80:
                break
        if kind == _SEQUENCE_HEADER:
            yield _frame(data[at : at + min(size, _HEADER)])
        at += size


def _frame(header: bytes) -> int:
    """Largest width times largest height of a sequence header, of which `_HEADER` bytes at most are given."""
    bits, at = int.from_bytes(header.ljust(_HEADER, b"\0")), 8 * _HEADER

    def read(count: int) -> int:
        nonlocal at
        at -= count
        if at < 0:
            raise IndexError
        return bits >> at & ((1 << count) - 1)

    read(4)  # profile, still picture
    if read(1):  # reduced still picture header
        read(5)
    else:
        _skip_operating_points(read)
    wide, high = read(4) + 1, read(4) + 1
    return (read(wide) + 1) * (read(high) + 1)


def _skip_operating_points(read: Callable[[int], int]) -> None:
    delays = 0
    if read(1):  # timing info
        read(64)
        if read(1):  # equal picture interval, a variable-length number
            zeros = 0
            while not read(1):
                zeros += 1
            read(zeros)
        if read(1):  # decoder model
            delays = read(5) + 1
            read(42)
    display_delays = read(1)
    for _ in range(read(5) + 1):
        read(12)
        if read(5) > 7:
            read(1)
        if delays and read(1):
            read(2 * delays + 1)
        if display_delays and read(1):
            read(4)
