"""Stand-ins for NVIDIA's libraries, compiled with gcc, so that tests make real calls through ctypes without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

DRIVER = """
#include <string.h>
#ifndef INIT
#define INIT 0
#endif
#ifndef COUNT
#define COUNT 2
#endif
#ifndef VERSION
#define VERSION 13000
#endif
static int ready = 0;
int cuInit(unsigned flags) { ready = INIT == 0 && flags == 0; return INIT; }
int cuDeviceGetCount(int* count) { *count = COUNT; return ready ? 0 : 3; }
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuDeviceGet(int* device, int index) { *device = 40 + index; return index < COUNT ? 0 : 101; }
int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, device == 40 ? "NVIDIA L4" : "NVIDIA H200", size);
  return 0;
}
int cuDeviceGetAttribute(int* value, int what, int device) {
  if (what == 75) *value = device == 40 ? 8 : 9;
  else if (what == 76) *value = device == 40 ? 9 : 0;
  else return 1;
  return 0;
}
int cuGetErrorName(int code, const char** name) {
  *name = code == 999 ? "CUDA_ERROR_UNKNOWN" : "CUDA_ERROR_OTHER";
  return 0;
}
"""
RUNTIME = """
#include <stddef.h>
static void* pinned = 0; static size_t bytes = 0; static unsigned with = 9; static int last = 0;
int cudaHostRegister(void* p, size_t size, unsigned flags) {
  if (pinned) return last = 712;
  pinned = p; bytes = size; with = flags; return 0;
}
int cudaHostUnregister(void* p) { if (p != pinned) return last = 713; pinned = 0; return 0; }
int cudaGetLastError(void) { int code = last; last = 0; return code; }
const char* cudaGetErrorName(int code) {
  return code == 712 ? "cudaErrorHostMemoryAlreadyRegistered" : "cudaErrorHostMemoryNotRegistered";
}
static int device = -1;
int cudaSetDevice(int index) { if (index > 1) return last = 101; device = index; return 0; }
int cudaMemGetInfo(size_t* left, size_t* all) { *left = (device + 1) * 5000000000ull; *all = *left * 2; return 0; }
void* pinned_at(void) { return pinned; }
size_t pinned_bytes(void) { return bytes; }
unsigned pinned_flags(void) { return with; }
int left_over(void) { return last; }
"""
NVINFER = "int getInferLibVersion(void) { return VERSION; }"
EMPTY = "int nothing_at_all;"


def compile_library(folder: Path, name: str, source: str, **macros: object) -> Path:
    """`folder/name` with that soname; `macros` become -D flags."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for stand-ins of NVIDIA's libraries")
    folder.mkdir(parents=True, exist_ok=True)
    flags = [f"-D{macro}={value}" for macro, value in macros.items()]
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", *flags, "-x", "c", "-", "-o", str(folder / name)]
    subprocess.run(command, input=source, text=True, check=True)
    return folder / name


def compile_tensorrt(folder: Path, version: int = 101601, major: int = 10) -> Path:
    """A folder with TensorRT's two libraries, of which the first says `version`."""
    compile_library(folder, f"libnvinfer.so.{major}", NVINFER, VERSION=version)
    compile_library(folder, f"libnvonnxparser.so.{major}", EMPTY)
    return folder


def python(
    code: str, *, libraries: Path | None = None, packages: Path | None = None, first: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, whose process has loaded nothing yet.

    `libraries` is all of LD_LIBRARY_PATH; `packages` and `first` come before site-packages on the import path.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NVIDIA_")}
    environment["LD_LIBRARY_PATH"] = str(libraries or "")
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in (first, packages, ROOT) if path is not None)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, timeout=120, env=environment, cwd=ROOT, check=False,
    )  # fmt: skip
