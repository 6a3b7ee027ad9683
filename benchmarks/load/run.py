"""A whole run: stretches of load one after the other, in rounds, and the result that grows as it goes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.hardware import provenance
from benchmarks.load.arrivals import Sample
from benchmarks.load.connection import Client, NoAnswer
from benchmarks.load.phase import Interrupted, Plan, Target, run_phase
from benchmarks.load.routes import WrongAnswer, outcome_of
from benchmarks.load.server_side import info
from contract.errors import ContractError

FORMAT = 1
Save = Callable[[], None]
HINTS = {
    "refused": "nothing listens there; is the server running?",
    "network": "the name or address cannot be reached.",
    "closed": "the server closed the connection.",
    "timeout": "the server did not answer in time; see --timeout.",
    "not_http": "what answers there does not speak HTTP.",
    "404": "there is no such route; see --route.",
    "405": "the route takes no photos; see --route.",
    "401": "a key is asked for; see --header.",
    "wrong_answer": "the answer is not what this route gives; see --route.",
}


def new_result(target: Target, command: str) -> dict[str, Any]:
    """The result before anything was measured, as JSON types. Headers are left out: they may hold keys."""
    photographs = target.photographs
    return {
        "format": FORMAT,
        "benchmark": "latency",
        **provenance(),
        "command": command,
        "url": f"{'https' if target.route.server.tls else 'http'}://{target.route.server.authority}"
        f"{target.route.server.path}",
        "route": target.route.name,
        "photographs": {
            "count": len(photographs),
            "bytes": sum(len(one.data) for one in photographs) // len(photographs),
            "sizes": sorted({f"{one.width}x{one.height}" for one in photographs})[:12],
        },
        "server": _served(target),
        "complete": False,
        "stopped": None,
        "phases": [],
        "capacity": None,
    }


def _served(target: Target) -> dict[str, Any] | None:
    found = info(target.route.server, target.route.headers)
    if found is None:
        return None
    return {
        name: found.get(name) for name in ("model", "provider", "precision", "max_batch", "limits") if name in found
    }


async def check(target: Target) -> str:
    """Ask once for each of a few photographs; gives the first label. Raises `ContractError` when that fails."""
    client = Client(target.route.server, timeout=target.timeout)
    label = ""
    try:
        for request in target.requests()[:4]:
            try:
                reply = await client.ask(request)
                kind = "ok" if reply.status == 200 else outcome_of(reply.status, reply.body)
                if kind == "ok":
                    label = label or target.route.label(reply.body)
            except NoAnswer as error:
                kind = error.kind
            except WrongAnswer:
                kind = "wrong_answer"
            if kind != "ok":
                where = f"POST {target.route.path} of {target.route.server.authority}"
                hint = HINTS.get(kind, HINTS.get(kind.split()[0], "see the server's log."))
                raise ContractError(f"{where} gave no answer ({kind}): {hint}")
    finally:
        client.close()
    return label


async def measure(
    target: Target, plans: Sequence[Plan], result: dict[str, Any], *, warm_up: float, rounds: int, save: Save
) -> None:
    """Every plan once in each of `rounds`; `result["phases"]` grows, and keeps what Ctrl-C cut off, marked."""
    for number in range(rounds):
        for plan in plans:
            seeded = replace(plan, seed=plan.seed + 1000 * number)
            try:
                phase = await run_phase(target, seeded, warm_up, progress)
            except Interrupted as cut:
                result["phases"].append(cut.phase | {"round": number, "warnings": ["Cut off."]})
                raise
            result["phases"].append(phase | {"round": number})
            _say(phase, f"round {number + 1} of {rounds}, {plan.title}" if rounds > 1 else plan.title)
            save()


def progress(plan: Plan, sample: Sample) -> None:
    """A line that is written over, on a terminal alone."""
    if not sys.stderr.isatty() or not sample.began:
        return
    seconds = time.perf_counter() - sample.began
    last = [1000 * (done - due) for done, due in zip(sample.done[-200:], sample.due[-200:], strict=False)]
    middle = sorted(last)[len(last) // 2] if last else 0.0
    bad = sum(outcome != "ok" for outcome in sample.outcome)
    done = f"{len(sample.outcome)} answers, {bad} errors, ~{middle:.1f} ms"
    text = f"{plan.title}: {seconds:5.1f} of {plan.seconds:g} s, {done}"
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)


def _say(phase: dict[str, Any], title: str) -> None:
    latency = phase["latency_ms"]
    times = f"p50 {latency['p50']['value']:.1f} ms, p99 {latency['p99']['value']:.1f} ms" if latency else "no answers"
    start = "\r" if sys.stderr.isatty() else ""
    text = f"{title}: {phase['throughput']['value']:.1f} answers/s, {times}"
    print(f"{start}{text:<100}", file=sys.stderr, flush=True)
    for warning in phase.get("warnings", ()):
        print(f"  ! {warning}", file=sys.stderr, flush=True)


async def find_capacity(
    target: Target, result: dict[str, Any], *, slo_ms: float, seconds: float, warm_up: float, seed: int, save: Save
) -> None:
    """The highest rate at which 99 % of the requests are answered within `slo_ms` and none fails.

    Doubles until a rate misses it, then halves the gap until it is below 5 %. Every rate that was tried is kept.
    """
    tried: list[dict[str, Any]] = []
    result["capacity"] = {"slo_ms": slo_ms, "rate": None, "missed_at": None, "tried": tried}

    async def keeps(rate: float) -> bool:
        phase = await run_phase(target, Plan(seconds, rate=rate, slo_ms=slo_ms, seed=seed), warm_up, progress)
        within = phase["latency_ms"] and phase["latency_ms"]["p99"]["value"] <= slo_ms
        good = bool(within and not phase["errors"] and phase["throughput"]["value"] > 0.85 * rate)
        result["phases"].append(phase | {"round": len(tried)})
        p99 = phase["latency_ms"]["p99"]["value"] if phase["latency_ms"] else None
        tried.append({"rate": rate, "kept": good, "p99_ms": p99, "errors": phase["errors"]})
        _say(phase, f"{rate:g} requests/s {'keep' if good else 'miss'} {slo_ms:g} ms")
        save()
        return good

    closed = await run_phase(target, Plan(min(seconds, 5), concurrency=1, seed=seed), warm_up, progress)
    alone = closed["latency_ms"]["p50"]["value"] if closed["latency_ms"] else None
    if alone is None or alone > slo_ms:
        raise ContractError(
            f"One caller alone has a median of {alone or 0:.1f} ms, more than --slo-ms {slo_ms:g}: no rate can keep it."
        )
    rate = max(0.1, float(f"{0.25 * closed['throughput']['value']:.3g}"))
    low, high = 0.0, None
    while high is None:
        if await keeps(rate):
            low, rate = rate, float(f"{2 * rate:.3g}")
        else:
            high = rate
    while high - low > max(0.05 * high, 0.05):
        middle = float(f"{(low + high) / 2:.3g}")
        if middle in (low, high):
            break
        if await keeps(middle):
            low = middle
        else:
            high = middle
    result["capacity"] |= {"rate": low or None, "missed_at": high}


async def interruptible(work: Any) -> None:
    """Await `work`; what cancels it (Ctrl-C) arrives as `KeyboardInterrupt` with everything kept."""
    try:
        await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
