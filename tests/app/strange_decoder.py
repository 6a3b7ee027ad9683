"""The decoding process, with photos that kill, stall or fail it: run as it is."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from app.decoding import worker as decoder_process
from contract.pixels import Pixels, photo_to_pixels

JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00"  # one of 16 x 16 begins so
DEADLY, SLOW, HANGING, FAULTY, NOISY, BURNING, LEAKY, BLOATED, SWELLING = (
    JPEG + word
    for word in (
        b"deadly", b"slow", b"hanging", b"faulty", b"noisy", b"burning", b"leaky", b"bloated", b"swelling",
    )
)  # fmt: skip
LEAKED: list[bytearray] = []


def slow(end: Path) -> bytes:
    """A photo that takes until this file exists."""
    return SLOW + os.fsencode(end)


def strange(data: bytes, size: int, **options: Any) -> Pixels:
    """What `photo_to_pixels` gives, but for the photos above."""
    if data == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    if data == HANGING:
        time.sleep(600)
    while data.startswith(SLOW) and not Path(os.fsdecode(data.removeprefix(SLOW))).exists():
        time.sleep(0.01)
    if data == FAULTY:
        raise RuntimeError("ü" * 40_000 + "x")  # cut by bytes, it begins within a letter
    if data == NOISY:
        os.write(2, b"a warning of a library\n")
    if data == BURNING:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # minutes in C, without Python's lock
    if data == LEAKY:
        options["on_header"](8_000_000)
        LEAKED.append(bytearray(100 << 20))
    if data == BLOATED:  # a header that takes more than any
        bytearray(200 << 20)
    if data == SWELLING:  # pixels that take more than theirs
        options["on_header"](1_000_000)
        bytearray(100 << 20)
    return photo_to_pixels(data, size, **options)


if __name__ == "__main__":
    decoder_process.photo_to_pixels = strange  # type: ignore[attr-defined]
    decoder_process.main(sys.argv[1:])
