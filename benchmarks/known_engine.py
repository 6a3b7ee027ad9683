"""The service with an engine of known speed: a call takes as long as a device of that speed would, whatever this machine.

    python -m benchmarks.known_engine --device-ms 10,3 --bundle … --port …

The bundle's graphs still run, on the CPU, and give the answers; the call then sleeps until its time is over. So queueing,
batching and the load generator can be checked without the engine's own noise, and a GPU, which works while the host's
processors are free, is stood in for. It says nothing of how fast any GPU is.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.load.arguments import numbers

if TYPE_CHECKING:
    from app.engine.engine import Scores


@dataclass(frozen=True)
class Device:
    """A call of n photos takes `first_ms` and `photo_ms` for each photo, padded to a power of two as on a GPU."""

    first_ms: float
    photo_ms: float

    def seconds(self, photos: int) -> float:
        """Of one call; longer where the graphs on the CPU are slower than this."""
        return (self.first_ms + self.photo_ms * (1 << (photos - 1).bit_length())) / 1000

    @property
    def flag(self) -> str:
        """As `device` reads it."""
        return f"{self.first_ms:g},{self.photo_ms:g}"

    def __str__(self) -> str:
        return f"{self.first_ms:g} ms a call and {self.photo_ms:g} ms a photo"


def device(text: str) -> Device:
    """A type for `argparse`: `first,photo` in ms."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not two times in ms, of a call and of each photo, such as 10,3")
    one = numbers(float, 0, 60_000)
    return Device(one(parts[0])[0], one(parts[1])[0])


def taking(of: Device, score: Callable[..., Scores]) -> Callable[..., Scores]:
    """`score`, whose last argument are the photos' pixels, in the device's time, and its stages say so."""

    def timed(*args: Any) -> Scores:
        began = time.perf_counter()
        found = score(*args)
        time.sleep(max(0.0, of.seconds(len(args[-1])) - (time.perf_counter() - began)))
        return replace(found, encode_seconds=time.perf_counter() - began - found.score_seconds)

    return timed


@contextmanager
def known_times(of: Device) -> Iterator[None]:
    """Every engine of this process takes the device's time to score, and batches are formed as for a device that pads."""
    from app.engine import check
    from app.engine.batches import buckets
    from app.engine.engine import Engine  # loads the runtime, which a command line need not
    from app.engine.pool import EnginePool

    plain, sizes, timed = Engine.score, EnginePool.sizes, getattr(check, "call_seconds")  # noqa: B009

    def seconds(engine: Engine) -> dict[int, float]:
        return {size: of.seconds(size) for size in buckets(engine.max_batch)}

    setattr(check, "call_seconds", seconds)  # noqa: B010
    setattr(Engine, "score", taking(of, plain))  # noqa: B010
    setattr(EnginePool, "sizes", property(lambda pool: buckets(pool.max_batch)))  # noqa: B010
    try:
        yield
    finally:
        setattr(check, "call_seconds", timed)  # noqa: B010
        setattr(Engine, "score", plain)  # noqa: B010
        setattr(EnginePool, "sizes", sizes)  # noqa: B010


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.known_engine",
        description="Serve a bundle with an engine that takes a known time. All other options are those of python -m app.",
        epilog="Exit codes are those of python -m app.",
    )
    parser.add_argument("--device-ms", type=device, required=True, metavar="CALL,PHOTO", help="ms a call, ms a photo")
    args, others = parser.parse_known_args(argv)
    from app.__main__ import main as serve

    with known_times(args.device_ms):
        return serve(others)


if __name__ == "__main__":
    sys.exit(main())
