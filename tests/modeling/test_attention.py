"""Masks, and absorbed cross-attention against the layer that it stands in for."""

from __future__ import annotations

import pytest
import torch

from modeling.attention import MASKED, TrainableCrossAttention, absorbed_cross_attention, additive_mask
from tests.modeling.conftest import small_blip


def test_a_masked_place_gets_nothing() -> None:
    allowed = torch.tensor([[True, False], [True, True]])
    mask = additive_mask(allowed)
    assert mask.tolist() == [[0, MASKED], [0, 0]]
    scores = torch.tensor([[-300.0, 300.0]])
    assert (scores + mask[0]).softmax(1).tolist() == [[1, 0]]
    assert torch.isfinite(mask.half()).all()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_same_output_and_gradients_as_the_plain_layer(dropout: float) -> None:
    layer = small_blip(gain=3).model.text_decoder.bert.encoder.layer[0].crossattention.self.train()
    layer.dropout.p = dropout
    with torch.no_grad():
        for projection in (layer.query, layer.key, layer.value):
            torch.nn.init.normal_(projection.bias)
    torch.manual_seed(1)
    x, image, towards = torch.randn(3, 5, 32), torch.randn(3, 7, 16), torch.randn(3, 5, 32)
    outputs, gradients = [], []
    for attention in (layer, TrainableCrossAttention(layer).train()):
        torch.manual_seed(2)  # the same numbers are dropped: same shape, same order
        output = attention(x, encoder_hidden_states=image)[0]
        layer.zero_grad()
        (output * towards).sum().backward()
        outputs.append(output.detach())
        gradients.append({name: p.grad.clone() for name, p in layer.named_parameters() if name != "key.bias"})
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-4, rtol=1e-4), name


def test_the_model_is_as_before_after_the_block() -> None:
    model = small_blip().model
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    plain = model.text_decoder.bert.encoder.layer[1].crossattention.self
    with absorbed_cross_attention(model):
        inside = dict(model.named_parameters())
        assert set(inside) == set(before)
        assert not inside["text_decoder.bert.encoder.layer.1.crossattention.self.key.bias"].requires_grad
        assert isinstance(model.text_decoder.bert.encoder.layer[1].crossattention.self, TrainableCrossAttention)
    assert model.text_decoder.bert.encoder.layer[1].crossattention.self is plain
    assert {name: (id(p), p.requires_grad) for name, p in model.named_parameters()} == before
