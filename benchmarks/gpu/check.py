"""What only a GPU can show, in one call: our engine on CUDA (and TensorRT), the service on it, and training.

    python -m benchmarks.gpu.check --out build/gpu-check

Each step is a command in a process of its own with its own time limit, all within `--budget` seconds (470: under eight
minutes), what matters most first (`benchmarks.gpu.steps`). One that fails is reported and the others go on; without a GPU
none of them starts. Everything is made on the spot from random weights: no network is needed. Results with date, hardware
and commit go to `gpu-check.json`, which holds all that is known after every step. Exit code 0 when every step passed or
had a reason of its own not to run (TensorRT is not installed).

BLIP-base's graphs take a core about a minute a precision to trace, whatever the GPU. `--graphs` takes traced ones without
weights (`benchmarks.gpu.graphs`): seconds. `benchmarks.gpu.kit` packs all for a machine without a network.

`--rehearse`: on a stand-in device (`benchmarks.gpu.stand_in`), with torch on the CPU. All is run; what only a real GPU
computes is reported as "needs real arithmetic".

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from benchmarks.gpu.steps import CHILD, Step, steps
from benchmarks.hardware import provenance
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 470  # seconds of all steps
ARITHMETIC = "needs real arithmetic"  # a status of rehearsals: it ran, and shows nothing of what it computes
SLOWER = 5  # times that a step may take in a rehearsal, on few cores
KEEP = 3  # seconds between looks at what a running step has written
GRACE = 5  # seconds between asking a step to stop and making it


def main(argv: list[str] | None = None) -> int:
    """Run all steps, print and write the results; exit code 1 when one failed or time ran out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check", description="Check what needs a GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--work", type=Path, help="keep models and bundles, gigabytes, here (default: do not keep them)"
    )
    parser.add_argument("--budget", type=int, default=BUDGET, help=f"seconds of all steps (default: {BUDGET})")
    parser.add_argument("--shapes", choices=("base", "tiny"), default="base", help="model (default: base, BLIP-base)")
    parser.add_argument("--graphs", type=Path, metavar="FOLDER", help="traced graphs without weights (default: trace)")
    parser.add_argument("--rehearse", action="store_true", help="on a stand-in device, torch on the CPU")
    parser.add_argument("--only", default="", help="only the steps whose names start with this (default: all)")
    args = parser.parse_args(argv)
    if args.budget < 1:
        parser.error(f"argument --budget: {args.budget} is not at least 1")
    return run("benchmarks.gpu.check", lambda: check(args))


def check(args: argparse.Namespace) -> int:
    """Run the steps one after the other; the results are written after each."""
    out = args.out.resolve()
    with _work_folder(args.work) as work:
        graphs = None if args.graphs is None else args.graphs.resolve()
        chosen = _chosen(steps(out, work, args.shapes, graphs=graphs, rehearse=args.rehearse), args.only, work)
        out.mkdir(parents=True, exist_ok=True)
        results: dict[str, Any] = {**provenance(), "shapes": args.shapes, "budget_seconds": args.budget}
        results |= {"rehearsal": True} if args.rehearse else {}
        results["steps"] = {}

        def save() -> None:
            write_text_atomic(out / "gpu-check.json", json.dumps(results, indent=1) + "\n")

        ends = time.monotonic() + args.budget
        for step in chosen:
            file = work / "results" / f"{step.name}.json"
            file.parent.mkdir(exist_ok=True)
            file.unlink(missing_ok=True)  # of an earlier call

            def keep(step: Step = step, file: Path = file) -> None:  # what a step has so far survives a kill of all
                results["steps"][step.name] = {"status": "running"} | _result(file)
                save()

            found = _run(step, results["steps"], ends - time.monotonic(), [work, out], keep, args.rehearse)
            _read(file, found)
            if args.rehearse and step.arithmetic and found["status"] == "ok":
                found |= {"status": ARITHMETIC, "reason": step.arithmetic, "excused": True}
            results["steps"][step.name] = found
            print(_line(step.name, found), flush=True)
            save()
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


def _run(
    step: Step, before: dict[str, Any], left: float, hidden: list[Path], keep: Callable[[], None] = lambda: None,
    rehearse: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run one step, or say at once why not: no GPU, no bundles, no time."""
    needed = ["device", *(["export"] if step.bundles and "export" in before else [])]
    for name in needed:
        if name in before and before[name]["status"] != "ok":
            return _not_run(f"the step {name} did not pass: {_reason(before[name])}")
    if left < 1:
        return _not_run("the time of --budget is spent")
    # torch must find no GPU on a stand-in device; the children put their sessions there
    device = {"STAND_IN_DEVICES": "1" if CHILD in step.arguments else "0"} if rehearse else {}
    limit = step.limit * (SLOWER if rehearse else 1)
    return _command(step.arguments, min(limit, left), hidden, keep, os.environ | device)


def _not_run(reason: str, *, excused: bool = False) -> dict[str, Any]:
    return {"status": "not run", "reason": reason, "excused": excused, "exit": None, "seconds": 0.0}


def _command(
    arguments: list[str], limit: float, hidden: list[Path], keep: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:  # fmt: skip
    """A step that takes too long is asked to stop, so that it can write what it has, and then made to.

    `keep` is called now and then while it runs.
    """
    began = time.monotonic()
    command = [sys.executable, *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        # a session of its own: what it started stops with it
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=errors, start_new_session=True, env=environment
        )
        left, code = limit, None
        try:
            while code is None and left > 0:
                part = min(KEEP, left)
                try:
                    code = process.wait(timeout=part)
                except subprocess.TimeoutExpired:
                    left -= part
                    keep()
            if late := code is None:
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
    found.update(_result(file))
    if "result" not in found:
        return
    if found["status"] == "ok" and (reason := found["result"].get("not_run")) and isinstance(reason, str):
        found.update(_not_run(reason, excused=True) | {"seconds": found["seconds"], "exit": found["exit"]})


def _result(file: Path) -> dict[str, Any]:
    return {"result": json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}


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
