"""The GPU check on a machine that may have none: steps run, failures are told, results are kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check
from tests.benchmarks.conftest import TinyRun
from tests.conftest import ROOT, run_module

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_steps_are_told_apart_and_failures_kept(tmp_path: Path) -> None:
    done = run_module("benchmarks.gpu_check", "--out", tmp_path, "--only", "device")
    found = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]["device"]
    if torch.cuda.is_available():
        assert (done.returncode, found["exit"]) == (0, 0)
    else:
        assert (done.returncode, found["exit"], found["status"]) == (1, 1, "failed")
        assert "device: failed" in done.stdout
        assert found["errors"]
    wrong = run_module("benchmarks.gpu_check", "--out", tmp_path, "--only", "nothing")
    assert wrong.returncode == 1
    assert "there are device, export, engine, self-check" in wrong.stderr
    assert run_module("benchmarks.gpu_check", "--out", tmp_path, "--budget", "0").returncode == 2


@no_gpu
def test_without_a_gpu_every_step_says_so_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_module("benchmarks.gpu_check", "--out", tmp_path)
    assert done.returncode == 1
    assert time.monotonic() - began < 60
    result = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {"date", "commit", "hardware", "versions"} <= set(result)
    every = [step.name for step in gpu_check.steps(tmp_path, tmp_path, 1, "base")]
    assert list(result["steps"]) == every
    assert {"engine", "self-check", "graphs", "residency", "strict", "service", "tensorrt", "base-bf16"} <= set(every)
    for name in every[1:]:
        found = result["steps"][name]
        assert found["status"] == "not run", name
        assert found["reason"].startswith("the step device did not pass: "), name
        assert f"{name}: not run in 0.0 s: " in done.stdout
    assert "Traceback" not in done.stderr
    assert str(ROOT) not in json.dumps(result), "no path of the machine is published"


def test_all_steps_end_within_the_budget() -> None:
    assert gpu_check.BUDGET + gpu_check.GRACE < 480
    left = gpu_check._run(gpu_check.Step("late", ["-c", "pass"], 60), {}, 0.5, [])
    assert (left["status"], left["reason"]) == ("not run", "the time of --budget is spent")
    began = time.monotonic()
    sleeper = gpu_check.Step("sleeper", ["-c", "import time; print('begun', flush=True); time.sleep(60)"], 60)
    late = gpu_check._run(sleeper, {}, 1.5, [])
    assert time.monotonic() - began < 20
    assert (late["status"], late["exit"], late["output"]) == ("failed", 124, "begun\n")
    assert late["reason"].startswith("longer than")


def test_a_step_without_its_bundles_is_not_tried() -> None:
    step = gpu_check.Step("graphs", ["-c", "raise SystemExit(9)"], 60, bundles=True)
    before = {"device": {"status": "ok"}, "export": {"status": "failed", "reason": "longer than 150 s", "exit": 124}}
    found = gpu_check._run(step, before, 60, [])
    assert (found["status"], found["reason"]) == ("not run", "the step export did not pass: longer than 150 s")


def test_a_reason_that_is_no_fault_is_no_failure(tmp_path: Path) -> None:
    file = tmp_path / "tensorrt.json"
    file.write_text('{"not_run": "TensorRT is not installed"}')
    found = {"status": "ok", "exit": 0, "seconds": 2.0}
    gpu_check._read(file, found)
    assert (found["status"], found["excused"], found["seconds"]) == ("not run", True, 2.0)
    assert gpu_check._line("tensorrt", found) == "tensorrt: not run in 2.0 s: TensorRT is not installed"


def test_the_engine_steps_work_on_the_cpu_provider(tiny_run: TinyRun, tmp_path: Path) -> None:
    def step(name: str, code: int = 0) -> dict[str, Any]:
        file = tmp_path / f"{name}.json"
        done = run_module(
            "benchmarks.gpu_child",
            name,
            "--provider",
            "cpu",
            "--shapes",
            "tiny",
            "--work",
            tiny_run.work,
            "--json",
            file,
        )
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    assert set(step("export")["parity"]) == {"fp32", "int8"}
    assert set(step("self-check")) == {"fp32", "int8"}
    assert step("graphs")["fp32"]["largest_difference"] == 0.0, "there are no CUDA graphs on a CPU"
    assert {"1", "8"} == set(step("residency")["fp32"])
    served = step("service")
    assert (served["provider"], served["precision"]) == ("cpu", "int8")
    assert str(served["raw_output"]).startswith("a photo of delicious ")


@no_gpu
def test_what_is_not_there_is_refused_not_replaced(tiny_run: TinyRun, tmp_path: Path) -> None:
    for name in ("strict", "tensorrt"):
        file = tmp_path / f"{name}.json"
        done = run_module("benchmarks.gpu_child", name, "--work", tiny_run.work, "--json", file)
        assert done.returncode == 0, done.stderr
        found = json.loads(file.read_text())
        if name == "strict":
            assert "The provider 'cuda' was asked for, but" in found["cuda_without_a_gpu"]
        else:
            assert "TensorRT" in found["not_run"]
    empty = run_module("benchmarks.gpu_child", "graphs", "--work", tmp_path)
    assert (empty.returncode, empty.stderr) == (
        1,
        "gpu_child: There are no bundles yet; run the step `export` first.\n",
    )
