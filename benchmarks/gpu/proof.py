"""The graphs before GPU providers on a machine without a GPU: what they take, node by node, and what they compile.

    make gpu-proof                     # BLIP-base in fp16, the frozen tower in fp16 and fp32: in every CI run
    make gpu-proof FULL=1              # all precisions, opsets, ids and names, every batch size, more capabilities
    make gpu-proof BUNDLE=path         # a bundle of one's own

CUDA: onnxruntime-gpu's real provider opens each graph on a stand-in device (`benchmarks.gpu.stand_in`), strict as in the
service, and runs it once there. TensorRT: the parser and compiler of TensorRT for RTX, which shares the ONNX parser with
the data-centre TensorRT that the service uses and is another product (`benchmarks/gpu/compiled.py`). Neither shows what a
GPU computes or how fast. Two graphs with a node that must be refused go along: a proof that misses them fails.

Prints a table. All of it goes to `proof.json`, and what `python -m export.inspect --proved` reads to `proved.json`. Exit
code 1 when a node is elsewhere, an engine is not made, or the structure of a usual graph is not that in
`export/inspect/proved.json`, which is renewed by `make gpu-proof FULL=1 RECORD=1`.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from benchmarks.gpu import stand_in
from benchmarks.gpu.cases import FULL, ON_PURPOSE, USUAL, controls, from_bundle, made
from benchmarks.gpu.placed import LARGEST, SERVED
from benchmarks.hardware import cores, provenance
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from contract.precision import Precision
from export.inspect.proved import RECORD, Proof, Proofs, fingerprint, read_record

ROOT = Path(__file__).resolve().parents[2]
TENSORRT = ROOT / "build/tensorrt-rtx/bin/python"  # make tensorrt-rtx
PLACE = [sys.executable, "-m", "benchmarks.gpu.placed"]
COMPILE = Path(__file__).with_name("compiled.py")
BUCKETS = (1, 2, 4, 8, 16, LARGEST)
BATCHES = [1, 8, LARGEST]  # of TensorRT's profile: smallest, usual, largest
GOOD = "no fault: every node on CUDA, every graph taken by TensorRT-RTX, both controls caught"
BF16_FROM = 8.0  # compute capability


@dataclass(frozen=True)
class Plan:
    """What is asked: capabilities, and fixed batch sizes beside the symbolic one, by provider."""

    cuda: tuple[str, ...] = ("7.5", "9.0")
    tensorrt: tuple[str, ...] = ("7.5", "8.9")
    cuda_batches: tuple[int, ...] = (LARGEST,)
    fixed_at: tuple[str, ...] = ("7.5", "8.9")  # capabilities for which TensorRT compiles fixed sizes too
    tensorrt_batches: tuple[int, ...] = (LARGEST,)


EVERY = Plan(
    ("7.5", "8.0", "8.6", "8.9", "9.0", "12.0"), ("7.5", "8.0", "8.6", "8.9", "12.0"), BUCKETS, ("8.9",), (1, LARGEST)
)


@dataclass
class Row:
    """One graph: how many nodes CUDA took, faults by provider and capability, the first node that needs cuDNN."""

    case: str
    file: str
    sha256: str
    nodes: int = 0
    cudnn: str | None = None
    cuda: dict[str, list[str]] = field(default_factory=dict)  # capability → faults
    tensorrt: dict[str, list[str]] = field(default_factory=dict)
    limits: dict[str, str] = field(default_factory=dict)  # capability → why TensorRT-RTX itself compiles nothing there
    seconds: float = 0.0  # of TensorRT

    def take(self, found: dict[str, Any]) -> None:
        """What a provider said: of `benchmarks.gpu.placed` with `batch`, of `benchmarks/gpu/compiled.py` with `batches`."""
        ours = "batch" in found
        faults = (self.cuda if ours else self.tensorrt).setdefault(found["capability"], [])
        if found["fault"]:
            where = _batch(found["batch"]) if ours else f"batches {found['batches']}"
            faults.append(f"{where}: {found['fault']}")
        if ours:
            self.nodes, self.cudnn = self.nodes or found["nodes"], self.cudnn or found["cudnn"]
        else:
            self.seconds += found["seconds"]
            if found["limit"]:
                self.limits[found["capability"]] = found["limit"]

    @property
    def name(self) -> str:
        """As in the record."""
        return f"{self.case} {self.file}"

    @property
    def faults(self) -> list[str]:
        """All of them, each with where it is."""
        asked = [("CUDA", self.cuda), ("TensorRT-RTX", self.tensorrt)]
        return [
            f"{self.name}, {who} {capability}: {fault}"
            for who, found in asked
            for capability, faults in found.items()
            for fault in faults
        ]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.proof",
        description="Show, without a GPU, that CUDA takes every node of the graphs and TensorRT compiles them.",
    )
    parser.add_argument("--bundle", type=Path, help="a bundle of one's own (default: graphs of random weights)")
    parser.add_argument("--full", action="store_true", help="all precisions, opsets, batch sizes and capabilities")
    parser.add_argument("--work", type=Path, default=Path("build/gpu-proof"), help="folder (default: %(default)s)")
    parser.add_argument("--record", action="store_true", help="write the structures to export/inspect/proved.json")
    parser.add_argument("--tensorrt", type=Path, default=TENSORRT, help="Python with TensorRT-RTX (make tensorrt-rtx)")
    args = parser.parse_args(argv)
    return run("benchmarks.gpu.proof", lambda: prove(args))


def prove(args: argparse.Namespace) -> int:
    """Ask the providers about every case and print the table; 1 when something is not as it must be."""
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        return _prove(args, work)


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Nobody else writes there meanwhile. Raises `ContractError` where somebody does."""
    folder = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ContractError(f"Another proof is being made in {work}; wait for it, or choose another --work.") from None
    else:
        yield
    finally:
        os.close(folder)


def _prove(args: argparse.Namespace, work: Path) -> int:
    began = time.monotonic()
    device = stand_in.build(work / "device")
    tensorrt = args.tensorrt.absolute()  # the steps run elsewhere; a link to another Python stays one
    if not tensorrt.is_file():
        raise ContractError(f"There is no TensorRT-RTX at {args.tensorrt}; run `make tensorrt-rtx` (96 MB).")
    plan, rows, control = EVERY if args.full else Plan(), list[Row](), dict[str, Any]()
    print(_head(plan), flush=True)
    cases = from_bundle(args.bundle) if args.bundle else made(FULL if args.full else USUAL, work)
    for case, precision, folder in cases:
        found = _case(case, precision, folder.resolve(), plan, device, tensorrt)
        rows += found
        print("\n".join(_line(row, plan) for row in found), flush=True)
        if not control:
            control = _controls(folder, work, device, tensorrt)
    if limits := sorted({limit for row in rows for limit in row.limits.values()}):
        print(f"* every node parsed, no engine: TensorRT-RTX has a limit there, {'; '.join(limits)}")
    print("\n".join(f"control: {text}" for text in control.values()))
    bad = [fault for row in rows for fault in row.faults]
    bad += [f"the control for {name} was not caught" for name, text in control.items() if ON_PURPOSE not in text]
    bad += _recorded(rows, args)
    _write(work / "proof.json", rows, control, bad, began)
    print("\n".join(f"FAULT: {text}" for text in bad) or GOOD)
    print(f"{len(rows)} graphs in {time.monotonic() - began:.0f} s; {args.work / 'proof.json'}")
    return 1 if bad else 0


def _case(name: str, precision: Precision, folder: Path, plan: Plan, device: Path, tensorrt: Path) -> list[Row]:
    files = [file for file in SERVED if (folder / file).is_file()]
    rows = {
        str(folder / file): Row(name, file, fingerprint(onnx.load(folder / file, load_external_data=False)))
        for file in files
    }
    steps = []
    for capability in _able(plan.cuda, precision):
        jobs = [{"path": path, "batches": [None, *plan.cuda_batches], "capability": capability} for path in rows]
        steps.append((PLACE, jobs, _environment(device, capability)))
    for path in rows:
        jobs = [
            {"path": path, "capability": capability, "precision": precision, "batches": batches}
            for capability in _able(plan.tensorrt, precision)
            for batches in [BATCHES, *([size] * 3 for size in plan.tensorrt_batches if capability in plan.fixed_at)]
        ]
        steps.append(([str(tensorrt), str(COMPILE)], jobs, dict(os.environ)))
    with ThreadPoolExecutor(cores()) as threads:  # each waits for a process
        for answers in threads.map(lambda step: _ask(*step), steps):
            for found in answers:
                rows[found["path"]].take(found)
    return list(rows.values())


def _able(capabilities: tuple[str, ...], precision: Precision) -> list[str]:
    """Those that can run it: what cannot is not asked for."""
    return [one for one in capabilities if precision != "bf16" or float(one) >= BF16_FROM]


def _controls(folder: Path, work: Path, device: Path, tensorrt: Path) -> dict[str, str]:
    """What the providers say to a graph with a node that each must refuse."""
    path = {name: str(file) for name, file in controls(folder, work).items()}
    (cuda,) = _ask(PLACE, [{"path": path["cuda"], "capability": "9.0", "batches": [None]}], _environment(device, "9.0"))
    (rtx,) = _ask(
        [str(tensorrt), str(COMPILE)],
        [{"path": path["tensorrt"], "capability": "8.9", "batches": BATCHES}],
        dict(os.environ),
    )
    return {name: str(found["fault"]).split("; fix")[0] for name, found in (("cuda", cuda), ("tensorrt", rtx))}


def _environment(device: Path, capability: str) -> dict[str, str]:
    return stand_in.environment(device, CAPABILITY=capability)


def _ask(command: list[str], jobs: list[dict[str, Any]], environment: dict[str, str]) -> list[dict[str, Any]]:
    """Answers of a step to jobs, each for one of a CUDA job's `batches`, or all of a TensorRT job's.

    Raises `ContractError` when it dies or leaves some out.
    """
    done = subprocess.run(
        command, input=json.dumps(jobs), capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        raise ContractError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) != sum(len(job["batches"]) if command == PLACE else 1 for job in jobs):
        raise ContractError(f"{' '.join(command[1:])} answered {len(answers)} times for {len(jobs)} graphs.")
    return answers


def _recorded(rows: list[Row], args: argparse.Namespace) -> list[str]:
    """Write this run's record, and the project's or what differs from it; a bundle of one's own is not in that."""
    new = {
        row.name: Proof(
            sha256=row.sha256, cuda=_shown(row.cuda), tensorrt_rtx=_shown(row.tensorrt, row.limits), cudnn=row.cudnn
        )
        for row in rows
    }
    made_by = provenance()
    record = Proofs(date=made_by["date"], commit=made_by["commit"], versions=_versions(), graphs=new)
    write_text_atomic(args.work / RECORD.name, record.model_dump_json(indent=1) + "\n")
    if args.bundle:
        return []
    if args.record:
        kept = read_record().graphs if RECORD.is_file() and not args.full else {}
        record = record.model_copy(update={"graphs": kept | new})
        write_text_atomic(RECORD, record.model_dump_json(indent=1) + "\n")
        return []
    known = read_record().graphs
    return [
        f"{row.name} has another structure than in {RECORD.relative_to(ROOT)}; renew it: make gpu-proof FULL=1 RECORD=1"
        for row in rows
        if row.name not in known or known[row.name].sha256 != row.sha256
    ]


def _shown(found: dict[str, list[str]], but: Container[str] = ()) -> tuple[str, ...]:
    return tuple(capability for capability, faults in found.items() if not faults and capability not in but)


def _versions() -> dict[str, str]:
    locked = (ROOT / "locks/tensorrt-rtx.txt").read_text(encoding="utf-8")
    rtx = next(line for line in locked.splitlines() if line.startswith("tensorrt-rtx-cu13-libs=="))
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    gpu = next(line for line in pinned.splitlines() if line.startswith("onnxruntime-gpu=="))
    return {
        "onnxruntime-gpu": gpu.partition("==")[2].split()[0], "tensorrt-rtx": rtx.partition("==")[2].split()[0],
        "torch": importlib.metadata.version("torch"),
    }  # fmt: skip


def _write(path: Path, rows: list[Row], control: dict[str, str], bad: list[str], began: float) -> None:
    data = {
        **provenance(), "seconds": round(time.monotonic() - began), "proved_with": _versions(),
        "graphs": [vars(row) for row in rows], "controls": control, "faults": bad,
    }  # fmt: skip
    write_text_atomic(path, json.dumps(data, indent=1) + "\n")


def _batch(batch: int | None) -> str:
    return "any batch" if batch is None else f"batch {batch}"


def _head(plan: Plan) -> str:
    sizes = ", ".join(map(str, plan.cuda_batches))
    columns = [*(f"CUDA {one}" for one in plan.cuda), *(f"RTX {one}" for one in plan.tensorrt)]
    note = f"nodes on CUDA, engines of TensorRT-RTX; any batch, and fixed at {sizes}"
    return f"{note}\n{'graph':<42}{''.join(f'{one:>11}' for one in columns)}  cuDNN"


def _line(row: Row, plan: Plan) -> str:
    cells = [_cell(one in row.cuda, row.cuda.get(one), f"{row.nodes} of all") for one in plan.cuda]
    for one in plan.tensorrt:
        cells.append(_cell(one in row.tensorrt, row.tensorrt.get(one), "parsed *" if one in row.limits else "compiled"))
    cudnn = "not needed" if row.cudnn is None else f"needed: {row.cudnn}"
    return f"{row.name:<42}{''.join(f'{one:>11}' for one in cells)}  {cudnn}"


def _cell(asked: bool, faults: list[str] | None, good: str) -> str:
    return "FAULT" if faults else good if asked else "-"


if __name__ == "__main__":
    sys.exit(main())
