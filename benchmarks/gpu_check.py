"""What only a GPU can show, in one call: training speed, cached features, precision, and how far equal seeds agree.

    python -m benchmarks.gpu_check --out build/gpu-check

Each step is a command in a process of its own with its own time limit; one that fails is reported and the others go on.
Results with date, hardware and commit go to `gpu-check.json`. Needs the `training` extra with a CUDA build of torch.
Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

DRAWN = ["training", "--recipe", "drawn", "--force", "--set", "data.train_count=2048", "--set", "train.epochs=2"]
COMPARE = """
import json, sys
from safetensors.torch import load_file
a, b = (load_file(f"{path}/model.safetensors") for path in sys.argv[1:3])
worst = max(float((a[n] - b[n]).abs().max()) for n in a)
print(json.dumps({"largest_weight_difference": worst, "bit_identical": worst == 0.0}))
"""


def steps(out: Path, photos: int) -> list[tuple[str, list[str], int]]:
    """Name, arguments for Python, and limit in seconds of each step. `photos` an epoch for BLIP-base's shapes."""
    made = [
        (
            "device",
            ["-c", "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())"],
            120,
        )
    ]
    for shapes, precision in (("tiny", "fp32"), ("base", "bf16"), ("base", "fp32")):
        name = f"{shapes}-{precision}"
        arguments = [
            "scripts/measure_training.py",
            shapes,
            "--precision",
            precision,
            "--json",
            str(out / f"{name}.json"),
        ]
        arguments += ["--turns", "3", "--photos", str(photos)] if shapes == "base" else []
        made.append((name, arguments, 420))
    for name in ("a", "b"):
        made.append((f"seed-{name}", ["-m", *DRAWN, "--out", str(out / f"seed-{name}")], 240))
    made.append(("seeds-agree", ["-c", COMPARE, str(out / "seed-a"), str(out / "seed-b")], 60))
    return made


def main() -> int:
    """Run all steps, print and write the results; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description="Measure training on a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--photos", type=int, default=2048, help="photos an epoch for the shapes of BLIP-base")
    parser.add_argument("--only", help="run only the steps whose names start with this (default: all)")
    args = parser.parse_args()
    return run("gpu_check", lambda: check(args.out, args.photos, args.only or ""))


def check(out: Path, photos: int, only: str) -> int:
    """Run the steps one after the other."""
    chosen = [step for step in steps(out, photos) if step[0].startswith(only)]
    if not chosen:
        raise ContractError(f"No step starts with {only!r}; there are {', '.join(s[0] for s in steps(out, photos))}.")
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": _said(["git", "rev-parse", "HEAD"]),
        "gpu": _said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]),
        "steps": {},
    }
    for name, arguments, limit in chosen:
        results["steps"][name] = found = _step(arguments, limit)
        print(f"{name}: {'ok' if found['exit'] == 0 else 'failed'} in {found['seconds']} s", flush=True)
        file = out / f"{name}.json"
        if file.is_file():
            found["result"] = json.loads(file.read_text(encoding="utf-8"))
        write_text_atomic(out / "gpu-check.json", json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))
    return 0 if all(step["exit"] == 0 for step in results["steps"].values()) else 1


def _step(arguments: list[str], limit: int) -> dict[str, Any]:
    began = time.monotonic()
    try:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=limit, check=False)
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, output, errors = 124, "", f"longer than {limit} s"
    return {
        "exit": code, "seconds": round(time.monotonic() - began, 1),
        "output": output[-1500:], "errors": errors[-1500:] if code else "",
    }  # fmt: skip


def _said(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    sys.exit(main())
