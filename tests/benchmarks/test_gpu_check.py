"""The GPU check on a machine that may have none: steps run, failures are told, results are kept."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.conftest import run_module


def test_steps_are_told_apart_and_failures_kept(tmp_path: Path) -> None:
    done = run_module("benchmarks.gpu_check", "--out", tmp_path, "--only", "device")
    found = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]["device"]
    if torch.cuda.is_available():
        assert (done.returncode, found["exit"]) == (0, 0)
    else:
        assert (done.returncode, found["exit"]) == (1, 1)
        assert "device: failed" in done.stdout
        assert found["errors"]
    wrong = run_module("benchmarks.gpu_check", "--out", tmp_path, "--only", "nothing")
    assert wrong.returncode == 1
    assert "there are device, tiny-fp32, base-bf16" in wrong.stderr
