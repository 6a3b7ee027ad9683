"""Pieces of bytes: whole whatever their sizes, and no more memory than what came."""

from __future__ import annotations

import sys

import psutil
import pytest

from app.web import body
from app.web.body import IN_HEAP, ROOM, Joined


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [0, 0, 5], [5], [5, 0, 7], [IN_HEAP], [IN_HEAP, 1], [1, IN_HEAP, 1], [IN_HEAP + 7, 1, IN_HEAP], [3] * 50],
)
def test_the_pieces_are_whole_and_in_order(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "ROOM", IN_HEAP + 9)  # so that it is outgrown too
    pieces = [bytes([1 + number]) * size for number, size in enumerate(sizes)]
    found = Joined()
    for piece in pieces:
        found.add(piece)
    assert found.whole == b"".join(pieces)


def test_one_piece_is_not_copied() -> None:
    piece, found = bytes(1000), Joined()
    found.add(piece)
    assert found.whole is piece


@pytest.mark.skipif(sys.platform != "linux", reason="where zeros that nobody wrote take no memory")
def test_what_is_set_aside_is_not_in_memory() -> None:
    process, piece, many = psutil.Process(), bytes(IN_HEAP // 4), 64
    before, held = process.memory_info().rss, []
    for _ in range(many):
        held.append(Joined())
        for _ in range(5):
            held[-1].add(piece)
    assert process.memory_info().rss - before < many * ROOM // 4
