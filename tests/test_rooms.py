"""The rooms: who may import whom, and that every file keeps to its size."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("app", "contract", "export", "training", "benchmarks")
HEAVY = {"torch", "transformers", "optimum", "onnx", "onnxscript", "datasets", "accelerate"}
FORBIDDEN = {
    "contract": {"app", "training", "export", "onnxruntime", "fastapi", *HEAVY},
    "training": {"app", "export", "benchmarks", "onnxruntime", "fastapi"},
    "export": {"app", "training", "benchmarks", "fastapi", "datasets"},
    "app": {"training", "export", "benchmarks", *HEAVY},
    "benchmarks": {"app"},
}


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_import_rules(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        broken = imports(path) & FORBIDDEN[room]
        assert not broken, f"{path.relative_to(ROOT)} imports {sorted(broken)}"


def test_serving_loads_no_training_code() -> None:
    code = f"import sys, app.__main__; print(sorted({HEAVY | {'training', 'export'}!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_can_be_read_without_getting_lost() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for room in (*ROOMS, "tests", "scripts")
        for path in (ROOT / room).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long


def test_no_pickles_are_loaded() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not imports(path) & {"pickle", "joblib", "dill"}, path
            assert "torch.load(" not in text, path
