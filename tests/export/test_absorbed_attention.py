"""Absorbed cross-attention equals the checkpoint's own, and the causal mask holds."""

from __future__ import annotations

from pathlib import Path

import torch

from export import reference
from export.bundle import load_checkpoint
from export.text_decoder import AbsorbedCrossAttention, CaptionDecoder, Scorer


def test_equals_plain_cross_attention_with_biases(checkpoint: Path) -> None:
    layer = load_checkpoint(checkpoint).model.text_decoder.bert.encoder.layer[0].crossattention
    with torch.no_grad():
        for projection in (layer.self.query, layer.self.key, layer.self.value):
            torch.nn.init.normal_(projection.bias, std=1.0)
        x, image = torch.randn(3, 5, 64), torch.randn(3, 17, 64)
        wanted = layer(x, encoder_hidden_states=image)[0]
        found = AbsorbedCrossAttention(layer)(x, image, image.transpose(1, 2))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_modules_equal_the_plain_decoder(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    tree, text = loaded.tree(), loaded.model.config.text_config
    assert tree is not None
    with torch.no_grad():
        embeds = torch.randn(2, 17, 64)
        found = Scorer(loaded.model, tree).eval()(embeds)
        assert torch.allclose(found, reference.label_logprobs(loaded.model, embeds, tree), atol=1e-5)
        decoder = CaptionDecoder(loaded.model, 16).eval()
        for length in (1, 4, 16):
            ids = torch.randint(0, text.vocab_size, (2, length))
            wanted = reference.next_logits(loaded.model, ids, embeds)
            assert torch.allclose(decoder(ids, embeds), wanted, atol=1e-4)
