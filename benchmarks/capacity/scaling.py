"""What to scale on: rules of an autoscaler, simulated on the same traffic, by p99, lost requests and replica-hours.

    python -m benchmarks.capacity.scaling --out docs/results/autoscaling             # three replicas, a few minutes
    python -m benchmarks.capacity.scaling --from build/capacity.json --out build/scaling     # yours
    python -m benchmarks.capacity.scaling --shapes step --target 60                  # another target

Nothing is measured: replicas are from files, `fleet.py` has what a fleet does, `hpa.py` what the autoscaler does. What it
found, and what it leaves out: docs/capacity.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.capacity.fleet import CHART, LOADS, Course, Curve, Delays, Floats, Rule, course
from benchmarks.capacity.replica import Replica, engine_times, load_replica, to_json
from benchmarks.capacity.scaling_report import markdown, plot
from benchmarks.hardware import ROOT, provenance
from benchmarks.load.arguments import number, numbers, whole
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_bytes_atomic, write_text_atomic

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results"
DEVICE, TINY, ENGINE = (
    "2026-11-24-capacity-device-amd-epyc-avx2.json",
    "2026-11-24-capacity-tiny-amd-epyc-avx2.json",
    "2026-11-24-engine-amd-epyc-avx2.json",
)
CONTESTANT = "ours-cpu-fp32"
TARGETS = (50.0, 60.0, 70.0, 80.0, 90.0)  # percent of load that are compared
OLD_WAITING = 8.0  # the rule until now
HOUR, DAY = 3600, 86_400
REPEATED = 8 * HOUR  # seconds of short traffic in all, each time with other luck


def steady() -> Floats:
    """Four pods at 60 %."""
    return np.full(HOUR, 2.4)


def ramp() -> Floats:
    """From one to eight in half an hour, and back."""
    up = np.linspace(1, 8, HOUR // 2)
    return np.concatenate([np.full(600, 1.0), up, np.full(HOUR // 2, 8.0), up[::-1], np.full(1200, 1.0)])


def step() -> Floats:
    """From two to eight at once, and back."""
    return np.concatenate([np.full(600, 2.0), np.full(3000, 8.0), np.full(HOUR, 2.0)])


def day() -> Floats:
    """Nights of one, a peak at lunch, and one of eight at dinner."""
    hour = np.arange(DAY) / HOUR
    lunch, dinner = 3.5 * np.exp(-(((hour - 12.5) / 1.2) ** 2)), 7 * np.exp(-(((hour - 19.5) / 1.6) ** 2))
    found: Floats = 1 + lunch + dinner + 1.2 * np.exp(-(((hour - 15) / 5) ** 2))
    return found * 8 / found.max()


# Arrivals a second [seconds], in units of what one replica can do.
SHAPES: dict[str, Callable[[], Floats]] = {"steady": steady, "ramp": ramp, "step": step, "day": day}


def rules(target: float, waiting: float) -> list[Rule]:
    """The rule until now, and two that could follow it: the time in which the engine is busy, and the load."""
    return [
        Rule(f"waiting {OLD_WAITING:g}", (("waiting", OLD_WAITING),)),
        Rule(f"busy {target:g} %, waiting {waiting:g}", (("busy", target), ("waiting", waiting))),
        Rule(f"load {target:g} %, waiting {waiting:g}", (("load", target), ("waiting", waiting))),
    ]


def replicas() -> dict[str, tuple[str, Replica]]:
    """Three kinds by name, each with what it is: batches pay, they do not, and the engine is not what is short."""
    times, _ = engine_times(RESULTS / ENGINE, CONTESTANT)
    base = Replica({1: times[1]}, max_batch=1, engine_threads=2, decoders=2, processors=2, decode_seconds=(0.004,))
    device, tiny = (_without_client(load_replica(RESULTS / name)[0]) for name in (DEVICE, TINY))
    return {
        "device": ("a stand-in device of 10 ms a call and 3 ms a photo, where batches pay", device),
        "cpu-base": ("BLIP base in fp32 on two cores, where batches do not pay", base),
        "cpu-tiny": ("the tiny model on two cores, where decoding and HTTP take more than the engine", tiny),
    }


def _without_client(replica: Replica) -> Replica:
    """In a fleet the load generator is elsewhere."""
    return replace(replica, client_seconds=0.0, client_cold_seconds=0.0)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.capacity.scaling",
        description="Simulate rules for an autoscaler on the same traffic, and compare p99, lost requests and "
        "replica-hours.",
        epilog="Exit code 1 for failure, 2 for wrong usage, 130 after Ctrl-C.",
    )
    parser.add_argument("--from", dest="saved", type=Path, metavar="JSON", help="a replica, instead of the three")
    parser.add_argument("--target", type=number(1, 100), default=70.0, help="percent of busy time and of load (70)")
    parser.add_argument("--waiting", type=number(1, 100_000), default=8.0, help="photos waiting for each pod (8)")
    parser.add_argument("--shapes", type=_shapes, default=tuple(SHAPES), metavar="NAME,NAME", help=", ".join(SHAPES))
    parser.add_argument(
        "--cold-starts", type=numbers(float, 0, HOUR), default=(20.0, 300.0), metavar="S,S",
        help="seconds from a new pod to its first answer (20,300)",
    )  # fmt: skip
    parser.add_argument("--seed", type=whole(0, 1_000_000), default=0, help="of arrivals and scrapes (0)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write PATH.json, PATH.md and PATH.png")
    args = parser.parse_args(argv)
    return run("benchmarks.capacity.scaling", lambda: _main(args, sys.argv[1:] if argv is None else argv))


def _shapes(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in found if name not in SHAPES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SHAPES)}")
    return found


def _main(args: argparse.Namespace, argv: list[str]) -> int:
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    if args.saved is not None:
        kinds = {args.saved.stem: (f"the replica of {args.saved.name}", load_replica(args.saved)[0])}
    else:
        kinds = replicas()
    result: dict[str, Any] = {
        "format": FORMAT, "benchmark": "autoscaling", **provenance(),
        "command": shlex.join(["python", "-m", "benchmarks.capacity.scaling", *argv]),
        "behaviour": asdict(CHART), "delays": asdict(Delays(0)), "replicas": {}, "runs": [], "targets": [],
    }  # fmt: skip
    for name, (what, replica) in kinds.items():
        _say(f"simulating one replica: {what}")
        curve = Curve(replica, seed=args.seed)
        result["replicas"][name] = {"what": what, "replica": to_json(replica), **_curve(curve)}
        _compare(name, curve, args, result)
    if args.out is not None:
        write_text_atomic(args.out.with_name(args.out.name + ".json"), _written(result))
        write_text_atomic(args.out.with_name(args.out.name + ".md"), markdown(result))
        write_bytes_atomic(args.out.with_name(args.out.name + ".png"), plot(result))
    print(markdown(result), flush=True)
    return 0


def _compare(name: str, curve: Curve, args: argparse.Namespace, result: dict[str, Any]) -> None:
    if not curve.capacity:
        raise ContractError(f"The replica {name} answers nothing; see its timeout and its times.")
    for shape in args.shapes:
        rates = SHAPES[shape]() * curve.capacity
        most = math.ceil(rates.max() / curve.capacity / args.target * 100)
        for cold_start in args.cold_starts:
            _say(f"{name}, {shape}, cold start {cold_start:g} s")
            for rule in (None, *rules(args.target, args.waiting)):
                found = _courses(curve, rule, rates, cold_start, most if rule is None else None, args.seed)
                run = {"replica": name, "shape": shape, "cold_start": cold_start}
                result["runs"].append(run | {"rule": rule.name if rule else "fixed"} | _figures(found))
            if shape != "steady" and len(result["replicas"]) == 1:
                for target in TARGETS:
                    rule = rules(target, args.waiting)[-1]
                    found = _courses(curve, rule, rates, cold_start, None, args.seed)
                    run = {"replica": name, "shape": shape, "cold_start": cold_start, "target": target}
                    result["targets"].append(run | _figures(found))


def _courses(curve: Curve, rule: Rule | None, rates: Floats, cold: float, fixed: int | None, seed: int) -> list[Course]:
    start = fixed or (4 if rates.min() == rates.max() else math.ceil(rates[0] / curve.capacity / 0.7))
    repeats = max(1, REPEATED // len(rates)) if rule else 1
    return [course(curve, rule, rates, Delays(cold), start=start, seed=seed + turn) for turn in range(repeats)]


def _figures(found: list[Course]) -> dict[str, Any]:
    """Means over the repeats; percentiles of the answers of all; the series are the first's."""
    together = replace(found[0], histogram=np.sum([one.histogram for one in found], axis=0))
    minutes = slice(None, None, 60)
    return {
        "p50_ms": round(1000 * together.percentile(50), 1), "p99_ms": round(1000 * together.percentile(99), 1),
        "failed_share": round(float(np.mean([one.failed_share for one in found])), 6),
        "replica_hours": round(float(np.mean([one.replica_hours for one in found])), 2),
        "least": min(int(one.pods.min()) for one in found), "most": max(int(one.pods.max()) for one in found),
        "ready": found[0].ready[minutes].tolist(), "needed": np.round(found[0].needed[minutes], 2).tolist(),
    }  # fmt: skip


def _curve(curve: Curve) -> dict[str, Any]:
    shares = np.array(LOADS)
    return {
        "capacity": round(curve.capacity, 3), "shares": list(LOADS),
        "busy": np.round(curve.busy(shares), 4).tolist(), "load": np.round(curve.load(shares), 4).tolist(),
        "waiting": [round(float(curve.waiting(share).mean()), 3) for share in LOADS],
    }  # fmt: skip


def _written(result: dict[str, Any]) -> str:
    """As JSON, without what only the plot needs: each minute of each run."""
    short: dict[str, Any] = dict(result)
    for name in ("runs", "targets"):
        short[name] = [{k: v for k, v in one.items() if k not in ("ready", "needed")} for one in result[name]]
    return json.dumps(short, indent=1) + "\n"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
