"""Absorbed cross-attention equals the checkpoint's own, and the causal mask holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.graphs.decoder import CaptionDecoder, CaptionStep, Scorer
from export.graphs.layers import TracedCrossAttention
from modeling.checkpoint import load_checkpoint
from modeling.scoring import label_logprobs_by_fork, next_logits


@pytest.fixture(autouse=True)
def the_same_numbers() -> None:
    torch.manual_seed(0)


def test_equals_plain_cross_attention_with_biases(checkpoint: Path) -> None:
    layer = load_checkpoint(checkpoint).model.text_decoder.bert.encoder.layer[0].crossattention
    with torch.no_grad():
        for projection in (layer.self.query, layer.self.key, layer.self.value):
            torch.nn.init.normal_(projection.bias, std=1.0)
        x, image = torch.randn(3, 5, 64), torch.randn(3, 17, 64)
        wanted = layer(x, encoder_hidden_states=image)[0]
        found = TracedCrossAttention(layer)(x, image, image.transpose(1, 2))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_modules_equal_the_plain_decoder(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    tree, text = loaded.tree(), loaded.model.config.text_config
    assert tree is not None
    with torch.no_grad():
        embeds = torch.randn(2, 17, 64)
        found = Scorer(loaded.model, tree).eval()(embeds)
        assert torch.allclose(found, label_logprobs_by_fork(loaded.model, embeds, tree), atol=1e-5)
        decoder = CaptionDecoder(loaded.model, 16).eval()
        for length in (1, 4, 16):
            ids = torch.randint(0, text.vocab_size, (2, length))
            wanted = next_logits(loaded.model, ids, embeds)
            for _ in range(2):  # what stands behind the position does not matter
                padded = torch.cat([ids, torch.randint(0, text.vocab_size, (2, 16 - length))], dim=1)
                token, height, logits = decoder(padded, torch.tensor([length - 1]), embeds)
                assert torch.allclose(logits, wanted, atol=1e-4)
                assert torch.equal(token, logits.argmax(dim=1))
                assert torch.equal(height, logits.max(dim=1).values)


def test_the_cache_changes_nothing(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    text = loaded.model.config.text_config
    width = text.hidden_size // text.num_attention_heads
    step = CaptionStep(loaded.model).eval()
    with torch.no_grad():
        embeds, ids = torch.randn(2, 17, 64), torch.randint(0, text.vocab_size, (2, 16))
        past = torch.zeros(2 * text.num_hidden_layers, 2, text.num_attention_heads, 0, width)
        for at in range(16):
            _, _, logits, past = step(ids[:, at : at + 1], torch.tensor([at]), past, embeds)
            assert past.shape[3] == at + 1
            wanted = next_logits(loaded.model, ids[:, : at + 1], embeds)
            assert torch.allclose(logits, wanted, atol=1e-4), at
