"""Who is next, and which photos are quick."""

from __future__ import annotations

import struct
from unittest.mock import MagicMock

import pytest
from PIL import Image

from app.decoding.line import MOST_SEGMENTS, Job, Line, is_quick
from tests.app.photos import encoded, png_of_size


def job(owner: str, photo: bytes = b"") -> Job:
    """One that nobody waits for."""
    return Job(photo, MagicMock(), owner, is_quick(photo))


def taken(line: Line) -> str:
    """The owners, in the order in which they are served."""
    return "".join(str(line.take().owner) for _ in range(len(line)))


def line_of(owners: str) -> Line:
    """One photo of each letter, in order."""
    line = Line()
    for owner in owners:
        line.append(job(owner))
    return line


@pytest.mark.parametrize(("came", "served"), [("abc", "abc"), ("aaaabcd", "aabacad"), ("abcdeeee", "abcdeeee")])
def test_newcomers_and_those_who_were_served_take_turns(came: str, served: str) -> None:
    assert taken(line_of(came)) == served


def test_an_owners_own_are_in_order() -> None:
    line = Line()
    jobs = [job("a", bytes([i])) for i in range(5)]
    for one in jobs:
        line.append(one)
    assert [line.take() for _ in jobs] == jobs


def test_newcomers_that_never_end_keep_nobody_waiting() -> None:
    line, served = line_of("aaab"), ""
    for _ in range(6):
        served += str(line.take().owner)
        line.append(job(f"{len(served)}"))
    assert served == "aaba12"


def test_what_is_put_back_is_next_and_there_once() -> None:
    line = line_of("aab")
    one = line.take()
    for _ in range(2):
        line.put_back(one)
    assert (len(line), line.next()) == (3, one)
    assert taken(line) == "aba"


def test_what_is_discarded_leaves_from_any_place() -> None:
    line = line_of("aabb")
    for place in (1, 1, 0, 0):
        gone = list(line)[place]
        line.discard(gone)
        line.discard(gone)
        assert gone not in list(line)
    assert (len(line), line.next()) == (0, None)


@pytest.mark.parametrize(("owner", "ahead"), [("new", 6), ("a", 6)])
@pytest.mark.parametrize("served", [0, 1])
def test_how_many_are_ahead(owner: str, ahead: int, served: int) -> None:
    line = line_of("aaaabc")
    for _ in range(served):
        line.take()
    ahead -= served
    assert line.ahead_of(owner) == ahead
    mine = job(owner)
    line.append(mine)
    assert [line.take() for _ in range(len(line))].index(mine) == ahead


def test_whether_newcomers_wait() -> None:
    line = line_of("aab")
    assert [line.has_newcomers_beside(owner) for owner in "abc"] == [True, True, True]
    line.take()
    assert [line.has_newcomers_beside(owner) for owner in "abc"] == [True, False, True]


def jpeg(size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    """One photo."""
    return encoded(Image.new("RGB", size, "red"), "JPEG", **options)


def head(marker: int, width: int, height: int, before: bytes = b"") -> bytes:
    """The begin of a JPEG."""
    return b"\xff\xd8" + before + b"\xff" + struct.pack(">BHBHH", marker, 17, 8, height, width) + bytes(20)


SEGMENT = b"\xff\xe1\x00\x04ab"


@pytest.mark.parametrize(
    ("photo", "quick"),
    [
        (jpeg(), True),
        (jpeg(exif=b"Exif\0\0" + bytes(5000)), True),
        (jpeg(progressive=True), True),
        (head(0xC0, 4000, 4000), True),
        (head(0xC0, 4001, 4000), False),
        (head(0xC2, 1000, 1000), True),
        (head(0xC2, 1001, 1000), False),
        (head(0xC9, 10, 10), False),  # arithmetic coding
        (head(0xC0, 10, 10, SEGMENT * 10), True),
        (head(0xC0, 10, 10, SEGMENT * MOST_SEGMENTS), False),
        (head(0xC0, 10, 10, b"\xff\xe1\x00\x00" * 10**6), False),  # segments that are no longer than nothing
        (head(0xC0, 10, 10, b"\x00"), False),
        (head(0xC0, 10, 10) + bytes(8 << 20), False),
        (png_of_size(1000, 1000), True),
        (png_of_size(1001, 1000), False),
        (png_of_size(10, 10) + bytes(256 << 10), False),
        (png_of_size(10, 10)[:20], False),
        (encoded(Image.new("RGB", (8, 8)), "WEBP"), False),
        (b"", False),
        (b"\xff\xd8", False),
        (b"\xff\xd8\xff\xe0", False),
    ],
)
def test_which_photos_are_quick(photo: bytes, quick: bool) -> None:
    assert is_quick(photo) == quick


def test_a_job_knows_its_photo_when_that_is_gone() -> None:
    one = job("a", jpeg())
    one.photo = b""
    assert (one.quick, one.size) == (True, len(jpeg()))
