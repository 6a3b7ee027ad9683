"""The steps of `benchmarks.gpu.check`, what matters most first, and what each of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
OURS = ",".join(f"ours-cuda-{precision}" for precision in ("fp32", "fp16", "bf16"))
GRAPHS = ",".join(f"ours-cuda-{precision}-graphs" for precision in ("fp32", "fp16", "bf16"))
SPEED = {  # step → contestants, and the limit in seconds
    "speed": (f"original,generate-bf16,one-pass,one-pass-bf16,{OURS}", 150),
    "speed-graphs": (f"original,ours-cuda-fp16,{GRAPHS}", 120),
    "speed-compiled": ("original,one-pass-bf16,one-pass-compiled,one-pass-compiled-bf16,ours-cuda-fp16-graphs", 240),
}
REHEARSED = "original,one-pass,ours-cpu-fp32"  # torch on the CPU
COMPARE = """
import json, sys
from safetensors.torch import load_file
a, b = (load_file(f"{path}/model.safetensors") for path in sys.argv[1:3])
worst = max(float((a[n] - b[n]).abs().max()) for n in a)
print(json.dumps({"largest_weight_difference": worst, "bit_identical": worst == 0.0}))
"""


@dataclass(frozen=True)
class Step:
    """One command: its name, arguments for Python, limit in seconds, and whether it reads the exported bundles.

    `arithmetic` says what of it only a real GPU computes; a rehearsal runs it and takes nothing for shown.
    """

    name: str
    arguments: list[str]
    limit: int
    bundles: bool = False
    arithmetic: str = ""


def steps(out: Path, work: Path, shapes: str, *, graphs: Path | None = None, rehearse: bool = False) -> list[Step]:
    """All steps; each writes `results/STEP.json` in `work`, and tables go to `out`.

    `graphs` are carried ones (`benchmarks.gpu.graphs`); `rehearse`: torch is on the CPU.
    """
    results = work / "results"

    def child(name: str, limit: int, *, bundles: bool = True, arithmetic: str = "") -> Step:
        arguments = [
            "-m",
            CHILD,
            name,
            "--shapes",
            shapes,
            "--work",
            str(work),
            "--json",
            str(results / f"{name}.json"),
        ]
        arguments += ["--graphs", str(graphs)] if graphs is not None and name == "export" else []
        return Step(name, arguments + (["--rehearse"] if rehearse else []), limit, bundles, arithmetic)

    made = [
        child("device", 90, bundles=False),  # it imports all packages: on a fresh machine from a slow disk
        child("export", 330, bundles=False),
        child("partition", 90),
        child("self-check", 60, arithmetic="the answers on CUDA against PyTorch's"),
        *(_speed(name, out, work, shapes, rehearse) for name in ("speed", "speed-graphs")),
        child("service", 90, arithmetic="the answers and the times of the service"),
        _training(work, shapes, rehearse),
        child("strict", 60),
        child("residency", 40, arithmetic="what a copy to the host and back costs"),
        child("graphs", 60, arithmetic="that CUDA graphs change no answer, and what they are worth"),
        _speed("speed-compiled", out, work, shapes, rehearse),
        child("tensorrt", 300),
    ]
    for name in ("a", "b"):
        made.append(Step(f"seed-{name}", ["-m", *DRAWN, "--out", str(work / f"seed-{name}")], 60))
    made.append(Step("seeds-agree", ["-c", COMPARE, str(work / "seed-a"), str(work / "seed-b")], 30))
    return made


def _speed(name: str, out: Path, work: Path, shapes: str, rehearse: bool) -> Step:
    """Ours beside transformers, in interleaved rounds of one process."""
    only, limit = SPEED[name]
    how = ["--device", "cuda", "--batches", "1,8,32", "--rounds", "20", "--warmups", "2", "--only", only]
    arithmetic = ""
    if rehearse:
        only = "one-pass-compiled" if name == "speed-compiled" else REHEARSED
        how = ["--device", "cpu", "--batches", "1", "--rounds", "1", "--warmups", "0", "--only", only]
        arithmetic = f"all on CUDA; what ran is {only} on the CPU"
    where = ["--json", str(work / "results" / f"{name}.json"), "--markdown", str(out / f"{name}.md")]
    arguments = ["-m", "benchmarks.engine", "--shapes", shapes, "--work", str(work), *how, *where]
    return Step(name, arguments, limit, bundles=True, arithmetic=arithmetic)


def _training(work: Path, shapes: str, rehearse: bool) -> Step:
    """Recipe `food101` with random weights: from photos, and from cached features."""
    arguments = ["-m", "benchmarks.training", "recipe" if shapes == "base" else "tiny-recipe", "--turns", "2"]
    arguments += ["--json", str(work / "results" / "training.json")]
    arithmetic = "the speed on a GPU; what ran is two photos a step on the CPU" if rehearse else ""
    arguments += ["--turns", "1", "--photos", "4", "--batch", "2", "--pieces", "2"] if rehearse else []
    return Step("training", arguments, 120, arithmetic=arithmetic)
