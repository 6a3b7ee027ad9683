"""What only a GPU can show, in one call: our engine on CUDA (and TensorRT), the service on it, and training.

    python -m benchmarks.gpu.check --out build/gpu-check

Each step is a command in a process of its own with its own time limit, all within `--budget` seconds (470: under eight
minutes). One that fails is reported and the others go on; without a GPU none of them starts. Everything is made on the
spot from random weights: no network is needed. Results with date, hardware and commit go to `gpu-check.json`. Exit code
0 when every step passed or had a reason of its own not to run (TensorRT is not installed). BLIP-base's export takes
minutes of a core whatever the GPU: look at `--shapes tiny` first, or make the bundles without a GPU and keep them:

    python -m benchmarks.gpu.child export --work build/gpu-work
    python -m benchmarks.gpu.check --work build/gpu-work --out build/gpu-check

Needs the `training` and `export` extras with a CUDA build of torch, the serving packages, and onnxruntime-gpu for CUDA 13.
Where onnxruntime-gpu cannot be installed, unpack its wheel (the one for the machine's Python, 3.12 for instance) into an
empty folder and put that first on the path; torch's CUDA 13 build brings the libraries, and every step imports torch
before it opens a session:

    python -m zipfile -e onnxruntime_gpu-1.31.1-cp312-*.whl ortgpu
    PYTHONPATH=$PWD/ortgpu python3.12 -m benchmarks.gpu.check --out build/gpu-check
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks.hardware import provenance
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 470  # seconds of all steps
GRACE = 5  # seconds between asking a step to stop and making it
CHILD = "benchmarks.gpu.child"
DRAWN = [
    "training",
    "--recipe",
    "drawn-scratch",
    "--force",
    "--set",
    "data.train_count=1024",
    "--set",
    "train.epochs=1",
]
ENGINE = ["--device", "cuda", "--batches", "1,2,4,8,16,32", "--rounds", "10", "--warmups", "2", "--only"]
CONTESTANTS = "original,generate-bf16,one-pass,one-pass-bf16,ours-cuda-fp32,ours-cuda-fp16,ours-cuda-bf16"
COMPARE = """
import json, sys
from safetensors.torch import load_file
a, b = (load_file(f"{path}/model.safetensors") for path in sys.argv[1:3])
worst = max(float((a[n] - b[n]).abs().max()) for n in a)
print(json.dumps({"largest_weight_difference": worst, "bit_identical": worst == 0.0}))
"""


@dataclass(frozen=True)
class Step:
    """One command: its name, arguments for Python, limit in seconds, and whether it reads the exported bundles."""

    name: str
    arguments: list[str]
    limit: int
    bundles: bool = False


def steps(out: Path, work: Path, photos: int, shapes: str) -> list[Step]:
    """All steps, what matters most first. `photos` an epoch for training with BLIP-base's shapes."""

    def child(name: str, limit: int, *, bundles: bool = True) -> Step:
        arguments = ["-m", CHILD, name, "--shapes", shapes, "--work", str(work), "--json", str(out / f"{name}.json")]
        return Step(name, arguments, limit, bundles)

    engine = ["-m", "benchmarks.engine", "--shapes", shapes, "--work", str(work), *ENGINE, CONTESTANTS]
    engine += ["--json", str(out / "engine.json"), "--markdown", str(out / "engine.md")]
    made = [
        child("device", 60, bundles=False),  # it imports all packages: on a fresh machine from a slow disk
        child("export", 330, bundles=False),  # BLIP-base takes minutes: one core traces one graph after the other
        Step("engine", engine, 100, bundles=True),
        child("self-check", 40),
        child("graphs", 45),
        child("residency", 30),
        child("strict", 30),
        child("service", 60),
        child("tensorrt", 300),
    ]
    for name in ("a", "b"):
        made.append(Step(f"seed-{name}", ["-m", *DRAWN, "--out", str(work / f"seed-{name}")], 60))
    made.append(Step("seeds-agree", ["-c", COMPARE, str(work / "seed-a"), str(work / "seed-b")], 30))
    for kind, precision in (("tiny", "fp32"), ("base", "bf16"), ("base", "fp32")):
        name = f"{kind}-{precision}"
        arguments = ["-m", "benchmarks.training", kind, "--precision", precision, "--json", str(out / f"{name}.json")]
        # BLIP-base's usual 8 photos a step are a CPU's: a large GPU waits for its next command then
        arguments += ["--turns", "2", *(["--photos", str(photos), "--batch", "32"] if kind == "base" else [])]
        made.append(Step(name, arguments, 120))
    return made


def main(argv: list[str] | None = None) -> int:
    """Run all steps, print and write the results; exit code 1 when one failed or time ran out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check", description="Check what needs a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--work", type=Path, help="keep models and bundles, gigabytes, here (default: do not keep them)"
    )
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"seconds of all steps (default: {BUDGET})")
    parser.add_argument(
        "--photos", type=int, default=512, help="photos an epoch with BLIP-base's shapes (default: 512)"
    )
    parser.add_argument(
        "--shapes", choices=("base", "tiny"), default="base", help="of the engine steps (default: base)"
    )
    parser.add_argument("--only", default="", help="only the steps whose names start with this (default: all)")
    args = parser.parse_args(argv)
    for name in ("budget", "photos"):
        if getattr(args, name) < 1:
            parser.error(f"argument --{name}: {getattr(args, name)} is not at least 1")
    return run("benchmarks.gpu.check", lambda: check(args))


def check(args: argparse.Namespace) -> int:
    """Run the steps one after the other; the results are written after each."""
    out = args.out.resolve()
    with _work_folder(args.work) as work:
        chosen = _chosen(steps(out, work, args.photos, args.shapes), args.only, work)
        out.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {**provenance(), "shapes": args.shapes, "budget_seconds": args.budget, "steps": {}}
        ends = time.monotonic() + args.budget
        for step in chosen:
            (out / f"{step.name}.json").unlink(missing_ok=True)  # of an earlier call
            found = _run(step, results["steps"], ends - time.monotonic(), [work, out])
            _read(out / f"{step.name}.json", found)
            results["steps"][step.name] = found
            print(_line(step.name, found), flush=True)
            write_text_atomic(out / "gpu-check.json", json.dumps(results, indent=1) + "\n")
    bad = [name for name, found in results["steps"].items() if found["status"] != "ok" and not found.get("excused")]
    print(f"results: {args.out / 'gpu-check.json'}" + (f"; not passed: {', '.join(bad)}" if bad else ""))
    return 1 if bad else 0


def _chosen(every: list[Step], only: str, work: Path) -> list[Step]:
    """The steps asked for; before them always `device`, and `export` where one needs bundles that are not there."""
    asked = [step for step in every if step.name.startswith(only)]
    if not asked:
        raise ContractError(f"No step starts with {only!r}; there are {', '.join(step.name for step in every)}.")
    first = {"device"}
    if any(step.bundles for step in asked) and not (work / "bundles.json").is_file():
        first.add("export")
    return [step for step in every if step in asked or step.name in first]


def _run(step: Step, before: dict[str, Any], left: float, hidden: list[Path]) -> dict[str, Any]:
    """Run one step, or say at once why not: no GPU, no bundles, no time."""
    needed = ["device", *(["export"] if step.bundles and "export" in before else [])]
    for name in needed:
        if name in before and before[name]["status"] != "ok":
            return _not_run(f"the step {name} did not pass: {_reason(before[name])}")
    if left < 1:
        return _not_run("the time of --budget is spent")
    return _command(step.arguments, min(step.limit, left), hidden)


def _not_run(reason: str, *, excused: bool = False) -> dict[str, Any]:
    return {"status": "not run", "reason": reason, "excused": excused, "exit": None, "seconds": 0.0}


def _command(arguments: list[str], limit: float, hidden: list[Path]) -> dict[str, Any]:
    """A step that takes too long is asked to stop, so that it can write what it has, and then made to."""
    began = time.monotonic()
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        # a session of its own: what it started stops with it
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=errors, start_new_session=True)
        late = False
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            late = True
            _stop(process)
            code = 124
        except BaseException:
            _stop(process)
            raise
        return {
            "status": "failed" if code else "ok", "exit": code, "seconds": round(time.monotonic() - began, 1),
            "output": _tail(output, hidden), "errors": _tail(errors, hidden) if code else "",
            **({"reason": f"longer than {limit:.0f} s"} if late else {}),
        }  # fmt: skip


def _stop(process: subprocess.Popen[bytes]) -> None:
    for kind, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):  # the second for what it may have left
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


def _tail(file: IO[str], hidden: list[Path]) -> str:
    """The end of an output, without this machine's paths."""
    file.seek(0)
    text = file.read()
    for path in (*hidden, ROOT, Path(sys.prefix), Path(sys.base_prefix)):
        text = text.replace(str(path), path.name or ".")
    return text[-1500:]


def _read(file: Path, found: dict[str, Any]) -> None:
    """Take in what the step wrote; `not_run` in it is a reason that is no fault."""
    if not file.is_file():
        return
    found["result"] = json.loads(file.read_text(encoding="utf-8"))
    if found["status"] == "ok" and (reason := found["result"].get("not_run")) and isinstance(reason, str):
        found.update(_not_run(reason, excused=True) | {"seconds": found["seconds"], "exit": found["exit"]})


def _reason(found: dict[str, Any]) -> str:
    last = (found.get("errors") or "").strip().splitlines()
    return found.get("reason") or (last[-1][:300] if last else f"exit code {found['exit']}")


def _line(name: str, found: dict[str, Any]) -> str:
    if found["status"] == "ok":
        return f"{name}: ok in {found['seconds']} s"
    return f"{name}: {found['status']} in {found['seconds']} s: {_reason(found)}"


@contextlib.contextmanager
def _work_folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        yield Path(scratch)


if __name__ == "__main__":
    sys.exit(main())
