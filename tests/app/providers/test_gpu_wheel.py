"""The real `onnxruntime-gpu` on a machine without a GPU: what it would do by itself, and what the service says instead.

`make gpu-wheel` puts the pinned wheel beside the CPU package. Compiled stand-ins of NVIDIA's libraries take a process
one step further at a time: driver, CUDA libraries, TensorRT, and then ONNX Runtime's own loading, which fails on them.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import struct
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from app.providers import gpu, tensorrt
from app.providers.gpu import Gpu
from app.providers.options import cuda_options, tensorrt_options
from tests.app import stand_ins
from tests.app.providers.test_cache import product
from tests.app.stand_in_sessions import PROFILE
from tests.conftest import ROOT, run_module

WHEEL = ROOT / "build/onnxruntime-gpu"
FATBIN = struct.pack("<IH", 0xBA55ED50, 1)
OPEN = """
import sys
from pathlib import Path
from app.providers.sessions import ProviderError, open_session
from contract.bundle_files import GraphFile
try:
    path = Path(sys.argv[1])
    open_session(GraphFile(path, path.read_bytes()), sys.argv[2], 1, fixed={"batch": 1})
except ProviderError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def _wheel() -> None:
    if not (WHEEL / "onnxruntime").is_dir():
        pytest.skip("needs onnxruntime-gpu beside the CPU package: make gpu-wheel")
    try:
        ctypes.CDLL(gpu.DRIVER)
    except OSError:
        return
    pytest.skip("needs a machine without an NVIDIA driver")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return product(tmp_path / "graph" / "encoder.onnx", 2)


def python(code: str, libraries: Path | None = None) -> CompletedProcess[str]:
    done = stand_ins.python(code, first=WHEEL, libraries=libraries)
    assert done.returncode == 0, done.stderr
    return done


def refusal(graph: Path, provider: str, libraries: Path | None = None) -> str:
    done = python(f"import sys; sys.argv[1:] = [{str(graph)!r}, {provider!r}]{OPEN}", libraries)
    assert done.stdout.count("\n") == 1, done.stdout
    return done.stdout.strip()


def machine(folder: Path, *, cuda: bool = False, trt: bool = False) -> Path:
    """A loader path with a driver, and with CUDA and TensorRT by name."""
    stand_ins.compile_library(folder, "libcuda.so.1", stand_ins.DRIVER)
    for name in tensorrt.CUDA_LIBRARIES["tensorrt"] if cuda else ():
        stand_ins.compile_library(folder, name, stand_ins.EMPTY)
    return stand_ins.compile_tensorrt(folder) if trt else folder


def test_it_is_the_gpu_package() -> None:
    code = "import onnxruntime as ort; print(ort.__version__, ort.get_available_providers())"
    pinned = next(
        line.split("==")[1]
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.startswith("onnxruntime-gpu==")
    )
    said = python(code).stdout
    assert said.startswith(pinned), "make gpu-wheel"
    assert "TensorrtExecutionProvider" in said
    assert "CUDAExecutionProvider" in said


@pytest.mark.parametrize(
    "providers", [["CUDAExecutionProvider"], ["TensorrtExecutionProvider", "CUDAExecutionProvider"]]
)
def test_by_itself_it_hands_back_a_cpu_session(providers: list[str], graph: Path) -> None:
    """The reason for all of this; should it ever raise instead, our own checks can go."""
    code = (
        f"import onnxruntime as ort; print(ort.InferenceSession({str(graph)!r}, providers={providers}).get_providers())"
    )
    assert python(code).stdout.splitlines()[-1] == "['CPUExecutionProvider']"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_no_driver(provider: str, graph: Path) -> None:
    assert refusal(graph, provider).startswith("There is no NVIDIA driver here (libcuda.so.1: ")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_driver_but_no_cuda_libraries(provider: str, graph: Path, tmp_path: Path) -> None:
    text = refusal(graph, provider, machine(tmp_path / "lib"))
    assert text.startswith(f"The provider {provider!r} was asked for, but it needs libraries that cannot be loaded: ")
    assert "libcublasLt.so.13" in text
    assert "install the extra gpu" in text


def test_cuda_libraries_but_no_tensorrt(graph: Path, tmp_path: Path) -> None:
    text = refusal(graph, "tensorrt", machine(tmp_path / "lib", cuda=True))
    assert "TensorRT was not found" in text
    assert "tensorrt-cu13-libs==10.16.1.11" in text


def test_cuda_libraries_that_onnx_runtime_cannot_use(graph: Path, tmp_path: Path) -> None:
    """All by name, so that ONNX Runtime itself tries, fails, and would go on with the CPU."""
    text = refusal(graph, "cuda", machine(tmp_path / "lib", cuda=True))
    assert text == (
        "The provider 'cuda' was asked for, but encoder.onnx would run on CPUExecutionProvider: its libraries or the "
        "GPU are missing. Fix that, or set FOOD_VISION_PROVIDER=cpu."
    )


def test_a_tensorrt_that_onnx_runtime_cannot_use(graph: Path, tmp_path: Path) -> None:
    text = refusal(graph, "tensorrt", machine(tmp_path / "lib", cuda=True, trt=True))
    assert text.startswith("The provider 'tensorrt' cannot run encoder.onnx: ")
    assert "install TensorRT libraries" in text
    assert text.endswith("; see the lines above in the log.")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_as_a_user_sees_it(provider: str, bundle: Path) -> None:
    path = os.pathsep.join([str(WHEEL), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = run_module("app", "--bundle", bundle, "--port", "0", "--provider", provider, env={"PYTHONPATH": path})
    assert done.returncode == 1
    (sentence,) = (line for line in done.stderr.splitlines() if line.startswith("app: "))
    assert sentence.startswith("app: There is no NVIDIA driver here (libcuda.so.1: ")
    assert sentence.endswith("must be on LD_LIBRARY_PATH.")
    assert "Traceback" not in done.stdout + done.stderr


# -- the options, held against the wheel ------------------------------------------------------------------------------

PARSE = """
import json, sys
from onnxruntime import SessionOptions
from onnxruntime.capi import _pybind_state as C
path, *tries = json.loads(sys.argv[1])
for options in tries:
    session = C.InferenceSession(SessionOptions(), path, True, False)
    try:
        session.initialize_session(["TensorrtExecutionProvider"], [options], set())
        print("understood")
    except Exception as error:
        print(str(error).splitlines()[0])
"""


def test_tensorrt_options_are_understood(graph: Path, tmp_path: Path) -> None:
    """The Python binding parses them before it tries to load TensorRT, and then goes on with the CPU."""
    options, _ = tensorrt_options(
        graph, Gpu(0, "NVIDIA H200", "9.0", "13.0"), "10.16.1", profile=PROFILE, fixed={}, cuda_graph=True,
        model_digest="d", precision="fp32", engine_cache=tmp_path / "cache",
    )  # fmt: skip
    wrong = {"trt_no_such_option": "1", "trt_cuda_graph_enable": "1"}
    tries = json.dumps([str(graph), options, *(options | {name: value} for name, value in wrong.items())])
    said = python(f"import sys; sys.argv[1:] = [{tries!r}]{PARSE}").stdout.splitlines()
    assert said[0] == "understood"
    assert len(said) == 3
    assert all(name in line for name, line in zip(wrong, said[1:], strict=True)), said


@pytest.mark.parametrize("name", cuda_options(0, cuda_graph=True))
def test_cuda_options_are_in_the_library(name: str) -> None:
    """They are parsed in the provider's library, which cannot be loaded here: look their names up in it."""
    with (WHEEL / "onnxruntime/capi/libonnxruntime_providers_cuda.so").open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert library.find(f"\0{name}\0".encode()) > 0
        value = cuda_options(0, cuda_graph=True)[name]
        assert value.isdigit() or library.find(f"\0{value}\0".encode()) > 0


def test_what_it_says_without_cudnn_is_in_the_library() -> None:
    with (WHEEL / "onnxruntime/capi/libonnxruntime_providers_cuda.so").open("rb") as file:
        assert mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(tensorrt.NO_CUDNN.encode()) > 0


@pytest.mark.parametrize("provider", tensorrt.CUDA_LIBRARIES)
def test_the_libraries_that_we_ask_for_are_those_it_is_linked_to(provider: str) -> None:
    """Every soname stands in the library's string table; TensorRT's provider brings CUDA's along."""
    text = b""
    for name in {"cuda", provider}:
        with (WHEEL / f"onnxruntime/capi/libonnxruntime_providers_{name}.so").open("rb") as file:
            text += file.read(1 << 20)
    sonames = tensorrt.CUDA_LIBRARIES[provider] + (
        (tensorrt.NVINFER, tensorrt.PARSER) if provider == "tensorrt" else ()
    )
    assert [name for name in sonames if f"\0{name}\0".encode() not in text] == []


def test_the_gpus_that_the_library_has_code_for() -> None:
    """Read from its fat binaries: a header, then entries, each of PTX (kind 1) or machine code (kind 2) for one GPU."""
    found = set()
    with (WHEEL / "onnxruntime/capi/libonnxruntime_providers_cuda.so").open("rb") as file:
        library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        at = library.find(FATBIN)
        while at >= 0:
            _, _, header, size = struct.unpack_from("<IHHQ", library, at)
            entry, end = at + header, at + header + size
            while entry < end:
                kind, _, header, size = struct.unpack_from("<HHIQ", library, entry)
                found.add((kind, *struct.unpack_from("<I", library, entry + 28)))
                entry += header + size
            at = library.find(FATBIN, end)
    version = python("import onnxruntime as ort; print(ort.__version__)").stdout.strip()
    assert found == {(2, 10 * major + minor) for major, minor in gpu.CODE[version]}
