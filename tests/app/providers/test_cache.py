"""The engine cache: an engine is found again for exactly what it was built for, and for nothing else."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.providers import cache as engine_cache
from app.providers.cache import KEY_FILE, EngineKey, engine_folder, entries, is_built, seal, timing_folder
from app.providers.gpu import Gpu, ProviderError
from app.providers.options import tensorrt_options
from contract.files import sha256_file

SHAPES = {name: {"pixels": (rows, 384, 384, 3)} for name, rows in (("smallest", 1), ("usual", 8), ("largest", 32))}
KEY = EngineKey(
    model="a" * 64,
    graph="encoder.onnx",
    precision="fp16",
    shapes=SHAPES,
    fixed={},
    cuda_graph=False,
    onnxruntime="1.31.1",
    tensorrt="10.16.1",
    gpu="NVIDIA H200",
    capability="9.0",
    options={"trt_builder_optimization_level": "3"},
)
OTHERS: dict[str, Any] = {
    "model": "b" * 64,
    "graph": "scorer.onnx",
    "precision": "fp32",
    "shapes": SHAPES | {"usual": {"pixels": (16, 384, 384, 3)}},
    "fixed": {"batch": 8},
    "cuda_graph": True,
    "onnxruntime": "1.32.0",
    "tensorrt": "10.16.2",
    "gpu": "NVIDIA H100 80GB HBM3",
    "capability": "8.9",
    "options": {"trt_builder_optimization_level": "5"},
}


def build(cache: Path, name: str = "a.engine") -> Path:
    """An engine for KEY in `cache`, as a session leaves it; its folder."""
    folder = engine_folder(cache, KEY)
    (folder / name).write_bytes(b"engine")
    seal(folder)
    return folder


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called, it makes everything read-only: root may write whatever the mode says."""
    return lambda: monkeypatch.setattr(os, "access", lambda path, mode: False)


def test_every_field_is_tried() -> None:
    assert set(OTHERS) == set(EngineKey.__dataclass_fields__)


@pytest.mark.parametrize("field", OTHERS)
def test_any_part_that_differs_gives_another_folder(field: str, tmp_path: Path) -> None:
    other = replace(KEY, **{field: OTHERS[field]})
    assert engine_folder(tmp_path, other) != engine_folder(tmp_path, KEY)
    assert len(entries(tmp_path)) == 2


def test_the_same_key_gives_the_same_folder(tmp_path: Path) -> None:
    first = build(tmp_path)
    assert engine_folder(tmp_path, replace(KEY)) == first
    assert (first / "a.engine").read_bytes() == b"engine"


def test_the_order_of_dimensions_does_not_matter(tmp_path: Path) -> None:
    one = replace(KEY, fixed={"batch": 8, "length": 4})
    assert engine_folder(tmp_path, one) == engine_folder(tmp_path, replace(KEY, fixed={"length": 4, "batch": 8}))


def test_the_names_can_be_read() -> None:
    assert KEY.name.startswith("encoder-batch1to32-")
    assert replace(KEY, fixed={"batch": 8}).name.startswith("encoder-batch8-")
    assert replace(KEY, shapes={}).name.startswith("encoder-batchany-")
    assert replace(KEY, graph="../my graph.onnx").name.startswith("my-graph-batch1to32-")


def test_the_key_says_what_the_engine_is_for(tmp_path: Path) -> None:
    said = json.loads((engine_folder(tmp_path, KEY) / KEY_FILE).read_text())
    assert said == json.loads(json.dumps(KEY.__dict__))


@pytest.mark.parametrize("damage", ["another", "half", "binary", "gone"])
def test_a_folder_with_a_wrong_key_is_left_alone(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = engine_folder(tmp_path, KEY)
    (folder / "a.engine").write_bytes(b"engine")
    if damage == "another":
        (folder / KEY_FILE).write_text(replace(KEY, model="b" * 64).json)
    elif damage == "half":
        (folder / KEY_FILE).write_text(KEY.json[:-20])
    elif damage == "binary":
        (folder / KEY_FILE).write_bytes(b"\xff\xfe\x00")
    else:
        (folder / KEY_FILE).unlink()
    with caplog.at_level(logging.WARNING, "food_vision"):
        found = engine_folder(tmp_path, KEY)
    assert found == folder.with_name(f"{KEY.name}-2")
    assert not is_built(found)
    assert (folder / "a.engine").read_bytes() == b"engine"
    assert f"{folder} is not used: its key.json is not that of the engine; delete the folder" in caplog.text
    (found / "a.engine").write_bytes(b"another engine")
    seal(found)
    assert engine_folder(tmp_path, KEY) == found


def test_too_many_damaged_folders(tmp_path: Path) -> None:
    for _ in range(engine_cache.MOST_FOLDERS):
        (engine_folder(tmp_path, KEY) / KEY_FILE).write_text("{}")
    with pytest.raises(ProviderError, match=f"holds 9 damaged folders named {KEY.name}; delete them and start again"):
        engine_folder(tmp_path, KEY)


def test_a_process_that_died_while_it_wrote_the_key(tmp_path: Path) -> None:
    folder = tmp_path / KEY.name
    folder.mkdir()
    (folder / f".{KEY_FILE}.0123abcd").write_text(KEY.json[:30])
    assert engine_folder(tmp_path, KEY) == folder
    assert (folder / KEY_FILE).read_text() == KEY.json


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match=r"cannot be written at .*file.* \(Not a directory\); mount a writable"):
        engine_folder(tmp_path / "file", KEY)
    with pytest.raises(ProviderError, match="cannot be written at"):
        timing_folder(tmp_path / "file", tensorrt="10.16.1", gpu="NVIDIA L4", capability="8.9")


def test_a_cache_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_cache, "write_text_atomic", full)
    with pytest.raises(ProviderError, match=r"\(No space left on device\)"):
        engine_folder(tmp_path, KEY)


def test_a_read_only_cache_serves_only_what_is_built(tmp_path: Path, read_only: Any) -> None:
    asked = replace(KEY, fixed={"batch": 8})
    engine_folder(tmp_path, asked)  # no engine came into it
    folder = build(tmp_path)
    read_only()
    assert engine_folder(tmp_path, KEY) == folder
    for missing in (asked, replace(KEY, gpu="NVIDIA L4")):
        with pytest.raises(ProviderError) as refused:
            engine_folder(tmp_path, missing)
        assert f"The engine cache {tmp_path} is read-only and holds no engine for encoder.onnx (" in str(refused.value)
        assert "engineCache.prebuild.enabled=true in the chart" in str(refused.value)
    assert f"({replace(KEY, gpu='NVIDIA L4').what.partition('(')[2]}" in str(refused.value)
    assert not list(tmp_path.glob("*/.*")), "nothing is written"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("changed", "a.engine is not what its digest (a.engine.sha256) says: it was changed or damaged"),
        ("cut", "a.engine is not what its digest (a.engine.sha256) says: it was changed or damaged"),
        ("unsealed", "a.engine has no digest (a.engine.sha256): whoever wrote it did not end"),
        ("another", "b.engine has no digest (b.engine.sha256): whoever wrote it did not end"),
        ("profile", "a.profile has no digest (a.profile.sha256): whoever wrote it did not end"),
    ],
)
def test_an_engine_that_is_not_as_it_was_built_is_never_loaded(
    damage: str, said: str, tmp_path: Path, read_only: Any, caplog: pytest.LogCaptureFixture
) -> None:
    folder = build(tmp_path)
    engine = folder / "a.engine"
    if damage in ("changed", "cut"):
        engine.write_bytes(b"enginf" if damage == "changed" else b"eng")
    elif damage == "unsealed":  # killed while ONNX Runtime wrote it
        engine.with_name("a.engine.sha256").unlink()
    else:
        (folder / said.split()[0]).write_bytes(b"planted")
    with caplog.at_level(logging.WARNING, "food_vision"):
        assert engine_folder(tmp_path, KEY) == folder
    assert f"{folder}: the engine is built again, since {said}" in caplog.text
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]
    (folder / "a.engine").write_bytes(b"planted")
    read_only()
    with pytest.raises(ProviderError) as refused:
        engine_folder(tmp_path, KEY)
    assert f"read-only and holds an engine for {KEY.what} that is not used, since a.engine has no" in str(refused.value)
    assert "in a Job before each install and upgrade" in str(refused.value)


def test_an_engine_that_can_be_neither_read_nor_deleted(tmp_path: Path, read_only: Any) -> None:
    engine = build(tmp_path) / "a.engine"
    engine.unlink()
    (engine / "inner").mkdir(parents=True)
    with pytest.raises(ProviderError, match=r"cannot be written at .* \(Is a directory\)"):
        engine_folder(tmp_path, KEY)
    seal_left = engine.with_name("a.engine.sha256")
    seal_left.write_text("0" * 64)
    read_only()
    with pytest.raises(ProviderError, match=r"not used, since a.engine cannot be read \(Is a directory\)"):
        engine_folder(tmp_path, KEY)


def test_a_digest_is_written_when_the_engine_is_and_then_left(tmp_path: Path) -> None:
    folder = build(tmp_path)
    (folder / "a.profile").write_bytes(b"profile")
    seal(folder)
    assert (folder / "a.engine.sha256").read_text() == f"{sha256_file(folder / 'a.engine')}  a.engine\n"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.sha256")}
    assert len(before) == 2
    seal(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.sha256")} == before
    (folder / "a.engine").write_bytes(b"built anew")  # by ONNX Runtime, in this process
    later = before[folder / "a.engine.sha256"] + 10**9
    os.utime(folder / "a.engine", ns=(later, later))
    seal(folder)
    assert engine_folder(tmp_path, KEY) == folder
    assert is_built(folder)


def test_nothing_is_written_where_nothing_may_be(tmp_path: Path, read_only: Any) -> None:
    folder = build(tmp_path)
    os.utime(folder / "a.engine.sha256", ns=(0, 0))  # as a copy of the folder may have it
    read_only()
    seal(folder)
    assert (folder / "a.engine.sha256").stat().st_mtime_ns == 0
    assert engine_folder(tmp_path, KEY) == folder


def test_a_digest_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = engine_folder(tmp_path, KEY)
    (folder / "a.engine").write_bytes(b"engine")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine_cache, "write_text_atomic", full)
    with pytest.raises(ProviderError, match=r"cannot be written at .*\(No space left on device\)"):
        seal(folder)


def test_what_counts_as_built(tmp_path: Path) -> None:
    assert not is_built(tmp_path / "nothing")
    (tmp_path / "a.profile").write_bytes(b"profile")
    (tmp_path / "a.engine").write_bytes(b"")
    assert not is_built(tmp_path)
    (tmp_path / "a.engine").write_bytes(b"engine")
    assert is_built(tmp_path)


def test_timing_folders(tmp_path: Path) -> None:
    found = {
        timing_folder(tmp_path, tensorrt=version, gpu=gpu, capability=capability).name
        for version in ("10.16.1", "10.9.0")
        for gpu, capability in (("NVIDIA L4", "8.9"), ("NVIDIA L40S", "8.9"), ("NVIDIA H200", "9.0"))
    }
    assert len(found) == 6
    assert "timing-trt10.16.1-sm89-nvidia-l4" in found


def test_what_is_in_a_cache(tmp_path: Path) -> None:
    assert entries(tmp_path / "nothing") == []
    built = engine_folder(tmp_path, KEY)
    (built / "a.engine").write_bytes(b"x" * 1000)
    (timing_folder(tmp_path, tensorrt="10.16.1", gpu="NVIDIA L4", capability="8.9") / "t.timing").write_bytes(b"y" * 10)
    (tmp_path / "stray file").write_text("")
    engine, timing = entries(tmp_path)
    assert (engine.name, engine.files["a.engine"]) == (KEY.name, 1000)
    assert engine.key is not None
    assert engine.key["graph"] == "encoder.onnx"
    assert engine.bytes == 1000 + len(KEY.json)
    assert (timing.key, timing.bytes) == (None, 10)


def product(path: Path, factor: float) -> Path:
    """x [batch, 4] times `factor`: the same file name, tensor names and shapes for every factor."""
    path.parent.mkdir()
    one, two = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32) * np.float32(factor), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [one], [two], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_new_weights_never_meet_an_old_engine(tmp_path: Path) -> None:
    """ONNX Runtime would take the old engine: its name has the file's and the tensors' names, nothing of the weights."""
    gpu = Gpu(0, "NVIDIA H200", "9.0", "13.0")
    seen = []
    for factor in (2, 3):
        path = product(tmp_path / f"bundle{factor}" / "encoder.onnx", factor)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": np.ones((1, 4), np.float32)})[0][0, 0] == factor
        names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        options, folder = tensorrt_options(
            path, gpu, "10.16.1", profile=None, fixed={"batch": 1}, cuda_graph=False,
            model_digest=sha256_file(path), precision="fp32", engine_cache=tmp_path / "cache",
        )  # fmt: skip
        assert folder is not None
        assert options["trt_engine_cache_path"] == str(folder)
        engine = folder / "TensorrtExecutionProvider_TRTKernel_graph_g_123_0_0_sm90.engine"
        seen.append((path.name, names, is_built(folder), engine.name))
        engine.write_text(f"an engine that multiplies by {factor}")
    assert seen[0] == seen[1] == ("encoder.onnx", ["x", "y"], False, seen[0][3])
    assert sorted(path.read_text()[-1] for path in (tmp_path / "cache").rglob("*.engine")) == ["2", "3"]
    assert len({path.parent for path in (tmp_path / "cache").rglob("*.engine")}) == 2
