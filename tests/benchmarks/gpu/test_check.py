"""The GPU check on a machine that may have none: steps run, failures are told, results are kept."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from benchmarks.gpu import check as gpu_check
from benchmarks.gpu import child as gpu_child
from benchmarks.gpu import speed as gpu_speed
from benchmarks.gpu.steps import CHILD, Step, steps
from contract.errors import ContractError
from tests.benchmarks.conftest import TinyRun
from tests.conftest import ROOT, run_module

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a check starts."""
    found: list[list[str]] = []
    plain = gpu_check._command

    def noted(arguments: list[str], *more: Any) -> dict[str, Any]:
        found.append(arguments)
        return plain(arguments, *more)

    monkeypatch.setattr(gpu_check, "_command", noted)
    return found


def test_steps_are_told_apart_and_failures_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"status": "failed", "exit": 1, "seconds": 0.1, "output": "", "errors": "benchmarks.gpu.child: no GPU"}
    monkeypatch.setattr(gpu_check, "_command", lambda *_: failed)
    assert gpu_check.main(["--out", str(tmp_path), "--only", "device"]) == 1
    steps = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]
    assert steps == {"device": failed}
    assert "device: failed in 0.1 s: benchmarks.gpu.child: no GPU" in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, "_command", lambda *_: failed | {"status": "ok", "exit": 0})
    assert gpu_check.main(["--out", str(tmp_path), "--only", "device"]) == 0
    assert gpu_check.main(["--out", str(tmp_path), "--only", "nothing"]) == 1
    assert "there are device, export, partition, self-check" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--out", str(tmp_path), "--budget", "0"])
    assert ended.value.code == 2


@no_gpu
def test_without_a_gpu_every_step_says_so_at_once(
    tmp_path: Path, started: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    assert [arguments[:3] for arguments in started] == [["-m", CHILD, "device"]], "no other step starts"
    said = capsys.readouterr()
    result = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {"date", "commit", "hardware", "versions"} <= set(result)
    every = [step.name for step in steps(tmp_path, tmp_path, "base")]
    assert list(result["steps"]) == every
    assert {"partition", "self-check", "speed", "graphs", "residency", "strict", "service", "tensorrt"} <= set(every)
    assert len(list(tmp_path.iterdir())) <= 3, "one file for all steps: few can be fetched from such a machine"
    device = result["steps"]["device"]
    assert (device["status"], device["exit"]) == ("failed", 1)
    assert device["errors"]
    assert "device: failed" in said.out
    for name in every[1:]:
        found = result["steps"][name]
        assert found["status"] == "not run", name
        assert found["reason"].startswith("the step device did not pass: "), name
        assert f"{name}: not run in 0.0 s: " in said.out
    assert "Traceback" not in said.err
    assert str(ROOT) not in json.dumps(result), "no path of the machine is published"


def test_all_steps_end_within_the_budget() -> None:
    assert gpu_check.BUDGET + gpu_check.GRACE < 480
    left = gpu_check._run(Step("late", ["-c", "pass"], 60), {}, 0.5, [])
    assert (left["status"], left["reason"]) == ("not run", "the time of --budget is spent")


def test_a_step_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is over as soon as it has begun, however long that takes."""
    begun, processes = tmp_path / "begun", list[subprocess.Popen[bytes]]()

    class Popen(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            processes.append(self)
            if timeout == LIMIT:
                while not begun.exists() and self.poll() is None:
                    time.sleep(0.01)
                raise subprocess.TimeoutExpired(self.args, timeout)
            return super().wait(timeout)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    code = f"import time; print('begun', flush=True); open({str(begun)!r}, 'w'); time.sleep(600)"
    late = gpu_check._run(Step("sleeper", ["-c", code], 60), {}, LIMIT, [])
    assert (late["status"], late["exit"], late["output"]) == ("failed", 124, "begun\n")
    assert late["reason"] == "longer than 2 s"
    assert processes[0].returncode in (-signal.SIGTERM, -signal.SIGKILL)


LIMIT = 1.5  # seconds


def test_a_step_without_its_bundles_is_not_tried() -> None:
    step = Step("graphs", ["-c", "raise SystemExit(9)"], 60, bundles=True)
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


def test_a_rehearsal_takes_nothing_for_shown_that_was_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environments: dict[str, str] = {}

    def command(arguments: list[str], *more: Any) -> dict[str, Any]:
        environments[arguments[2]] = more[-1]["STAND_IN_DEVICES"]
        return {"status": "ok", "exit": 0, "seconds": 0.1, "output": "", "errors": ""}

    monkeypatch.setattr(gpu_check, "_command", command)
    assert gpu_check.main(["--out", str(tmp_path), "--rehearse", "--work", str(tmp_path / "work")]) == 0
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    assert found["rehearsal"]
    status = {name: one["status"] for name, one in found["steps"].items()}
    assert {name for name in status if status[name] == "ok"} >= {"device", "export", "partition", "strict"}
    needs = {name for name in status if status[name] == "needs real arithmetic"}
    assert needs >= {"self-check", "speed", "speed-graphs", "service", "training", "graphs", "residency"}
    assert all(found["steps"][name]["reason"] for name in needs)
    assert "self-check: needs real arithmetic in 0.1 s: the answers on CUDA" in capsys.readouterr().out
    assert environments["partition"] == "1"
    assert environments["--shapes"] == "0", "torch must not take the stand-in for a GPU"


def test_what_a_running_step_has_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it may be killed: results so far are in the one file."""
    kept: list[dict[str, Any]] = []
    out, work = tmp_path / "out", tmp_path / "work"

    def command(arguments: list[str], limit: float, hidden: list[Path], keep: Any, *_: Any) -> dict[str, Any]:
        (work / "results" / "device.json").write_text('{"gpu": "half of it"}')
        keep()
        kept.append(json.loads((out / "gpu-check.json").read_text())["steps"]["device"])
        return {"status": "ok", "exit": 0, "seconds": 0.1, "output": "", "errors": ""}

    monkeypatch.setattr(gpu_check, "_command", command)
    assert gpu_check.main(["--out", str(out), "--work", str(work), "--only", "device"]) == 0
    assert kept == [{"status": "running", "result": {"gpu": "half of it"}}]
    step = json.loads((out / "gpu-check.json").read_text())["steps"]["device"]
    assert (step["status"], step["result"]) == ("ok", {"gpu": "half of it"})


def step(name: str, work: Path, folder: Path, *more: str) -> dict[str, Any]:
    """What one step finds on the CPU provider, in this process."""
    file = folder / f"{name}.json"
    arguments = [name, "--provider", "cpu", "--shapes", "tiny", "--work", str(work), "--json", str(file), *more]
    assert gpu_child.main(arguments) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture
def exported(bundle: Path, tmp_path: Path) -> Path:
    """A work folder as the step `export` leaves it, with the committed model in fp32 alone."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "tiny").symlink_to(bundle)
    (work / gpu_speed.BUNDLES).write_text(json.dumps({"fp32": "tiny"}))
    return work


def test_the_engine_steps_work_on_the_cpu_provider(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (gpu_child, gpu_speed):
        monkeypatch.setattr(module, "precisions", lambda _: ["fp32"])
    assert step("self-check", exported, tmp_path)["fp32"]["max_batch"] == gpu_speed.MAX_BATCH
    found = step("graphs", exported, tmp_path)
    assert found["fp32"]["largest_difference"] == 0.0, "there are no CUDA graphs on a CPU"
    assert {"1", "8"} == set(step("residency", exported, tmp_path)["fp32"])


@pytest.mark.long  # exports in processes of their own, and a service
def test_the_steps_work_on_a_random_model(all_contestants: TinyRun, tmp_path: Path) -> None:
    def step(name: str) -> dict[str, Any]:
        file = tmp_path / f"{name}.json"
        done = run_module(
            "benchmarks.gpu.child", name, "--provider", "cpu", "--shapes", "tiny", "--work", all_contestants.work,
            "--json", file,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    assert set(step("export")["precisions"]) == {"fp32", "int8"}
    assert set(step("self-check")) == {"fp32", "int8"}
    assert step("graphs")["fp32"]["largest_difference"] == 0.0, "there are no CUDA graphs on a CPU"
    assert {"1", "8"} == set(step("residency")["fp32"])
    served = step("service")
    assert (served["provider"], served["precision"]) == ("cpu", "fp32")
    assert set(served["clients"]) == {"1", "8", "32"}
    assert all(0 < one["p50_ms"] <= one["p95_ms"] for one in served["clients"].values())
    assert str(served["raw_output"]).startswith("a photo of delicious ")


def test_a_package_that_lacks_one_of_its_own_is_told_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "halfway.py").write_text("import not_there_either\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu_child, "NEEDED", ("json", "halfway"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert gpu_child.main(["device", "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "benchmarks.gpu.child: Not all packages can be imported: halfway (ModuleNotFoundError: No module named "
        "'not_there_either').\n"
    )


def test_a_project_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu_child, "NEEDED", ())
    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ContractError, match="food-vision itself"):
        gpu_child._check_packages()


@no_gpu
def test_what_is_not_there_is_refused_not_replaced(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = step("strict", exported, tmp_path, "--provider", "cuda")
    assert "The provider 'cuda' was asked for, but" in found["cuda_without_a_gpu"]
    assert "TensorRT" in step("tensorrt", exported, tmp_path, "--provider", "cuda")["not_run"]
    capsys.readouterr()
    assert gpu_child.main(["graphs", "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "benchmarks.gpu.child: There are no bundles yet; run the step `export` first.\n"
