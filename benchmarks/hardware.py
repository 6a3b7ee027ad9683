"""What a measurement ran on: date, commit, processor, GPU, versions. Nothing here names the machine or its paths."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What the matrix products of fp32, int8 and bf16 are made of.
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
PACKAGES = ("numpy", "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-gpu")


def provenance() -> dict[str, Any]:
    """Date, commit and whether the tree has other changes, hardware and versions, as JSON types."""
    status = said(["git", "-C", str(ROOT), "status", "--porcelain"])
    return {
        "date": datetime.date.today().isoformat(),
        "commit": said(["git", "-C", str(ROOT), "rev-parse", "HEAD"]),
        "dirty": None if status is None else bool(status),
        "hardware": hardware(),
        "versions": versions(),
    }


def hardware() -> dict[str, Any]:
    """Processor, its flags that matter, cores this process may use, load before the run, memory in bytes, GPUs."""
    model, flags = _cpu()
    return {
        "cpu": model,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": said(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]),
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def said(command: list[str]) -> str | None:
    """What a command prints, or None when it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16; one that does not computes it several times slower than fp32."""
    flags = _cpu()[1]
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cpu() -> tuple[str, set[str]]:
    model, flags = platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return model, flags
    for line in lines:
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "model name":
            model = value
        elif name == "flags":
            flags = set(value.split())
            break
    return model, flags
