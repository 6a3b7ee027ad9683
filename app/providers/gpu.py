"""What the NVIDIA driver says about the GPUs, what runs on them, their free memory, and page-locked host buffers.

All of it through ctypes, on the driver and on the CUDA runtime.

Signatures and codes: `cuda.h` and `cuda_runtime_api.h` of CUDA 13. Tested against compiled stand-ins of the libraries;
the driver's part has run on one GPU, where nobody looked whether `pin` locks.
"""

from __future__ import annotations

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.errors import ContractError

log = logging.getLogger("food_vision")

DRIVER = "libcuda.so.1"
RUNTIME = "libcudart.so.13"  # the one that ONNX Runtime's CUDA provider links
CUDA_MAJOR = 13  # what onnxruntime-gpu has been built with since 1.27

LEAST_CAPABILITY = (7, 5)  # Turing, as a T4; CUDA 13 dropped what is older
BF16_CAPABILITY = (8, 0)  # Ampere, as an A100
# The GPUs for which the CUDA provider of onnxruntime-gpu holds machine code, by its version; it holds no PTX for others.
# Code for 8.6 runs on 8.7 too, and on no other major version.
CODE = {"1.31.1": ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))}

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

_pinned: set[int] = set()  # addresses that `pin` has locked


class ProviderError(ContractError):
    """The provider that was asked for is not the one that would run."""


class GpuMemoryError(ProviderError, MemoryError):
    """The GPU has no room for a model's weights."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: CUDA's index, its name, compute capability (`9.0`), and the newest CUDA the driver runs (`13.0`)."""

    index: int
    name: str
    capability: str
    driver: str

    @property
    def version(self) -> tuple[int, int]:
        """The compute capability as numbers: `(9, 0)`."""
        major, minor = self.capability.split(".")
        return int(major), int(minor)


def gpus() -> list[Gpu]:
    """Every GPU that this process may use. Raises `ProviderError`: no driver, no GPU, or the driver's own error."""
    driver = _driver()
    count, version = ctypes.c_int(), ctypes.c_int()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return [_describe(driver, index, cuda) for index in range(count.value)]


def gpu(index: int = 0) -> Gpu:
    """One GPU, on a driver that runs the CUDA that ONNX Runtime needs. Raises `ProviderError` with the remedy."""
    found = gpus()
    if not 0 <= index < len(found):
        raise ProviderError(
            f"There is no GPU {index}: the NVIDIA driver shows this process {len(found)} of them, numbered from 0"
            f"{_visible()}; choose one of these (FOOD_VISION_DEVICE)."
        )
    if int(found[index].driver.split(".")[0]) < CUDA_MAJOR:
        raise ProviderError(
            f"The NVIDIA driver runs CUDA {found[index].driver} at most, but ONNX Runtime needs CUDA {CUDA_MAJOR}; "
            "update the driver to R580 or newer."
        )
    return found[index]


def check_capability(found: Gpu, provider: str, precision: str, onnxruntime: str) -> None:
    """Raise `ProviderError` where `provider` (`cuda`, `tensorrt`) cannot run graphs of `precision` on a GPU of its age.

    `onnxruntime` is the version of ONNX Runtime. TensorRT brings code of its own for newer GPUs.
    """
    code = CODE.get(onnxruntime, (found.version,)) if provider == "cuda" else (found.version,)
    if found.version < LEAST_CAPABILITY:
        wrong, remedy = f"CUDA {CUDA_MAJOR} needs {_dotted(LEAST_CAPABILITY)} or newer", "set FOOD_VISION_PROVIDER=cpu"
    elif precision == "bf16" and found.version < BF16_CAPABILITY:
        wrong, remedy = f"bf16 needs {_dotted(BF16_CAPABILITY)} or newer", "export with --precision fp16"
    elif not any(major == found.version[0] and minor <= found.version[1] for major, minor in code):
        held = ", ".join(map(_dotted, code))
        wrong, remedy = f"onnxruntime-gpu {onnxruntime} has code for {held} alone", "set FOOD_VISION_PROVIDER=cpu"
    else:
        return
    raise ProviderError(
        f"GPU {found.index}, {found.name}, has compute capability {found.capability}, but {wrong}; {remedy}, or choose "
        "another GPU (FOOD_VISION_DEVICE)."
    )


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _visible() -> str:
    """What hides GPUs from this process, and gives the others their numbers."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r})"


def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(DRIVER)
    except OSError as error:
        raise ProviderError(
            f"There is no NVIDIA driver here ({' '.join(str(error).split())}); run on a machine with a GPU and its "
            "driver; on GKE the pod must ask for nvidia.com/gpu and the node's driver mount, /usr/local/nvidia/lib64, "
            "must be on LD_LIBRARY_PATH."
        ) from None


def _call(driver: ctypes.CDLL, function: str, *arguments: Any) -> None:
    code = getattr(driver, function)(*arguments)
    if code == NO_DEVICE:
        raise ProviderError(
            "The NVIDIA driver is here but shows this process no GPU; ask for one (nvidia.com/gpu in the pod's limits, "
            "--gpus for a container) or check CUDA_VISIBLE_DEVICES."
        )
    if code:
        name = ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(name))
        raise ProviderError(
            f"The NVIDIA driver does not work: {function} gives {(name.value or b'error').decode()} ({code}); "
            "check it with nvidia-smi on the machine itself."
        )


def _describe(driver: ctypes.CDLL, index: int, cuda: str) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), CAPABILITY_MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), CAPABILITY_MINOR, device)
    return Gpu(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", cuda)


def pin(array: np.ndarray) -> bool:
    """Page-lock the memory of `array` in place, so that copies to the GPU need no staging buffer.

    The array must be contiguous, must not be freed before `unpin`, and should be used again and again: locking costs
    far more than one copy. Returns False, with one line in the log, when the memory stays pageable; it works all the
    same. Never raises.
    """
    if not (array.flags.c_contiguous and array.nbytes):
        log.warning("a buffer of shape %s is not pinned: it is empty or not contiguous", array.shape)
        return False
    if not _runtime_call("cudaHostRegister", array, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)):
        return False
    _pinned.add(array.ctypes.data)
    return True


def unpin(array: np.ndarray) -> bool:
    """Undo `pin`, before the array is freed. False for an array that is not pinned, or when CUDA says no (logged)."""
    if array.ctypes.data not in _pinned:
        return False
    _pinned.discard(array.ctypes.data)
    return _runtime_call("cudaHostUnregister", array)


def free_bytes(index: int) -> int | None:
    """Memory of one GPU that nobody uses, in bytes; None, with a line for debugging, when the CUDA runtime does not say.

    The GPU becomes that of the calling thread, so that `pin` there opens no context on another one, and CUDA opens its
    context, as the first session would. The runtime must have been loaded, or be on the loader's path.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    try:
        runtime = ctypes.CDLL(RUNTIME)
    except OSError as error:
        log.debug("the free memory of GPU %d is not known: %s", index, error)
        return None
    code = runtime.cudaSetDevice(ctypes.c_int(index)) or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    if code:
        log.debug("the free memory of GPU %d is not known: %s (%d)", index, _runtime_error(runtime, code), code)
        return None
    return free.value


def _runtime_call(function: str, array: np.ndarray, *more: Any) -> bool:
    try:
        runtime = ctypes.CDLL(RUNTIME)
    except OSError as error:
        log.warning("a buffer of %d bytes stays pageable: %s", array.nbytes, error)
        return False
    code = getattr(runtime, function)(ctypes.c_void_p(array.ctypes.data), *more)
    if code:
        log.warning(
            "%s refuses a buffer of %d bytes: %s (%d)", function, array.nbytes, _runtime_error(runtime, code), code
        )
    return code == 0


def _runtime_error(runtime: ctypes.CDLL, code: int) -> str:
    # the runtime keeps the code for this thread: the next kernel launch would be blamed for it
    runtime.cudaGetLastError()
    runtime.cudaGetErrorName.restype = ctypes.c_char_p
    return (runtime.cudaGetErrorName(code) or b"error").decode()
