"""Our service beside others on the same weights and photographs, in interleaved rounds (`make bench`).

python -m benchmarks.serving                                              # tiny and BLIP-base shapes
python -m benchmarks.serving --shapes tiny --rounds 5 --out build/serving
python -m benchmarks.serving --device-ms 10,3 --rounds 5                   # engines with a GPU's speed, stood in for
python -m benchmarks.serving --before ../older --shapes tiny               # an older commit beside, same weights
python -m benchmarks.serving --guard                                      # short: ours against plain FastAPI, for CI

What is compared and how to read it: docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.hardware import cores, provenance
from benchmarks.known_engine import device
from benchmarks.load.phase import Plan, run_phase
from benchmarks.load.photographs import Photograph, drawn, from_folder
from benchmarks.load.run import interruptible
from benchmarks.random_model import random_model
from benchmarks.serving.ratios import agreement, judge
from benchmarks.serving.report import markdown, write_report
from benchmarks.serving.servers import ENTRIES, ORIGINAL, OURS, PLAIN, Entry, Running, older, on_device, started
from contract.cli import run
from contract.files import write_text_atomic

FORMAT = 1
LOADS = {"tiny": (1, 4, 16, 32), "base": (1, 4)}  # callers
SECONDS = {"tiny": 3.0, "base": 15.0}
WARM_UP = {"tiny": 0.5, "base": 2.0}
GUARD_LOADS = (1, 16)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description="Compare this service with others on the same weights and photographs.",
        epilog="Exit code 1 when a server does not come up, or --guard finds a drop beyond noise.",
    )
    parser.add_argument("--shapes", default="tiny,base", help="models, tiny and base (BLIP-base) (default: tiny,base)")
    parser.add_argument("--only", default="", metavar="NAME,NAME", help="servers (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="times that every server is measured (default: 3)")
    parser.add_argument("--seconds", type=float, help="of each load (default: 3 for tiny, 15 for base)")
    parser.add_argument(
        "--threads", type=int, default=0, help="engine threads (default: 1 for tiny, one per core for base)"
    )
    parser.add_argument(
        "--device-ms", type=device, metavar="CALL,PHOTO",
        help="let every engine take so many ms a call and for each of its photos, as a GPU of that speed would (tiny)",
    )  # fmt: skip
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to send (default: drawn, 512 px)")
    parser.add_argument("--side", type=int, default=512, help="side of drawn pictures in px (default: 512)")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the random models here")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.json, PATH.md, PATH.html and plots")
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help="measure an older checkout of this repository too (git worktree)"
    )
    parser.add_argument(
        "--guard", action="store_true", help="short run against plain FastAPI; fails on a drop beyond noise"
    )
    args = parser.parse_args(argv)
    shapes = tuple(dict.fromkeys(args.shapes.split(",")))
    if unknown := set(shapes) - set(LOADS):
        parser.error(f"argument --shapes: there is no {min(unknown)!r}; there are tiny and base")
    if args.device_ms and (args.guard or args.shapes not in ("tiny", parser.get_default("shapes"))):
        parser.error("argument --device-ms: it is for --shapes tiny, whose own time is less, and not for --guard")
    entries = list(ENTRIES)
    if args.device_ms:
        shapes, entries = ("tiny",), [on_device(one, args.device_ms) for one in ENTRIES if one.name != ORIGINAL]
    if args.before:
        if not (args.before / "app").is_dir():
            parser.error(f"argument --before: {args.before} is no checkout of this repository")
        beside = older(args.before.resolve())
        entries.insert(1, on_device(beside, args.device_ms) if args.device_ms else beside)
    names = [entry.name for entry in entries]
    only = [name.strip() for name in args.only.split(",") if name.strip()] or names
    if missing := [name for name in only if name not in names]:
        parser.error(f"argument --only: there is no server {missing[0]!r}; there are {', '.join(names)}")
    if args.rounds < 1 or (args.seconds is not None and args.seconds <= 0):
        parser.error("--rounds and --seconds must be above 0")
    if args.guard:
        shapes, only = ("tiny",), [OURS, PLAIN]
    entries = [entry for entry in entries if entry.name in only]
    return run(
        "benchmarks.serving", lambda: _benchmark(args, shapes, entries, argv if argv is not None else sys.argv[1:])
    )


def _benchmark(args: argparse.Namespace, shapes: tuple[str, ...], entries: list[Entry], argv: list[str]) -> int:
    photographs = from_folder(args.photos, 64, 0) if args.photos else drawn((args.side,), 16, 0)
    result = _new_result(photographs, argv)
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-benchmark-")))
        work.mkdir(parents=True, exist_ok=True)
        try:
            for shape in shapes:
                _compare(args, shape, entries, photographs, work, result)
            result["complete"] = True
        except KeyboardInterrupt:
            result["stopped"] = "interrupted"
            raise
        finally:
            _save(result, args.out)
    print(markdown(result), flush=True)
    if not args.guard:
        return 0
    verdict = judge(result["models"]["tiny"]["servers"])
    print(verdict.text)
    return 0 if verdict.good else 1


def _new_result(photographs: list[Photograph], argv: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT, "benchmark": "serving", **provenance(),
        "command": " ".join(["python -m benchmarks.serving", *argv]), "complete": False, "stopped": None,
        "photographs": {
            "count": len(photographs), "bytes": sum(len(one.data) for one in photographs) // len(photographs),
            "sizes": sorted({f"{one.width}x{one.height}" for one in photographs})[:12],
        },
        "models": {},
    }  # fmt: skip


def _compare(
    args: argparse.Namespace, shape: str, entries: list[Entry], photographs: list[Photograph], work: Path,
    result: dict[str, Any],
) -> None:  # fmt: skip
    """Every server in turn, once a round; the order turns by one place each round."""
    _say(f"making the model ({shape}) and its bundle")
    model = random_model(shape, work)
    threads = args.threads or (1 if shape == "tiny" else cores())
    loads = GUARD_LOADS if args.guard else LOADS[shape]
    found: dict[str, Any] = {"threads": threads, "device": None, "loads": list(loads), "servers": {}}
    if args.device_ms:
        found["device"] = str(args.device_ms)
    result["models"][shape] = found
    for entry in entries:
        found["servers"][entry.name] = {"what": entry.what, "phases": [], "memory_bytes": 0}
    bundle = model.bundle("fp32").path
    with started(entries, bundle, model.checkpoint.path, threads, work, photographs, shape) as servers:
        for number in range(args.rounds):
            turn = number % len(servers)
            for server in servers[turn:] + servers[:turn]:
                with server.awake():
                    _measure(server, shape, loads, args.seconds or SECONDS[shape], number, photographs, found)
            _save(result, args.out)
    found["same_labels"] = agreement(found["servers"])


def _measure(
    server: Running, shape: str, loads: tuple[int, ...], seconds: float, number: int, photographs: list[Photograph],
    found: dict[str, Any],
) -> None:  # fmt: skip
    mine = found["servers"][server.entry.name]
    for concurrency in loads:
        plan = Plan(seconds, concurrency=concurrency, seed=number)
        uvloop.run(interruptible(run_phase(server.target(photographs), Plan(WARM_UP[shape], concurrency=concurrency))))
        before = server.usage()[0]
        phase: dict[str, Any] = uvloop.run(run_phase(server.target(photographs), plan))
        used, memory = server.usage()
        phase["cpu_ms_per_answer"] = round(1000 * (used - before) / max(1, phase["answers"]), 3)
        mine["phases"].append(phase | {"round": number})
        mine["memory_bytes"] = max(mine["memory_bytes"], memory)
        latency = phase["latency_ms"].get("p99", {}).get("value")
        _say(
            f"{shape}, round {number + 1}, {server.entry.name}, {plan.title}: {phase['throughput']['value']:.1f} answers/s, "
            f"p99 {latency} ms"
        )


def _save(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out.with_name(out.name + ".json"), json.dumps(result, indent=1) + "\n")
    write_report(result, out)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
