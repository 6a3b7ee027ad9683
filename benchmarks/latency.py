"""The latency benchmark: load on a running server, and figures one can believe.

python -m benchmarks.latency http://127.0.0.1:8000                                  # 1, 4, 16 callers, drawn pictures
python -m benchmarks.latency URL --concurrency 1,8,32 --rates 50,100 --photos FOLDER --out results/monday
python -m benchmarks.latency URL --find-capacity --slo-ms 50                        # the highest rate that keeps 50 ms
python -m benchmarks.latency --compare monday.json tuesday.json                     # what changed beyond noise

How to read it: docs/performance.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.load.arguments import number, numbers, whole
from benchmarks.load.client import MOST, allow_sockets
from benchmarks.load.compare import comparison, load_result
from benchmarks.load.connection import server_of
from benchmarks.load.output import save_all, save_json
from benchmarks.load.phase import Plan, Target
from benchmarks.load.photographs import DRAWN_SIDES, drawn, from_folder
from benchmarks.load.report import markdown
from benchmarks.load.routes import ROUTES, Route, parse_headers
from benchmarks.load.run import check, interruptible, measure, new_result
from benchmarks.load.search import find_capacity
from benchmarks.load.server_side import info
from contract.cli import run
from contract.errors import ContractError


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.compare is not None:
        if args.url is not None:
            parser.error("argument --compare: it compares two files, so leave the URL out")
        return run("benchmarks.latency", lambda: _compare(*args.compare))
    if args.url is None:
        parser.error("the URL of a running server is missing, such as http://127.0.0.1:8000")
    if args.find_capacity and args.slo_ms is None:
        parser.error("argument --find-capacity: say by --slo-ms which latency is to be kept")
    if args.find_capacity and (args.concurrency or args.rates or args.rounds != 1):
        parser.error(
            "argument --find-capacity: it chooses the rates itself; leave out --concurrency, --rates, --rounds"
        )
    if args.model is not None and args.route != "oip":
        parser.error("argument --model: only --route oip names a model")
    if args.out is not None and not args.out.name:
        parser.error(
            f"argument --out: {args.out} names a folder; add the beginning of the files' names, such as latency"
        )
    return run("benchmarks.latency", lambda: _measure(args, sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description="Put load on a running server and measure latency and throughput.",
        epilog="Exit code 0 when all was measured, 1 when the server gave no usable answer, 2 for wrong usage, 130 after "
        "Ctrl-C or SIGTERM (what was measured until then is written and marked).",
        allow_abbrev=False,  # --head for --header would put a key into the result
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="server, such as http://127.0.0.1:8000")
    parser.add_argument("--route", choices=ROUTES, default="predict", help="face of the server (default: predict)")
    parser.add_argument("--model", metavar="NAME", help="model name of --route oip (default: what /info says)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'",
        help="sent with every request, never written to results (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency", type=numbers(int, 1, MOST), metavar="N,N",
        help="callers of the closed loop (default: 1,4,16; with --rates none)",
    )  # fmt: skip
    parser.add_argument(
        "--rates", type=numbers(float, 1e-3, 1e5), default=(), metavar="R,R",
        help="arrivals/s of the open loop (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=number(0.5, 86_400), default=10.0, metavar="S", help="of each load (default: 10)"
    )
    parser.add_argument(
        "--warm-up", type=number(0, 3600), default=2.0, metavar="S", help="seconds before each load (default: 2)"
    )
    parser.add_argument(
        "--rounds", type=whole(1, 1000), default=1, metavar="N", help="times that all loads are run (default: 1)"
    )
    parser.add_argument(
        "--timeout", type=number(0.01, 3600), default=30.0, metavar="S", help="seconds for one answer (default: 30)"
    )
    parser.add_argument(
        "--slo-ms", type=number(0.01, 3.6e6), metavar="MS",
        help="latency in ms that counts as good, for goodput (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--find-capacity", action="store_true", help="search the highest rate/s that keeps --slo-ms at p99"
    )
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to send (default: drawn pictures)")
    parser.add_argument(
        "--count", type=whole(1, 100_000), default=64, metavar="N",
        help="photographs at most, of drawn ones 24 (default: 64)",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=numbers(int, 16, 1024), default=DRAWN_SIDES, metavar="PX,PX",
        help=f"sides of drawn pictures in px (default: {','.join(map(str, DRAWN_SIDES))})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=whole(0, 2**31), default=0, metavar="N", help="of pictures, order and arrivals (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH",
        help="write PATH.json, PATH.md, PATH.html and plots PATH-*.png (default: only print)",
    )  # fmt: skip
    parser.add_argument(
        "--compare", type=Path, nargs=2, metavar="JSON", help="say what changed from the first to the second"
    )
    return parser


def _compare(before: Path, after: Path) -> int:
    print(comparison(load_result(before), load_result(after)))
    return 0


def _target(args: argparse.Namespace) -> Target:
    server, headers = server_of(args.url), parse_headers(args.header)
    model = args.model or ""
    if args.route == "oip" and not model:
        model = ((info(server, headers) or {}).get("model") or {}).get("name", "")
        if not model:
            raise ContractError(
                "--route oip needs the model's name, and the server does not say it at /info (is it running?); use --model."
            )
    if args.photos is not None:
        photographs = from_folder(args.photos, args.count, args.seed)
    else:
        photographs = drawn(args.sizes, max(1, min(args.count, 24) // len(args.sizes)), args.seed)
    return Target(Route(args.route, server, model, headers), photographs, timeout=args.timeout)


def _measure(args: argparse.Namespace, argv: list[str]) -> int:
    """Measure; whatever ends the run, what was measured is written, marked as complete or not."""
    target = _target(args)
    if args.out is not None:  # a folder that cannot be written is told before the work
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContractError(f"The folder {args.out.parent} cannot be made: {error.strerror}.") from None
        if not os.access(args.out.parent, os.W_OK):
            raise ContractError(f"The folder {args.out.parent} cannot be written; choose another --out.")
    allow_sockets()
    uvloop.run(check(target))
    result = new_result(target, _command(argv))

    def save() -> None:
        if args.out is not None:
            save_json(result, args.out)

    common: dict[str, Any] = {"warm_up": args.warm_up, "save": save}
    if args.find_capacity:
        work = find_capacity(target, result, slo_ms=args.slo_ms, seconds=args.seconds, seed=args.seed, **common)
    else:
        callers = args.concurrency if args.concurrency is not None else () if args.rates else (1, 4, 16)
        made: dict[str, Any] = {"slo_ms": args.slo_ms, "seed": args.seed}
        plans = [Plan(args.seconds, concurrency=count, **made) for count in callers]
        plans += [Plan(args.seconds, rate=rate, **made) for rate in args.rates]
        work = measure(target, plans, result, rounds=args.rounds, **common)
    try:
        uvloop.run(interruptible(work))
        result["complete"] = True
    except KeyboardInterrupt:
        result["stopped"] = "interrupted"
        raise
    except Exception as error:
        result["stopped"] = " ".join(str(error).split())[:500] or type(error).__name__
        raise
    finally:
        try:
            if args.out is not None:
                save_all(result, args.out)
        finally:
            print(markdown(result), flush=True)
    if result["phases"] and not any(phase["answers"] for phase in result["phases"]):
        raise ContractError("no request was answered.")
    return 0


def _command(argv: list[str]) -> str:
    """What was typed, without the values of headers."""
    shown = list(argv)
    for place, word in enumerate(argv):
        if word == "--header" and place + 1 < len(argv):
            shown[place + 1] = f"{argv[place + 1].partition(':')[0]}: ..."
        elif word.startswith("--header="):
            shown[place] = f"{word.partition(':')[0]}: ..."
    return "python -m benchmarks.latency " + shlex.join(shown)


if __name__ == "__main__":
    sys.exit(main())
