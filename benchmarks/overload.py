"""Overload that lasts: how much of its capacity a server still answers in time when more is asked of it than it can do.

    python -m benchmarks.overload --out build/overload                       # on a simulated clock, a minute or two
    python -m benchmarks.overload --live --bundle BUNDLE --devices "0,50;0,700" --loads 2,5 --out build/overload-live

Engines of known speed (`known_engine`), the service's default settings. Poisson arrivals at each multiple of the capacity
for a minute, then at half of it for two deadlines. Counted are answers within their deadline. The first deadline of
overload is the queue's to fill and does not count; a cell fails when less than nine tenths of the capacity is answered
(of what was offered, where that is less), or when more than one in a hundred is not answered of those that come later than
one deadline after the overload.

Simulated, the service's own batcher runs on a simulated clock (`capacity.simulation`): queueing alone, no HTTP and no
decoding. `--decoding` adds cells in which it is the processes that decode photos that are short (`capacity.decoding`), with
the service's own door and decode pool before the batcher. Live, a real server is asked over loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uvloop

from benchmarks.capacity.decoding import Photos, decoding
from benchmarks.capacity.replica import Replica
from benchmarks.capacity.simulation import Hiccup, traffic
from benchmarks.hardware import provenance
from benchmarks.known_engine import Device, device
from benchmarks.load.arguments import number, numbers, whole
from benchmarks.load.arrivals import OK, Asker, Sample, open_loop
from benchmarks.load.client import Client
from benchmarks.load.photographs import drawn
from benchmarks.serving.servers import ENTRIES, Running, on_device, started
from contract.cli import run
from contract.files import write_text_atomic

DEADLINE = 10.0  # seconds: the service's default
MAX_BATCH = 16  # its default too
LEAST = 0.9  # of the capacity, or of what was offered
LOST = 0.01  # of the requests after the recovery
DEVICES = "0,3;0,50;0,700;40,0;10,3"
NOISY = "0,50"  # also with noise
DECODING = "2,100;2,500;2,1000;4,500"
QUICK_ENGINE = Device(10, 3)  # of the cells in which decoding is short
NOISE, HICCUP = 0.2, 3.0  # calls take up to so much less or more; one takes so many seconds longer
LOADS = (1.0, 2.0, 5.0, 10.0)
SIDE = 64  # px of the photos that are sent

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One engine at one load: what was asked and what came of it. Rates a second, times in seconds."""

    engine: str
    load: float
    capacity: float
    offered: float
    answered: float
    share: float  # of the capacity, or of what was offered where that is less
    p50: float
    p99: float
    recovered: bool
    lost_afterwards: int
    late: int  # let in, and not answered in time: 504

    @property
    def passed(self) -> bool:
        """Whether goodput stayed and came back."""
        return self.share >= LEAST and self.recovered


def capacity(of: Device) -> float:
    """Photos a second of the device in the batches that are best for it."""
    return max(size / of.seconds(size) for size in (1, 2, 4, 8, MAX_BATCH))


def poisson(rate: float, begin: float, end: float, rng: np.random.Generator) -> Floats:
    """Moments of arrivals [n]."""
    return np.sort(rng.uniform(begin, end, rng.poisson(rate * (end - begin))))


def judged(
    engine: str, load: float, most: float, seconds: float, asked: Floats, due: Floats, done: Floats, late: int = 0
) -> Cell:
    """The cell of arrivals at `asked` [n], of which those at `due` [m] were answered in time, at `done` [m].

    Where as much is asked as can be done, an answer counts for when it was asked for: what waits at the end is no loss.
    """
    begin, end = min(DEADLINE, seconds / 2), seconds
    span = end - begin
    offered = ((asked >= begin) & (asked < end)).sum() / span
    when = due if load <= 1 else done
    answered = ((when >= begin) & (when < end)).sum() / span
    calm = seconds + DEADLINE
    later = int((asked >= calm).sum())
    lost = later - int((due >= calm).sum())
    times = 1000 * (done - due)[due < seconds]
    p50, p99 = np.percentile(times, (50, 99)) / 1000 if len(times) else (0.0, 0.0)
    share = answered / min(most, offered) if offered else 0.0
    most, offered, answered, share, p50, p99 = (
        round(float(one), 3) for one in (most, offered, answered, share, p50, p99)
    )
    return Cell(engine, load, most, offered, answered, share, p50, p99, lost <= LOST * later, lost, late)


def arrivals(load: float, most: float, seconds: float, seed: int) -> Floats:
    """Moments [n]: overload for `seconds`, then half of the capacity for two deadlines."""
    rng = np.random.default_rng(seed)
    over = poisson(load * most, 0, seconds, rng)
    return np.concatenate([over, poisson(0.5 * most, seconds, seconds + 2 * DEADLINE, rng)])


def simulated(of: Device, load: float, seconds: float, *, noisy: bool = False, seed: int = 0) -> Cell:
    """A cell on a simulated clock. A noisy engine's hiccup is no capacity lost."""
    lot = np.random.default_rng(seed).uniform(1 - NOISE, 1 + NOISE, 101) if noisy else np.ones(1)
    lot /= lot.mean()
    calls = {size: tuple(of.seconds(size) * lot) for size in (1, 2, 4, 8, MAX_BATCH)}
    most = capacity(of)
    asked = arrivals(load, most, seconds, seed)
    hiccup = Hiccup(seconds / 2, HICCUP) if noisy else None
    replica = Replica(calls, own_device=True, max_batch=MAX_BATCH, timeout_seconds=DEADLINE)
    found = traffic(replica, asked, seconds + 2 * DEADLINE, seed=seed, hiccup=hiccup)
    if noisy:
        most *= 1 - HICCUP / (seconds - min(DEADLINE, seconds / 2))
    name = f"{of.flag} noisy" if noisy else of.flag
    return judged(name, load, most, seconds, asked, found.due, found.due + found.latencies, found.expired)


def simulated_decoding(processes: int, photo_ms: float, load: float, seconds: float, *, seed: int = 0) -> Cell:
    """A cell on a simulated clock in which photos that are slow to decode come, and the engine is quick.

    One process is kept for quick photos, so the capacity is that of the others.
    """
    most = max(1, processes - 1) * 1000 / photo_ms
    asked = arrivals(load, most, seconds, seed)
    (came,), _ = decoding(processes, QUICK_ENGINE, DEADLINE, Photos(asked, photo_ms / 1000))
    due, done = np.array(came.due), np.array(came.done)
    name = f"{processes} processes, {photo_ms:g} ms a photo"
    return judged(name, load, most, seconds, asked, due, done, came.outcomes["deadline_exceeded"])


def live(server: Running, of: Device, load: float, seconds: float, seed: int) -> Cell:
    """A cell of a running server, which is asked over loopback."""
    target = server.target(drawn((SIDE,), 8, seed), timeout=3 * DEADLINE)
    over, calm = Sample(), Sample()

    async def asked() -> None:
        client = Client(target.route.server, timeout=target.timeout)
        ask = Asker(client, target.route, target.requests(), seed)
        try:
            await asyncio.gather(
                open_loop(ask, over, load * capacity(of), seconds, seed), afterwards(ask)
            )  # the second begins as the first ends to ask
        finally:
            client.close()

    async def afterwards(ask: Asker) -> None:
        await asyncio.sleep(seconds)
        await open_loop(ask, calm, 0.5 * capacity(of), 2 * DEADLINE, seed + 1)

    uvloop.run(asked())
    return judged_samples(of, load, seconds, over, calm)


def judged_samples(of: Device, load: float, seconds: float, over: Sample, calm: Sample) -> Cell:
    """The cell of what the load generator noted."""
    shift = calm.began - over.began
    due = np.array(over.due + [one + shift for one in calm.due])
    done = np.array(over.done + [one + shift for one in calm.done])
    good = np.array([one == OK for one in over.outcome + calm.outcome]) & (done - due <= DEADLINE)
    late = sum(one == "deadline_exceeded" for one in over.outcome + calm.outcome)
    return judged(of.flag, load, capacity(of), seconds, due, due[good], done[good], late)


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        f"{'Live' if result['live'] else 'Simulated'}, {result['seconds']:g} s of overload, deadline {DEADLINE:g} s,"
        f" {result['date']}, commit {result['commit']}: `{result['command']}`", "",
        "| engine, ms a call, ms a photo | load | offered/s | answered/s | of capacity | p50 s | p99 s | 504 | recovered |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]  # fmt: skip
    for one in result["cells"]:
        again = "yes" if one["recovered"] else f"no: {one['lost_afterwards']} lost"
        lines.append(
            f"| {one['engine']} | {one['load']:g}x | {one['offered']:.1f} | {one['answered']:.1f} "
            f"| {100 * one['share']:.1f} % | {one['p50']:.2f} | {one['p99']:.2f} | {one['late']} | {again} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description="Goodput under overload that lasts, and recovery, with engines of known speed at default settings.",
        epilog="Exit code 1 when a cell fails (or for failure), 2 for wrong usage.",
    )
    parser.add_argument("--live", action="store_true", help="ask a real server instead of a simulated one")
    parser.add_argument("--bundle", type=Path, help="bundle folder that the real server serves; needs --live")
    parser.add_argument(
        "--devices", type=devices, default=DEVICES, metavar="CALL,PHOTO;…",
        help=f'engines: ms a call, ms a photo (default: "{DEVICES}")',
    )  # fmt: skip
    parser.add_argument(
        "--decoding", type=processes, default=DECODING, metavar="PROCESSES,PHOTO;…",
        help="simulated decoding that is short: processes, ms of one for a photo that is not quick; '' for none"
        f' (default: "{DECODING}")',
    )  # fmt: skip
    parser.add_argument("--loads", type=numbers(float, 0.1, 100), default=LOADS, help="of capacity (default: 1,2,5,10)")
    parser.add_argument("--seconds", type=number(2, 3600), default=60.0, help="of overload for each cell (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and noise (default: 0)")
    parser.add_argument("--out", type=Path, help="where to write PATH.json and PATH.md")
    args = parser.parse_args(argv)
    if args.live != (args.bundle is not None):
        parser.error("--live and --bundle go together: a real server needs a bundle, and a simulated one has none")
    return run("benchmarks.overload", lambda: _main(args, sys.argv[1:] if argv is None else argv))


def _simulated_cells(args: argparse.Namespace) -> Iterator[Cell]:
    kinds = [(of, False) for of in args.devices] + [(of, True) for of in args.devices if of.flag == NOISY]
    for of, noisy in kinds:
        for load in args.loads:
            yield simulated(of, load, args.seconds, noisy=noisy, seed=args.seed)
    for count, photo_ms in args.decoding:
        for load in args.loads:
            yield simulated_decoding(count, photo_ms, load, args.seconds, seed=args.seed)


def _live_cells(args: argparse.Namespace) -> Iterator[Cell]:
    for of in args.devices:
        entry, photographs = on_device(ENTRIES[0], of), drawn((SIDE,), 1, args.seed)
        with (
            tempfile.TemporaryDirectory() as work,
            started([entry], args.bundle, args.bundle, 1, Path(work), photographs) as (server,),
            server.awake(),
        ):
            for load in args.loads:
                yield live(server, of, load, args.seconds, args.seed)


def devices(text: str) -> tuple[Device, ...]:
    """A type for `argparse`: `first,photo` in ms, with semicolons between."""
    return tuple(device(one) for one in text.split(";"))


def processes(text: str) -> tuple[tuple[int, float], ...]:
    """A type for `argparse`: `processes,ms` with semicolons between, or nothing."""
    pairs = [one.split(",") for one in text.split(";") if one]
    if any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes and ms a photo, such as 2,500")
    return tuple((whole(1, 256)(count), number(0.1, 60_000)(photo_ms)) for count, photo_ms in pairs)


def _main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    made_by = "python -m benchmarks.overload " + " ".join(f'"{one}"' if ";" in one else one for one in argv)
    result: dict[str, Any] = {
        **provenance(), "command": made_by.strip(), "live": args.live, "seconds": args.seconds, "cells": [],
    }  # fmt: skip
    cells = _live_cells(args) if args.live else _simulated_cells(args)
    passed = True
    for cell in cells:
        passed &= cell.passed
        result["cells"].append(asdict(cell))
        print(_line(cell), flush=True)
        if args.out is not None:
            write_text_atomic(args.out.with_name(args.out.name + ".json"), json.dumps(result, indent=1) + "\n")
            write_text_atomic(args.out.with_name(args.out.name + ".md"), markdown(result))
    return 0 if passed else 1


def _line(cell: Cell) -> str:
    return (
        f"{'' if cell.passed else 'FAILED '}{cell.engine} at {cell.load:g}x: {cell.answered:.1f} of {cell.offered:.1f}/s "
        f"answered in time, {100 * cell.share:.1f} %, p99 {cell.p99:.2f} s, {cell.lost_afterwards} lost afterwards"
    )


if __name__ == "__main__":
    sys.exit(main())
