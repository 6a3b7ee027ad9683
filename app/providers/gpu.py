"""What the NVIDIA driver says about the GPUs, and page-locked host buffers: ctypes on the driver and the CUDA runtime.

Signatures and codes: `cuda.h` and `cuda_runtime_api.h` of CUDA 13. Tested against compiled stand-ins of the libraries;
the driver's part has run on one GPU, where nobody looked whether `pin` locks.
"""

from __future__ import annotations

import ctypes
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.errors import ContractError

log = logging.getLogger("food_vision")

DRIVER = "libcuda.so.1"
RUNTIME = "libcudart.so.13"  # the one that ONNX Runtime's CUDA provider links
CUDA_MAJOR = 13  # what onnxruntime-gpu has been built with since 1.27

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE

_pinned: set[int] = set()  # addresses that `pin` has locked


class ProviderError(ContractError):
    """The provider that was asked for is not the one that would run."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: CUDA's index, its name, compute capability (`9.0`), and the newest CUDA the driver runs (`13.0`)."""

    index: int
    name: str
    capability: str
    driver: str


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
            f"There is no GPU {index}: the NVIDIA driver shows {len(found)} of them, numbered from 0; choose another "
            "one or check CUDA_VISIBLE_DEVICES."
        )
    if int(found[index].driver.split(".")[0]) < CUDA_MAJOR:
        raise ProviderError(
            f"The NVIDIA driver runs CUDA {found[index].driver} at most, but ONNX Runtime needs CUDA {CUDA_MAJOR}; "
            "update the driver to R580 or newer."
        )
    return found[index]


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


def _runtime_call(function: str, array: np.ndarray, *more: Any) -> bool:
    try:
        runtime = ctypes.CDLL(RUNTIME)
    except OSError as error:
        log.warning("a buffer of %d bytes stays pageable: %s", array.nbytes, error)
        return False
    code = getattr(runtime, function)(ctypes.c_void_p(array.ctypes.data), *more)
    if code:
        # the runtime keeps the code for this thread: the next kernel launch would be blamed for it
        runtime.cudaGetLastError()
        runtime.cudaGetErrorName.restype = ctypes.c_char_p
        name = (runtime.cudaGetErrorName(code) or b"error").decode()
        log.warning("%s refuses a buffer of %d bytes: %s (%d)", function, array.nbytes, name, code)
    return code == 0
