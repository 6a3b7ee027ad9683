"""The loss: what is masked, where captions start, and that a frozen tower stays as it is."""

from __future__ import annotations

import pytest
import torch

from contract.caption import CaptionFormat
from contract.labels import FOOD101, LabelSet
from tests.conftest import shared_data
from training.captions import IGNORED, CaptionTokens, caption_tokens, label_tree
from training.loop import caption_loss, make_optimiser, rate_at, set_train_mode
from training.model import Blip, freeze, initial_blip
from training.recipe import load_recipe
from training.vocabulary import blip_tokenizer, read_vocabulary

LABELS = LabelSet.from_names(["pho", "apple pie", "very long name of a dish"])
NAMES = CaptionFormat(target="name")
SHAPE = [
    "model.image_size=32", "model.vision_layers=2", "model.vision_width=32", "model.text_width=32", "caption.target=name",
]  # fmt: skip


@pytest.fixture
def blip() -> Blip:
    return initial_blip(load_recipe("drawn", SHAPE), LABELS)


def loss_of(blip: Blip, tokens: CaptionTokens, prefix_weight: float = 0.0) -> torch.Tensor:
    pixels = torch.full((3, 32, 32, 3), 90.0)
    return caption_loss(blip, pixels, torch.tensor([0, 1, 2]), tokens, prefix_weight)


def test_only_the_target_and_sep_are_learnt(blip: Blip) -> None:
    tokens = caption_tokens(blip.tokenizer, NAMES, LABELS)
    start = blip.tokenizer.bos_token_id
    assert tokens.input_ids[:, 0].tolist() == [start] * 3, "captions start with [DEC], as generation does"
    for row, label in enumerate(LABELS):
        learnt = [int(t) for t in tokens.targets[row] if t != IGNORED]
        assert blip.tokenizer.decode(learnt) == f"{label.name} [SEP]"
        constant = [int(t) for t in tokens.prefix[row] if t != IGNORED]
        assert blip.tokenizer.decode(constant) == "a photo of delicious"


def test_padding_changes_nothing(blip: Blip) -> None:
    tokens = caption_tokens(blip.tokenizer, NAMES, LABELS)
    before = loss_of(blip, tokens, 0.1)
    tokens.input_ids[tokens.mask == 0] = 7  # whatever stands on padding
    assert torch.allclose(loss_of(blip, tokens, 0.1), before, atol=1e-6)
    parts = ((tokens.input_ids, 7), (tokens.mask, 0), (tokens.targets, IGNORED), (tokens.prefix, IGNORED))
    wider = CaptionTokens(*(torch.nn.functional.pad(part, (0, 3), value=fill) for part, fill in parts))
    assert torch.allclose(loss_of(blip, wider, 0.1), before, atol=1e-6)


def test_the_prefix_counts_only_by_its_own_weight(blip: Blip) -> None:
    tokens = caption_tokens(blip.tokenizer, NAMES, LABELS)
    masked, weighted = loss_of(blip, tokens), loss_of(blip, tokens, 0.1)
    tokens.prefix[tokens.prefix != IGNORED] = 7  # another prefix to predict
    assert torch.equal(loss_of(blip, tokens), masked)
    assert not torch.allclose(loss_of(blip, tokens, 0.1), weighted)


def test_loss_equals_transformers_own(blip: Blip) -> None:
    tokens = caption_tokens(blip.tokenizer, NAMES, LABELS)
    pixels = torch.full((3, 32, 32, 3), 90.0)
    shifted = torch.cat([torch.full((3, 1), IGNORED), tokens.targets], dim=1)
    padded = torch.cat([tokens.input_ids, torch.zeros(3, 1, dtype=torch.long)], dim=1)
    wanted = blip.model.text_decoder(
        input_ids=padded, attention_mask=torch.cat([tokens.mask, torch.zeros(3, 1, dtype=torch.long)], dim=1),
        encoder_hidden_states=blip.embed(pixels), labels=shifted,
    ).loss  # fmt: skip
    assert torch.allclose(loss_of(blip, tokens), wanted, atol=1e-6)


def test_a_frozen_tower_stays_as_it_is(blip: Blip) -> None:
    recipe = load_recipe("drawn", ["train.learning_rate=0.1"]).train
    freeze(blip.model, "decoder", embeddings=True)
    set_train_mode(blip)
    assert not blip.model.vision_model.training
    assert blip.model.text_decoder.training
    before = {name: p.clone() for name, p in blip.model.named_parameters()}
    optimiser = make_optimiser(blip.model, recipe)
    loss_of(blip, caption_tokens(blip.tokenizer, NAMES, LABELS), 0.1).backward()
    optimiser.step()
    changed = {name for name, p in blip.model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("vision_model.") for name in changed)
    assert "text_decoder.bert.embeddings.word_embeddings.weight" not in changed
    assert "text_decoder.bert.encoder.layer.0.crossattention.self.query.weight" in changed


def test_the_real_vocabulary_gives_one_token_ids() -> None:
    tokenizer = blip_tokenizer(read_vocabulary(shared_data("bert_base_uncased_vocab.txt")))
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.sep_token_id) == (30_524, 30_522, 102)
    tokens = caption_tokens(tokenizer, CaptionFormat(), FOOD101)
    assert tokens.input_ids[6].tolist() == [30_522, 1037, 6302, 1997, 12090, 1020]
    assert tokens.targets[6].tolist() == [IGNORED] * 4 + [1020, 102]
    assert bool((tokens.mask == 1).all()), "with ids there is no padding"
    assert len(label_tree(tokenizer, CaptionFormat(), FOOD101).fork_rows) == 1
    assert len(label_tree(tokenizer, NAMES, FOOD101).fork_rows) > 5


def test_learning_rate_warms_up_and_falls() -> None:
    recipe = load_recipe("drawn", ["train.warmup=0.1", "train.final_rate=0.01"]).train
    rates = [rate_at(step, 1000, recipe) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[99] == max(rates) == 1.0
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == pytest.approx(0.01, abs=1e-4)
