"""The result of the engine benchmark for people: one Markdown table a batch size, and what to know to read it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.engine.run import Options

HEADER = (
    "| | img/s | ms a batch (p95) | encode + score, ms | score / encode | FLOP/s, share of MatMul | peak memory | "
    "× original |"
)


def command_of(options: Options) -> str:
    """The command that repeats the run, without this machine's paths."""
    given = asdict(options)
    words = ["python", "-m", "benchmarks.engine"]
    for name in ("shapes", "device", "batches", "rounds", "warmups", "threads", "seed", "only"):
        value = given[name]
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [f"--{name}", text] if text else []
    return " ".join(words)


def to_json(result: dict[str, Any]) -> str:
    """The whole result, without NaN."""
    return json.dumps(result, indent=1, allow_nan=False) + "\n"


def markdown(result: dict[str, Any]) -> str:
    """Tables by batch size, then agreement and what did not run."""
    lines = [*_heading(result)]
    for batch, found in result["batches"].items():
        lines += ["", f"### Batch {batch}", "", HEADER, "|---|---|---|---|---|---|---|---|"]
        lines += [_row(result, batch, name, figures) for name, figures in found["summary"].items()]
        lines += ["", *(_rate(dtype, best) for dtype, best in found["matmul"].items())]
    return "\n".join([*lines, *_agreement(result), *_missing(result)]) + "\n"


def _heading(result: dict[str, Any]) -> list[str]:
    hardware, options = result["hardware"], result["options"]
    commit = (result["commit"] or "unknown")[:12] + (" with local changes" if result["dirty"] else "")
    place = hardware["gpu"] if options["device"] == "cuda" else f"{hardware['cpu']} ({', '.join(hardware['flags'])})"
    lines = [
        f"{result['date']}, commit {commit}; {place}, {options['threads']} threads of {hardware['cores']} cores, load "
        f"{hardware['load']} at the start. Random weights, shapes `{options['shapes']}`, medians of interleaved rounds.",
        "",
        f"`{result['command']}`",
    ]
    if not result["complete"]:
        lines = [f"**Not complete: {result['stopped'] or 'still running'}.**", "", *lines]
    return lines


def _row(result: dict[str, Any], batch: str, name: str, found: dict[str, Any]) -> str:
    memory = result["contestants"].get(name, {}).get("peak_memory_bytes", {}).get(batch)
    stages = "" if found["encode_ms"] is None else f"{found['encode_ms']:.1f} + {found['score_ms']:.1f}"
    share = "" if found["score_share_of_encode"] is None else f"{100 * found['score_share_of_encode']:.1f} %"
    of_matmul = "" if found["share_of_matmul"] is None else f", {100 * found['share_of_matmul']:.0f} %"
    cells = (
        f"`{name}`",
        f"{found['images_per_second']:.3g}",
        f"{found['ms_median']:.1f} ({found['ms_p95']:.1f})",
        stages,
        share,
        f"{found['flops_per_second'] / 1e9:.3g} G{of_matmul}",
        "" if memory is None else f"{memory / 2**20:.0f} MiB",
        "" if found["times_original"] is None else f"{found['times_original']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _rate(dtype: str, best: dict[str, Any]) -> str:
    return f"MatMul {dtype}: {best['flops_per_second'] / 1e9:.4g} GFLOP/s at {best['shape']}."


def _agreement(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in result["agreement"].items():
        largest = found["largest_logprob_difference"]
        lines.append(
            f"- `{name}`: same label as PyTorch fp32 in {found['same_label']} of {found['answers']} answers "
            f"({found['labels_chosen']} labels chosen), largest difference of a log-probability "
            f"{'not finite' if largest is None else f'{largest:.1e}'}."
        )
    return ["", "Agreement, on random weights:", "", *lines] if lines else []


def _missing(result: dict[str, Any]) -> list[str]:
    lines = [f"- `{name}` was not run: {reason}." for name, reason in result["not_run"].items()]
    lines += [f"- `{name}` **failed**: {reason.rstrip('.')}." for name, reason in result["failed"].items()]
    return ["", *lines] if lines else []
