"""All that the GPU check needs on a machine without a network that takes 64 MiB at a time, in two folders.

    python -m benchmarks.gpu.kit                  # .gpu-a and .gpu-b beside the sources; BLIP-base is traced: minutes
    python -m benchmarks.gpu.kit --check          # sizes of what lies ready

`.gpu-a` holds wheels, the first part of onnxruntime-gpu, graphs without weights and run.sh; `.gpu-b` the second part. The
machine has Python and the packages of `machine.txt`; what else the project needs is found in its own environment, so run
this with the project's Python. There, with the sources and `.gpu-a`: `bash .gpu-a/run.sh setup`; then with `.gpu-b` too:
`OUT=folder bash .gpu-a/run.sh check`. `make gpu-rehearsal` does that on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.thin_wheel import download, thin_wheel
from contract.cli import run
from contract.errors import ContractError

ROOT = Path(__file__).resolve().parents[2]
MACHINE = Path(__file__).with_name("machine.txt")
LIMIT = 64 << 20  # bytes of the sources and one folder
FIRST = 14 << 20  # bytes of onnxruntime-gpu that go beside the wheels
NEEDS = ("training", "export", "serving")  # extras of the project that the check runs
OURS = "food-vision"
# It is carried apart; the CPU package would hide it.
APART = {OURS, "onnxruntime", "onnxruntime-gpu"}
PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)), "manylinux2014_x86_64")

RUN = """#!/bin/bash
# On the GPU machine, where the sources are: bash .gpu-a/run.sh setup, then OUT=folder bash .gpu-a/run.sh check [options]
set -u
cd "$(dirname "$0")/.." || exit 1
SITE=${GPU_SITE:-/tmp/gpu-site}
PYTHON=${PYTHON:-python3}
case "${1:-}" in
setup)
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || echo "no nvidia-smi here"
  (cd .gpu-a && sha256sum --quiet -c ort.a.sha256) || exit 1
  "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$SITE/packages" \\
    .gpu-a/wheels/*.whl || exit 1
  PYTHONPATH=$SITE/packages "$PYTHON" -c 'import torch, transformers, fastapi, datasets, kornia, optimum
print("torch", torch.__version__, "transformers", transformers.__version__, "GPU:", torch.cuda.is_available())'
  ;;
check)
  : "${OUT:?name the folder of the results: OUT=folder bash .gpu-a/run.sh check}"
  if [ ! -d "$SITE/ort/onnxruntime" ]; then
    (cd .gpu-b && sha256sum --quiet -c ort.b.sha256) || exit 1
    mkdir -p "$SITE/ort.new" && cat .gpu-a/ort.a .gpu-b/ort.b | tar -xJ -C "$SITE/ort.new" || exit 1
    mv "$SITE/ort.new" "$SITE/ort" || exit 1
  fi
  export PYTHONPATH=$SITE/ort:$SITE/packages PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
  "$PYTHON" -c 'import torch, onnxruntime as ort; print("onnxruntime", ort.__version__, ort.get_available_providers())'
  shift
  exec "$PYTHON" -m benchmarks.gpu.check --out "$OUT" --graphs .gpu-a/graphs "$@"
  ;;
*)
  echo "usage: bash .gpu-a/run.sh setup | OUT=folder bash .gpu-a/run.sh check [options of benchmarks.gpu.check]" >&2
  exit 2
  ;;
esac
"""


def closure(python: str) -> dict[str, str]:
    """Package → version of all that the extras `NEEDS` of the project lead to, as they are installed here.

    Markers are read for Python `python` on Linux. Raises `ContractError` for one that is not installed.
    """
    environment = {name: str(value) for name, value in default_environment().items()}
    environment |= {"python_version": python, "python_full_version": f"{python}.0"}
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(OURS, extra) for extra in NEEDS]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ContractError(f"{name}, which the kit needs, is not installed here; run `make installed`.") from None
        found[name] = distribution.version
        for line in distribution.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(environment | {"extra": extra}):
                own = canonicalize_name(needed.name)
                if own == OURS or own not in APART:
                    waiting += [(own, one) for one in ("", *needed.extras)]
    return found


def machine_has() -> set[str]:
    """Names in `machine.txt`."""
    lines = MACHINE.read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}


def carried(python: str) -> dict[str, str]:
    """Package → version of the wheels that the kit carries: the closure without what the machine has."""
    has = machine_has()
    return {name: version for name, version in sorted(closure(python).items()) if name not in has | APART}


def make(args: argparse.Namespace) -> int:
    """Make both folders; returns the exit code."""
    first, second = args.root / ".gpu-a", args.root / ".gpu-b"
    _ignore(args.root, (first.name, second.name))
    for folder in (first, second):
        shutil.rmtree(folder, ignore_errors=True)
    (first / "wheels").mkdir(parents=True)
    second.mkdir()
    for name, version in carried(args.python).items():
        download(f"{name}=={version}", first / "wheels", args.python, PLATFORMS)
    _own_wheel(first / "wheels")
    print(f"{len(list((first / 'wheels').iterdir()))} wheels", flush=True)
    version = importlib.metadata.version("onnxruntime")  # of the same release here
    data = thin_wheel(version, args.python, args.arch)
    for path, part in ((first / "ort.a", data[:FIRST]), (second / "ort.b", data[FIRST:])):
        path.write_bytes(part)
        digest = hashlib.sha256(part).hexdigest()
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    print(f"onnxruntime-gpu {version} for {args.arch}: {len(data) / 2**20:.1f} MiB", flush=True)
    if not args.no_graphs:
        from benchmarks.gpu.graphs import main as pack  # torch, which nothing else here needs

        work = [] if args.work is None else ["--work", str(args.work)]
        if pack([str(first / "graphs"), "--shapes", args.shapes, *work]):
            raise ContractError("The graphs were not packed; see above.")
    (first / "run.sh").write_text(RUN, encoding="utf-8")
    return check(args)


def check(args: argparse.Namespace) -> int:
    """Say how large each folder is with the sources; exit code 1 where one is over the limit or not there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=args.root, capture_output=True, text=True, check=True).stdout
    sources = sum((args.root / name).stat().st_size for name in listed.split("\0") if (args.root / name).is_file())
    code = 0
    for name in (".gpu-a", ".gpu-b"):
        size = sum(path.stat().st_size for path in (args.root / name).rglob("*") if path.is_file())
        bad = "there is none" if not size else "" if size + sources < LIMIT else "TOO LARGE"
        print(f"{name}: {size / 2**20:.1f} MiB, {(size + sources) / 2**20:.1f} of 64 with the sources {bad}".rstrip())
        code |= bool(bad)
    return code


def _own_wheel(folder: Path) -> None:
    """The project's own wheel, so that its name and version are known there; the sources lie before it on the path."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContractError(f"The project's own wheel cannot be made: {done.stderr.strip()[-300:]}")


def _ignore(root: Path, names: tuple[str, ...]) -> None:
    """Keep the folders out of git, in this clone alone."""
    done = subprocess.run(
        ["git", "rev-parse", "--git-path", "info/exclude"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ContractError(f"{root} is no git clone, whose tracked files the kit goes with.")
    exclude = root / done.stdout.strip()
    text = exclude.read_text(encoding="utf-8") if exclude.exists() else ""
    missing = "".join(f"/{name}/\n" for name in names if f"/{name}/" not in text.splitlines())
    if missing:
        exclude.parent.mkdir(parents=True, exist_ok=True)
        exclude.write_text(text + missing, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.kit",
        description="Pack what the GPU check needs on a machine without a network that takes 64 MiB at a time.",
    )
    parser.add_argument("--check", action="store_true", help="only say how large what lies ready is")
    parser.add_argument("--arch", default="9.0", help="compute capability of the GPU (default: 9.0, H100 and H200)")
    parser.add_argument("--python", default="3.12", help="Python of that machine (default: 3.12)")
    parser.add_argument("--shapes", choices=("base", "tiny"), default="base", help="model whose graphs go along")
    parser.add_argument("--no-graphs", action="store_true", help="without graphs: the machine traces them itself")
    parser.add_argument("--work", type=Path, help="keep checkpoint and bundles, gigabytes, here (default: do not)")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name, form in (("arch", r"\d+\.\d"), ("python", r"3\.\d+")):
        if not re.fullmatch(form, getattr(args, name)):
            parser.error(f"argument --{name}: {getattr(args, name)!r} is not of the form {form}")
    return run("benchmarks.gpu.kit", lambda: check(args) if args.check else make(args))


if __name__ == "__main__":
    sys.exit(main())
