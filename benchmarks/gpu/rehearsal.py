"""The first hour on a real GPU, rehearsed without one: the kit unpacked and run as on that machine, up to the arithmetic.

    python -m benchmarks.gpu.rehearsal --log build/gpu-rehearsal.md

A Python 3.12 environment of the packages of `machine.txt` and no others; the sources and `.gpu-a` copied, `run.sh setup`;
then `.gpu-b`, `run.sh check --rehearse`; both without a network (`unshare`). A stand-in device takes the GPU's place: torch
stays on the CPU, ONNX Runtime's real CUDA provider loads, takes every node and launches kernels that never run. Exit code 1
when a step fails. Needs Linux, gcc and the right to make a network namespace; the environment takes 6 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import kit, stand_in
from benchmarks.hardware import provenance
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/gpu-rehearsal"
FOLDERS = (".gpu-a", ".gpu-b")
CUDNN = "libcudnn.so.9"
LIBRARIES = ("libcuda.so.1", "libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", CUDNN)
# Alone in a network namespace, where even the loopback device is down at first: it is switched on by SIOCSIFFLAGS.
LOOPBACK = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    fcntl.ioctl(one, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def environment(python: str, folder: Path) -> Path:
    """The interpreter of a virtual environment with what that machine has, made once. Raises `ContractError`."""
    interpreter = folder / "bin/python"
    done = folder / "installed.txt"
    wanted = kit.MACHINE.read_text(encoding="utf-8")
    if done.is_file() and done.read_text(encoding="utf-8") == wanted:
        return interpreter
    if shutil.which(python) is None:
        raise ContractError(f"{python} was not found; name another interpreter with --python.")
    shutil.rmtree(folder, ignore_errors=True)
    _call([python, "-m", "venv", str(folder)])
    lines = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    torch = [line for line in lines if line.startswith("torch==")]
    install = [str(interpreter), "-m", "pip", "install", "-q", "--only-binary=:all:"]
    _call([*install, *torch])  # with what it needs: its CUDA libraries
    _call([*install, "--no-deps", *(line for line in lines if line not in torch)])
    done.write_text(wanted, encoding="utf-8")
    return interpreter


def device(interpreter: Path, folder: Path) -> dict[str, str]:
    """The environment variables of a process whose GPU is the stand-in; torch's own CUDA libraries never come to it."""
    site = next((interpreter.parents[1] / "lib").glob("python3*")) / "site-packages"
    importers = [*site.glob("torch/lib/lib*.so*"), *site.glob("nvidia/*/lib/lib*.so*")]
    # torch's own cuDNN would be found and would not start on this device
    stand_in.build(folder, importers=importers, replaced=[site / "nvidia/cudnn/lib" / CUDNN])
    return {"LD_PRELOAD": ":".join(str(folder / name) for name in LIBRARIES), "LD_LIBRARY_PATH": str(folder)}


def rehearse(args: argparse.Namespace) -> int:
    """Everything; returns the exit code."""
    work = args.work.resolve()
    interpreter = environment(args.python, work / "venv")
    stand = device(interpreter, work / "stand-in")
    if not all((ROOT / name).is_dir() for name in FOLDERS):
        raise ContractError("There is no kit yet; run `make gpu-kit` first.")
    tree, out = work / "tree", work / "out"
    for folder in (tree, out, work / "site"):
        shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            shutil.copyfile(ROOT / name, tree / name)
    variables = {"PYTHON": str(interpreter), "GPU_SITE": str(work / "site"), "OUT": str(out)} | stand
    shutil.copytree(ROOT / FOLDERS[0], tree / FOLDERS[0])
    if _offline(["bash", f"{FOLDERS[0]}/run.sh", "setup"], tree, variables):
        raise ContractError("run.sh setup failed; see above.")
    shutil.copytree(ROOT / FOLDERS[1], tree / FOLDERS[1])
    check = [
        "bash",
        f"{FOLDERS[0]}/run.sh",
        "check",
        "--rehearse",
        "--shapes",
        args.shapes,
        "--budget",
        str(args.budget),
    ]
    code = _offline([*check, "--only", args.only], tree, variables)
    results = json.loads((out / "gpu-check.json").read_text(encoding="utf-8"))
    if args.log is not None:
        args.log.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(args.log, log(results, args.shapes))
    return code


def log(results: Mapping[str, Any], shapes: str) -> str:
    """A table of the steps for people, with date, commit and versions."""
    found = provenance()
    steps = results["steps"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        "# The first hour on a GPU, rehearsed without one", "",
        f"`make gpu-rehearsal` ({shapes} shapes), {found['date']}, commit {(found['commit'] or 'unknown')[:9]}"
        f"{' with local changes' if found['dirty'] else ''};",
        f"{found['hardware']['cpu']}, {found['hardware']['cores']} cores; {versions}.",
        "No network, no GPU: a stand-in device. `--budget` and the steps' limits are for a real one.", "",
        "| step | status | seconds | |", "|---|---|---|---|",
    ]  # fmt: skip
    for name, step in steps.items():
        reason = str(step.get("reason", "")).replace("|", "/")
        lines.append(f"| {name} | {step['status']} | {step['seconds']:.0f} | {reason[:160]} |")
    return "\n".join(lines) + "\n"


def _offline(command: list[str], folder: Path, variables: Mapping[str, str]) -> int:
    """Run a command in a network of its own, in `folder`; the device's libraries are for it alone."""
    own = ["unshare", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK, "env"]
    hidden = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return subprocess.run(
        [*own, *(f"{k}={v}" for k, v in variables.items()), *command], cwd=folder, env=hidden
    ).returncode


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [""])[-1]
        raise ContractError(f"`{' '.join(command[:6])} …` failed: {said}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.rehearsal", description="Run the GPU check's kit on a device that is not there."
    )
    parser.add_argument("--python", default="python3.12", help="interpreter of that machine (default: python3.12)")
    parser.add_argument("--shapes", choices=("tiny", "base"), default="base", help="model (default: base)")
    parser.add_argument("--budget", type=int, default=1500, help="seconds of all steps (default: 1500: two slow cores)")
    parser.add_argument("--only", default="", help="only the steps whose names start with this (default: all)")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of the environment (default: build/gpu-rehearsal)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="write a table of the steps here (default: do not)")
    args = parser.parse_args(argv)
    return run("benchmarks.gpu.rehearsal", lambda: rehearse(args))


if __name__ == "__main__":
    sys.exit(main())
