"""New models: the same weights for the same seed, and a base's tower under a new decoder."""

from __future__ import annotations

import dataclasses

import torch

from modeling.build import cosine_filters, new_blip, with_new_decoder
from modeling.vocabulary import new_tokenizer
from tests.modeling.conftest import LABELS, NAMES, SHAPE, small_blip


def test_a_new_model_has_its_shape_and_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    config = small_blip().model.config
    assert torch.equal(torch.rand(1), wanted)
    vision, text = config.vision_config, config.text_config
    assert (vision.image_size, vision.patch_size, vision.hidden_size, vision.num_hidden_layers) == (16, 8, 16, 1)
    assert (text.hidden_size, text.num_hidden_layers, text.encoder_hidden_size) == (32, 2, 16)
    assert vision.num_attention_heads == text.num_attention_heads == 2


def test_the_patch_embedding_starts_from_cosine_patterns() -> None:
    filters = cosine_filters(16, 8, torch.Generator().manual_seed(0))
    assert torch.equal(small_blip().model.vision_model.embeddings.patch_embedding.weight, filters)
    flat = filters.flatten(1)
    assert int(torch.linalg.matrix_rank(flat)) == 16, "no two are the same"


def test_a_new_decoder_keeps_the_tower_and_where_it_came_from() -> None:
    base = small_blip(seed=3)
    base.pickle_sha256 = "0" * 64
    shape = dataclasses.replace(SHAPE, text_width=48, text_layers=1, vision_width=64)
    tokenizer = new_tokenizer(NAMES.render(label) for label in LABELS)
    made = with_new_decoder(base, shape, tokenizer, 0)
    tower = base.model.vision_model.state_dict()
    assert all(torch.equal(weight, tower[name]) for name, weight in made.model.vision_model.state_dict().items())
    text = made.model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.encoder_hidden_size) == (48, 1, 16)
    assert made.pickle_sha256 == base.pickle_sha256
    other = new_blip(shape, tokenizer, 0)
    assert other.pickle_sha256 is None
