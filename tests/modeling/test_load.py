"""Models: true parameter counts, freeze policies, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from contract.errors import CheckpointError
from contract.labels import LabelSet
from modeling.captions import packed_captions
from modeling.load import freeze, initial_blip, load_blip, parameter_counts, parameter_report
from modeling.vocabulary import caption_vocabulary
from training.drawn.pictures import FOODS
from training.recipe import load_recipe

LABELS = LabelSet.from_names(FOODS)


@pytest.fixture(scope="module")
def base_shapes() -> BlipForConditionalGeneration:
    """BLIP-base without weights: shapes only."""
    with torch.device("meta"):
        return BlipForConditionalGeneration(BlipConfig(text_config={"num_attention_heads": 12}))


def test_report_on_blip_base_is_true(base_shapes: BlipForConditionalGeneration) -> None:
    freeze(base_shapes, "decoder")
    counts = parameter_counts(base_shapes)
    assert counts["total"] == 223_971_644
    assert counts["trainable"] == 137_881_148
    assert counts["vision"] == 86_090_496
    assert "137.9 M of 224.0 M parameters train (61.6 %), 38.4 % frozen" in parameter_report(counts)
    freeze(base_shapes, "decoder", embeddings=True)
    assert parameter_counts(base_shapes)["trainable"] == 137_881_148 - 30_524 * 768  # 114.4 M


def test_last_blocks_of_the_tower(base_shapes: BlipForConditionalGeneration) -> None:
    freeze(base_shapes, "last-2-vision-blocks")
    training = {name for name, p in base_shapes.vision_model.named_parameters() if p.requires_grad}
    assert {name.split(".")[2] for name in training if name.startswith("encoder.layers.")} == {"10", "11"}
    assert {name for name in training if not name.startswith("encoder.")} == {
        "post_layernorm.weight",
        "post_layernorm.bias",
    }
    freeze(base_shapes, "all")
    assert parameter_counts(base_shapes)["trainable"] == 223_971_644
    with pytest.raises(CheckpointError, match="12 blocks"):
        freeze(base_shapes, "last-13-vision-blocks")


def test_same_seed_same_weights() -> None:
    first, again, other = (
        initial_blip(load_recipe("drawn", [f"seed={seed}"]), LABELS).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vision_model.encoder.layers.0.mlp.fc1.weight"],
                           other["vision_model.encoder.layers.0.mlp.fc1.weight"])  # fmt: skip


def test_captions_start_with_dec_and_end_at_sep() -> None:
    blip = initial_blip(load_recipe("drawn", []), LABELS)
    text = blip.model.config.text_config
    assert blip.tokenizer.convert_ids_to_tokens([text.bos_token_id, text.sep_token_id]) == ["[DEC]", "[SEP]"]
    assert text.num_attention_heads == 4


def test_eight_heads_at_base_width_are_refused(tmp_path: Path) -> None:
    config = BlipConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 40, "num_attention_heads": 8, "intermediate_size": 8},
        vision_config={"num_hidden_layers": 1, "image_size": 16, "hidden_size": 32, "num_attention_heads": 2},
    )
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    initial_blip(load_recipe("drawn", []), LABELS).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"8 attention heads at width 768, but BLIP-base has 12"):
        load_blip(str(tmp_path))


def test_what_is_no_blip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_blip(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        load_blip(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="'vit' model"):
        load_blip(str(tmp_path))


def test_a_model_that_cannot_be_fetched_is_one_sentence() -> None:
    with pytest.raises(CheckpointError, match="'nobody/nothing' cannot be loaded"):
        load_blip("nobody/nothing")


def test_a_new_decoder_on_the_tower_of_a_base(tmp_path: Path) -> None:
    base = initial_blip(load_recipe("drawn", ["seed=3"]), LABELS)
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    other = LabelSet.from_names(["pho", "ramen", "a name that the base has no words for"])
    recipe = load_recipe("drawn", [f"model.base={tmp_path / 'base'}", "model.new_decoder=true", "model.text_layers=1",
                                   "model.text_width=48", "caption.target=name"])  # fmt: skip
    made = initial_blip(recipe, other)
    tower = base.model.vision_model.state_dict()
    assert all(torch.equal(weight, tower[name]) for name, weight in made.model.vision_model.state_dict().items())
    text = made.model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.encoder_hidden_size) == (48, 1, 96)
    assert made.tokenizer.unk_token_id not in made.tokenizer(recipe.caption.render(other[2])).input_ids
    again = initial_blip(recipe, other)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True))


def test_a_tokenizer_without_dec_gets_it(tmp_path: Path) -> None:
    """BLIP's published tokenizer is plain BERT's: 30,522 pieces and no start token, while the model has 30,524 rows."""
    made = initial_blip(load_recipe("drawn", []), LABELS)
    vocabulary = caption_vocabulary(load_recipe("drawn", []).caption.render(label) for label in LABELS)
    made.model.save_pretrained(tmp_path)
    BertTokenizer(vocab=vocabulary, do_lower_case=True).save_pretrained(tmp_path)
    loaded = load_blip(str(tmp_path))
    assert loaded.tokenizer.bos_token_id == made.tokenizer.bos_token_id == len(vocabulary)
    packed = packed_captions(loaded.tokenizer, load_recipe("drawn", []).caption, LABELS)
    assert torch.equal(packed.tokens, packed_captions(made.tokenizer, load_recipe("drawn", []).caption, LABELS).tokens)
    shorter = {piece: i for piece, i in vocabulary.items() if i < len(vocabulary) - 1}
    BertTokenizer(vocab=shorter, do_lower_case=True).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="they do not belong together"):
        load_blip(str(tmp_path))
