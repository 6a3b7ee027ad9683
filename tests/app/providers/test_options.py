"""What ONNX Runtime is asked for: providers, their options and the session's, on a class that stands for its sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from app.providers.cache import KEY_FILE, EngineKey, is_built, seal
from app.providers.sessions import PROVIDERS, Profile, open_session
from tests.app.stand_in_sessions import CPU, CUDA, GRAPH, PROFILE, TRT, Session, stand_in

CUDA_OPTIONS = {
    "device_id": "0",
    "use_tf32": "0",
    "arena_extend_strategy": "kSameAsRequested",
    "cudnn_conv_algo_search": "HEURISTIC",
}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    return stand_in(monkeypatch)


def test_cpu(sessions: list[Session]) -> None:
    open_session(GRAPH, "cpu", 3)
    assert sessions[0].providers == [(CPU, {})]
    assert sessions[0].config == {"set_denormal_as_zero": "1", "intra_op.allow_spinning": "0"}
    assert sessions[0].threads == (3, 1)
    assert sessions[0].data == GRAPH.data


def test_no_thread_count_is_one_per_core(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.providers.sessions.available", lambda: 5)
    open_session(GRAPH, "cpu", 0)
    assert sessions[0].threads == (5, 1)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_nothing_is_retried_on_another_provider(provider: str, sessions: list[Session]) -> None:
    open_session(GRAPH, provider, 1, fixed={"batch": 8})
    assert sessions[0].retries == 0


def test_cuda(sessions: list[Session]) -> None:
    """Float32 stays float32: without `use_tf32=0` products are rounded."""
    open_session(GRAPH, "cuda", 1)
    assert sessions[0].providers == [(CUDA, CUDA_OPTIONS)]
    assert sessions[0].config == {
        "set_denormal_as_zero": "1",
        "intra_op.allow_spinning": "0",
        "disable_cpu_ep_fallback": "1",
        "record_ep_graph_assignment_info": "1",
    }


def test_cuda_with_a_cuda_graph(sessions: list[Session]) -> None:
    open_session(GRAPH, "cuda", 1, fixed={"batch": 8}, cuda_graph=True, device=2)
    assert sessions[0].providers == [(CUDA, CUDA_OPTIONS | {"device_id": "2", "enable_cuda_graph": "1"})]


def test_tensorrt_with_fixed_dimensions(sessions: list[Session], tmp_path: Path) -> None:
    open_session(
        GRAPH, "tensorrt", 1, fixed={"batch": 8}, cuda_graph=True, model_digest="d" * 64, precision="fp16",
        engine_cache=tmp_path, device=1,
    )  # fmt: skip
    (name, options), cuda = sessions[0].providers
    assert (name, cuda) == (TRT, (CUDA, CUDA_OPTIONS | {"device_id": "1"}))
    (engines,) = tmp_path.glob("encoder-batch8-*")
    assert options == {
        "device_id": "1",
        "trt_cuda_graph_enable": "True",
        "trt_builder_optimization_level": "3",
        "trt_max_workspace_size": str(4 << 30),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tmp_path / "timing-trt10.16.1-sm90-nvidia-h200"),
    }
    key = EngineKey(
        model="d" * 64, graph="encoder.onnx", precision="fp16", shapes={}, fixed={"batch": 8}, cuda_graph=True,
        onnxruntime=ort.__version__, tensorrt="10.16.1", gpu="NVIDIA H200", capability="9.0",
        options={
            "trt_builder_optimization_level": "3", "trt_max_workspace_size": str(4 << 30), "NVIDIA_TF32_OVERRIDE": "0",
        },
    )  # fmt: skip
    assert (engines / KEY_FILE).read_text() == key.json
    assert sessions[0].config["disable_cpu_ep_fallback"] == "1"


def test_tensorrt_with_a_profile(sessions: list[Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Session, "shape", ["batch", 8, 8, 3])
    open_session(GRAPH, "tensorrt", 1, profile=PROFILE, model_digest="d" * 64, engine_cache=tmp_path)
    options = sessions[0].providers[0][1]
    assert options["trt_profile_min_shapes"] == "pixels:1x8x8x3"
    assert options["trt_profile_opt_shapes"] == "pixels:8x8x8x3"
    assert options["trt_profile_max_shapes"] == "pixels:32x8x8x3"
    assert options["trt_cuda_graph_enable"] == "False"
    assert len(list(tmp_path.glob("encoder-batch1to32-*"))) == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_no_precision_option_is_ever_set(precision: str, sessions: list[Session], tmp_path: Path) -> None:
    """One would make the network weakly typed, and TensorRT 11 refuses it."""
    open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8}, model_digest="d", precision=precision, engine_cache=tmp_path)
    options = sessions[0].providers[0][1]
    assert not [name for name in options if any(part in name for part in ("fp16", "bf16", "int8"))]
    assert all(isinstance(value, str) for _, values in sessions[0].providers for value in values.values())


def test_two_profiles_of_one_input_are_separate() -> None:
    two = {"ids": (1, 1), "embeds": (1, 9, 4)}
    assert Profile(two, two, two).as_dict() == {"smallest": two, "usual": two, "largest": two}


def test_an_engine_that_is_there_may_be_read_only(
    sessions: list[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"fixed": {"batch": 8}, "model_digest": "d", "engine_cache": tmp_path}
    open_session(GRAPH, "tensorrt", 1, **arguments)
    (engines,) = tmp_path.glob("encoder-*")
    (engines / "a.engine").write_bytes(b"engine")
    seal(engines)
    open_session(GRAPH, "tensorrt", 1, **arguments)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    open_session(GRAPH, "tensorrt", 1, **arguments)
    found = [session.providers[0][1] for session in sessions]
    assert [options["trt_engine_cache_path"] for options in found] == [str(engines)] * 3
    assert [options["trt_timing_cache_enable"] for options in found] == ["True", "True", "False"]


def test_what_a_session_built_is_loaded_and_nothing_else(
    sessions: list[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def building(data: bytes, options: Any, providers: Any, enable_fallback: int) -> Session:
        folder = Path(providers[0][1]["trt_engine_cache_path"])
        seen.append(is_built(folder))
        if not seen[-1]:
            (folder / "a.engine").write_bytes(b"engine")
        return Session(data, options, providers, enable_fallback)

    monkeypatch.setattr(ort, "InferenceSession", building)
    arguments: dict[str, Any] = {"fixed": {"batch": 8}, "model_digest": "d", "engine_cache": tmp_path}
    for _ in range(2):
        open_session(GRAPH, "tensorrt", 1, **arguments)
    (engine,) = tmp_path.glob("encoder-*/a.engine")
    engine.write_bytes(b"planted")
    open_session(GRAPH, "tensorrt", 1, **arguments)
    assert seen == [False, True, False]
    assert engine.read_bytes() == b"engine"


def test_without_a_cache(sessions: list[Session], caplog: pytest.LogCaptureFixture) -> None:
    open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8})
    options = sessions[0].providers[0][1]
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("False", "False")
    assert not [name for name in options if name.endswith("_path")], "else it would write where the process runs"
    assert "encoder.onnx: no engine cache, so TensorRT builds its engine at every start" in caplog.text


@pytest.mark.parametrize(
    ("small", "usual", "large"),
    [
        ({}, {}, {}),
        ({"x": (1,)}, {"x": (1,)}, {"y": (1,)}),
        ({"x": (1, 2)}, {"x": (1,)}, {"x": (1, 2)}),
        ({"x": (0,)}, {"x": (1,)}, {"x": (2,)}),
        ({"x": (1,)}, {"x": (3,)}, {"x": (2,)}),
        ({"x": (2,)}, {"x": (1,)}, {"x": (2,)}),
    ],
)
def test_a_profile_that_makes_no_sense(small: Any, usual: Any, large: Any) -> None:
    with pytest.raises(ValueError, match="profile"):
        Profile(small, usual, large)
