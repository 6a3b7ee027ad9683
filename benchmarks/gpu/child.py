"""The engine steps of `benchmarks.gpu.check`, each a command of its own that writes one JSON object.

python -m benchmarks.gpu.child STEP --work FOLDER --json FILE [--shapes tiny]

`{"not_run": reason}` says that the machine lacks something that is no fault. `export` writes `bundles.json` (precision →
folder) into the work folder, from which the other steps read.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch  # before the first session: a CUDA build brings the libraries that onnxruntime-gpu needs into the process

from app.engine.check import run_self_check
from app.engine.engine import Engine, EngineError
from app.providers.sessions import PROVIDERS, ProviderError
from benchmarks.gpu.partition import partition
from benchmarks.gpu.service import service
from benchmarks.gpu.speed import BUNDLES, graphs, open_bundle, open_engine, precisions, residency
from benchmarks.hardware import cores
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from contract.precision import PRECISIONS

NEEDED = (  # by one step or another
    "accelerate", "datasets", "fastapi", "jinja2", "kornia", "matplotlib", "multipart", "onnx", "onnxscript", "optimum",
    "pydantic_settings", "sklearn", "tensorboard", "tokenizers", "tqdm", "transformers", "uvicorn",
)  # fmt: skip
TRY = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name} ({type(error).__name__}: {error})")
"""
ROOT = Path(__file__).resolve().parents[2]
HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1", "STAND_IN_DEVICES": "0"}  # a GPU, and one that is not there


def device(args: argparse.Namespace) -> dict[str, Any]:
    """Versions and the GPU, which torch and ONNX Runtime must both see; all that later steps import is there.

    Raises `ContractError`.
    """
    if not (torch.cuda.is_available() or args.rehearse):
        raise ContractError(f"torch {torch.__version__} finds no GPU.")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise ContractError(f"This ONNX Runtime has no CUDA provider, only {ort.get_available_providers()}.")
    _check_packages()
    seen: dict[str, Any] = {"gpu": "a stand-in", "capability": None}  # torch stays away from it
    if not args.rehearse:
        seen = {"gpu": torch.cuda.get_device_name(), "capability": list(torch.cuda.get_device_capability())}
    return seen | {
        "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "onnxruntime": ort.__version__, "providers": ort.get_available_providers(),
    }  # fmt: skip


def _check_packages() -> None:
    """Import everything: a package that is there may lack one of its own, and each step would end with that."""
    tried = subprocess.run([sys.executable, "-c", TRY, *NEEDED], capture_output=True, text=True, check=False)
    missing = tried.stdout.splitlines()
    if tried.returncode:
        missing.append(f"the interpreter ended with exit code {tried.returncode}")
    try:
        importlib.metadata.version("food-vision")
    except importlib.metadata.PackageNotFoundError:
        missing.append("food-vision itself (pip install --no-deps -e .)")
    if missing:
        raise ContractError(f"Not all packages can be imported: {'; '.join(missing)}.")


def export(args: argparse.Namespace) -> dict[str, Any]:
    """Bundles of the same random weights in every precision of a GPU, exported side by side in processes."""
    from benchmarks.gpu.graphs import packed_shapes  # takes seconds to import, and only this step needs it
    from benchmarks.random_model import random_model

    random_model(args.shapes, args.work)
    arguments = ["-m", "benchmarks.gpu.child", "bundle", "--shapes", args.shapes, "--work", str(args.work)]
    chosen = precisions(args)
    carried = args.graphs is not None and packed_shapes(args.graphs, chosen[0]) == args.shapes
    arguments += ["--graphs", str(args.graphs)] if carried else []
    # or each would start a thread on every core, and they would wait for one another
    shared = os.environ | {"OMP_NUM_THREADS": str(max(1, cores() // len(chosen)))}
    began = time.monotonic()
    processes = {
        name: subprocess.Popen(
            [sys.executable, *arguments, "--precision", name], cwd=ROOT, env=shared, stdout=subprocess.PIPE, text=True
        )
        for name in chosen
    }
    found = {name: process.communicate()[0].strip() for name, process in processes.items()}
    if failed := [name for name, process in processes.items() if process.returncode]:
        raise ContractError(f"The export in {', '.join(failed)} failed; see above.")
    bundles = {name: output.splitlines()[-1] for name, output in found.items()}
    write_text_atomic(args.work / BUNDLES, json.dumps(bundles) + "\n")
    return {
        "seconds": round(time.monotonic() - began, 1), "precisions": chosen,
        "graphs": "carried; weights and stored answers made here" if carried else "traced here",
    }  # fmt: skip


def bundle(args: argparse.Namespace) -> dict[str, Any]:
    """One bundle of `export`; the last line printed is its folder's name."""
    from benchmarks.gpu.graphs import bundle_of_graphs
    from benchmarks.random_model import random_model

    model = random_model(args.shapes, args.work)
    made = model.bundle(args.precision) if args.graphs is None else bundle_of_graphs(model, args.precision, args.graphs)
    print(made.path.name)
    return {}


def self_check(args: argparse.Namespace) -> dict[str, Any]:
    """PyTorch's stored answers against the CUDA provider, in every precision, alone and in the largest batch."""
    found: dict[str, Any] = {}
    for precision in precisions(args):
        engine = open_engine(args, precision)
        try:
            found[precision] = _self_check(engine)
        except EngineError as error:
            if not args.rehearse:
                raise
            found[precision] = {"refused": str(error)}
        engine.close()
    return found


def strict(args: argparse.Namespace) -> dict[str, Any]:
    """With the GPU hidden, `cuda` must be refused, never run on the CPU; so must `tensorrt` without its libraries."""
    hidden = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.child", "refused", "--work", str(args.work)],
        cwd=ROOT, env=os.environ | HIDDEN, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if hidden.returncode:
        raise ContractError(f"With the GPU hidden, cuda was not refused: {(hidden.stderr or hidden.stdout)[-300:]}")
    return {"cuda_without_a_gpu": hidden.stdout.strip(), "tensorrt": _refusal(args.work, "tensorrt") or "it is here"}


def refused(args: argparse.Namespace) -> dict[str, Any]:
    """Exit code 0 when `cuda` is refused here."""
    reason = _refusal(args.work, "cuda")
    if reason is None:
        raise ContractError("the provider cuda was not refused")
    print(reason)
    return {}


def _refusal(work: Path, provider: str) -> str | None:
    try:
        Engine(open_bundle(work, "fp32"), provider=provider, threads=0, max_batch=1).close()
    except ProviderError as error:
        return str(error)
    return None


def tensorrt(args: argparse.Namespace) -> dict[str, Any]:
    """Where TensorRT's libraries are: engines built, kept, found again, and never taken for those of other weights."""
    if PROVIDERS["tensorrt"] not in ort.get_available_providers():
        return {"not_run": "this ONNX Runtime has no TensorRT provider"}
    cache = args.work / "engines"
    started = []
    found: dict[str, Any] = {}
    for _ in range(2):
        began = time.monotonic()
        try:
            engine = open_engine(args, "fp16", provider="tensorrt", engine_cache=cache, max_batch=1)
        except ProviderError as error:
            return {"not_run": str(error)}
        started.append(round(time.monotonic() - began, 1))
        found["self_check"] = _self_check(engine)
        engine.close()
    # the same file names, other weights, the same cache: the stored answers tell whether an old engine ran
    from benchmarks.random_model import random_model

    for seed in (0, 1):
        other = random_model("tiny", args.work, seed=seed).bundle("fp16")
        engine = Engine(other, provider="tensorrt", threads=0, max_batch=1, engine_cache=cache)
        engine.warm_up()
        found[f"other_weights_{seed}"] = _self_check(engine)
        engine.close()
    if started[1] > 0.5 * started[0]:
        raise ContractError(
            f"The second start took {started[1]} s, the first {started[0]} s: the engine was built again."
        )
    return {"first_start_seconds": started[0], "second_start_seconds": started[1], **found}


def _self_check(engine: Engine) -> dict[str, Any]:
    check = engine.bundle.check
    if check is None:
        raise ContractError("The bundle has no stored answers.")
    return vars(run_self_check(engine, check)) | {"max_batch": engine.max_batch}


def _service(args: argparse.Namespace) -> dict[str, Any]:
    return service(open_bundle(args.work, "fp16" if args.provider == "cuda" else "fp32"), args)


STEPS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "device": device, "export": export, "bundle": bundle, "self-check": self_check, "graphs": graphs,
    "residency": residency, "partition": partition, "strict": strict, "refused": refused, "service": _service,
    "tensorrt": tensorrt,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one step and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.child", description="One step of the GPU check.")
    parser.add_argument("step", choices=STEPS, help="what to check")
    parser.add_argument("--work", type=Path, required=True, help="folder of the random checkpoint and its bundles")
    parser.add_argument("--json", type=Path, help="write what was found here (default: print it)")
    parser.add_argument("--shapes", choices=("base", "tiny"), default="base", help="model shapes (default: base)")
    parser.add_argument(
        "--provider", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the steps without a GPU"
    )
    parser.add_argument("--graphs", type=Path, help="of the steps `export` and `bundle`: traced ones without weights")
    parser.add_argument("--rehearse", action="store_true", help="on a stand-in device: answers are not looked at")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the step `bundle`")
    args = parser.parse_args(argv)
    return run("benchmarks.gpu.child", lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    try:
        found = STEPS[args.step](args)
    except EngineError as error:
        raise ContractError(f"{error}.") from None
    if args.json is not None:
        write_text_atomic(args.json, json.dumps(found, indent=1) + "\n")
    elif found:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
