"""A whole run: stretches of load one after the other, in rounds, and the result that grows as it goes."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.hardware import provenance
from benchmarks.load.arrivals import DOWN, Sample
from benchmarks.load.client import Client
from benchmarks.load.connection import NoAnswer
from benchmarks.load.phase import Interrupted, Plan, Target, run_phase
from benchmarks.load.routes import WrongAnswer, outcome_of
from benchmarks.load.server_side import info
from contract.errors import ContractError

FORMAT = 1
Save = Callable[[], None]
HINTS = {
    "refused": "nothing listens there; is the server running?",
    "network": "the name or address cannot be reached.",
    "tls": "no secure connection could be made; check the certificate, and whether it is http:// or https://.",
    "no_sockets": "this machine has no socket left for another connection; see `ulimit -n`.",
    "closed": "the server closed the connection without an answer; check whether it is http:// or https://.",
    "timeout": "the server did not answer in time; see --timeout.",
    "not_http": "what answers there does not speak HTTP/1.1.",
    "404": "there is no such route; see --route.",
    "405": "the route takes no photos; see --route.",
    "401": "a key is asked for; see --header.",
    "403": "the server does not allow it; see --header.",
    "413": "the photographs are too large for the server; see --photos and --sizes.",
    "415": "the server does not take such photographs; see --photos.",
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
    """Ask for the labels of a few photographs until one comes, and give it. Raises `ContractError` when none does."""
    client = Client(target.route.server, timeout=target.timeout)
    kind = detail = ""
    try:
        for photograph in target.photographs[:4]:
            try:
                reply = await client.ask(target.route.request(photograph.data, photograph.media_type))
                if reply.status == 200:
                    return target.route.label(reply.body)
                kind, detail = outcome_of(reply.status, reply.body), ""
            except NoAnswer as error:
                kind, detail = error.kind, f", {error.detail}" * bool(error.detail)
                if kind in DOWN:
                    break
            except WrongAnswer:
                kind, detail = "wrong_answer", ""
    finally:
        client.close()
    hint = HINTS.get(kind) or HINTS.get(kind.split()[0])
    if hint is None:
        hint = "the server points elsewhere; give that address." if kind.startswith("3") else "see the server's log."
    raise ContractError(
        f"POST {target.route.path} of {target.route.server.authority} gave no answer ({kind}{detail}): {hint}"
    )


async def measure(
    target: Target, plans: Sequence[Plan], result: dict[str, Any], *, warm_up: float, rounds: int, save: Save
) -> None:
    """Every plan once in each of `rounds`; `result["phases"]` grows, and keeps what Ctrl-C cut off, marked."""
    for number in range(rounds):
        for plan in plans:
            seeded = replace(plan, seed=plan.seed + 1000 * number)
            phase = await stretch(target, seeded, result, number, warm_up)
            say(phase, f"round {number + 1} of {rounds}, {plan.title}" if rounds > 1 else plan.title)
            save()
            if not phase["answers"]:
                await check(target)  # raises where the server is gone; one that is only too busy goes on


async def stretch(target: Target, plan: Plan, result: dict[str, Any], number: int, warm_up: float) -> dict[str, Any]:
    """One stretch of load, appended to `result["phases"]` as part of round `number`, also when it is cut off."""
    try:
        phase = await run_phase(target, plan, warm_up, progress) | {"round": number}
    except Interrupted as cut:
        result["phases"].append(cut.phase | {"round": number})
        raise
    result["phases"].append(phase)
    return phase


def progress(plan: Plan, sample: Sample) -> None:
    """A line that is written over, on a terminal alone."""
    if not sys.stderr.isatty():
        return
    text = f"{plan.title}: warming up"
    if sample.began:
        seconds = time.perf_counter() - sample.began
        last = sorted(1000 * (done - due) for done, due in zip(sample.done[-200:], sample.due[-200:], strict=False))
        middle = last[len(last) // 2] if last else 0.0
        answers = len(sample.outcome) - sample.errors
        done = f"{answers} answers, {sample.errors} errors, ~{middle:.1f} ms"
        text = f"{plan.title}: {seconds:5.1f} of {plan.seconds:g} s, {done}"
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)


def say(phase: dict[str, Any], title: str) -> None:
    """One line for people on what a stretch of load gave, and its doubts."""
    latency = phase["latency_ms"]
    times = f"p50 {latency['p50']['value']:.1f} ms, p99 {latency['p99']['value']:.1f} ms" if latency else "no answers"
    start = "\r" if sys.stderr.isatty() else ""
    text = f"{title}: {phase['throughput']['value']:.1f} answers/s, {times}"
    print(f"{start}{text:<100}", file=sys.stderr, flush=True)
    for warning in phase.get("warnings", ()):
        print(f"  ! {warning}", file=sys.stderr, flush=True)


async def interruptible(work: Any) -> None:
    """Await `work`; what cancels it (Ctrl-C, SIGTERM) arrives as `KeyboardInterrupt` with everything kept."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await work
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
