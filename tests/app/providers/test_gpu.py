"""The driver and page-locked memory, through real ctypes calls into compiled stand-ins."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

import numpy as np
import pytest

from app.providers import gpu
from app.providers.gpu import Gpu, ProviderError
from tests.app import stand_ins


def use_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, **macros: object) -> None:
    # not by its real soname, by which the rest of this process would find it
    library = stand_ins.compile_library(folder, "libcuda-stand-in.so", stand_ins.DRIVER, **macros)
    monkeypatch.setattr(gpu, "DRIVER", str(library))


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    library = stand_ins.compile_library(tmp_path, "libcudart-stand-in.so", stand_ins.RUNTIME)
    monkeypatch.setattr(gpu, "RUNTIME", str(library))
    loaded = ctypes.CDLL(str(library))
    loaded.pinned_at.restype, loaded.pinned_bytes.restype = ctypes.c_void_p, ctypes.c_size_t
    return loaded


def test_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch)
    assert gpu.gpus() == [Gpu(0, "NVIDIA L4", "8.9", "13.0"), Gpu(1, "NVIDIA H200", "9.0", "13.0")]
    assert gpu.gpu(1).name == "NVIDIA H200"


def test_a_minor_version_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch, VERSION=13020)
    assert gpu.gpu().driver == "13.2"


def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DRIVER", str(tmp_path / "libcuda.so.1"))
    with pytest.raises(ProviderError, match=r"^There is no NVIDIA driver here .*on GKE .*/usr/local/nvidia/lib64"):
        gpu.gpu()


def test_a_driver_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch, INIT=100)
    with pytest.raises(ProviderError, match="shows this process no GPU; ask for one .*CUDA_VISIBLE_DEVICES"):
        gpu.gpus()


def test_a_broken_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch, INIT=999)
    with pytest.raises(ProviderError, match=r"cuInit gives CUDA_ERROR_UNKNOWN \(999\); check it with nvidia-smi"):
        gpu.gpus()


@pytest.mark.parametrize("index", [2, -1])
@pytest.mark.parametrize(("visible", "said"), [(None, ""), ("3,4", r" \(CUDA_VISIBLE_DEVICES is '3,4'\)")])
def test_an_index_that_is_not_there(
    index: int, visible: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_driver(tmp_path, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    words = f"There is no GPU {index}: .* shows this process 2 of them, numbered from 0{said}; choose .*FOOD_VISION_DEV"
    with pytest.raises(ProviderError, match=words):
        gpu.gpu(index)


def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_driver(tmp_path, monkeypatch, VERSION=12080)
    with pytest.raises(ProviderError, match="runs CUDA 12.8 at most, but ONNX Runtime needs CUDA 13; update .* R580"):
        gpu.gpu()


RUNS = [("7.5", "fp16"), ("8.0", "bf16"), ("8.7", "bf16"), ("9.0", "fp32"), ("12.1", "fp32")]
RUNS_NOT = [
    ("7.0", "cuda", "fp32", "CUDA 13 needs 7.5 or newer; set FOOD_VISION_PROVIDER=cpu"),
    ("7.0", "tensorrt", "bf16", "CUDA 13 needs 7.5 or newer; set FOOD_VISION_PROVIDER=cpu"),
    ("7.5", "cuda", "bf16", "bf16 needs 8.0 or newer; export with --precision fp16"),
    ("7.5", "tensorrt", "bf16", "bf16 needs 8.0 or newer; export with --precision fp16"),
    (
        "10.0",
        "cuda",
        "fp16",
        "onnxruntime-gpu 1.31.1 has code for 7.5, 8.0, 8.6, 8.9, 9.0, 12.0 alone; set FOOD_VISION",
    ),
]


@pytest.mark.parametrize(("capability", "precision"), RUNS)
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_runs_it(capability: str, precision: str, provider: str) -> None:
    gpu.check_capability(Gpu(0, "NVIDIA L4", capability, "13.0"), provider, precision, "1.31.1")


@pytest.mark.parametrize(("capability", "provider", "precision", "why"), RUNS_NOT)
def test_a_gpu_that_is_too_old_or_too_new(capability: str, provider: str, precision: str, why: str) -> None:
    with pytest.raises(ProviderError) as raised:
        gpu.check_capability(Gpu(3, "Tesla T4", capability, "13.0"), provider, precision, "1.31.1")
    assert str(raised.value).startswith(f"GPU 3, Tesla T4, has compute capability {capability}, but {why}")
    assert str(raised.value).endswith(", or choose another GPU (FOOD_VISION_DEVICE).")


def test_code_for_newer_gpus_is_tensorrts_own_or_that_of_another_release() -> None:
    newer = Gpu(0, "NVIDIA B200", "10.0", "13.0")
    gpu.check_capability(newer, "tensorrt", "fp16", "1.31.1")
    gpu.check_capability(newer, "cuda", "fp16", "1.99.0")


def test_free_memory(runtime: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [gpu.free_bytes(index) for index in (0, 1)] == [5_000_000_000, 10_000_000_000]
    assert gpu.free_bytes(2) is None
    assert runtime.left_over() == 0, "the next kernel launch would be blamed"
    monkeypatch.setattr(gpu, "RUNTIME", str(tmp_path / "libcudart.so.13"))
    assert gpu.free_bytes(0) is None


def test_pin_and_unpin(runtime: ctypes.CDLL, caplog: pytest.LogCaptureFixture) -> None:
    array = np.zeros((2, 3, 5), dtype=np.float32)
    assert gpu.pin(array)
    assert (runtime.pinned_at(), runtime.pinned_bytes(), runtime.pinned_flags()) == (array.ctypes.data, 120, 0)
    assert gpu.unpin(array)
    assert runtime.pinned_at() is None
    assert not gpu.unpin(array)
    assert not gpu.unpin(np.zeros(0))
    assert not caplog.records


def test_memory_that_cuda_refuses(runtime: ctypes.CDLL, caplog: pytest.LogCaptureFixture) -> None:
    array = np.zeros(4, dtype=np.uint8)
    assert gpu.pin(array)
    assert not gpu.pin(array)
    runtime.cudaHostUnregister(ctypes.c_void_p(array.ctypes.data))
    assert not gpu.unpin(array)
    assert [record.getMessage() for record in caplog.records] == [
        "cudaHostRegister refuses a buffer of 4 bytes: cudaErrorHostMemoryAlreadyRegistered (712)",
        "cudaHostUnregister refuses a buffer of 4 bytes: cudaErrorHostMemoryNotRegistered (713)",
    ]
    assert runtime.left_over() == 0, "the next kernel launch would be blamed"


@pytest.mark.parametrize("array", [np.zeros((4, 4))[:, ::2], np.zeros((0, 4))])
def test_memory_that_cannot_be_pinned(
    array: np.ndarray, runtime: ctypes.CDLL, caplog: pytest.LogCaptureFixture
) -> None:
    assert not gpu.pin(array)
    assert runtime.pinned_at() is None
    assert len(caplog.records) == 1
    assert "not pinned" in caplog.text


def test_no_cuda_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(gpu, "RUNTIME", str(tmp_path / "libcudart.so.13"))
    with caplog.at_level(logging.WARNING, "food_vision"):
        assert not gpu.pin(np.zeros(4))
    assert len(caplog.records) == 1
    assert "a buffer of 32 bytes stays pageable" in caplog.text
