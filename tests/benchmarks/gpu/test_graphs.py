"""Graphs that travel without their weights give the same bundle where the weights are made again."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.graphs import bundle_of_graphs, pack_graphs, packed_shapes
from contract.errors import ContractError
from tests.benchmarks.conftest import CommittedModel


class Elsewhere:
    """The same model on another machine: it has the checkpoint, and a bundle's graphs and weights are written there."""

    def __init__(self, model: CommittedModel, folder: Path) -> None:
        self.shapes, self.checkpoint, self.folder = model.shapes, model.checkpoint, folder

    def bundle(self, precision: str, graphs: Callable[[Path], bool]) -> bool:
        """What `RandomModel.bundle` does with the graphs."""
        self.folder.mkdir()
        return graphs(self.folder)


@pytest.fixture(scope="module")
def packed(committed_model: CommittedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed model's graphs in fp32."""
    folder = tmp_path_factory.mktemp("packed")
    pack_graphs(committed_model, "fp32", folder)
    return folder


def test_the_weights_are_written_again_bit_for_bit(
    committed_model: CommittedModel, packed: Path, tmp_path: Path
) -> None:
    assert not list(packed.rglob("*.weights")), "no weights travel"
    there: Any = Elsewhere(committed_model, tmp_path / "there")
    bundle_of_graphs(there, "fp32", packed)
    here = committed_model.bundle("fp32").path
    files = [file.name for file in here.iterdir() if file.suffix in (".onnx", ".weights")]
    assert len(files) >= 5
    assert filecmp.cmpfiles(here, tmp_path / "there", files, shallow=False) == (files, [], [])


def test_other_graphs_are_refused(committed_model: CommittedModel, packed: Path, tmp_path: Path) -> None:
    assert packed_shapes(packed, "fp32") == "tiny"
    other: Any = Elsewhere(committed_model, tmp_path / "there")
    with pytest.raises(ContractError, match="No graphs in bf16 were packed"):
        bundle_of_graphs(other, "bf16", packed)
    other.shapes = "base"
    with pytest.raises(ContractError, match="are of the shapes 'tiny', not 'base'"):
        bundle_of_graphs(other, "fp32", packed)
