"""A pretrained frozen tower on your own photographs: decoder, linear probe and colours, with few photos and with all.

    python -m benchmarks.accuracy.pretrained_tower photos/train photos/test build/pretrained

Trains the recipe folder-small for several seeds, with at most 15 photos a class and with all. Beside it, on the same
cached views, a linear probe, which is what a frozen tower is usually measured by, and a logistic regression on colours
alone. Every step is a command that is printed; steps whose result lies in the folder are not run again. The test photos
choose nothing: each row asks them once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy.frozen_tower import command, sets
from benchmarks.hardware import provenance
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

RECIPE = "folder-small"
FEW = 15  # photos a class


def main() -> int:
    """Run what is missing, print the table and write `results.json`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.pretrained_tower",
        description="Accuracy of recipe folder-small beside a linear probe and colours, by photos a class.",
    )
    parser.add_argument("train", type=Path, help="folder of class folders to learn from")
    parser.add_argument("test", type=Path, help="folder of class folders to measure on")
    parser.add_argument("folder", type=Path, help="where checkpoints, features and results go (about 6 GB)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row that has chance in it (default: 3)")
    args = parser.parse_args()
    return run("benchmarks.accuracy.pretrained_tower", lambda: experiment(args))


def experiment(args: argparse.Namespace) -> int:
    """All rows; returns the exit code."""
    if args.seeds < 1:
        raise ContractError(f"--seeds must be 1 or more, not {args.seeds}.")
    args.folder.mkdir(parents=True, exist_ok=True)
    few = some_photos(args.train, args.folder / f"train-{FEW}", FEW)
    rows: dict[str, Any] = {}
    for name, train in ((str(FEW), few), ("all", args.train)):
        data = [f"data.train={train}", f"data.test={args.test}", f"cache.folder={args.folder / 'features'}"]
        of_seeds: dict[str, list[dict[str, Any]]] = {"probe": [], "decoder": []}
        for seed in range(args.seeds):
            settings = sets([*data, f"seed={seed}"])
            of_seeds["decoder"].append(decoder(args.folder / f"decoder-{name}-{seed}", settings))
            of_seeds["probe"].append(probe(args.folder / f"probe-{name}-{seed}.json", settings))
        rows[name] = of_seeds | {"colour": [probe(args.folder / f"colour-{name}.json", sets(data), "--colour")]}
    write_text_atomic(args.folder / "results.json", json.dumps({**provenance(), "rows": rows}, indent=1) + "\n")
    print(table(rows))
    return 0


def some_photos(source: Path, target: Path, count: int) -> Path:
    """A folder with at most `count` photos of each class of `source`: those whose names have the lowest SHA-256."""
    if not source.is_dir():
        raise ContractError(f"There is no folder of photos at {source}.")
    if not target.is_dir():
        scratch = target.with_name(f".{target.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        for folder in sorted(p for p in source.iterdir() if p.is_dir()):
            (scratch / folder.name).mkdir(parents=True)
            photos = sorted((p for p in folder.iterdir() if p.is_file()), key=_digest)
            for photo in photos[:count]:
                shutil.copyfile(photo, scratch / folder.name / photo.name)
        scratch.rename(target)
    return target


def _digest(photo: Path) -> str:
    return hashlib.sha256(f"{photo.parent.name}/{photo.name}".encode()).hexdigest()


def decoder(out: Path, settings: list[str]) -> dict[str, Any]:
    """Train unless done: top-1 on the test photos, and the photos right of how many."""
    if not (out / "config.json").is_file():
        command("training", "--recipe", RECIPE, "--out", out, *settings)
    report = out.with_suffix(".json")
    if not report.is_file():
        command("training.evaluate", out, "--no-base", "--constrained", 0, "--json", report)
    after = json.loads(report.read_text(encoding="utf-8"))["after"]
    return {"top1": after["shares"]["scored"], "calibration": after["calibration"]}


def probe(report: Path, settings: list[str], *more: str) -> dict[str, Any]:
    """Fit a linear layer unless done, on the tower's cached views or on colours."""
    if not report.is_file():
        command("training.evaluate.probe", "--recipe", RECIPE, "--json", report, *more, *settings)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def table(rows: dict[str, Any]) -> str:
    """Markdown: a row for each kind, a column for each number of photos; the mean, and each seed's."""
    counts = list(rows)
    lines = ["| | " + " | ".join(f"{name} photos a class" for name in counts) + " |", "|---" * (len(counts) + 1) + "|"]
    for kind in ("colour", "probe", "decoder"):
        cells = []
        for name in counts:
            values = [100 * float(row["top1"]["value"]) for row in rows[name][kind]]
            each = ", ".join(f"{value:.1f}" for value in values)
            cells.append(f"{statistics.mean(values):.1f} %" + (f" ({each})" if len(values) > 1 else ""))
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
