"""Loading: what is refused, tokenizers without [DEC], and pickled weights of a folder or the hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from contract.errors import CheckpointError
from modeling.captions import packed_captions
from modeling.load import PICKLE, Blip, load_blip
from modeling.vocabulary import caption_vocabulary
from tests.modeling.conftest import LABELS, NAMES, noise, small_blip


def test_eight_heads_at_base_width_are_refused(tmp_path: Path) -> None:
    config = BlipConfig(
        text_config={"num_hidden_layers": 1, "vocab_size": 40, "num_attention_heads": 8, "intermediate_size": 8},
        vision_config={"num_hidden_layers": 1, "image_size": 16, "hidden_size": 32, "num_attention_heads": 2},
    )
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    small_blip().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"8 attention heads at width 768, but BLIP-base has 12"):
        load_blip(str(tmp_path))


def test_what_is_no_blip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_blip(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "model.pkl").touch()
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        load_blip(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="'vit' model"):
        load_blip(str(tmp_path))


def test_damaged_weights_are_one_sentence(tmp_path: Path) -> None:
    blip = small_blip()
    blip.model.save_pretrained(tmp_path)
    blip.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="cannot be loaded") as refused:
            load_blip(str(tmp_path))
        assert "\n" not in str(refused.value)


def test_a_model_that_cannot_be_fetched_is_one_sentence() -> None:
    with pytest.raises(CheckpointError, match="'nobody/nothing' cannot be loaded"):
        load_blip("nobody/nothing")


def test_a_tokenizer_without_dec_gets_it(tmp_path: Path) -> None:
    """As BLIP's published one, which has 30,522 pieces while the model has 30,524 rows."""
    made = small_blip()
    vocabulary = caption_vocabulary(NAMES.render(label) for label in LABELS)
    made.model.save_pretrained(tmp_path)
    BertTokenizer(vocab=vocabulary, do_lower_case=True).save_pretrained(tmp_path)
    loaded = load_blip(str(tmp_path))
    assert loaded.tokenizer.bos_token_id == made.tokenizer.bos_token_id == len(vocabulary)
    packed = packed_captions(loaded.tokenizer, NAMES, LABELS)
    assert torch.equal(packed.tokens, packed_captions(made.tokenizer, NAMES, LABELS).tokens)
    shorter = {piece: i for piece, i in vocabulary.items() if i < len(vocabulary) - 1}
    BertTokenizer(vocab=shorter, do_lower_case=True).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="they do not belong together"):
        load_blip(str(tmp_path))


def test_a_tokenizer_with_another_end_is_refused(tmp_path: Path) -> None:
    blip = small_blip()
    blip.model.config.text_config.sep_token_id += 1
    blip.model.save_pretrained(tmp_path)
    blip.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ends captions with id 3, its model with 4"):
        load_blip(tmp_path)


def pickled(folder: Path, blip: Blip, **changes: torch.Tensor) -> Path:
    """A model folder as it was written before safetensors."""
    blip.model.config.save_pretrained(folder)
    blip.tokenizer.save_pretrained(folder)
    torch.save({**blip.model.state_dict(), **changes}, folder / PICKLE)
    return folder


def test_pickled_weights_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    blip = small_blip(gain=2)
    # Buffers that older releases of transformers stored, and this one makes itself.
    position_ids = torch.arange(64)[None]
    folder = pickled(tmp_path, blip, **{"text_decoder.bert.embeddings.position_ids": position_ids})
    found = load_blip(folder)
    assert found.pickle_sha256 is not None
    with torch.no_grad():
        assert torch.equal(found.embed(noise(2)), blip.embed(noise(2)))
    tied = found.model.text_decoder
    assert tied.cls.predictions.decoder.weight is tied.bert.embeddings.word_embeddings.weight
    assert load_blip(folder, sha256=found.pickle_sha256).pickle_sha256 == found.pickle_sha256
    with pytest.raises(CheckpointError, match="not the file that was expected"):
        load_blip(folder, sha256="0" * 64)
    blip.model.save_pretrained(tmp_path)
    assert load_blip(folder).pickle_sha256 is None, "safetensors come first"
    with pytest.raises(CheckpointError, match="leave its sha256 out"):
        load_blip(folder, sha256=found.pickle_sha256)


def test_pickled_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    pickled(tmp_path, small_blip())
    weights = torch.load(tmp_path / PICKLE, weights_only=True)
    del weights["vision_model.post_layernorm.weight"]
    torch.save(weights, tmp_path / PICKLE)
    with pytest.raises(CheckpointError, match=r"lacks the weight vision_model\.post_layernorm\.weight"):
        load_blip(tmp_path)
    weights["vision_model.post_layernorm.weight"] = torch.zeros(3)
    torch.save(weights, tmp_path / PICKLE)
    with pytest.raises(CheckpointError, match=r"weight vision_model\.post_layernorm\.weight of .* has not the shape"):
        load_blip(tmp_path)


def test_a_missing_weight_is_no_random_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    blip = small_blip()
    weights = blip.model.state_dict()
    for part in ("text_decoder.bert.encoder.layer.1.output.dense.bias", "vision_model.post_layernorm.bias"):
        blip.model.save_pretrained(tmp_path, state_dict={k: v for k, v in weights.items() if k != part})
        blip.tokenizer.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=f"lacks the weight {re.escape(part)} of a BLIP captioning model"):
            load_blip(tmp_path)
    assert "LOAD REPORT" not in capfd.readouterr().err, "the sentence says it"


def test_pickled_weights_of_a_hub_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's cache holds them; nothing is fetched."""
    model = tmp_path / "models--somebody--old"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    blip = small_blip(gain=2)
    pickled(model / "snapshots" / ("0" * 40), blip)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = load_blip("somebody/old")
    assert found.pickle_sha256 is not None
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), blip.model.parameters(), strict=True))
