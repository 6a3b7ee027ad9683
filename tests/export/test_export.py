"""Export: exact graphs for ids and names, opsets 18 and 23, one copy of shared weights, and a gate that refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from contract.bundle import read_bundle
from export.__main__ import main
from export.bundle import export_bundle
from export.configs import DecoderConfig, EncoderConfig, ScorerConfig, StepConfig
from export.gate.parity import ParityError, probe_pixels
from export.graphs.decoder import Scorer
from modeling.checkpoint import Checkpoint, load_checkpoint
from modeling.scoring import image_embeds, label_logprobs_by_fork
from tests.conftest import ROOT, drawn_png, run_module
from tests.export.conftest import FILES, export_by_command, trace_only


def run_graph(graph: Path | bytes, **inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, inputs)[0]
    return result


def test_configurations_follow_optimums_base(checkpoint: Path) -> None:
    config = load_checkpoint(checkpoint).model.config
    best = ["best_token", "best_logit", "logits"]
    for made, outputs in (
        (EncoderConfig(config), ["image_embeds"]),
        (ScorerConfig(config), ["label_logprobs"]),
        (DecoderConfig(config, 32), best),
        (StepConfig(config), [*best, "present"]),
    ):
        dummies = made.generate_dummy_inputs(framework="pt", batch_size=3)
        assert set(dummies) == set(made.inputs)
        for name, axes in made.inputs.items():
            assert all(dummies[name].shape[axis] == 3 for axis, symbol in axes.items() if symbol == "batch"), name
        assert list(made.outputs) == outputs


def test_names_are_scored_exactly_in_one_pass(
    names: Checkpoint, names_bundle: Path, names_scorer: onnx.ModelProto
) -> None:
    tree = names.tree()
    assert tree is not None
    assert len(tree.fork_rows) > 5, "names share first words, so the tree has forks"
    pixels = probe_pixels(7, 32, seed=9)  # a batch size that the gate did not see
    embeds = run_graph(names_bundle / "encoder.onnx", pixels=pixels)
    found = run_graph(names_scorer.SerializeToString(), image_embeds=embeds)
    wanted = label_logprobs_by_fork(names.model, image_embeds(names.model, torch.from_numpy(pixels)), tree)
    assert np.abs(found - wanted.numpy()).max() < 1e-4
    assert np.allclose(np.exp(found).sum(axis=1), 1, atol=1e-4)
    assert len({tuple(row) for row in np.round(found, 3)}) == 7, "the scores depend on the picture"


@pytest.mark.parametrize(("opset", "fixture"), [(18, "names_bundle"), (23, "bundle")])
def test_the_manifest_has_the_gates_figures(request: pytest.FixtureRequest, opset: int, fixture: str) -> None:
    path: Path = request.getfixturevalue(fixture)
    manifest = read_bundle(path).manifest
    for graph in FILES.values():
        assert manifest.opset == onnx.load(path / graph, load_external_data=False).opset_import[0].version == opset
    assert manifest.parity["same_label"] == "8 of 8"
    assert max(manifest.parity["max_error"].values()) < 1e-4


def test_a_gpu_needs_no_cudnn_for_them(names_bundle: Path) -> None:
    """What the CUDA provider of onnxruntime-gpu 1.31.1 leaves to cuDNN, of the kinds that torch's exporter writes."""
    of_cudnn = {"Conv", "MaxPool", "GlobalAveragePool", "BatchNormalization"}
    of_cudnn |= {f"Reduce{kind}" for kind in ("Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")}
    found = {node.op_type for graph in FILES.values() for node in onnx.load(names_bundle / graph).graph.node}
    assert "MatMul" in found
    assert not found & of_cudnn


def test_graphs_take_any_batch_and_uint8_pixels(bundle: Path) -> None:
    manifest = read_bundle(bundle).manifest
    assert manifest.demonstration, "this model learnt from drawings"
    size = manifest.image_size
    for batch in (1, 3, 16):
        embeds = run_graph(bundle / "encoder.onnx", pixels=probe_pixels(batch, size))
        assert embeds.shape == (batch, manifest.image_tokens, manifest.width)
        ids = np.full((batch, manifest.tokens.static_length), manifest.tokens.bos)
        for position in (0, 6):
            tokens = run_graph(
                bundle / "decoder.onnx", input_ids=ids, position=np.array([position]), image_embeds=embeds
            )
            assert tokens.shape == (batch,)


def test_shared_weights_are_stored_once(checkpoint: Path, bundle: Path) -> None:
    model = load_checkpoint(checkpoint).model
    floats = {
        name: sum(p.numel() for n, p in model.named_parameters() if n.startswith(name)) for name in ("vision", "text")
    }
    sizes = {name: entry.bytes for name, entry in read_bundle(bundle).manifest.files.items()}
    assert sizes["encoder.weights"] < 4 * floats["vision"] * 1.1
    assert sizes["text.weights"] < 4 * floats["text"] * 1.1, "scorer and decoder share their layers"
    places = []
    for graph in ("scorer.onnx", "decoder.onnx", "decoder_step.onnx"):
        tensors = onnx.load(bundle / graph, load_external_data=False).graph.initializer
        places.append({tuple((e.key, e.value) for e in t.external_data) for t in tensors if t.external_data})
    assert len(places[0] & places[1]) >= 16
    assert len(places[1] & places[2]) >= len(places[2]) - 1, "the decoders differ in how they are run, not in weights"


def test_no_vendor_operators(bundle: Path) -> None:
    for graph in ("encoder.onnx", "scorer.onnx", "decoder.onnx", "decoder_step.onnx"):
        assert {node.domain for node in onnx.load(bundle / graph, load_external_data=False).graph.node} <= {""}


def test_no_graph_reads_a_shape(bundle: Path) -> None:
    """Shape arithmetic runs on the CPU, so a GPU session that reads one is refused."""
    for graph in ("encoder.onnx", "scorer.onnx", "decoder.onnx"):
        types = {node.op_type for node in onnx.load(bundle / graph, load_external_data=False).graph.node}
        assert not types & {"Shape", "Size", "NonZero", "Expand", "ConstantOfShape", "Range"}, graph


def test_graphs_name_no_folder_of_this_machine(bundle: Path) -> None:
    for file in bundle.glob("*.onnx"):
        assert str(ROOT).encode() not in file.read_bytes()
        assert b".py" not in file.read_bytes()


def test_the_gate_refuses_a_wrong_graph(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, bundle)  # and what has no class of its own in it

    class Off(Scorer):
        def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
            return super().forward(image_embeds * 1.01)

    monkeypatch.setattr("export.bundle.Scorer", Off)
    with pytest.raises(ParityError, match=r"scorer.onnx differs from PyTorch by"):
        export_bundle(load_checkpoint(checkpoint), tmp_path / "out", name="off", opset=23)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_stock_model_becomes_a_captioner(
    names_checkpoint: Path, names_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace_only(monkeypatch, names_bundle)
    assert "familiarity" not in export_by_command(names_checkpoint, tmp_path / "out", "--opset", 18)
    found = read_bundle(tmp_path / "out")
    assert found.labels is None
    assert "scorer.onnx" not in found.manifest.files
    assert not found.manifest.demonstration
    assert found.check is not None
    assert found.check.label_logprobs is None


def test_command_line_mistakes_are_one_sentence(
    checkpoint: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), str(bundle)]) == 1
    existing = capsys.readouterr().err
    assert existing.count("\n") == 1
    assert "--force" in existing
    missing = run_module("export", tmp_path / "nowhere", tmp_path / "out")
    assert missing.returncode == 1
    assert missing.stderr == f"export: There is no checkpoint folder at {tmp_path / 'nowhere'}.\n"
    with pytest.raises(SystemExit) as left:
        main([str(checkpoint)])
    assert left.value.code == 2


def test_photos_can_join_the_gate(
    checkpoint: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace_only(monkeypatch, bundle)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(drawn_png(0))
    shown = export_by_command(checkpoint, tmp_path / "out", "--photos", tmp_path / "photos", "--opset", 23)
    assert "on 6 samples" in shown
    assert "\nno familiarity: the checkpoint has no bank of training photos, so answers cannot tell whether a" in shown
    assert main([str(checkpoint), str(tmp_path / "other"), "--photos", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err == f"export: There is no photo in {tmp_path / 'nowhere'}.\n"
