"""Familiarity in the scorer's graph: PyTorch's numbers in every precision and at both opsets, by plain operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from contract.familiarity import FAMILIARITY, NEIGHBOURS, SIMILARITY
from export.configs import ScorerConfig
from export.graphs.familiarity import SHORT, FamiliarityHead, store_bank_short
from export.onnx import export_graph
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import Bank, make_bank, pooled

TOKENS, WIDTH = 17, 64
OF_CUDNN = {f"Reduce{kind}" for kind in ("Max", "Min", "Mean", "Sum", "L1", "L2", "SumSquare")} | {"ArgMax"}


def drawn(count: int, seed: int) -> torch.Tensor:
    """Image tokens float32 [count, TOKENS, WIDTH]."""
    return torch.randn(count, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.1


def made(count: int) -> Bank:
    bank = make_bank(pooled(drawn(count, 0)), tower="t", image_size=32)
    assert bank is not None
    return bank


class Alone(torch.nn.Module):
    """The head with the scorer's inputs and outputs, and nothing scored: tracing it takes a moment."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.familiarity = FamiliarityHead(bank, TOKENS)

    def forward(self, image_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return image_embeds[:, 0], *self.familiarity(image_embeds)


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> ScorerConfig:
    return ScorerConfig(load_checkpoint(checkpoint).model.config, bank=True)


@pytest.mark.parametrize(("opset", "photos"), [(18, NEIGHBOURS + 2), (23, 1021)])
def test_it_gives_pytorchs_numbers(config: ScorerConfig, opset: int, photos: int) -> None:
    bank = made(photos)
    graph = store_bank_short(export_graph(Alone(bank), config, opset))
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in (3, 8):
        embeds = drawn(batch, 1)
        embeds[0] = 0  # features of no length are like no photo
        embeds[1] = (bank.features.float() @ bank.basis.float().T).mean(dim=0)  # and these are more alike than any
        similarity, share = session.run([SIMILARITY, FAMILIARITY], {"image_embeds": embeds.numpy()})
        wanted = bank.similarity(pooled(embeds))
        assert np.abs(similarity - wanted.numpy()).max() < 1e-5
        assert np.abs(share - bank.familiarity(torch.from_numpy(similarity)).numpy()).max() < 1e-6
        assert (similarity[0], share[0]) == (0, 0)
        assert 1 - 1e-6 < share[1] <= 1, "many equal parts of 1, added, would be beyond it"


def test_the_bank_is_stored_in_16_bits_and_once(familiar_bundle: Path, familiar_checkpoint: Path) -> None:
    graph = onnx.load(familiar_bundle / "scorer.onnx").graph
    bank = load_checkpoint(familiar_checkpoint).bank
    assert bank is not None
    short = {one.name: one for one in graph.initializer if one.data_type == TensorProto.FLOAT16}
    basis, stored = (short.pop(f"{name}.short") for name in SHORT)
    assert not short
    assert np.array_equal(onnx.numpy_helper.to_array(stored), bank.features.T.numpy())
    assert np.array_equal(onnx.numpy_helper.to_array(basis), bank.basis.numpy())
    assert not [
        one for one in graph.initializer if one.data_type == TensorProto.FLOAT and list(one.dims) == [64, 64, 64]
    ]
    outside = onnx.load(familiar_bundle / "scorer.onnx", load_external_data=False).graph
    assert next(one for one in outside.initializer if one.name == stored.name).data_location == TensorProto.EXTERNAL


def test_it_needs_no_cudnn_and_reads_no_shape(familiar_bundle: Path, bundle: Path) -> None:
    kinds = {
        path: [node.op_type for node in onnx.load(path / "scorer.onnx", load_external_data=False).graph.node]
        for path in (bundle, familiar_bundle)
    }
    assert not set(kinds[familiar_bundle]) & (OF_CUDNN | {"Shape", "Size", "Expand", "Range"})
    assert len(kinds[familiar_bundle]) - len(kinds[bundle]) < 20


def test_labels_are_scored_by_the_same_graph(familiar_bundle: Path, bundle: Path) -> None:
    """What is added changes nothing of what was there."""
    embeds = drawn(3, 2).numpy()
    found, wanted = (
        ort.InferenceSession(path / "scorer.onnx", providers=["CPUExecutionProvider"]).run(
            ["label_logprobs"], {"image_embeds": embeds}
        )[0]
        for path in (familiar_bundle, bundle)
    )
    assert np.abs(found - wanted).max() < 1e-5
