"""The latency benchmark's figures beside those of independent load generators, on the same server.

python -m benchmarks.beside_tools --bundle build/demo/bundle
python -m benchmarks.beside_tools --bundle build/demo/bundle --device-ms 10,3 --concurrency 1,8,32 --tools wrk,hey

Starts the service, and in each round has every tool send the same photograph to /predict from the same number of callers,
in an order that turns. Ratios are taken within a round, then their median. With `--device-ms` the service's engine takes a
known time (`benchmarks.known_engine`), so that a machine that changes its speed does not hide what the tools differ in.
Needs Debian's `wrk` and `hey`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks.known_engine import device
from benchmarks.load.connection import server_of
from benchmarks.load.phase import Plan, Target, run_phase
from benchmarks.load.photographs import Photograph, drawn
from benchmarks.load.report import table
from benchmarks.load.routes import Route
from benchmarks.serving.servers import ENTRIES, OURS, on_device, started
from contract.cli import run
from contract.errors import ContractError

WITHIN = 0.05  # by which the median ratios may differ from 1
WARM_UP = 0.5  # seconds of our own load before each measurement, whoever measures
MINE = "benchmarks.latency"
LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "image/jpeg"
local file = io.open("{photo}", "rb")
wrk.body = file:read("*a")
file:close()
"""
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


class Figures(NamedTuple):
    """Answers a second, and the median latency in ms."""

    throughput: float
    p50: float


def read_wrk(said: str) -> Figures:
    """What `wrk --latency` prints. Raises `ContractError` when requests failed or it prints something else."""
    rate, middle = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"50%\s+([\d.]+)(us|ms|s|m)", said)
    if rate is None or middle is None or "Non-2xx" in said or "Socket errors" in said:
        raise ContractError(f"wrk failed: {said.strip()[-300:]}")
    return Figures(float(rate[1]), float(middle[1]) * UNITS[middle[2]])


def read_hey(said: str) -> Figures:
    """What `hey` prints, as `read_wrk`. Its median is of whole tenths of a millisecond."""
    rate, middle = re.search(r"Requests/sec:\s+([\d.]+)", said), re.search(r"50%\s+in ([\d.]+) secs", said)
    codes = set(re.findall(r"\[(\d+)\]\s+\d+ responses", said))
    if rate is None or middle is None or codes != {"200"} or "Error distribution" in said:
        raise ContractError(f"hey failed: {said.strip()[-300:]}")
    return Figures(float(rate[1]), 1000 * float(middle[1]))


def command(tool: str, url: str, photo: Path, callers: int, seconds: int) -> list[str]:
    """How a tool is asked for the same load."""
    if tool == "wrk":
        lua = photo.with_suffix(".lua")
        lua.write_text(LUA.format(photo=photo), encoding="utf-8")
        return ["wrk", "-t1", f"-c{callers}", f"-d{seconds}s", "--latency", "-s", str(lua), f"{url}/predict"]
    options = ["-z", f"{seconds}s", "-c", str(callers), "-m", "POST", "-T", "image/jpeg", "-D", str(photo)]
    return ["hey", *options, f"{url}/predict"]


READERS: dict[str, Callable[[str], Figures]] = {"wrk": read_wrk, "hey": read_hey}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside_tools",
        description="Compare the latency benchmark's figures with those of independent tools on the same server.",
        epilog="Exit code 1 when a median ratio is off by more than 5 %, or a tool is missing.",
    )
    parser.add_argument("--bundle", type=Path, required=True, metavar="FOLDER", help="what to serve")
    parser.add_argument(
        "--device-ms", type=device, metavar="CALL,PHOTO", help="let the engine take so many ms a call and a photo"
    )
    parser.add_argument("--concurrency", default="1,8", metavar="N,N", help="callers (default: 1,8)")
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="turns of all tools (default: 4)")
    parser.add_argument("--seconds", type=int, default=2, metavar="S", help="of each measurement (default: 2)")
    parser.add_argument(
        "--side", type=int, default=512, metavar="PX", help="side of the drawn photograph (default: 512)"
    )
    parser.add_argument("--tools", default="wrk", metavar="NAME,NAME", help="wrk, hey or both (default: wrk)")
    args = parser.parse_args(argv)
    tools = list(dict.fromkeys(args.tools.split(",")))
    if not set(tools) <= set(READERS):
        parser.error(f"argument --tools: there are {' and '.join(READERS)}")
    if args.rounds < 1 or args.seconds < 1:
        parser.error("--rounds and --seconds must be 1 or more")
    try:
        callers = [int(part) for part in args.concurrency.split(",")]
    except ValueError:
        parser.error("argument --concurrency: write whole numbers such as 1,8")
    return run("benchmarks.beside_tools", lambda: _check(args, tools, callers))


def _check(args: argparse.Namespace, tools: list[str], callers: list[int]) -> int:
    for tool in tools:
        if shutil.which(tool) is None:
            raise ContractError(f"{tool} is not installed; on Debian: apt-get install {tool}")
    photographs = drawn((args.side,), 1, 0)
    found: dict[tuple[str, int], list[Figures]] = {}
    entries = [entry for entry in ENTRIES if entry.name == OURS]
    if args.device_ms:
        entries = [on_device(entries[0], args.device_ms)]
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.jpg"
        photo.write_bytes(photographs[0].data)
        with started(entries, args.bundle, args.bundle, 1, Path(folder), photographs) as (server,), server.awake():
            for number in range(args.rounds):
                order = [MINE, *tools]
                for tool in order[number % len(order) :] + order[: number % len(order)]:
                    for count in callers:
                        figures = _measure(tool, server.url, photographs, photo, count, args.seconds)
                        found.setdefault((tool, count), []).append(figures)
                        print(f"round {number + 1}, {tool}, {count}: {figures}", file=sys.stderr, flush=True)
    rows, good = summary(found, tools, callers)
    print(table(("callers, tool", "answers/s", "ours / its", "p50 ms", "ours / its"), rows))
    return 0 if good else 1


def _measure(tool: str, url: str, photographs: list[Photograph], photo: Path, callers: int, seconds: int) -> Figures:
    target = Target(Route("predict", server_of(url)), photographs, scraped=False)
    if tool == MINE:
        phase = uvloop.run(run_phase(target, Plan(seconds, concurrency=callers), WARM_UP))
        if phase["errors"]:
            raise ContractError(f"{MINE} met errors: {phase['errors']}")
        return Figures(phase["throughput"]["value"], phase["latency_ms"]["p50"]["value"])
    uvloop.run(run_phase(target, Plan(WARM_UP, concurrency=callers)))
    done = subprocess.run(command(tool, url, photo, callers, seconds), capture_output=True, text=True, check=False)
    return READERS[tool](done.stdout + done.stderr)


def summary(
    found: dict[tuple[str, int], list[Figures]], tools: list[str], callers: list[int]
) -> tuple[list[list[str]], bool]:
    """Rows of the table, and whether all median ratios are within 5 % of 1."""
    rows, good = [], True
    for count in callers:
        for tool in (MINE, *tools):
            row = [f"{count}, {tool}"]
            for field in Figures._fields:
                values = [getattr(one, field) for one in found[tool, count]]
                row.append(f"{statistics.median(values):,.2f} ({min(values):,.2f}-{max(values):,.2f})")
                mine = [getattr(one, field) for one in found[MINE, count]]
                ratios = [ours / its for ours, its in zip(mine, values, strict=True)]
                middle = statistics.median(ratios)
                good = good and abs(middle - 1) <= WITHIN
                row.append("" if tool == MINE else f"{middle:.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
            rows.append(row)
    return rows, good


if __name__ == "__main__":
    sys.exit(main())
