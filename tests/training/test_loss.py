"""The loss: what is learnt, where captions start, that one pass equals the plain model, and that padding is masked."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from contract.caption import CaptionFormat
from contract.labels import LabelSet
from modeling.attention import absorbed_cross_attention
from modeling.captions import IGNORED, PackedCaptions, packed_captions
from modeling.load import Blip
from modeling.scoring import label_logprobs
from training.loss import CaptionLoss
from training.model import freeze, initial_blip, set_dropout
from training.optimiser import make_optimiser, rate_at
from training.recipe import load_recipe

LABELS = LabelSet.from_names(["pho", "apple pie", "very long name of a dish", "apple cake"])
NAMES, IDS = CaptionFormat(target="name"), CaptionFormat()
SHAPE = [
    "model.image_size=32", "model.vision_layers=2", "model.vision_width=32", "model.text_width=32", "caption.target=name",
]  # fmt: skip
EACH = torch.arange(len(LABELS))


@pytest.fixture
def blip() -> Blip:
    made = initial_blip(load_recipe("drawn-scratch", SHAPE), LABELS)
    with torch.no_grad():
        for parameter in made.model.text_decoder.parameters():
            parameter.mul_(2)  # untrained attention is nearly uniform; this is not
    return made


def pixels(count: int = len(LABELS)) -> torch.Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), generator=torch.Generator().manual_seed(0)).float()


def loss_of(blip: Blip, captions: PackedCaptions, weight: float = 0.0, smoothing: float = 0.0) -> torch.Tensor:
    loss = CaptionLoss(blip.model, captions, caption_weight=weight, smoothing=smoothing)
    return loss(pixels(), EACH, F.one_hot(EACH, len(LABELS)).float())


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_label_term_is_what_scoring_computes(blip: Blip, weight: float) -> None:
    packed = packed_captions(blip.tokenizer, NAMES, LABELS)
    scores = label_logprobs(blip.model, blip.embed(pixels()), packed.tree)
    loss = loss_of(blip, packed, weight) - weight * caption_term(blip)
    assert torch.allclose(loss, -scores.diagonal(), atol=1e-5)
    smooth = loss_of(blip, packed, weight, smoothing=0.2) - weight * caption_term(blip)
    assert torch.allclose(smooth, -0.8 * scores.diagonal() - 0.2 * scores.mean(1), atol=1e-5)


def caption_term(blip: Blip) -> torch.Tensor:
    """The mean cross-entropy of each caption by transformers' own loss, one caption at a time, without padding."""
    found = []
    for i, label in enumerate(LABELS):
        ids = [blip.tokenizer.bos_token_id, *blip.tokenizer(NAMES.render(label)).input_ids[1:]]
        tokens = torch.tensor([ids])
        with torch.no_grad():
            embeds = blip.embed(pixels())[i : i + 1]
            found.append(
                blip.model.text_decoder(input_ids=tokens, encoder_hidden_states=embeds, labels=tokens, reduction="mean")
            )
    return torch.stack([output.loss.squeeze() for output in found])


def test_caption_term_equals_transformers_own(blip: Blip) -> None:
    packed = packed_captions(blip.tokenizer, NAMES, LABELS)
    found = loss_of(blip, packed, 1.0) - loss_of(blip, packed, 0.0)
    assert torch.allclose(found, caption_term(blip), atol=1e-5)


def test_padding_changes_nothing(blip: Blip) -> None:
    packed = packed_captions(blip.tokenizer, NAMES, LABELS)
    before = loss_of(blip, packed, 0.1)
    tree, longest = len(packed.tree.tokens), packed.tokens.shape[1]
    tokens = packed.tokens.clone()
    padding = torch.ones(len(LABELS), longest, dtype=torch.bool)
    padding[:, :tree] = False
    for row in EACH:
        padding[row, packed.spoken[row][packed.following[row] != IGNORED]] = False
    assert bool(padding.any())
    tokens[padding] = 7  # whatever stands on padding
    changed = loss_of(blip, dataclasses.replace(packed, tokens=tokens), 0.1)
    assert torch.allclose(changed, before, atol=1e-6)
    tokens[:, tree:] = 7  # and the own tokens do count
    assert not torch.allclose(loss_of(blip, dataclasses.replace(packed, tokens=tokens), 0.1), before, atol=1e-3)


def test_mixed_targets_are_the_mixture_of_losses(blip: Blip) -> None:
    packed = packed_captions(blip.tokenizer, NAMES, LABELS)
    loss = CaptionLoss(blip.model, packed, caption_weight=0.0, smoothing=0.0)
    one, other = F.one_hot(EACH, 4).float(), F.one_hot(EACH.flip(0), 4).float()
    mixed = loss(pixels(), EACH, 0.7 * one + 0.3 * other)
    assert torch.allclose(mixed, 0.7 * loss(pixels(), EACH, one) + 0.3 * loss(pixels(), EACH, other), atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_absorbed_cross_attention_has_the_same_loss_and_gradients(blip: Blip, dropout: float) -> None:
    packed = packed_captions(blip.tokenizer, NAMES, LABELS)
    with torch.no_grad():  # biases start at zero, which would hide a missing one
        for layer in blip.model.text_decoder.bert.encoder.layer:
            layer.crossattention.self.value.bias.normal_()
            layer.crossattention.self.key.bias.normal_()
    for layer in blip.model.text_decoder.bert.encoder.layer:  # the same numbers are dropped: same shape, same order
        layer.crossattention.self.dropout.p = dropout
    gradients, losses = [], []
    names = set(blip.model.state_dict())
    for absorbed in (False, True):
        with absorbed_cross_attention(blip.model, absorbed):
            assert set(blip.model.state_dict()) == names
            torch.manual_seed(5)
            loss = CaptionLoss(blip.model, packed, caption_weight=0.1, smoothing=0.1)
            for layer in blip.model.text_decoder.bert.encoder.layer:
                layer.crossattention.self.train()
            value = loss(pixels(), EACH, F.one_hot(EACH, 4).float()).mean()
            blip.model.zero_grad()
            value.backward()
            losses.append(float(value.detach()))
            gradients.append(
                {
                    n: p.grad.clone()
                    for n, p in blip.model.named_parameters()
                    if p.grad is not None and ".key.bias" not in n
                }
            )
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-5, rtol=1e-4), name
    assert blip.model.text_decoder.bert.encoder.layer[0].crossattention.self.key.bias.requires_grad


def test_a_frozen_tower_stays_as_it_is(blip: Blip) -> None:
    recipe = load_recipe("drawn-scratch", ["train.learning_rate=0.1"]).train
    freeze(blip.model, "decoder", embeddings=True)
    loss = CaptionLoss(
        blip.model, packed_captions(blip.tokenizer, NAMES, LABELS), caption_weight=0.1, smoothing=0.0
    ).train()
    assert not blip.model.vision_model.training
    assert blip.model.text_decoder.training
    before = {name: p.clone() for name, p in blip.model.named_parameters()}
    optimiser = make_optimiser(blip.model, recipe)
    loss(pixels(), EACH, F.one_hot(EACH, 4).float()).mean().backward()
    optimiser.step()
    changed = {name for name, p in blip.model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("vision_model.") for name in changed)
    assert "text_decoder.bert.embeddings.word_embeddings.weight" not in changed
    assert "text_decoder.bert.encoder.layer.0.crossattention.self.query.weight" in changed


def test_learning_rate_warms_up_and_falls() -> None:
    recipe = load_recipe("drawn-scratch", ["train.warmup=0.1", "train.final_rate=0.01"]).train
    rates = [rate_at(step, 1000, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == max(rates) == 1.0
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)


def test_dropout_is_the_decoders_alone(blip: Blip) -> None:
    set_dropout(blip.model, 0.25)
    shares = {m.p for m in blip.model.text_decoder.modules() if isinstance(m, torch.nn.Dropout)}
    assert shares == {0.25}
    loss = CaptionLoss(blip.model, packed_captions(blip.tokenizer, NAMES, LABELS), caption_weight=0.1, smoothing=0.0)
    loss.train()
    assert not torch.equal(loss(pixels(), EACH, torch.eye(4)), loss(pixels(), EACH, torch.eye(4)))
    loss.eval()
    assert torch.equal(loss(pixels(), EACH, torch.eye(4)), loss(pixels(), EACH, torch.eye(4)))


def test_channel_dropout_leaves_out_the_same_channels_of_all_tokens_of_a_photo(
    blip: Blip, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = packed_captions(blip.tokenizer, NAMES, LABELS)
    loss = CaptionLoss(blip.model, captions, caption_weight=0.1, smoothing=0.0, channel_dropout=0.5)
    seen: list[torch.Tensor] = []
    forward = blip.model.text_decoder.bert.forward

    def watched(**given: Any) -> Any:
        seen.append(given["encoder_hidden_states"].detach())
        return forward(**given)

    monkeypatch.setattr(blip.model.text_decoder.bert, "forward", watched)
    embeds = torch.ones(len(LABELS), 17, 32)
    for mode in (True, False):
        loss.train(mode)
        loss(embeds, EACH, torch.eye(4), embedded=True)
    dropped, plain = seen
    assert torch.equal(plain, embeds), "nothing is left out where it does not train"
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped)), "a channel of a photo goes as a whole"
    assert set(dropped.unique().tolist()) == {0.0, 2.0}, "what stays is scaled up"
    masks = dropped[:, 0]
    assert len(masks.unique(dim=0)) == len(LABELS), "others for each photo"
    assert 0.25 < float((masks == 0).float().mean()) < 0.75
