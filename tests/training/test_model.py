"""The model of a run: what it starts from, true parameter counts, and freeze policies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from contract.errors import CheckpointError, ContractError
from contract.labels import LabelSet
from modeling.checkpoint import save_checkpoint
from modeling.load import PICKLE, Blip
from modeling.towers import LITE0, VIT, tower_digest
from training.drawn.pictures import FOODS
from training.model import (
    freeze,
    frozen_digest,
    initial_blip,
    parameter_counts,
    parameter_report,
    starting_point,
)
from training.recipe import Recipe, load_recipe

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
        initial_blip(load_recipe("drawn-scratch", [f"seed={seed}"]), LABELS).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vision_model.encoder.layers.0.mlp.fc1.weight"],
                           other["vision_model.encoder.layers.0.mlp.fc1.weight"])  # fmt: skip


def test_captions_start_with_dec_and_end_at_sep() -> None:
    blip = initial_blip(load_recipe("drawn-scratch", []), LABELS)
    text = blip.model.config.text_config
    assert blip.tokenizer.convert_ids_to_tokens([text.bos_token_id, text.sep_token_id]) == ["[DEC]", "[SEP]"]
    assert text.num_attention_heads == 4


def test_a_new_decoder_on_the_tower_of_a_base(tmp_path: Path) -> None:
    base = initial_blip(load_recipe("drawn-scratch", ["seed=3"]), LABELS)
    base.model.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    other = LabelSet.from_names(["pho", "ramen", "a name that the base has no words for"])
    recipe = load_recipe("drawn-scratch", [f"model.base={tmp_path / 'base'}", "model.new_decoder=true",
                                           "model.text_layers=1", "model.text_width=48", "caption.target=name"])  # fmt: skip
    made = initial_blip(recipe, other)
    tower = base.model.vision_model.state_dict()
    assert all(torch.equal(weight, tower[name]) for name, weight in made.model.vision_model.state_dict().items())
    text = made.model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.encoder_hidden_size) == (48, 1, 96)
    assert made.tokenizer.unk_token_id not in made.tokenizer(recipe.caption.render(other[2])).input_ids
    again = initial_blip(recipe, other)
    assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), again.model.parameters(), strict=True))


def test_the_digest_is_of_what_does_not_train() -> None:
    model = initial_blip(load_recipe("drawn-scratch", []), LABELS).model
    freeze(model, "decoder")
    before = frozen_digest(model)
    with torch.no_grad():
        model.text_decoder.bert.embeddings.word_embeddings.weight.add_(1)
    assert frozen_digest(model) == before
    with torch.no_grad():
        model.vision_model.post_layernorm.bias.add_(1)
    assert frozen_digest(model) != before


def test_a_pickled_base_is_the_one_that_was_named(tmp_path: Path) -> None:
    blip = initial_blip(load_recipe("drawn-scratch", []), LABELS)
    blip.model.config.save_pretrained(tmp_path)
    blip.tokenizer.save_pretrained(tmp_path)
    torch.save(blip.model.state_dict(), tmp_path / PICKLE)
    found = initial_blip(load_recipe("drawn-scratch", [f"model.base={tmp_path}"]), LABELS)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), blip.model.parameters(), strict=True))
    assert found.pickle_sha256 is not None
    named = [f"model.base={tmp_path}", "model.new_decoder=true", f"model.base_sha256={found.pickle_sha256}"]
    assert initial_blip(load_recipe("drawn-scratch", named), LABELS).pickle_sha256 == found.pickle_sha256
    other = [f"model.base={tmp_path}", f"model.base_sha256={'0' * 64}"]
    with pytest.raises(CheckpointError, match="not the file that was expected"):
        initial_blip(load_recipe("drawn-scratch", other), LABELS)
    with pytest.raises(ContractError, match="needs model.base"):
        load_recipe("drawn-scratch", [f"model.base_sha256={'0' * 64}"])


def test_what_a_run_starts_from_is_said() -> None:
    base, scratch = load_recipe("folder", []).model, load_recipe("drawn-scratch", []).model
    assert starting_point(base) == "Salesforce/blip-image-captioning-base"
    assert starting_point(scratch) == "a new model with random weights"
    assert "new text decoder with random weights on the pretrained" in starting_point(load_recipe("drawn", []).model)


# -- on the pretrained EfficientNet-Lite0 ------------------------------------------------------------------------------


def lite_recipe(*overrides: str) -> Recipe:
    return load_recipe("drawn-scratch", ["model.tower=efficientnet-lite0", "model.image_size=64", *overrides])


@pytest.fixture(scope="module")
def lite() -> Blip:
    return initial_blip(lite_recipe(), LABELS)


def test_report_on_lite0_is_true(lite: Blip) -> None:
    freeze(lite.model, "decoder")
    counts = parameter_counts(lite.model)
    tower, text = (
        sum(p.numel() for p in part.parameters()) for part in (lite.model.vision_model, lite.model.text_decoder)
    )
    assert (counts["vision"], counts["text"]) == (tower, text)
    assert tower == 4_652_008 - 1_281_000 - 21_008, "the published ones less the classifier and half the normalisations"
    assert counts["trainable"] == text == counts["total"] - tower
    assert f"(image tower {tower / 1e6:.1f} M, text decoder" in parameter_report(counts)


def test_last_blocks_of_lite0(lite: Blip) -> None:
    freeze(lite.model, "last-2-vision-blocks")
    training = {name for name, p in lite.model.vision_model.named_parameters() if p.requires_grad}
    assert {".".join(name.split(".")[:-2]) for name in training if name.startswith("blocks.")} == {
        "blocks.14",
        "blocks.15",
    }
    assert {name for name in training if not name.startswith("blocks.")} == {"head.weight", "head.bias"}
    freeze(lite.model, "all")
    assert parameter_counts(lite.model)["trainable"] == parameter_counts(lite.model)["total"]
    with pytest.raises(CheckpointError, match="the image tower has 16 blocks"):
        freeze(lite.model, "last-17-vision-blocks")


def test_the_base_has_the_tower_that_the_recipe_names(tmp_path: Path, lite: Blip) -> None:
    save_checkpoint(tmp_path / "lite", lite, LABELS, None, replace=False)
    save_checkpoint(
        tmp_path / "vit", initial_blip(load_recipe("drawn-scratch", []), LABELS), LABELS, None, replace=False
    )
    for made, base, other in ((lite_recipe(), "vit", LITE0), (load_recipe("drawn-scratch", []), "lite", VIT)):
        wrong = made.model_copy(update={"model": made.model.model_copy(update={"base": str(tmp_path / base)})})
        with pytest.raises(
            CheckpointError, match=f"wants the image tower {other.name!r}, but .*{base}' has .*: set model"
        ):
            initial_blip(wrong, LABELS)
    found = initial_blip(lite_recipe(f"model.base={tmp_path / 'lite'}"), LABELS)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), lite.model.parameters(), strict=True))
    renewed = ["model.new_decoder=true", "model.text_width=48"]
    made_new = initial_blip(lite_recipe(f"model.base={tmp_path / 'lite'}", *renewed), LABELS)
    assert tower_digest(made_new.model) == tower_digest(lite.model)
    assert made_new.model.config.text_config.hidden_size == 48


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.image_size=100", "model: image_size 100 is not a multiple of 32, as efficientnet-lite0 needs; 96 is"),
        ("model.tower=efficientnet", "model.tower: Input should be 'blip-vit' or 'efficientnet-lite0'"),
    ],
)
def test_a_tower_or_size_that_there_is_not(override: str, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        lite_recipe(override)
