"""How familiar a photo is, within the scorer's graph: cosines to a bank of training photos (`modeling.familiarity`).

All of it is float32 in every precision, and made of products with constants, comparisons and TopK: the CUDA provider
leaves several reductions to cuDNN (`_best` in `export.graphs.decoder`), and TensorRT knows TopK.
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from transformers import BlipForConditionalGeneration

from contract.familiarity import NEIGHBOURS
from export.graphs.decoder import Scorer
from modeling.familiarity import Bank
from modeling.label_tree import LabelTree

SHORT = ("familiarity.basis", "familiarity.bank")  # initializers of the graph that are stored in float16
LEAST_NORM = 1e-12  # of features; those of no length are like no photo


class FamiliarityHead(nn.Module):
    """image_embeds float32 [B, T, W] → similarity float32 [B], familiarity float32 [B], by `modeling.familiarity`."""

    basis: torch.Tensor  # [W, R]
    bank: torch.Tensor  # [R, N], rows of the bank as columns
    reference: torch.Tensor  # [M], similarities that a photo's is held against
    of_tokens: torch.Tensor  # [1, 1, T]
    of_channels: torch.Tensor  # [W, 1]
    of_neighbours: torch.Tensor  # [K, 1]
    of_reference: torch.Tensor  # [M, 1]

    def __init__(self, bank: Bank, tokens: int) -> None:
        super().__init__()
        width = bank.basis.shape[0]
        self.register_buffer("basis", bank.basis.float().contiguous())
        self.register_buffer("bank", bank.features.float().T.contiguous())
        self.register_buffer("reference", bank.reference.clone())
        # constants by which products take a mean or a sum
        self.register_buffer("of_tokens", torch.full((1, 1, tokens), 1 / tokens))
        self.register_buffer("of_channels", torch.ones(width, 1))
        self.register_buffer("of_neighbours", torch.full((NEIGHBOURS, 1), 1 / NEIGHBOURS))
        self.register_buffer("of_reference", torch.ones(len(bank.reference), 1))

    def forward(self, image_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See the class."""
        pooled = torch.matmul(self.of_tokens, image_embeds).squeeze(1)  # [B, W]
        norm = torch.matmul(pooled * pooled, self.of_channels).sqrt().clamp(min=LEAST_NORM)
        nearest = torch.matmul(torch.matmul(pooled, self.basis), self.bank).topk(NEIGHBOURS, dim=-1).values  # [B, K]
        similarity = torch.matmul(nearest, self.of_neighbours) / norm  # [B, 1]
        # whole numbers are added, which float32 does exactly: the share is never beyond 1
        share = torch.matmul((similarity > self.reference).float(), self.of_reference) / len(self.reference)
        return similarity.squeeze(1), share.squeeze(1)


class FamiliarScorer(nn.Module):
    """image_embeds float32 [B, T, W] → label_logprobs float32 [B, L], similarity float32 [B], familiarity float32 [B]."""

    def __init__(self, scorer: Scorer, bank: Bank, tokens: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.familiarity = FamiliarityHead(bank, tokens)

    def forward(self, image_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See the class."""
        return self.scorer(image_embeds), *self.familiarity(image_embeds)


def familiar_scorer(
    model: BlipForConditionalGeneration, tree: LabelTree, dtype: torch.dtype, bank: Bank, tokens: int
) -> FamiliarScorer:
    """The scorer of a model whose images have `tokens` tokens, with familiarity."""
    return FamiliarScorer(Scorer(model, tree, dtype), bank, tokens)


def store_bank_short(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its bank in float16 and casts behind it: half the bytes, and the values are float16's anyway.

    After tracing, since the exporter computes casts of constants ahead.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in SHORT:
        tensor = stored[name]
        short = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(short, f"{name}.short"))
        cast = helper.make_node("Cast", [tensor.name], [name], name=f"cast_{name}", to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    return model
