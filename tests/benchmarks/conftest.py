"""The load generator on a simulated clock, and runs of the engine benchmark whose results the other tests look at."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.engine.__main__ import main
from benchmarks.random_model import RandomModel
from contract.bundle import Bundle, read_bundle
from contract.precision import Precision
from export.bundle import GraphWriter
from modeling.checkpoint import load_checkpoint
from tests.benchmarks.load.simulated import World, simulated
from tests.conftest import run_module

FEW = ("original", "one-pass", "ours-cpu-fp32")


@pytest.fixture
def world() -> Iterator[World]:
    """The load generator's, where a server answers at once until a test gives it another behaviour."""
    with simulated() as made:
        yield made


@dataclass(frozen=True)
class CommittedModel(RandomModel):
    """The committed tiny model in place of a random one: its fp32 bundle is there already."""

    exported: Path

    def bundle(self, precision: Precision, graphs: GraphWriter | None = None) -> Bundle:
        """At temperature 1, as a random model's."""
        assert precision == "fp32"
        found = read_bundle(self.exported)
        return replace(found, manifest=found.manifest.model_copy(update={"temperature": 1.0}))


@dataclass(frozen=True)
class TinyRun:
    """What a run wrote and said. `everyone`: it made a random model, and all contestants of a CPU ran."""

    everyone: bool
    work: Path
    result: dict[str, Any]
    markdown: str
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def committed_model(checkpoint: Path, bundle: Path) -> CommittedModel:
    """See there."""
    return CommittedModel("tiny", 0, bundle.parent, load_checkpoint(checkpoint), bundle)


@pytest.fixture
def committed(committed_model: CommittedModel, monkeypatch: pytest.MonkeyPatch) -> CommittedModel:
    """The engine benchmark in this process runs the committed model."""
    _install(committed_model, monkeypatch)
    return committed_model


def _install(model: CommittedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.engine.run.random_model", lambda shapes, work, seed: model)


@pytest.fixture(scope="session")
def all_contestants(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """All contestants of a CPU at two batch sizes, by the command a user types; its work folder serves other tests."""
    folder = tmp_path_factory.mktemp("engine")
    done = run_module("benchmarks.engine", *_arguments(folder))
    assert done.returncode == 0, done.stderr
    return _written(folder, True, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def few_contestants(tmp_path_factory: pytest.TempPathFactory, committed_model: CommittedModel) -> TinyRun:
    """The same of the committed model, in this process, with the contestants that need no other bundle."""
    folder, out, err = tmp_path_factory.mktemp("engine"), io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        _install(committed_model, patch)
        code = main([*_arguments(folder), "--only", ",".join(FEW)])
    torch.set_num_threads(threads)
    assert code == 0, err.getvalue()
    return _written(folder, False, out.getvalue(), err.getvalue())


@pytest.fixture(params=["few_contestants", pytest.param("all_contestants", marks=pytest.mark.long)])
def tiny_run(request: pytest.FixtureRequest) -> TinyRun:
    """One after the other."""
    found: TinyRun = request.getfixturevalue(request.param)
    return found


def _arguments(folder: Path) -> list[str]:
    return [
        "--shapes", "tiny", "--device", "cpu", "--threads", "1", "--batches", "3,1", "--rounds", "5", "--warmups", "1",
        "--work", str(folder / "work"), "--json", str(folder / "new" / "e.json"), "--markdown", str(folder / "e.md"),
    ]  # fmt: skip


def _written(folder: Path, everyone: bool, stdout: str, stderr: str) -> TinyRun:
    result = json.loads((folder / "new" / "e.json").read_text())
    return TinyRun(everyone, folder / "work", result, (folder / "e.md").read_text(), stdout, stderr)
