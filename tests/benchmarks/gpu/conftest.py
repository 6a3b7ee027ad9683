"""The stand-in device, compiled once a run."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from app.providers.gpu import DRIVER
from benchmarks.gpu import stand_in
from contract.errors import ContractError


@pytest.fixture(scope="session")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for LD_LIBRARY_PATH with a GPU that is not there; skips where it cannot be made, or a GPU is."""
    if not (stand_in.WHEEL / "onnxruntime").is_dir():
        pytest.skip("needs onnxruntime-gpu beside the CPU package: make gpu-wheel")
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc for stand-ins of NVIDIA's libraries")
    try:
        stand_in.headers()
    except ContractError as error:
        pytest.skip(str(error))
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        return stand_in.build(tmp_path_factory.mktemp("stand-in"))
    pytest.skip("needs a machine without an NVIDIA driver")
