"""Sessions: every refusal, on a class that stands for ONNX Runtime's sessions, and real ones on the CPU.

What the real `onnxruntime-gpu` does without a GPU is in `test_gpu_wheel.py`.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from app.providers import gpu, tensorrt
from app.providers.cache import seal
from app.providers.gpu import Gpu
from app.providers.sessions import ProviderError, free_bytes, open_session
from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, read_bundle
from contract.bundle_files import GraphFile
from contract.errors import ContractError
from tests.app.providers.test_cache import product
from tests.app.stand_in_sessions import CPU, CUDA, GRAPH, PROFILE, TRT, Part, Session, stand_in
from tests.conftest import ROOT


def graph(path: Path) -> GraphFile:
    """A graph without weights beside it."""
    return GraphFile(path, path.read_bytes())


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    return stand_in(monkeypatch)


def test_a_package_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match="'cuda' was asked for, but this ONNX Runtime has only .* Install the GPU"):
        open_session(GRAPH, "cuda", 1)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_no_driver_no_library_no_session(
    provider: str, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ProviderError("No.")

    for module, name in ((tensorrt, "load"), (tensorrt, "load_cuda"), (gpu, "gpu")):
        monkeypatch.setattr(module, name, fail)
        if name != "load" or provider == "tensorrt":
            with pytest.raises(ProviderError, match=r"^No\.$"):
                open_session(GRAPH, provider, 1, fixed={"batch": 8})
    assert not sessions


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
@pytest.mark.parametrize("cudnn", [False, True])
def test_what_needs_cudnn_asks_for_it(
    provider: str, cudnn: bool, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(tensorrt, "load_cuda", lambda provider, cudnn: asked.append((provider, cudnn)))
    open_session(GRAPH, provider, 1, fixed={"batch": 8}, cudnn=cudnn)
    assert asked == [(provider, cudnn)]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_bf16_on_an_old_gpu(provider: str, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu", lambda index: Gpu(index, "Tesla T4", "7.5", "13.0"))
    with pytest.raises(ProviderError, match="GPU 1, Tesla T4, has compute capability 7.5, but bf16 needs 8.0"):
        open_session(GRAPH, provider, 1, fixed={"batch": 8}, precision="bf16", device=1)
    with pytest.raises(ProviderError, match="bf16 needs 8.0"):
        free_bytes(provider, precision="bf16", device=1, cudnn=False)
    assert not sessions


def test_free_memory_is_asked_of_that_gpu(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[bool] = []
    monkeypatch.setattr(tensorrt, "load_cuda", lambda provider, cudnn: loaded.append(cudnn))
    monkeypatch.setattr(gpu, "free_bytes", lambda index: 1000 * index if loaded else None)
    assert free_bytes("cuda", precision="fp32", device=2, cudnn=True) == 2000
    assert loaded == [True]
    assert not sessions


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_session_on_another_provider(provider: str, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "first", CPU)
    with pytest.raises(
        ProviderError, match=f"{provider!r} was asked for, but encoder.onnx would run on {CPU}: its lib"
    ):
        open_session(GRAPH, provider, 1, fixed={"batch": 8})


ON_CPU = RuntimeError("This session contains nodes, but fallback to CPU EP has been explicitly disabled by the user.")


def test_nodes_on_the_cpu_are_named(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "error", ON_CPU)
    monkeypatch.setattr(
        Session, "parts", [Part(CUDA, ["MatMul", "Shape"]), Part(CPU, ["Gather"]), Part(CPU, ["Concat"])]
    )
    with pytest.raises(
        ProviderError,
        match=r"onnx 2 of its nodes would run on the CPU \(Concat 'node_Concat', Gather 'node_Gather'\); fix",
    ):
        open_session(GRAPH, "cuda", 1)
    assert [session.config["disable_cpu_ep_fallback"] for session in sessions] == ["1", "0"]


def test_nodes_on_the_cpu_since_nothing_loaded(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "error", ON_CPU)
    monkeypatch.setattr(Session, "first", CPU)
    with pytest.raises(ProviderError, match=f"encoder.onnx would run on {CPU}: its libraries or the GPU are missing"):
        open_session(GRAPH, "cuda", 1)


def test_nodes_on_the_cpu_beside_tensorrt(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked only once: a second session would build the engine once more."""
    monkeypatch.setattr(Session, "error", ON_CPU)
    with pytest.raises(ProviderError, match="of encoder.onnx neither TensorRT nor CUDA takes some of its nodes; fix"):
        open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8})
    assert len(sessions) == 1


def test_tensorrt_that_takes_no_node(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "parts", [Part(CUDA, ["MatMul", "Add"])])
    with pytest.raises(
        ProviderError, match=r"TensorRT takes no node of encoder.onnx; .* on CUDA \(Add, MatMul\)\. Ask"
    ):
        open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8})


def test_a_cuda_graph_that_tensorrt_shares_with_cuda(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "parts", [Part(TRT, ["MatMul"]), Part(CUDA, ["Erf", "Erf"])])
    with pytest.raises(
        ProviderError, match=r"all of it on TensorRT, but CUDA would run 2 of its nodes \(Erf\); set FOOD"
    ):
        open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8}, cuda_graph=True)


def test_a_graph_that_tensorrt_shares_with_cuda(
    sessions: list[Session], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Session, "parts", [Part(TRT, ["MatMul"]), Part(CUDA, ["Erf"])])
    with caplog.at_level(logging.WARNING, "food_vision"):
        open_session(GRAPH, "tensorrt", 1, fixed={"batch": 8})
    assert "encoder.onnx: TensorRT runs 1 nodes, CUDA 1 (Erf)" in caplog.text


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_cuda_graph_with_a_symbolic_dimension(
    provider: str, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer every shape with the first one's result."""
    monkeypatch.setattr(Session, "shape", ["batch", 8, 8, 3])
    with pytest.raises(ProviderError, match=r"A CUDA graph of encoder.onnx .*\{'pixels': \['batch', 8, 8, 3\]\}; fix"):
        open_session(GRAPH, provider, 1, fixed={"batsh": 8}, cuda_graph=True)


def test_tensorrt_with_a_symbolic_dimension(sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "shape", ["batch", 8, 8, 3])
    with pytest.raises(ProviderError, match="TensorRT would build engines for encoder.onnx during requests, since"):
        open_session(GRAPH, "tensorrt", 1)


def test_an_engine_that_cannot_be_read(
    sessions: list[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {"fixed": {"batch": 8}, "model_digest": "d", "engine_cache": tmp_path}
    monkeypatch.setattr(Session, "error", RuntimeError("TensorRT EP Failed to Build\nEngine."))
    with pytest.raises(
        ProviderError, match="'tensorrt' cannot run encoder.onnx: TensorRT EP Failed to Build Engine; see"
    ):
        open_session(GRAPH, "tensorrt", 1, **arguments)
    (engines,) = tmp_path.glob("encoder-*")
    (engines / "a.engine").write_bytes(b"engine")
    seal(engines)
    sessions.clear()
    with pytest.raises(ProviderError, match=f"no longer fits this machine, delete {engines} so that it is built again"):
        open_session(GRAPH, "tensorrt", 1, **arguments)


MEMORY = [
    "Failed to allocate memory for requested buffer of size 4831838208",
    "CUDA failure 2: out of memory ; GPU=0",
    "cudaErrorMemoryAllocation",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
]


@pytest.mark.parametrize("text", MEMORY)
def test_memory_that_is_full(text: str, sessions: list[Session], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a `ProviderError`: a smaller batch may fit."""
    monkeypatch.setattr(Session, "error", RuntimeError(text))
    with pytest.raises(MemoryError, match=f"The GPU has no memory for encoder.onnx: {text}"):
        open_session(GRAPH, "cuda", 1)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_a_graph_that_is_damaged(provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"not a graph")
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", lambda data, options, **_: real(data, options, providers=[CPU]))
    monkeypatch.setattr(gpu, "gpu", lambda index: Gpu(index, "NVIDIA H200", "9.0", "13.0"))
    monkeypatch.setattr(tensorrt, "load_cuda", lambda provider, cudnn: None)
    with pytest.raises(ContractError, match=r"encoder.onnx cannot be loaded: .*INVALID_PROTOBUF") as raised:
        open_session(graph(tmp_path / "encoder.onnx"), provider, 1)
    assert not isinstance(raised.value, ProviderError)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("cpu", {"cuda_graph": True, "fixed": {"batch": 1}}, "A CUDA graph needs a GPU provider"),
    ("cuda", {"cuda_graph": True}, "`fixed` dimensions"),
    ("tensorrt", {"cuda_graph": True, "fixed": {"batch": 1}, "profile": PROFILE}, "no profile"),
    ("cuda", {"fixed": {"batch": 0}}, "at least 1, not {'batch': 0}"),
    ("tensorrt", {"fixed": {"batch": 1}, "engine_cache": Path("nowhere")}, "needs the model's digest"),
]


@pytest.mark.parametrize(("provider", "arguments", "named"), WRONG)
def test_arguments_that_contradict_each_other(
    provider: str, arguments: dict[str, Any], named: str, sessions: list[Session]
) -> None:
    with pytest.raises(ValueError, match=named) as raised:
        open_session(GRAPH, provider, 1, **arguments)
    assert not isinstance(raised.value, ContractError), "a fault of the caller, not of the user"
    assert not sessions


def test_weights_are_those_that_were_given_and_no_file_of_the_same_name(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a model made of bytes ONNX Runtime would look into the folder where the process runs, and map what is there."""
    monkeypatch.chdir(bundle)
    whole = read_bundle(bundle).graph(ENCODER_FILE)
    open_session(whole, "cpu", 1)
    for weights in ({}, {"other.weights": b"weights"}):
        with pytest.raises(ContractError, match="encoder.onnx cannot be loaded: .*(does not exist|not found)"):
            open_session(GraphFile(whole.path, whole.data, weights), "cpu", 1)
    short = {name: data[:1000] for name, data in whole.weights.items()}
    with pytest.raises(ContractError, match="encoder.onnx cannot be loaded: .*out of bounds"):
        open_session(GraphFile(whole.path, whole.data, short), "cpu", 1)


def test_fixed_dimensions_of_a_real_session(tmp_path: Path) -> None:
    path = product(tmp_path / "graph" / "encoder.onnx", 2)
    session = open_session(graph(path), "cpu", 1, fixed={"batch": 3})
    assert session.get_inputs()[0].shape == [3, 4]
    assert session.run(None, {"x": np.ones((3, 4), np.float32)})[0].tolist() == [[2.0] * 4] * 3
    with pytest.raises(Exception, match="Expected: 3"):
        session.run(None, {"x": np.ones((1, 4), np.float32)})
    assert open_session(graph(path), "cpu", 1).get_inputs()[0].shape == ["batch", 4]


def test_subnormal_numbers_are_zero(tmp_path: Path) -> None:
    """In a process of its own: the flag stays with the thread that ran the session."""
    path = product(tmp_path / "graph" / "encoder.onnx", 0.5)
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom app.providers.sessions import open_session\n"
        "from contract.bundle_files import GraphFile\n"
        "session = open_session(GraphFile(Path(sys.argv[1]), Path(sys.argv[1]).read_bytes()), 'cpu', 1)\n"
        "print(session.run(None, {'x': np.full((1, 4), 1.5e-38, np.float32)})[0].max())"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.0"


@pytest.mark.parametrize("file", [ENCODER_FILE, SCORER_FILE, DECODER_FILE])
def test_the_graphs_for_a_gpu_compute_no_shapes(file: str, bundle: Path) -> None:
    """A GPU provider leaves those to the CPU: none is left once the dimensions are fixed."""
    options = ort.SessionOptions()
    for symbol, size in (("batch", 2), ("length", 8)):
        options.add_free_dimension_override_by_name(symbol, size)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(bundle / file), options, providers=[CPU])
    kinds = {node.op_type for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()}
    assert "MatMul" in kinds
    assert not kinds & {"Shape", "Size", "Range", "NonZero", "ConstantOfShape"}
