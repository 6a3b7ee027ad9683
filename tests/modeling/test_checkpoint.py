"""Checkpoint folders: what is written is what is read, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.caption import CaptionFormat
from contract.errors import CheckpointError, ContractError
from contract.labels import LabelSet
from modeling.checkpoint import (
    TRAINING_FILE,
    Checkpoint,
    checkpoint_digest,
    load_checkpoint,
    read_training_record,
    save_checkpoint,
)
from modeling.familiarity import FAMILIARITY_FILE, make_bank, read_bank
from modeling.load import PICKLE
from tests.modeling.conftest import LABELS, NAMES, small_blip


def copy_of(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_config(folder: Path, **text_config: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= text_config
    (folder / "config.json").write_text(json.dumps(config))


def test_checkpoints_that_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    change_config(copy, hidden_size=768, num_attention_heads=8)
    with pytest.raises(CheckpointError, match="8 attention heads at width 768"):
        load_checkpoint(copy)
    with pytest.raises(CheckpointError, match="no checkpoint folder at"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="differs from the labels given"):
        load_checkpoint(checkpoint, LabelSet.from_names(["a", "b"]))


def test_a_checkpoint_without_its_labels_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    (copy / "labels.json").unlink()
    with pytest.raises(CheckpointError, match=r"no labels\.json"):
        load_checkpoint(copy)


def test_nan_in_the_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    weights = load_file(copy / "model.safetensors")
    name = "vision_model.post_layernorm.weight"
    weights[name][3] = float("nan")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"vision_model\.post_layernorm\.weight .* NaN"):
        load_checkpoint(copy)


def test_another_normalisation_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    path = copy / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="normalises with mean"):
        load_checkpoint(copy)


def test_checkpoint_saved_by_training_is_read(checkpoint: Path) -> None:
    found = load_checkpoint(checkpoint)
    assert found.labels is not None
    assert found.caption == CaptionFormat()
    assert 0 <= found.metrics["accuracy_scored"] <= 1


def test_a_damaged_record_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    copy = copy_of(checkpoint, tmp_path)
    assert read_training_record(copy) is not None
    for text in ("{", "{}", '{"format_version": 1, "more": 2}'):
        (copy / TRAINING_FILE).write_text(text)
        with pytest.raises(CheckpointError, match="is not a training record"):
            load_checkpoint(copy)


def started_from(folder: Path, recipe: dict[str, object]) -> Checkpoint:
    """The checkpoint with another recipe in its record."""
    record = json.loads((folder / TRAINING_FILE).read_text())
    (folder / TRAINING_FILE).write_text(json.dumps(record | {"recipe": recipe}))
    return load_checkpoint(folder)


def test_what_it_started_from_is_told_without_its_place(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(checkpoint, tmp_path)
    (tmp_path / "towers" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("towers/mine", "./mine", "../mine", "/somewhere/else/mine", "checkpoints/that/went/mine", "~/mine"):
        found = started_from(copy, {"model": {"base": base}})
        assert (found.base, found.source) == (base, "mine")
    assert started_from(copy, {"model": {"base": "towers/mine2"}}).source == "towers/mine2", "a name on the hub"
    assert started_from(copy, {"model": {"base": "."}}).source == tmp_path.name


@pytest.mark.parametrize(
    "recipe", [{}, {"model": None, "data": None}, {"model": "blip"}, {"model": {"base": 5}}, {"model": [], "data": []}]
)
def test_a_record_of_any_recipe_is_read(recipe: dict[str, object], checkpoint: Path, tmp_path: Path) -> None:
    found = started_from(copy_of(checkpoint, tmp_path), recipe)
    assert (found.base, found.source, found.drawn) == (None, None, False)


def test_what_was_trained_on_drawings_is_known_by_its_record(checkpoint: Path, tmp_path: Path) -> None:
    assert load_checkpoint(checkpoint).drawn
    copy = copy_of(checkpoint, tmp_path)
    assert not started_from(copy, {"data": {"source": "folder", "train": "drawn"}}).drawn
    (copy / TRAINING_FILE).unlink()
    assert not load_checkpoint(copy).drawn, "a stock model"


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    blip = small_blip()
    save_checkpoint(tmp_path / "out", blip, LABELS, None, replace=False)
    found = load_checkpoint(tmp_path / "out", LABELS, NAMES)
    assert (found.labels, found.caption, found.metrics, found.temperature) == (LABELS, NAMES, {}, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), blip.model.parameters(), strict=True))
    assert found.tokenizer.get_vocab() == blip.tokenizer.get_vocab()
    assert found.image_size == 16
    assert not list((tmp_path / "out").glob("*.bin"))
    before = checkpoint_digest(tmp_path / "out")
    save_checkpoint(tmp_path / "carded", blip, LABELS, None, card="# mine\n", replace=False)
    assert (tmp_path / "carded" / "README.md").read_text() == "# mine\n"
    assert checkpoint_digest(tmp_path / "carded") == before, "a card changes no model"
    (tmp_path / "carded" / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    assert checkpoint_digest(tmp_path / "carded") == before, "nor does what the hub adds"
    with pytest.raises(ContractError, match="--force"):
        save_checkpoint(tmp_path / "out", blip, LABELS, None, replace=False)
    assert not (tmp_path / "out" / FAMILIARITY_FILE).exists()
    rows = torch.nn.functional.normalize(torch.eye(16)[:12] + torch.arange(12)[:, None] / 12)
    bank = make_bank(rows, tower="0" * 64, image_size=16)
    save_checkpoint(tmp_path / "out", small_blip(seed=1), LABELS, None, bank, replace=True)
    read = read_bank(tmp_path / "out", tower="0" * 64, width=16)
    assert bank is not None
    assert read is not None
    assert torch.equal(read.features, bank.features)
    assert checkpoint_digest(tmp_path / "out") != before


def test_a_stock_model_has_a_tree_once_it_is_given_labels(tmp_path: Path) -> None:
    blip = small_blip()
    blip.model.save_pretrained(tmp_path)
    blip.tokenizer.save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path).tree() is None
    tree = load_checkpoint(tmp_path, LABELS, NAMES).tree()
    assert tree is not None
    assert tree.labels == len(LABELS)


def test_a_folder_of_pickled_weights_is_read(checkpoint: Path, tmp_path: Path) -> None:
    plain, copy = load_checkpoint(checkpoint), copy_of(checkpoint, tmp_path)
    torch.save(load_file(copy / "model.safetensors"), copy / PICKLE)
    (copy / "model.safetensors").unlink()
    found = load_checkpoint(copy)
    assert found.labels == plain.labels
    assert found.pickle_sha256 is not None
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), plain.model.parameters(), strict=True))
