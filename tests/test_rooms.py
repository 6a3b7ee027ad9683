"""The rooms: who may import whom, and that every file keeps to its size."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("app", "contract", "export", "modeling", "training", "benchmarks")
HEAVY = {"torch", "transformers", "optimum", "onnx", "onnxscript", "datasets", "accelerate"}
FORBIDDEN = {
    "contract": {"app", "training", "export", "onnxruntime", "fastapi", *HEAVY},
    # `modeling` until it takes plain shapes: training.recipe
    "modeling": {"app", "export", "benchmarks", "onnxruntime", "fastapi", "datasets", "optimum", "onnx", "accelerate"},
    "training": {"app", "export", "benchmarks", "onnxruntime", "fastapi"},
    "export": {"app", "training", "benchmarks", "fastapi", "datasets"},
    "app": {"training", "export", "benchmarks", *HEAVY},
    "benchmarks": {"app"},
}
# The engine benchmark measures the class that serves, which HTTP does not show: these files alone, these modules alone.
ENGINE_BENCHMARKS = {
    "benchmarks/decode.py", "benchmarks/engine/ours.py", "benchmarks/gpu/child.py", "benchmarks/gpu/speed.py",
    "benchmarks/serving/baselines/shared_engine.py",
}  # fmt: skip
DYNAMIC = {"import_module", "__import__", "find_spec", "run_module"}
SIMULATION = "benchmarks/capacity/simulation.py"  # runs the service's own batcher on a simulated clock
SIMULATED_DECODING = "benchmarks/capacity/decoding.py"  # and the door and the decode pool before it
KNOWN_ENGINE = "benchmarks/known_engine.py"  # the service itself, with an engine that takes a known time
ENGINE_FACE = {"app.engine.engine", "app.providers.sessions", "app.engine.check"}
DECODING_FACE = {"app.decoding.line", "app.decoding.pool", "app.decoding.client", "app.decoding.worker"}
EXCEPTIONS = {
    SIMULATION: {"app.serving.batcher"},
    SIMULATED_DECODING: {"app.serving.batcher", "app.faults", "app.serving.model", *DECODING_FACE},
    KNOWN_ENGINE: {"app.engine.engine", "app.engine.pool", "app.engine.batches", "app.__main__"},
}


def imported_modules(source: str) -> set[str]:
    """Full names of the modules that Python text imports anywhere, functions included; `from room import x` is `room.x`.

    Strings given to `import_module` or `__import__` count too.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole_room = "." not in node.module
            found |= {f"{node.module}.{alias.name}" if whole_room else node.module for alias in node.names}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in DYNAMIC:
            found |= {str(name.value) for name in node.args[:1] if isinstance(name, ast.Constant)}
    return found


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere."""
    return {name.split(".")[0] for name in imported_modules(path.read_text(encoding="utf-8"))}


def broken_rules(room: str, file: str, source: str) -> set[str]:
    """Modules that `file` (relative to the root) of `room` imports and must not."""
    allowed = ENGINE_FACE if file in ENGINE_BENCHMARKS else EXCEPTIONS.get(file, set())
    return {name for name in imported_modules(source) - allowed if name.split(".")[0] in FORBIDDEN[room]}


@pytest.mark.parametrize("room", ROOMS)
def test_import_rules(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        file = path.relative_to(ROOT).as_posix()
        broken = broken_rules(room, file, path.read_text(encoding="utf-8"))
        assert not broken, f"{file} imports {sorted(broken)}"


def test_only_the_engine_benchmark_may_look_inside_the_service() -> None:
    assert all((ROOT / file).is_file() for file in ENGINE_BENCHMARKS)
    for file in ENGINE_BENCHMARKS:
        assert not broken_rules("benchmarks", file, "from app.engine.engine import Engine\nimport app.engine.check")
        for source in (
            "import app",
            "from app import engine, batcher",
            "from app.serving.batcher import Batcher",
            "import app.server",
        ):
            assert broken_rules("benchmarks", file, source), f"{file}: {source}"
    for source in ("from app.engine.engine import Engine", "import app.engine.engine", "from app import engine"):
        assert broken_rules("benchmarks", "benchmarks/engine/__main__.py", source), source
        assert broken_rules("benchmarks", "benchmarks/engine/rounds.py", f"def f():\n    {source}")
    assert broken_rules("benchmarks", "benchmarks/engine/__main__.py", "importlib.import_module('app.engine.engine')")
    assert broken_rules("training", "training/loop.py", "from app.engine.engine import Engine")


def test_only_the_simulation_may_run_the_batcher() -> None:
    assert (ROOT / SIMULATION).is_file()
    assert not broken_rules("benchmarks", SIMULATION, "from app.serving.batcher import Batcher")
    assert broken_rules("benchmarks", SIMULATION, "from app.engine.engine import Engine")
    assert broken_rules("benchmarks", "benchmarks/capacity/check.py", "from app.serving.batcher import Batcher")


def test_only_the_known_engine_may_start_the_service() -> None:
    assert (ROOT / KNOWN_ENGINE).is_file()
    assert not broken_rules(
        "benchmarks", KNOWN_ENGINE, "from app.__main__ import main\nfrom app.engine.engine import Engine"
    )
    assert broken_rules("benchmarks", KNOWN_ENGINE, "from app.serving.batcher import Batcher")
    assert broken_rules("benchmarks", "benchmarks/serving/servers.py", "from app.__main__ import main")


def test_serving_loads_no_training_code() -> None:
    code = f"import sys, app.__main__; print(sorted({HEAVY | {'training', 'export'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_can_be_read_without_getting_lost() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for room in (*ROOMS, "tests", "scripts")
        for path in (ROOT / room).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_no_pickles_are_loaded() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not imports(path) & {"pickle", "joblib", "dill"}, path
            assert "torch.load(" not in text, path
