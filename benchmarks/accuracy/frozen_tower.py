"""A frozen image tower and a trained text decoder, on real photographs, against what they should be compared with.

    python -m benchmarks.accuracy.frozen_tower build/frozen

Trains a small BLIP on 88 of the 101 classes of the 64 px Food-101 (recipe food101-64px), keeps its image tower, and
asks how well the 13 classes it never saw, and all 101, can be told from that tower: by a linear probe, and by a text
decoder trained with the recipe of this project. Beside them: a colour histogram, and the whole model trained. Every
step is a command that is printed; steps whose result lies in the folder are not run again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from contract.labels import FOOD101_NAMES

UNSEEN = list(FOOD101_NAMES)[::8]  # every eighth class: 13
RECIPE = "food101-64px"
FROZEN = [  # the recipe of the project: nothing but the decoder trains, on cached features
    "model.new_decoder=true", "train.freeze=decoder", "cache.views=8", "data.preload=false", "train.dropout=0.1",
]  # fmt: skip
SMALL = ["train.batch_size=16", "train.epochs=30"]  # 6,175 photos want smaller steps


def main() -> int:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.frozen_tower", description="The frozen-tower experiment on 64 px Food-101."
    )
    parser.add_argument("folder", type=Path, help="where checkpoints, features and results go (about 6 GB)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: one per core)")
    args = parser.parse_args()
    return run("benchmarks.accuracy.frozen_tower", lambda: experiment(args.folder, args.threads))


def experiment(folder: Path, threads: int) -> int:
    """All steps; writes `results.json` and returns the exit code."""
    tower = folder / "tower"
    train("tower", folder, [f"data.leave_out={json.dumps(UNSEEN)}"], threads)
    base = [f"model.base={tower}", f"cache.folder={folder / 'features'}"]
    unseen = [f"data.classes={json.dumps(UNSEEN)}"]
    rows = {
        "101": {
            "colour histogram, linear": probe("colour101", folder, []),
            "linear probe of the frozen tower": probe("probe101", folder, [*base, "cache.views=8"]),
            "frozen tower, decoder trained (ids)": train("decoder101", folder, [*base, *FROZEN], threads),
            "whole model trained": train("full101", folder, [], threads),
        },
        "13 unseen": {
            "colour histogram, linear": probe("colour13", folder, unseen),
            "linear probe of the frozen tower": probe("probe13", folder, [*base, *unseen, "cache.views=8"]),
            "frozen tower, decoder trained (ids)": train(
                "decoder13", folder, [*base, *unseen, *FROZEN, *SMALL], threads
            ),
            "frozen tower, decoder trained (names)": train(
                "names13", folder, [*base, *unseen, *FROZEN, *SMALL, "caption.target=name"], threads
            ),
            "whole model trained": train(
                "full13", folder, [*unseen, "train.batch_size=16", "train.epochs=60"], threads
            ),
        },
    }
    write_text_atomic(folder / "results.json", json.dumps(rows, indent=2) + "\n")
    for title, table in rows.items():
        print(f"\n| {title} classes | top-1 | top-5 |\n|---|---|---|")
        for name, row in table.items():
            print(f"| {name} | {share(row['top1'])} | {share(row['top5'])} |")
    return 0


def train(name: str, folder: Path, overrides: list[str], threads: int) -> dict[str, Any]:
    """Train unless done, evaluate unless done; top-1 and top-5 by label scoring with intervals."""
    out, report = folder / name, folder / f"{name}.json"
    if not (out / "config.json").is_file():
        command("training", "--recipe", RECIPE, "--out", out, "--threads", threads, *sets(overrides))
    if not report.is_file():
        command("training.evaluate", out, "--no-base", "--json", report)
    after = json.loads(report.read_text(encoding="utf-8"))["after"]
    return {
        "top1": after["shares"]["scored"], "top5": after["shares"]["top5"], "free": after["shares"]["free"],
        "calibration": after["calibration"],
    }  # fmt: skip


def probe(name: str, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Fit a linear layer unless done: on the tower's features, or on colours for names that start with `colour`."""
    report = folder / f"{name}.json"
    if not report.is_file():
        colour = ["--colour"] if name.startswith("colour") else []
        command("training.evaluate.probe", "--recipe", RECIPE, "--json", report, *colour, *sets(overrides))
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def sets(overrides: list[str]) -> list[str]:
    """`--set` before each override."""
    return [part for override in overrides for part in ("--set", override)]


def command(module: str, *arguments: object) -> None:
    """Print a command and run it. Raises `ContractError` when it fails."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n$ python {shlex.join(line[1:])}", flush=True)
    began = time.monotonic()
    if subprocess.run(line, check=False).returncode:
        raise ContractError(f"{module} failed; run the same command again to go on from there.")
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def share(value: dict[str, Any]) -> str:
    """`34.1 % (33.2-35.0)`."""
    low, high = value["interval_95"]
    return f"{100 * value['value']:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
