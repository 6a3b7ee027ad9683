"""TensorRT 10 and the CUDA libraries, found and loaded before ONNX Runtime looks for them.

ONNX Runtime's providers are linked to sonames (`libnvinfer.so.10`, `libcublas.so.13`); pip packages put those files
where the dynamic loader does not look. A library that is already in the process satisfies the link.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import io
import logging
import os
import re
import threading
from pathlib import Path

import onnxruntime as ort

from app.providers.gpu import ProviderError

log = logging.getLogger("food_vision")

MAJOR = 10  # no onnxruntime-gpu up to 1.31 links another one
NVINFER, PARSER = f"libnvinfer.so.{MAJOR}", f"libnvonnxparser.so.{MAJOR}"
NEXT_NVINFER = f"libnvinfer.so.{MAJOR + 1}"
PACKAGE = "tensorrt_libs"
INSTALL = (
    "install tensorrt-cu13-libs==10.16.1.11 from NVIDIA's package index, or put the folder of another TensorRT 10 on "
    "LD_LIBRARY_PATH"
)
CUDNN = "libcudnn.so.9"  # the CUDA provider opens it only for what it does not compute itself (since ONNX Runtime 1.28)
NO_CUDNN = "cuDNN is unavailable"  # what it then says of a node that it does not compute itself
WITH_CUDNN = "install the extra gpu, not gpu-slim (or onnxruntime-gpu[cuda,cudnn])"
# NEEDED entries of the two providers of onnxruntime-gpu 1.31.1 (readelf -d), the driver's aside.
CUDA_LIBRARIES = {
    "cuda": ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13"),
    "tensorrt": ("libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10", "libcudart.so.13", CUDNN),
}
TF32 = "NVIDIA_TF32_OVERRIDE"

_loading = threading.Lock()  # engines may be made in several threads


def load_cuda(provider: str, *, cudnn: bool = False) -> None:
    """Load the CUDA libraries that `provider` (`cuda`, `tensorrt`) is linked to, and with `cudnn` cuDNN as well.

    Raises `ProviderError` that names those which are in no pip package of NVIDIA's and not on the loader's path.
    """
    with _loading:
        _preload()
    missing = [name for name in CUDA_LIBRARIES[provider] if not _loads(name)]
    if missing:
        slim = "install the extra gpu or gpu-slim (or onnxruntime-gpu[cuda,cudnn])"
        raise ProviderError(
            f"The provider {provider!r} was asked for, but it needs libraries that cannot be loaded: "
            f"{', '.join(missing)}; {slim if provider == 'cuda' and not cudnn else WITH_CUDNN}, put the CUDA 13 libraries "
            "on LD_LIBRARY_PATH, or set FOOD_VISION_PROVIDER=cpu."
        )
    if cudnn and not has_cudnn():
        raise _needs_cudnn(provider, "the bundle's image tower holds convolutions, which need cuDNN 9")


def has_cudnn() -> bool:
    """Whether cuDNN 9 can be loaded; after `load_cuda`, which looks into NVIDIA's pip packages."""
    return _loads(CUDNN)


def cudnn_refusal(provider: str, error: Exception) -> ProviderError | None:
    """What to say for an error of ONNX Runtime's about a node for which it needs cuDNN; None for any other error.

    Graphs without convolutions that were exported before there was `gpu-slim` have such a node (ReduceMax).
    """
    text = str(error)
    if NO_CUDNN not in text:
        return None
    kind = re.search(r"running (\w+) node", text)
    nodes = f"{kind[1]} nodes" if kind else "nodes"
    return _needs_cudnn(provider, f"{nodes} of the bundle's graphs need cuDNN 9", "export the checkpoint again, ")


def _needs_cudnn(provider: str, why: str, first: str = "") -> ProviderError:
    return ProviderError(
        f"The provider {provider!r} was asked for, but {why}, and {CUDNN} cannot be loaded; {first}{WITH_CUDNN}, put "
        "cuDNN 9 on LD_LIBRARY_PATH, or set FOOD_VISION_PROVIDER=cpu."
    )


def load() -> str:
    """Load TensorRT and its ONNX parser into the process, once, and return the version (`10.16.1`).

    Must come before the first TensorRT session. Raises `ProviderError`: nothing found, or only another major version.
    """
    with _loading:
        return _load()


def package_folder() -> Path | None:
    """The folder of the pip package `tensorrt_libs`, without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


@functools.cache  # a failure is not kept
def _load() -> str:
    # TensorRT rounds float32 products to TF32 and the provider has no option against it (onnxruntime#26029). Read when
    # the libraries load; a value from outside wins, and is part of the engine key.
    os.environ.setdefault(TF32, "0")
    folder = package_folder()
    nvinfer, parser = _open(folder, NVINFER), _open(folder, PARSER)
    if nvinfer is None or parser is None:
        raise ProviderError(f"The provider 'tensorrt' was asked for, but {_why_not(folder, nvinfer)}; {INSTALL}.")
    if folder is not None:
        _load_builder(folder)
    version = _version(nvinfer)
    if version[0] != MAJOR:
        raise ProviderError(
            f"The provider 'tensorrt' was asked for, but {NVINFER} says that it is TensorRT {_dotted(version)}, and "
            f"ONNX Runtime {ort.__version__} is linked to TensorRT {MAJOR}; {INSTALL}."
        )
    return _dotted(version)


@functools.cache
def _preload() -> None:
    # preload_dlls prints what it misses to stdout; load_cuda says it in its own words
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    for line in said.getvalue().splitlines():
        log.debug("onnxruntime.preload_dlls: %s", line)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _open(folder: Path | None, name: str) -> ctypes.CDLL | None:
    """From the package's folder, else by soname; RTLD_GLOBAL, so that the provider finds its symbols."""
    for place in [name] if folder is None else [str(folder / name), name]:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(place, mode=ctypes.RTLD_GLOBAL)
    return None


def _load_builder(folder: Path) -> None:
    """What the builder opens by name while it builds; NVIDIA's own package loads every library of its folder."""
    for path in sorted(folder.glob("libnvinfer_builder_resource*.so*")):
        if "_win" not in path.name:
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _why_not(folder: Path | None, nvinfer: ctypes.CDLL | None) -> str:
    if nvinfer is not None:
        return f"TensorRT's ONNX parser {PARSER} cannot be loaded"
    if folder is not None and (folder / NVINFER).exists():
        return f"the {NVINFER} of the package {PACKAGE} cannot be loaded (damaged, or for another machine)"
    if (folder is not None and (folder / NEXT_NVINFER).exists()) or _loads(NEXT_NVINFER):
        return f"only TensorRT {MAJOR + 1} was found, and ONNX Runtime {ort.__version__} is linked to TensorRT {MAJOR}"
    return f"TensorRT was not found ({NVINFER}: no package {PACKAGE}, and not on the loader's path)"


def _version(nvinfer: ctypes.CDLL) -> tuple[int, int, int]:
    """(major, minor, patch). From 10 on the number is (major * 100 + minor) * 100 + patch, before it was in thousands."""
    number = int(nvinfer.getInferLibVersion())
    if number < 10_000:
        return number // 1000, number % 1000 // 100, number % 100
    return number // 10_000, number % 10_000 // 100, number % 100


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
