"""What a service must stand, part by part, each against a server of its own at its default settings.

    make chaos                               # all parts, about 12 minutes
    python -m tests.chaos --bundle bundles/mine --only hostile,overload --requests 300 --seconds 10

Loopback only, and bounded. Prints the figures of each part, keeps them as JSON with `--out`. Exit code 1 when something
happened that must not; the parts say what that is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.hardware import provenance
from contract.cli import run
from contract.files import write_text_atomic
from tests.chaos.bodies import bodies_part
from tests.chaos.connections import connections_part
from tests.chaos.decoders import decoders_part
from tests.chaos.description import description_part
from tests.chaos.hostile import hostile_part
from tests.chaos.mutations import mutations_part
from tests.chaos.overload import overload_part
from tests.chaos.part import Part
from tests.chaos.photos import photos_part
from tests.chaos.stuck import stuck_part
from tests.chaos.swaps import swaps_part

PARTS: dict[str, tuple[str, Callable[[argparse.Namespace], Part]]] = {
    "hostile": ("damaged and hostile requests", lambda args: hostile_part(args.bundle, args.requests, args.seed)),
    "description": (
        "requests made from openapi.json",
        lambda args: description_part(args.bundle, args.cases, args.seed),
    ),
    "overload": ("five times capacity, then half of it", lambda args: overload_part(args.bundle, args.seconds)),
    "photos": ("photos that are dear to decode, two a second", lambda args: photos_part(args.bundle, args.seconds)),
    "mutations": ("damaged photos", lambda args: mutations_part(args.bundle, args.photos, args.seed)),
    "connections": (
        "slow, idle and endless connections",
        lambda args: connections_part(args.bundle, args.connections),
    ),
    "bodies": ("bodies that are large, slow or JSON bombs", lambda args: bodies_part(args.bundle)),
    "swaps": ("bundles switched, damaged and written over", lambda args: swaps_part(args.bundle, args.swaps)),
    "decoders": ("decoding processes killed", lambda args: decoders_part(args.bundle, args.seconds / 2)),
    "stuck": ("an engine that hangs", lambda args: stuck_part(args.bundle)),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    names = ", ".join(f"{name} ({what})" for name, (what, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="Faults and load, on loopback only.", epilog=f"Parts: {names}."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder to serve")
    parser.add_argument("--only", default="", metavar="PART,PART", help="these parts (default: all)")
    parser.add_argument("--requests", type=int, default=5000, help="hostile requests (default: 5000)")
    parser.add_argument(
        "--cases", type=int, default=100, help="requests for each operation of openapi.json (default: 100)"
    )
    parser.add_argument("--seconds", type=float, default=60, help="of overload and of photos (default: 60)")
    parser.add_argument("--connections", type=int, default=1000, help="at a time, of each kind (default: 1000)")
    parser.add_argument("--photos", type=int, default=7000, help="damaged ones (default: 7000)")
    parser.add_argument("--swaps", type=int, default=50, help="of bundles, under load (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="first seed of the requests (default: 0)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write the figures there as JSON")
    args = parser.parse_args(argv)
    only = [name.strip() for name in args.only.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in only if name not in PARTS]:
        parser.error(f"argument --only: there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return run("chaos", lambda: chaos(args, only))


def chaos(args: argparse.Namespace, only: list[str]) -> int:
    """The parts in turn; prints figures and faults."""
    found = provenance() | {"command": " ".join(["python -m tests.chaos", *sys.argv[1:]]), "parts": {}}
    faults = []
    for name in only:
        what, part_of = PARTS[name]
        print(f"== {name}: {what}", flush=True)
        began = time.monotonic()
        part = part_of(args)
        faults += [f"{name}: {fault}" for fault in part.faults]
        took = round(time.monotonic() - began, 1)
        found["parts"][name] = {"figures": part.figures, "faults": part.faults, "seconds": took}
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(args.out, json.dumps(found, indent=1) + "\n")
    for fault in faults:
        print(f"FAULT {fault}")
    print("chaos: still alive" if not faults else f"chaos: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
