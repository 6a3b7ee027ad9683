"""Hostile requests, requests made from the API description, then overload, against servers started here.

    make chaos                               # 5,000 hostile requests, 100 cases an operation, 60 s of overload
    python -m tests.chaos --bundle bundles/mine --requests 300 --cases 20 --seconds 10

Exit code 1 when something happened that must not: a 500, no answer, memory that grows, a wrong answer afterwards, an answer
that openapi.json does not describe, accepted requests that are late, or refusals that are slow.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

from app.metrics import PREFIX
from contract.cli import run
from tests.chaos.attack import PATIENCE, attack
from tests.chaos.description import description_part
from tests.chaos.overload import overload_part, resident_bytes
from tests.conftest import drawn_png, serving_process

GROWTH = 64e6  # bytes that the server's memory may grow under attack, after a first part that fills its caches
AT_REST = ("requests_in_flight", "photos_waiting")  # gauges that are 0 when nothing is asked


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults and load, on loopback only.")
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder to serve")
    parser.add_argument("--requests", type=int, default=5000, help="hostile requests (default: 5000)")
    parser.add_argument(
        "--cases", type=int, default=100, help="requests for each operation of openapi.json (default: 100)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of overload; 20 more follow (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="first seed of the requests (default: 0)")
    args = parser.parse_args()
    return run("chaos", lambda: chaos(args))


def chaos(args: argparse.Namespace) -> int:
    """All parts; prints figures and faults."""
    faults = hostile_part(args.bundle, args.requests, args.seed)
    faults += description_part(args.bundle, args.cases, args.seed)
    faults += overload_part(args.bundle, args.seconds).faults
    for fault in faults:
        print(f"FAULT {fault}")
    print("chaos: still alive" if not faults else f"chaos: {len(faults)} faults")
    return 1 if faults else 0


def hostile_part(
    bundle: Path, count: int, seed: int, *flags: object, growth: float = GROWTH, patience: float = PATIENCE
) -> list[str]:
    """Hostile requests; the server must go on as if nothing had been, with `growth` more bytes at most.

    The server has its defaults, but for `flags`; `patience`: seconds after which it is said to hang.
    """
    with serving_process(bundle, "--log-level", "error", "--threads", 1, *flags) as (url, process):
        wanted, files = _label(url), psutil.Process(process.pid).num_fds()
        first = attack(url, count // 5, seed, patience=patience)
        before = resident_bytes(process.pid)
        began = time.monotonic()
        rest = attack(url, count - count // 5, seed + count // 5, patience=patience)
        seconds = time.monotonic() - began
        answers: Counter[tuple[str, str]] = first.answers + rest.answers
        grown = resident_bytes(process.pid) - before
        faults = first.faults + rest.faults
        for kind in sorted({kind for kind, _ in answers}):
            statuses = {status: n for (one, status), n in sorted(answers.items()) if one == kind}
            print(f"  {kind:15} {sum(statuses.values()):5}  {statuses}")
        slowest = max(first.slowest, rest.slowest)
        print(f"hostile: {count} requests, slowest {slowest:.2f} s, memory {grown / 1e6:+.1f} MB in {seconds:.0f} s")
        if grown > growth:
            faults.append(f"memory grew by {grown / 1e6:.0f} MB")
        if process.poll() is not None:
            faults.append(f"the server ended with {process.returncode}")
        elif _label(url) != wanted:
            faults.append("a good request is answered otherwise than before")
        else:
            faults += _left_behind(url, process.pid, files, patience)
    return faults


def _left_behind(url: str, pid: int, files: int, patience: float) -> list[str]:
    """What of the attack the server still holds, once it has had time to see that the clients are gone."""
    ends = time.monotonic() + patience
    while True:
        found = []
        if (held := psutil.Process(pid).num_fds()) > files:
            found.append(f"{held - files} more open files and connections than before")
        gauges = httpx.get(f"{url}/metrics", timeout=patience, headers={"Connection": "close"}).text
        found += [f"{name} is not 0" for name in AT_REST if f"\n{PREFIX}{name} 0.0\n" not in gauges]
        if not found or time.monotonic() > ends:
            return found
        time.sleep(0.1)


def _label(url: str) -> str:
    label: str = httpx.post(f"{url}/predict", content=drawn_png(0), timeout=30).raise_for_status().json()["label"]
    return label


if __name__ == "__main__":
    sys.exit(main())
