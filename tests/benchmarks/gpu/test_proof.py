"""`make gpu-proof`: onnxruntime-gpu's real CUDA provider on the stand-in device; TensorRT's compiler by its face."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import proof
from benchmarks.gpu.cases import ON_PURPOSE, USUAL, Case, _model
from contract.errors import ContractError
from export.inspect.__main__ import inspect_bundle, report
from export.inspect.proved import read_record

# Stands for Python with TensorRT-RTX: takes every graph but the one with a node on purpose, and none where it says so.
COMPILER = f"""#!{sys.executable}
import json, os, sys
for job in json.load(sys.stdin):
    bad = "control" in job["path"] and "{ON_PURPOSE}" or os.environ.get("REFUSED", "") == job["capability"] and "n7"
    limit = "a limit" if os.environ.get("LIMITED") == job["capability"] else None
    fault = f"TensorRT-RTX refuses Kind '{{bad}}'" if bad else None
    print(json.dumps({{**job, "layers": 3, "seconds": 0.1, "fault": fault, "limit": limit}}))
"""


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    path = tmp_path / "compiler"
    path.write_text(COMPILER)
    path.chmod(0o755)
    return path


def test_a_bundle_is_proved_and_inspect_says_for_what(
    stand_in_device: Path, bundle: Path, compiler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    assert proof.main(["--bundle", str(bundle), "--work", str(work), "--tensorrt", str(compiler)]) == 0
    said = capsys.readouterr().out
    assert "control: The provider 'cuda' was asked for, but of encoder.onnx 1 of its nodes would run on the CPU" in said
    assert f"(Hardmax '{ON_PURPOSE}')" in said
    assert f"TensorRT-RTX refuses Kind '{ON_PURPOSE}'" in said
    assert proof.GOOD in said
    rows = json.loads((work / "proof.json").read_text())["graphs"]
    assert [row["file"] for row in rows] == ["encoder.onnx", "scorer.onnx", "decoder.onnx"]
    for row in rows:
        assert row["cuda"] == {"7.5": [], "9.0": []}
        assert row["nodes"] > 10
        assert row["cudnn"] is None, "BLIP's graphs run without cuDNN, captions too"
    assert "not in the record" in report(inspect_bundle(bundle))
    words = report(inspect_bundle(bundle, work / "proved.json"))
    assert words.count("CUDA takes every node on 7.5, 9.0 (onnxruntime-gpu ") == 3
    assert words.count("compiles for 7.5, 8.9; needs no cuDNN") == 3


def row(**changes: Any) -> proof.Row:
    return proof.Row("base fp16 opset 23", "scorer.onnx", "0" * 64, nodes=5, **changes)


def test_the_table_tells_faults_limits_and_what_was_not_asked() -> None:
    plan = proof.Plan()
    found = row(cuda={"7.5": [], "9.0": ["any batch: Det 'n7'"]}, tensorrt={"7.5": []}, limits={"7.5": "no float32"})
    assert (
        proof._line(found, plan).split()[-8:] == ["5", "of", "all", "FAULT", "parsed", "*", "-", "not", "needed"][-8:]
    )
    assert found.faults == ["base fp16 opset 23 scorer.onnx, CUDA 9.0: any batch: Det 'n7'"]


def test_a_structure_that_is_not_the_recorded_one_is_a_fault(tmp_path: Path) -> None:
    args = SimpleNamespace(work=tmp_path, bundle=None, record=False, full=False)
    (said,) = proof._recorded([row()], args)  # type: ignore[arg-type]
    assert said.startswith("base fp16 opset 23 scorer.onnx has another structure than in export/inspect/proved.json; ")
    assert read_record(tmp_path / "proved.json").of("0" * 64) is not None


def test_the_committed_record_has_every_usual_graph() -> None:
    names = set(read_record().graphs)
    for case in USUAL:
        files = ("scorer.onnx",) if case.bank else ("encoder.onnx", "scorer.onnx", "decoder.onnx")
        assert {f"{case} {file}" for file in files} <= names


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ("print('{\"path\": 1}')", r"^-c .* answered 1 times for 2 graphs\.$"),
        ("import os; print('{}\\n{}', flush=True); os.kill(os.getpid(), 9)", r"^-c .* ended with -9: $"),
    ],
)
def test_a_step_that_dies_or_gives_too_few_answers_is_told(does: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        proof._ask([sys.executable, "-c", does], [{}, {}], dict(os.environ))


def test_the_graphs_are_those_of_a_trained_model() -> None:
    """In a new one biases are zeros, which the exporter leaves out: the structure would be no trained model's."""
    blip = _model(Case("tiny", "fp32", 23))
    assert [name for name, one in blip.model.named_parameters() if one.numel() > 1 and one.min() == one.max()] == []


def test_two_proofs_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with proof._alone(tmp_path):
        assert proof.main(["--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("; wait for it, or choose another --work.\n")


def test_bf16_is_not_asked_for_below_8() -> None:
    assert proof._able(("7.5", "8.0", "12.0"), "bf16") == ["8.0", "12.0"]


def test_without_tensorrt_a_sentence_says_what_to_do(
    stand_in_device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proof.main(["--work", str(tmp_path), "--tensorrt", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.endswith("; run `make tensorrt-rtx` (96 MB).\n")


def test_a_bundle_for_the_cpu_alone_is_refused(
    stand_in_device: Path, bundle: Path, compiler: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    manifest = SimpleNamespace(manifest=SimpleNamespace(precision="int8", providers=("cpu",)))
    monkeypatch.setattr("benchmarks.gpu.cases.read_bundle", lambda *_, **__: manifest)
    assert proof.main(["--bundle", str(bundle), "--work", str(tmp_path), "--tensorrt", str(compiler)]) == 1
    assert capsys.readouterr().err.endswith("is int8, which runs on cpu only.\n")
