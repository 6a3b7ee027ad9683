"""The rooms: who may import whom, and that every file keeps to its size."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from scripts.imports import ROOMS, Modules, hidden, imported, mentioned
from tests.conftest import ROOT

MODULES = Modules()
HEAVY = {"torch", "transformers", "optimum", "onnx", "onnxscript", "datasets", "accelerate"}
FORBIDDEN = {
    "contract": {"app", "training", "export", "onnxruntime", "fastapi", *HEAVY},
    "modeling": {"app", "training", "export", "benchmarks", "onnxruntime", "fastapi", *HEAVY}
    - {"torch", "transformers"},
    "training": {"app", "export", "benchmarks", "onnxruntime", "fastapi"},
    "export": {"app", "training", "benchmarks", "fastapi", "datasets"},
    "app": {"training", "export", "benchmarks", *HEAVY},
    "benchmarks": {"app"},
}
# The engine benchmark measures the class that serves, which HTTP does not show: these files alone, these modules alone.
ENGINE_BENCHMARKS = {
    "benchmarks/decode.py", "benchmarks/engine/ours.py", "benchmarks/gpu/child.py", "benchmarks/gpu/placed.py",
    "benchmarks/gpu/speed.py",
    "benchmarks/serving/baselines/shared_engine.py",
    *(f"benchmarks/accuracy/familiarity/{name}.py" for name in ("__main__", "ask", "bad_input", "bundles", "cost")),
}  # fmt: skip
SIMULATION = "benchmarks/capacity/simulation.py"  # runs the service's own batcher on a simulated clock
SIMULATED_DECODING = "benchmarks/capacity/decoding.py"  # and the door and the decode pool before it
KNOWN_ENGINE = "benchmarks/known_engine.py"  # the service itself, with an engine that takes a known time
ENGINE_FACE = {"app.engine.engine", "app.providers.sessions", "app.engine.check"}
DECODING_FACE = {"app.decoding.line", "app.decoding.pool", "app.decoding.client", "app.decoding.worker"}
EXCEPTIONS = {
    SIMULATION: {"app.engine.load", "app.serving.batcher", "app.serving.slots"},
    SIMULATED_DECODING: {
        "app.serving.batcher",
        "app.serving.slots",
        "app.faults",
        "app.serving.model",
        *DECODING_FACE,
    },
    KNOWN_ENGINE: {"app.engine.check", "app.engine.engine", "app.engine.pool", "app.engine.batches", "app.__main__"},
}


# All that a room needs of others. Whoever adds one asks what comes with it: torch, a web framework, a licence.
OUTSIDE = {
    "contract": {"numpy", "PIL", "pillow_heif", "pydantic"},
    "modeling": {"numpy", "pydantic", "safetensors", "torch", "transformers"},
    "training": {
        "PIL", "accelerate", "datasets", "huggingface_hub", "jinja2", "kornia", "markupsafe", "matplotlib", "numpy",
        "pyarrow", "pydantic", "safetensors", "scipy", "sklearn", "torch", "tqdm", "transformers", "yaml",
    },
    "export": {"google", "numpy", "onnx", "onnxruntime", "onnxscript", "optimum", "pydantic", "torch", "transformers"},
    "app": {
        "PIL", "fastapi", "httptools", "numpy", "onnxruntime", "opentelemetry", "prometheus_client", "pyarrow", "pydantic",
        "pydantic_core", "pydantic_settings", "python_multipart", "ray", "starlette", "tokenizers", "uvicorn",
    },
}  # fmt: skip


def broken_rules(room: str, file: str, source: str) -> set[str]:
    """Names that `file` (relative to the root) of `room` imports and must not."""
    allowed = ENGINE_FACE if file in ENGINE_BENCHMARKS else EXCEPTIONS.get(file, set())
    return {
        name
        for name in imported(source)
        if name.split(".")[0] in FORBIDDEN[room] and not any(f"{name}.".startswith(f"{one}.") for one in allowed)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_import_rules(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        file = path.relative_to(ROOT).as_posix()
        broken = broken_rules(room, file, path.read_text(encoding="utf-8"))
        assert not broken, f"{file} imports {sorted(broken)}"


@pytest.mark.parametrize("room", OUTSIDE)
def test_a_room_needs_no_more_of_others_than_is_listed(room: str) -> None:
    needed = set().union(*(MODULES.outside(name) for name in MODULES.paths if name.split(".")[0] == room))
    assert needed - sys.stdlib_module_names == OUTSIDE[room]


def test_every_import_can_be_read() -> None:
    """No relative import, no name of a module that is made while the program runs."""
    for room in (*ROOMS, "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            if path != ROOT / "scripts" / "imports.py":  # names the ways
                assert not hidden(path.read_text(encoding="utf-8")), path
    for source in (
        "from . import a", "from ..b import c", "import_module(f'{a}.b')", "from importlib import import_module as load",
        "importlib.import_module(name='a')", "__import__(a)", "runpy.run_path(a)", "exec('import a')", "sys.modules['a']",
        "pkgutil.resolve_name('a:b')", "importlib.util.spec_from_file_location('a', 'b')", "__builtins__['eval']",
    ):  # fmt: skip
        assert hidden(source), source
    assert not hidden("from a import b\nmodel.eval()\nimportlib.util.find_spec(a)")


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


UNPICKLERS = {
    "pickle", "_pickle", "marshal", "joblib", "dill", "cloudpickle", "shelve", "multiprocessing.reduction", "torch.load",
    "torch.serialization", "torch.jit", "torch.package", "torch.hub", "torch.export.load", "pandas.read_pickle",
    "numpy.lib.format.read_array", "yaml.load", "yaml.unsafe_load", "transformers.modeling_utils.load_state_dict", "timm",
}  # fmt: skip
# Keywords that decide whether a pickle or a stranger's code may be read, and the value that says no.
SAFE = {"allow_pickle": False, "weights_only": True, "trust_remote_code": False, "use_safetensors": True}
READS_PICKLES = ROOT / "modeling" / "weights.py"  # as tensors alone, which its own tests hold


def unpickles(source: str) -> set[str]:
    """What of Python text could read a pickle."""
    names = mentioned(source)
    found = {one for one in UNPICKLERS if any(f"{name}.".startswith(f"{one}.") for name in names)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in SAFE:
            said = node.value.value if isinstance(node.value, ast.Constant) else None
            found |= {node.arg} if said is not SAFE[node.arg] else set()
        elif isinstance(node, ast.Constant) and node.value in SAFE:
            found.add(str(node.value))  # `**{"allow_pickle": …}`
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load") and len(node.args) > 1:
            found.add("numpy.load")  # `allow_pickle` by its place
        elif isinstance(node, ast.Attribute) and node.attr == "read_pickle":
            found.add(node.attr)
    return found


def test_no_pickles_are_loaded() -> None:
    """One file may read a `.pth` or `.bin`, tensors alone; nothing else reads what could run code."""
    for room in (*ROOMS, "scripts"):
        for path in (ROOT / room).rglob("*.py"):
            if path != READS_PICKLES:
                assert not unpickles(path.read_text(encoding="utf-8")), path
    assert unpickles(READS_PICKLES.read_text(encoding="utf-8")) == {"torch.load"}
    for source in (
        "import pickle", "from torch import load", "import torch\ntorch.load(f)", "import torch as t\nread = t.load",
        "np.load(f, allow_pickle=True)", "np.load(f, allow_pickle = yes)", "np.load(f, None, True)",
        "np.load(f, **{'allow_pickle': True})", "import torch\ntorch.jit.load(f)", "frames.read_pickle(f)",
        "from multiprocessing.reduction import ForkingPickler", "Blip.from_pretrained(f, use_safetensors=False)",
    ):  # fmt: skip
        assert unpickles(source), source
