"""Export at another image size: interpolated positions are a constant, and the service gives PyTorch's labels."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
import torch

from contract.bundle import MANIFEST_FILE, Manifest, read_bundle
from contract.errors import ContractError
from contract.pixels import PIXEL_MEAN, PIXEL_STD, photo_to_pixels
from export.__main__ import main
from export.bundle import export_bundle
from export.gate.parity import ParityError
from export.graphs.encoder import VisionEncoder
from export.graphs.resolution import check_image_size, positions_at
from export.inspect.__main__ import inspect_bundle
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.scoring import label_logprobs_by_fork
from tests.conftest import drawn_png, serving
from tests.export.conftest import Once, trace_only

SIZES = (16, 48)  # the model is trained at 32, with patches of 8


@pytest.fixture(scope="module")
def loaded(strong_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(strong_checkpoint)


@pytest.fixture(scope="module")
def large(loaded: Checkpoint, once: Once) -> Path:
    return once(
        "tiny-48", lambda path: export_bundle(loaded, path, name="tiny", opset=18, image_size=48, compare=False)
    )


@pytest.fixture(params=SIZES)
def resized(request: pytest.FixtureRequest) -> Path:
    """A bundle of either size."""
    found: Path = request.getfixturevalue({16: "small_for_tensorrt", 48: "large"}[request.param])
    return found


def torch_embeds(checkpoint: Checkpoint, pixels: np.ndarray) -> torch.Tensor:
    """transformers' own interpolation, in words that share nothing with `export`."""
    images = (torch.from_numpy(pixels).float() / 255 - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    with torch.no_grad():
        vision = checkpoint.model.vision_model(images.permute(0, 3, 1, 2), interpolate_pos_encoding=True)
    embeds: torch.Tensor = vision.last_hidden_state
    return embeds


def test_the_service_gives_pytorchs_labels(resized: Path, loaded: Checkpoint) -> None:
    manifest, tree = read_bundle(resized).manifest, loaded.tree()
    assert tree is not None
    assert loaded.labels is not None
    photos = [drawn_png(index) for index in range(24)]
    pixels = np.stack([photo_to_pixels(photo, manifest.image_size) for photo in photos])
    scores = label_logprobs_by_fork(loaded.model, torch_embeds(loaded, pixels), tree)
    wanted = [loaded.labels.names[i] for i in scores.argmax(dim=1).tolist()]
    best = scores.topk(2, dim=1).values
    clear = (best[:, 0] - best[:, 1] > 1e-3).tolist()  # the others may turn by the processor's rounding
    confidence = (scores / manifest.temperature).softmax(dim=1).amax(dim=1)
    with serving(resized) as url, httpx.Client(base_url=url) as client:
        answers = [client.post("/predict", content=photo).json() for photo in photos]
        info = client.get("/info").json()
    assert all(answer["label"] == name for answer, name, sure in zip(answers, wanted, clear, strict=True) if sure)
    assert sum(clear) >= 20
    assert np.allclose([answer["confidence"] for answer in answers], confidence, atol=1e-3)
    assert len(set(wanted)) > 1, "the labels depend on the picture"
    assert info["image_size"] == manifest.image_size


def test_positions_are_a_constant_of_the_graph(resized: Path, loaded: Checkpoint) -> None:
    manifest = read_bundle(resized).manifest
    model = onnx.load(resized / "encoder.onnx")
    assert not {node.op_type for node in model.graph.node} & {"Resize", "Upsample"}
    tokens = (manifest.image_size // 8) ** 2 + 1
    found = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if tuple(t.dims) == (1, tokens, 64)]
    assert len(found) == 1
    embeddings = loaded.model.vision_model.embeddings
    wanted = positions_at(loaded.model, manifest.image_size)
    assert np.allclose(wanted[:, 0], embeddings.position_embedding[:, 0].detach()), "the class token's is kept"
    bias, token = embeddings.patch_embedding.bias.detach(), embeddings.class_embedding.detach()
    assert np.allclose(found[0], torch.cat([wanted[:, :1] + token, wanted[:, 1:] + bias], dim=1), atol=1e-6)
    assert [graph.foldable for graph in inspect_bundle(resized).graphs.values()] == [[], [], [], []]


def test_the_manifest_says_both_sizes(resized: Path, loaded: Checkpoint) -> None:
    manifest = read_bundle(resized).manifest
    assert manifest.image_size in SIZES
    assert manifest.image_tokens == (manifest.image_size // 8) ** 2 + 1
    assert manifest.trained_image_size == 32
    assert loaded.metrics != {}
    assert manifest.metrics == {}, "what was measured at 32 px says nothing about this size"
    assert manifest.temperature == loaded.temperature


def test_manifests_from_before_the_field_are_read(bundle: Path) -> None:
    data = json.loads((bundle / MANIFEST_FILE).read_text())
    assert data.pop("trained_image_size") == data["image_size"] == 32
    assert data["metrics"] != {}
    assert Manifest.model_validate(data).trained_image_size is None


def test_the_models_own_size_is_not_interpolated(loaded: Checkpoint) -> None:
    assert torch.equal(positions_at(loaded.model, 32), loaded.model.vision_model.embeddings.position_embedding)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(VisionEncoder(loaded.model)(pixels), VisionEncoder(loaded.model, 32)(pixels))


def test_the_gate_refuses_another_interpolation(
    loaded: Checkpoint, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, large, VisionEncoder)

    def bilinear(model: torch.nn.Module, size: int) -> torch.Tensor:
        trained = loaded.model.vision_model.embeddings.position_embedding.detach()
        grid = trained[:, 1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
        grid = torch.nn.functional.interpolate(grid, size=(size // 8, size // 8), mode="bilinear")
        return torch.cat([trained[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    monkeypatch.setattr("export.graphs.encoder.positions_at", bilinear)
    with pytest.raises(ParityError, match="encoder.onnx differs from PyTorch by"):
        export_bundle(loaded, tmp_path / "out", name="off", opset=18, image_size=48)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [30, 8, 0, -16, 1032])
def test_sizes_that_are_refused(loaded: Checkpoint, tmp_path: Path, size: int) -> None:
    words = f"The image size {size} cannot be exported: choose a multiple of the model's patch size 8, from 16 to 1024"
    with pytest.raises(ContractError, match=words):
        export_bundle(loaded, tmp_path / "out", name="no", opset=18, image_size=size)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_are_good(loaded: Checkpoint) -> None:
    for size in (16, 32, 40, 1024):
        check_image_size(loaded.model, size)


def test_the_command_says_that_accuracy_is_not_measured(
    checkpoint: Path, small_for_tensorrt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = small_for_tensorrt.with_suffix(".txt").read_text()
    assert "image size 16 px, trained at 32 px" in shown
    assert "does not measure accuracy" in shown
    assert read_bundle(small_for_tensorrt).manifest.image_tokens == 5
    assert main([str(checkpoint), str(tmp_path / "no"), "--image-size", "20"]) == 1
    assert "multiple of the model's patch size 8" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
