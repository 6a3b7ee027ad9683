"""One tiny run of the engine benchmark, by the command a user types; its work folder serves the other tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_module


@dataclass(frozen=True)
class TinyRun:
    """Where the run kept its models, and what it wrote and said."""

    work: Path
    result: dict[str, Any]
    markdown: str
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All contestants of a CPU at two batch sizes."""
    folder = tmp_path_factory.mktemp("engine")
    done = run_module(
        "benchmarks.engine", "--shapes", "tiny", "--device", "cpu", "--threads", 1, "--batches", "3,1", "--rounds", 5,
        "--warmups", 1, "--work", folder / "work", "--json", folder / "new" / "e.json", "--markdown", folder / "e.md",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "new" / "e.json").read_text())
    return TinyRun(folder / "work", result, (folder / "e.md").read_text(), done.stdout, done.stderr)
