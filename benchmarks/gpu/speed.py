"""What device residency and CUDA graphs are worth, and that neither changes an answer; engines of the GPU check."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from app.engine.engine import Engine
from contract.bundle import Bundle, read_bundle
from contract.errors import ContractError
from contract.precision import LIMITS, Precision

BUNDLES = "bundles.json"
MAX_BATCH = 8  # of the steps that load many sessions
# Differences of a probability between two ways through the same kernels.
SAME: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 2e-2, "int8": 1e-5}
TURNS = 20


def open_bundle(work: Path, precision: Precision) -> Bundle:
    """The bundle that the step `export` made. Raises `ContractError` when there is none."""
    file = work / BUNDLES
    if not file.is_file():
        raise ContractError("There are no bundles yet; run the step `export` first.")
    folders = json.loads(file.read_text(encoding="utf-8"))
    if precision not in folders:
        raise ContractError(f"The step `export` made no bundle in {precision}, only in {', '.join(folders)}.")
    return read_bundle(work / folders[precision])


def precisions(args: argparse.Namespace) -> list[Precision]:
    """Those that `args.provider` runs."""
    return [name for name, limits in LIMITS.items() if args.provider in limits.providers]


def outer(args: argparse.Namespace) -> tuple[Precision, Precision]:
    """The exact precision and the last: the two that the speed of copies and launches is looked at in."""
    return precisions(args)[0], precisions(args)[-1]


def open_engine(args: argparse.Namespace, precision: Precision, **more: Any) -> Engine:
    """A warm engine on `args.provider`; `more` are arguments of `Engine`."""
    options = {"provider": args.provider, "threads": 0, "max_batch": MAX_BATCH} | more
    engine = Engine(open_bundle(args.work, precision), **options)
    engine.warm_up()
    return engine


def graphs(args: argparse.Namespace) -> dict[str, Any]:
    """CUDA graphs on and off: the same answers to pictures that change at every call, and how much faster."""
    return {precision: _graphs(args, precision) for precision in outer(args)}


def _graphs(args: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    off, on = open_engine(args, precision), open_engine(args, precision, cuda_graphs=True)
    largest, rows = 0.0, {}
    for batch in (1, 3, MAX_BATCH):
        seconds: dict[str, list[float]] = {"off": [], "on": []}
        for turn in range(TURNS):
            pixels = _pictures(batch, off.image_size, seed=turn)  # a graph that kept an old input would show
            plain = _timed(lambda: off.score(pixels).probabilities, seconds["off"])  # noqa: B023
            captured = _timed(lambda: on.score(pixels).probabilities, seconds["on"])  # noqa: B023
            largest = max(largest, float(np.abs(plain - captured).max()))
        rows[str(batch)] = _compared(seconds["off"], seconds["on"])
    for engine in (off, on):
        engine.close()
    if not (largest <= SAME[precision] or args.rehearse):
        raise ContractError(
            f"CUDA graphs change answers in {precision}: probabilities differ by {largest:.1e}, at most "
            f"{SAME[precision]:.0e} is allowed."
        )
    return {"largest_difference": largest, "batches": rows}


def residency(args: argparse.Namespace) -> dict[str, Any]:
    """Image embeddings that stay on the GPU between the graphs, against a copy to the host and back."""
    found: dict[str, Any] = {}
    for precision in outer(args):
        engine = open_engine(args, precision)
        found[precision] = {str(batch): _residency(engine, batch) for batch in (1, engine.max_batch)}
        engine.close()
    return found


def _residency(engine: Engine, batch: int) -> dict[str, Any]:
    pixels = _pictures(batch, engine.image_size, seed=1)
    where = "cpu" if engine.provider == "cpu" else "cuda"

    def through_the_host() -> np.ndarray:
        host = np.ascontiguousarray(engine.encode(pixels).numpy())
        return engine.label_logprobs(ort.OrtValue.ortvalue_from_numpy(host, where, 0), batch)

    def on_the_device() -> np.ndarray:
        return engine.label_logprobs(engine.encode(pixels), batch)

    copied: list[float] = []
    resident: list[float] = []
    for turn in range(TURNS + 2):
        if turn == 2:  # the first ones warm up
            copied.clear()
            resident.clear()
        difference = np.abs(_timed(through_the_host, copied) - _timed(on_the_device, resident)).max()
        if not difference <= 1e-5:
            raise ContractError(f"Embeddings that went through the host give other scores, by {difference:.1e}.")
    return _compared(copied, resident)


def _pictures(count: int, size: int, seed: int) -> np.ndarray:
    """uint8 pixels [count, size, size, 3]: coarse random colours, other ones for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    place = np.arange(size) * 8 // size
    return np.ascontiguousarray(coarse[:, place][:, :, place])


def _timed(function: Callable[[], np.ndarray], seconds: list[float]) -> np.ndarray:
    began = time.perf_counter()
    result = function()
    seconds.append(time.perf_counter() - began)
    return result


def _compared(slow: list[float], fast: list[float]) -> dict[str, float]:
    return {
        "before_ms": round(1000 * statistics.median(slow), 3),
        "after_ms": round(1000 * statistics.median(fast), 3),
        "times_faster": round(statistics.median(a / b for a, b in zip(slow, fast, strict=True)), 3),
    }
