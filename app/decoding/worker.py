"""A process that decodes photos for the service, which holds the other end of its stdin, a socket.

    python -m app.decoding.worker SIZE MAX_PIXELS CPU_MS

Decoding is the service's dearest Python and its only part that parses what strangers send, in C.
Here it shares no interpreter lock with the event loop, and a crash or a hang costs a process, not
the service (`app.decoding.pool`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

from app.decoding.limits import DecodeLimits
from contract.errors import PhotoError
from contract.pixels import NO_MEMORY, photo_to_pixels

PHOTO = struct.Struct("<I")  # bytes of the photo that follows
ANSWER = struct.Struct("<BI")  # kind, and bytes that follow
READY, PIXELS, REFUSED, FAULT = range(4)  # nothing; uint8 [S, S, 3]; JSON [slug, sentence]; the text of a traceback
PR_SET_PDEATHSIG = 1  # linux/prctl.h
READ_AHEAD = 128 << 10  # bytes
OUTGROWN = 75  # exit code of a process that holds so much memory at rest that a new one is better
LONGEST_TEXT = 32 << 10  # bytes of an answer that is not pixels


def main(argv: list[str]) -> None:
    """Answer photos in order until the socket is closed, or too much memory stays behind.

    A signal to stop is the service's to act on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    size, max_pixels, cpu_ms = map(int, argv)
    _go_first()
    limits = DecodeLimits(cpu_ms / 1000)
    with socket.socket(fileno=sys.stdin.fileno()) as parent, parent.makefile("rb", buffering=READ_AHEAD) as photos:
        try:
            parent.sendall(ANSWER.pack(READY, 0))
            _be_silent()
            while not limits.outgrown and len(head := photos.read(PHOTO.size)) == PHOTO.size:
                kind, body = _answer(photos.read(PHOTO.unpack(head)[0]), size, max_pixels, limits)
                sent = parent.sendmsg([ANSWER.pack(kind, len(body)), body])  # in one, so that the service wakes once
                if sent < ANSWER.size + len(body):
                    parent.sendall(memoryview(body)[max(0, sent - ANSWER.size) :])
        except ConnectionError:
            return  # the service has ended
    if limits.outgrown:
        sys.exit(OUTGROWN)


def _go_first() -> None:
    """Where memory runs out, the kernel ends a decoder before the service; and none stays when
    the service has died.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("900")


def _be_silent() -> None:
    """Libraries write warnings about damaged photos to stderr, as many as strangers like,
    between the lines of the log.
    """
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def _answer(photo: bytes, size: int, max_pixels: int, limits: DecodeLimits) -> tuple[int, bytes]:
    try:
        with limits.of(photo) as on_header:
            return PIXELS, photo_to_pixels(photo, size, max_pixels=max_pixels, on_header=on_header).tobytes()
    except PhotoError as error:
        return REFUSED, json.dumps([error.slug, str(error)]).encode()
    except MemoryError:
        return REFUSED, json.dumps(["image_too_costly", NO_MEMORY]).encode()
    except Exception:
        return FAULT, traceback.format_exc().encode()[-LONGEST_TEXT:]


if __name__ == "__main__":
    main(sys.argv[1:])
