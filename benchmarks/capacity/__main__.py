"""How many replicas a rate needs, and what that costs: a model from measured stage times, checked against measurements.

python -m benchmarks.capacity --out results/capacity                   # calibrate a replica here, check the model, size
python -m benchmarks.capacity --bundle bundles/food101 --photos FOLDER
python -m benchmarks.capacity --device-ms 10,3                         # the same with a stand-in for a GPU's speed
python -m benchmarks.capacity --from results/capacity.json --rates 100,1000,10000 --slo-ms 100 --balance round_robin
python -m benchmarks.capacity --from gpu.json --engine engine.json --contestant ours-cuda-bf16 --node g2-standard-4

How it works, and how far to believe it: docs/capacity.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.capacity.replica import Replica, engine_times, load_replica, to_json
from benchmarks.capacity.report import markdown, plot
from benchmarks.capacity.sizing import PRICES, Prices, Wanted, curve, fleet, load_prices, table
from benchmarks.hardware import cores, provenance
from benchmarks.known_engine import device
from benchmarks.load.arguments import number, numbers, whole
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_bytes_atomic, write_text_atomic

FORMAT = 1
CURVE = 12  # points
ROUNDS = 5
MEASURED = ("date", "commit", "dirty", "hardware", "command")  # of a run whose points are kept
MODELS = ("tiny", "small", "base")
MEASURING = (
    "shapes",
    "bundle",
    "threads",
    "device_ms",
    "photos",
    "side",
    "seconds",
    "shares",
    "rounds",
    "work",
)  # not with --from


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.saved is not None and (given := [name for name in MEASURING if getattr(args, name) is not None]):
        parser.error(f"argument --from: nothing is measured, so leave --{given[0].replace('_', '-')} out")
    if args.shapes and args.bundle:
        parser.error("argument --bundle: it is served instead of a random model, so leave --shapes out")
    if args.engine is not None and (args.saved is None or args.contestant is None):
        parser.error(
            "argument --engine: it replaces the batch curve of --from; say by --contestant which of its engines"
        )
    if args.contestant is not None and args.engine is None:
        parser.error("argument --contestant: say by --engine which result of benchmarks.engine it is in")
    return run("benchmarks.capacity", lambda: _main(args, sys.argv[1:] if argv is None else argv))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity",
        description="Measure one replica, predict what many do with the service's own batcher on a simulated clock, check "
        "the prediction against measurements, and print how many replicas a rate needs.",
        epilog="Exit code 0 also when a prediction is off: the report says so. 1 for failure, 2 for wrong usage, 130 after "
        "Ctrl-C (what was measured until then is written and marked).",
    )
    one = parser.add_argument_group("the replica, measured on this machine")
    one.add_argument("--shapes", choices=MODELS, help="random model to serve (default: small)")
    one.add_argument("--bundle", type=Path, metavar="FOLDER", help="bundle to serve instead of a random model")
    one.add_argument("--threads", type=whole(1, 1024), help="engine threads (default: 1)")
    one.add_argument(
        "--device-ms", type=device, metavar="CALL,PHOTO",
        help="in place of the CPU, a stand-in for a GPU of known speed: ms a call, and ms for each of its photos",
    )  # fmt: skip
    one.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to send (default: drawn pictures)")
    one.add_argument("--side", type=whole(16, 1024), help="side of drawn pictures in px (default: 512)")
    one.add_argument("--seconds", type=number(2, 86_400), help="of each measured point in a round (default: 3)")
    one.add_argument(
        "--shares",
        type=numbers(float, 0.01, 2),
        metavar="S,S",
        help="rates to check, as shares of what the full service answers (default: 0.2,0.4,0.6,0.8,0.9)",
    )
    one.add_argument("--rounds", type=whole(1, 1000), help="times that all points are measured (default: 5)")
    one.add_argument("--work", type=Path, metavar="FOLDER", help="keep the random model here (default: do not)")
    saved = parser.add_argument_group("the replica, from a file")
    saved.add_argument("--from", dest="saved", type=Path, metavar="JSON", help="what --out wrote, or a file by hand")
    saved.add_argument(
        "--engine", type=Path, metavar="JSON", help="batch curve from python -m benchmarks.engine --json"
    )
    saved.add_argument("--contestant", metavar="NAME", help="engine in that file, such as ours-cuda-bf16")
    size = parser.add_argument_group("sizing")
    size.add_argument(
        "--rates", type=numbers(float, 1e-3, 1e8), default=(10.0, 100.0, 1000.0, 10000.0), metavar="R,R",
        help="requests/s of all replicas together (default: 10,100,1000,10000)",
    )  # fmt: skip
    size.add_argument("--slo-ms", type=number(0.01, 3.6e6), default=200.0, help="p99 to keep, in ms (default: 200)")
    size.add_argument(
        "--replicas", type=whole(1, 1_000_000), help="predict for so many (default: the fewest that keep it)"
    )
    size.add_argument(
        "--balance", choices=("random", "round_robin"), default="random", help="who gets a request (default: random)"
    )
    size.add_argument(
        "--prices", type=Path, default=PRICES, metavar="TOML", help="prices (default: examples, to be checked)"
    )
    size.add_argument("--node", metavar="NAME", help="node of that file that holds the replicas (default: the first)")
    parser.add_argument("--seed", type=whole(0, 1_000_000), default=0, help="of arrivals and simulation (default: 0)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.json, PATH.md and PATH.png")
    return parser


def _main(args: argparse.Namespace, argv: list[str]) -> int:
    """Whatever ends the run, what was measured until then is written, marked as complete or not."""
    prices = load_prices(args.prices)
    wanted = _wanted(args, prices)
    result: dict[str, Any] = {
        "format": FORMAT, "benchmark": "capacity", **provenance(), "what": "",
        "command": "python -m benchmarks.capacity " + shlex.join(argv), "complete": False, "stopped": None,
        "measured": None, "replica": None, "ceiling": None, "calibration": None, "points": [],
        "curve": [], "fleet": [], "sizing": None,
    }  # fmt: skip
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is told before the work
    try:
        replica = _saved(args, result) if args.saved is not None else _measured(args, result)
        _predict(replica, wanted, prices, args, result)
        result["complete"] = True
    except KeyboardInterrupt:
        result["stopped"] = "interrupted"
        raise
    except Exception as error:
        result["stopped"] = " ".join(str(error).split())[:500] or type(error).__name__
        raise
    finally:
        if result["replica"] is not None:
            _save(result, args.out)
            print(markdown(result), flush=True)
    return 0


def _wanted(args: argparse.Namespace, prices: Prices) -> Wanted:
    name = args.node or next(iter(prices.nodes))
    if name not in prices.nodes:
        raise ContractError(f"The prices {args.prices} have no node {name!r}; they have {', '.join(prices.nodes)}.")
    return Wanted(args.slo_ms, args.balance, name, prices.nodes[name], args.seed)


def _saved(args: argparse.Namespace, result: dict[str, Any]) -> Replica:
    replica, found = load_replica(args.saved)
    result["what"] = str(found.get("what") or f"a replica from {args.saved.name}")
    result["calibration"], points = found.get("calibration"), found.get("points") or []
    if points and args.engine is None:  # what was measured stays, and is predicted again
        result["points"] = points
        result["measured"] = found.get("measured") or {name: found.get(name) for name in MEASURED}
    if args.engine is not None:
        times, on_gpu = engine_times(args.engine, args.contestant)
        replica = replace(replica, batch_seconds=times, own_device=on_gpu, cold_seconds=0.0, max_batch=max(times))
        result["what"] += f" with the engine {args.contestant} of {args.engine.name}"
    _note(replica, result)
    return replica


def _measured(args: argparse.Namespace, result: dict[str, Any]) -> Replica:
    """Serve, calibrate and measure; `result` grows."""
    from benchmarks.capacity.calibrate import Calibrator  # what follows needs the service's packages, --from does not
    from benchmarks.capacity.check import SHARES, loads, measure, title
    from benchmarks.load.photographs import drawn, from_folder
    from benchmarks.serving.servers import ENTRIES, on_device, started

    threads, shares, seconds = args.threads or 1, args.shares or SHARES, args.seconds or 3.0
    photographs = from_folder(args.photos, 64, 0) if args.photos else drawn((args.side or 512,), 16, 0)
    with ExitStack() as stack:
        work = args.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="capacity-")))
        work.mkdir(parents=True, exist_ok=True)
        bundle = _bundle(args, work)
        model = args.bundle.name if args.bundle else f"random model {args.shapes or MODELS[1]!r}"
        result["what"] = f"{model} on {f'a stand-in device, {args.device_ms}' if args.device_ms else 'the CPU'}"
        entry = on_device(ENTRIES[0], args.device_ms) if args.device_ms else ENTRIES[0]
        _say("starting the service")
        (server,) = stack.enter_context(started([entry], bundle, bundle, threads, work, photographs))
        stack.enter_context(server.awake())
        _say("timing the engine, and looking what the service can do")
        calibrator = Calibrator(bundle, server, photographs, threads=threads, processors=cores(), device=args.device_ms)
        points, rounds = loads(shares, seconds), args.rounds or ROUNDS
        try:
            for number in range(rounds):
                before = calibrator.look()
                _say(f"round {number + 1} of {rounds}; the full service answers {before:.1f}/s")
                calibrator.measure(seed := 1000 * args.seed + 100 * number, before)
                before = calibrator.look()
                for place, point in enumerate(points, 1):
                    said = measure(point, server, photographs, seed + place, before)
                    after = calibrator.look()
                    point["rounds"][-1]["full_rate"] = round((before + after) / 2, 3)
                    _say(f"  {title(point)}: {said}; full {before:.0f}, then {after:.0f}/s")
                    before = after
        finally:
            result["points"] = [point for point in points if point["rounds"]]
            if result["points"]:
                _say("fitting the model")
                found = calibrator.calibration()
                result["calibration"] = found.figures
                _note(found.replica, result)
    return found.replica


def _bundle(args: argparse.Namespace, work: Path) -> Path:
    if args.bundle is not None:
        path: Path = args.bundle
        return path
    from benchmarks.random_model import random_model  # needs torch

    _say(f"making the model ({args.shapes or MODELS[1]}) and its bundle")
    return random_model(args.shapes or MODELS[1], work).bundle("fp32").path


def _predict(
    replica: Replica, wanted: Wanted, prices: Prices, args: argparse.Namespace, result: dict[str, Any]
) -> None:
    if result["points"]:
        from benchmarks.capacity.check import predict, title

        for point in result["points"]:
            try:
                _say(f"predicting {title(point)}")
                point |= predict(replica, point, (result["calibration"] or {}).get("full_rate"))
            except (KeyError, TypeError, ValueError):
                result["points"] = []  # the report cannot show them either
                raise ContractError(
                    "A measured point of --from is not as --out wrote it; leave `points` out."
                ) from None
    if args.out is not None:
        _say("simulating the curves of one replica and of many")
        result["curve"], result["fleet"] = curve(replica, CURVE, args.seed), fleet(replica, args.seed)
    _say("sizing")
    rows = table(replica, args.rates, wanted, args.replicas)
    result["sizing"] = {
        "slo_ms": wanted.slo_ms, "balance": wanted.balance, "node_name": wanted.node_name,
        "node": wanted.node.model_dump(), "currency": prices.currency, "note": prices.note, "rows": rows,
    }  # fmt: skip


def _note(replica: Replica, result: dict[str, Any]) -> None:
    result["replica"], result["ceiling"] = to_json(replica), round(replica.ceiling(), 3)


def _save(result: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    write_text_atomic(out.with_name(out.name + ".json"), json.dumps(result, indent=1) + "\n")
    write_text_atomic(out.with_name(out.name + ".md"), markdown(result))
    if (picture := plot(result)) is not None:
        write_bytes_atomic(out.with_name(out.name + ".png"), picture)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
