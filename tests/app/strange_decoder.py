"""The decoding process, with photos that kill, stall or fail it: `python -m tests.app.strange_decoder SIZE MAX_PIXELS`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from app import decoder_process
from contract.pixels import Pixels, photo_to_pixels

JPEG = b"\xff\xd8"
DEADLY, SLOW, HANGING, FAULTY, NOISY = (JPEG + word for word in (b"deadly", b"slow", b"hanging", b"faulty", b"noisy"))


def slow(end: Path) -> bytes:
    """A photo that takes until this file exists."""
    return SLOW + os.fsencode(end)


def strange(data: bytes, size: int, *, max_pixels: int) -> Pixels:
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
    return photo_to_pixels(data, size, max_pixels=max_pixels)


if __name__ == "__main__":
    decoder_process.photo_to_pixels = strange  # type: ignore[attr-defined, assignment]
    decoder_process.main(sys.argv[1:])
