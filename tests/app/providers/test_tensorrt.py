"""Finding and loading TensorRT and the CUDA libraries: each case in a fresh process, with compiled stand-ins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from app.providers import tensorrt
from tests.app import stand_ins

LOAD = """
import ctypes, os
from app.providers import tensorrt
from app.providers.gpu import ProviderError
try:
    print(tensorrt.load())
    ctypes.CDLL(None).getInferLibVersion  # global, so that the provider finds it
    print(os.environ["NVIDIA_TF32_OVERRIDE"])
except ProviderError as error:
    print(error)
"""
INSTALL = "install tensorrt-cu13-libs==10.16.1.11 from NVIDIA's package index"


def package(folder: Path) -> Path:
    """A site-packages folder with the pip package; importing it would be an error."""
    (folder / "tensorrt_libs").mkdir(parents=True)
    (folder / "tensorrt_libs/__init__.py").write_text("raise ImportError('imported')\n")
    return folder / "tensorrt_libs"


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_from_the_pip_package(tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(package(tmp_path))
    assert said(stand_ins.python(LOAD, packages=tmp_path)).split() == ["10.16.1", "0"]


def test_from_the_loader_path(tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(tmp_path, version=100903)
    assert said(stand_ins.python(LOAD, libraries=tmp_path)).split() == ["10.9.3", "0"]


def test_the_package_comes_before_the_loader_path(tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(package(tmp_path / "site"), version=101601)
    stand_ins.compile_tensorrt(tmp_path / "lib", version=100903)
    done = stand_ins.python(LOAD, libraries=tmp_path / "lib", packages=tmp_path / "site")
    assert said(done).split()[0] == "10.16.1"


def test_the_builder_of_the_package_is_loaded_too(tmp_path: Path) -> None:
    folder = stand_ins.compile_tensorrt(package(tmp_path))
    for name, source in (("", "int built = 7;"), ("_win", "int windows;")):
        stand_ins.compile_library(folder, f"libnvinfer_builder_resource{name}.so.10.16.1", source)
    look = "print(hasattr(ctypes.CDLL(None), 'built'), hasattr(ctypes.CDLL(None), 'windows'))"
    assert said(stand_ins.python(LOAD + look, packages=tmp_path)).split()[-2:] == ["True", "False"]


def test_a_value_from_outside_wins(tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(tmp_path)
    code = "import os; os.environ['NVIDIA_TF32_OVERRIDE'] = '1'\n" + LOAD
    assert said(stand_ins.python(code, libraries=tmp_path)).split() == ["10.16.1", "1"]


def test_nothing_there(tmp_path: Path) -> None:
    text = said(stand_ins.python(LOAD, libraries=tmp_path))
    assert text.startswith("The provider 'tensorrt' was asked for, but TensorRT was not found (libnvinfer.so.10: ")
    assert INSTALL in text
    assert text.count("\n") == 0


@pytest.mark.parametrize("where", ["package", "loader"])
def test_only_the_next_major(where: str, tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(package(tmp_path) if where == "package" else tmp_path, version=110400, major=11)
    text = said(stand_ins.python(LOAD, libraries=tmp_path, packages=tmp_path))
    assert "but only TensorRT 11 was found, and ONNX Runtime 1." in text
    assert " is linked to TensorRT 10; " in text
    assert INSTALL in text


@pytest.mark.parametrize(("number", "version"), [(110400, "11.4.0"), (8601, "8.6.1")])
def test_a_library_that_says_another_major(number: int, version: str, tmp_path: Path) -> None:
    stand_ins.compile_tensorrt(tmp_path, version=number)
    text = said(stand_ins.python(LOAD, libraries=tmp_path))
    assert f"libnvinfer.so.10 says that it is TensorRT {version}, and ONNX Runtime" in text


def test_no_parser(tmp_path: Path) -> None:
    stand_ins.compile_library(tmp_path, "libnvinfer.so.10", stand_ins.NVINFER, VERSION=101601)
    assert "parser libnvonnxparser.so.10 cannot be loaded; install" in said(stand_ins.python(LOAD, libraries=tmp_path))


def test_a_damaged_package(tmp_path: Path) -> None:
    (package(tmp_path) / "libnvinfer.so.10").write_bytes(b"half a download")
    text = said(stand_ins.python(LOAD, packages=tmp_path))
    assert "the libnvinfer.so.10 of the package tensorrt_libs cannot be loaded (damaged" in text


CUDA = """
from app.providers import tensorrt
from app.providers.gpu import ProviderError
# names that no machine has: some have the real ones
tensorrt.CUDA_LIBRARIES = {"cuda": ("libonea.so.13", "liboneb.so.13"), "tensorrt": ("libonea.so.13", "libtwo.so.9")}
for provider in ("cuda", "tensorrt"):
    try:
        tensorrt.load_cuda(provider)
        print("loaded")
    except ProviderError as error:
        print(error)
"""


def test_missing_cuda_libraries_are_named(tmp_path: Path) -> None:
    stand_ins.compile_library(tmp_path, "libonea.so.13", stand_ins.EMPTY)
    cuda, trt = said(stand_ins.python(CUDA, libraries=tmp_path)).splitlines()
    start = "asked for, but it needs libraries that cannot be loaded:"
    assert cuda.startswith(f"The provider 'cuda' was {start} liboneb.so.13; install the extra gpu or gpu-slim (or onnx")
    assert trt.startswith(
        f"The provider 'tensorrt' was {start} libtwo.so.9; install the extra gpu, not gpu-slim (or onnx"
    )


def test_cuda_without_what_only_tensorrt_needs(tmp_path: Path) -> None:
    for name in ("libonea.so.13", "liboneb.so.13"):
        stand_ins.compile_library(tmp_path, name, stand_ins.EMPTY)
    cuda, trt = said(stand_ins.python(CUDA, libraries=tmp_path)).splitlines()
    assert cuda == "loaded"
    assert "loaded: libtwo.so.9; install" in trt


CONVOLUTIONS = """
from app.providers import tensorrt
from app.providers.gpu import ProviderError
tensorrt.CUDA_LIBRARIES, tensorrt.CUDNN = {"cuda": ("libonea.so.13",)}, "libtwo.so.9"
for cudnn in (False, True):
    try:
        tensorrt.load_cuda("cuda", cudnn=cudnn)
        print("loaded")
    except ProviderError as error:
        print(error)
"""


@pytest.mark.parametrize("there", [False, True])
def test_only_a_tower_with_convolutions_needs_cudnn(there: bool, tmp_path: Path) -> None:
    for name in ("libonea.so.13", *(["libtwo.so.9"] if there else [])):
        stand_ins.compile_library(tmp_path, name, stand_ins.EMPTY)
    without, convolutions = said(stand_ins.python(CONVOLUTIONS, libraries=tmp_path)).splitlines()
    assert without == "loaded"
    refused = (
        "The provider 'cuda' was asked for, but the bundle's image tower holds convolutions, which need cuDNN 9, and "
        "libtwo.so.9 cannot be loaded; install the extra gpu, not gpu-slim (or onnxruntime-gpu[cuda,cudnn]), put cuDNN 9 "
    )
    assert convolutions == "loaded" if there else convolutions.startswith(refused)


@pytest.mark.parametrize(
    ("start", "kind"), [("while running ReduceMax node. Name:'n0' ", "ReduceMax nodes"), ("", "nodes")]
)
def test_an_error_about_cudnn_says_what_to_do(start: str, kind: str) -> None:
    text = f"[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : {start}Status Message: cuDNN is unavailable for CUDA Execution"
    assert str(tensorrt.cudnn_refusal("cuda", RuntimeError(text))) == (
        f"The provider 'cuda' was asked for, but {kind} of the bundle's graphs need cuDNN 9, and libcudnn.so.9 cannot be "
        "loaded; export the checkpoint again, install the extra gpu, not gpu-slim (or onnxruntime-gpu[cuda,cudnn]), put "
        "cuDNN 9 on LD_LIBRARY_PATH, or set FOOD_VISION_PROVIDER=cpu."
    )
    assert tensorrt.cudnn_refusal("cuda", RuntimeError("CUDNN_STATUS_ALLOC_FAILED")) is None
