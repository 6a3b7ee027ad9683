"""The engine benchmark end to end on tiny shapes: what it writes, that it adds up, and that it stops for wrong answers."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import benchmarks.engine.__main__
import benchmarks.engine.memory
import benchmarks.engine.run
from app.engine.engine import Engine
from benchmarks.engine.__main__ import main
from benchmarks.engine.contestants import ORIGINAL, Answer, entries
from benchmarks.engine.guard import TOLERANCE, Guard, WrongAnswerError
from benchmarks.engine.memory import Meter
from tests.benchmarks.conftest import FEW, TinyRun
from tests.conftest import ROOT

ALWAYS = (*FEW, "ours-cpu-int8")


def quick(work: Path, *more: object) -> list[str]:
    """Arguments of a run of a second."""
    always = ("--shapes", "tiny", "--device", "cpu", "--threads", 1, "--warmups", 0, "--work", work)
    return list(map(str, [*always, *more]))


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """A run in this process sets torch's threads; other tests must not notice."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_it_says_on_what_and_with_what_it_ran(tiny_run: TinyRun) -> None:
    result = tiny_run.result
    assert (result["benchmark"], result["complete"], result["stopped"]) == ("engine", True, None)
    assert {"date", "commit", "dirty", "hardware", "versions", "command", "options"} <= set(result)
    assert {"cpu", "flags", "cores", "load", "memory_bytes", "gpu"} == set(result["hardware"])
    assert {"python", "numpy", "torch", "transformers", "onnxruntime"} <= set(result["versions"])
    assert result["command"].startswith("python -m benchmarks.engine --shapes tiny --device cpu --batches 1,3 ")
    assert str(tiny_run.work) not in json.dumps(result) + tiny_run.markdown, "no path of the machine is published"
    model = result["model"]
    shape = (30524, 32, 101) if tiny_run.everyone else (88, 32, 16)
    assert (model["vocabulary"], model["image_size"], model["labels"]) == shape
    assert model["label_flops"] > 0
    assert model["operators_not_counted"] == {}
    assert not result["failed"]
    assert set(result["contestants"]) >= set(ALWAYS if tiny_run.everyone else FEW)
    everyone = {entry.name for entry in entries("cpu")} if tiny_run.everyone else set(FEW)
    assert set(result["contestants"]) | set(result["not_run"]) == everyone
    for name, one in result["contestants"].items():
        assert set(one["peak_memory_bytes"]) == {"1", "3"}, name
        assert one["memory_method"] in result["memory_methods"]


def test_every_contestant_runs_once_in_every_round(tiny_run: TinyRun) -> None:
    for found in tiny_run.result["batches"].values():
        rounds = found["rounds"]
        assert len(rounds) == 5
        for one in rounds:
            assert sorted(one["order"]) == sorted(one["seconds"]) == sorted(tiny_run.result["contestants"])
            types = {"fp32", "int8"} if tiny_run.everyone else {"fp32"}
            assert types == set(one["rates"]), "the yardsticks run in the same rounds"
        orders = [one["order"] for one in rounds]
        turned = [*orders[0][1:], orders[0][0]]
        assert orders[1] == turned, "nobody always runs after the same one"


def test_the_figures_follow_from_the_rounds(tiny_run: TinyRun) -> None:
    flops = tiny_run.result["model"]["label_flops"]
    assert list(tiny_run.result["batches"]) == ["1", "3"]
    for batch, found in tiny_run.result["batches"].items():
        for name, figures in found["summary"].items():
            seconds = [one["seconds"][name] for one in found["rounds"]]
            median = statistics.median(seconds)
            against = statistics.median(one["seconds"][ORIGINAL] / one["seconds"][name] for one in found["rounds"])
            assert figures["ms_median"] == pytest.approx(1000 * median)
            assert median * 1000 <= figures["ms_p95"] <= 1000 * max(seconds)
            assert figures["images_per_second"] == pytest.approx(int(batch) / median)
            assert figures["flops_per_second"] == pytest.approx(flops * int(batch) / median)
            assert figures["times_original"] == pytest.approx(against)
            dtype = tiny_run.result["contestants"][name]["precision"]
            if dtype in found["rounds"][0]["rates"]:
                shares = [
                    flops * int(batch) / one["seconds"][name] / max(one["rates"][dtype].values())
                    for one in found["rounds"]
                ]
                assert figures["share_of_matmul"] == pytest.approx(statistics.median(shares))
        assert found["summary"][ORIGINAL]["times_original"] == 1
        ours = found["summary"]["ours-cpu-fp32"]
        for part in ("encode", "score"):
            medians = statistics.median(one[f"{part}_seconds"]["ours-cpu-fp32"] for one in found["rounds"])
            assert ours[f"{part}_ms"] == pytest.approx(1000 * medians)
        for one in found["rounds"]:
            parts = one["encode_seconds"]["ours-cpu-fp32"] + one["score_seconds"]["ours-cpu-fp32"]
            assert 0 < parts <= one["seconds"]["ours-cpu-fp32"], "the stages lie within the call"
        assert ours["score_share_of_encode"] > 0
        assert found["summary"][ORIGINAL]["encode_ms"] is None
        best = found["matmul"]["fp32"]
        assert best["flops_per_second"] == max(best["shapes"].values())
        assert "256x256x256" in best["shapes"]


def test_the_answers_were_compared(tiny_run: TinyRun) -> None:
    agreement = tiny_run.result["agreement"]
    ours = agreement["ours-cpu-fp32"]
    assert ours["must_be_equal"]
    assert ours["same_label"] == ours["answers"] > 4 * 5
    assert ours["largest_logprob_difference"] <= TOLERANCE
    assert ours["labels_chosen"] > 1, "pictures that all get one label would prove little"
    if tiny_run.everyone:
        assert not agreement["ours-cpu-int8"]["must_be_equal"]
    assert ORIGINAL not in agreement


def test_the_tables_are_for_people(tiny_run: TinyRun) -> None:
    assert tiny_run.stdout == ""
    assert "batch 3, round 5 of 5: original " in tiny_run.stderr
    for text in ("### Batch 1", "### Batch 3", "| `ours-cpu-fp32` | ", "MatMul fp32: ", "same label as PyTorch fp32"):
        assert text in tiny_run.markdown
    for name, reason in tiny_run.result["not_run"].items():
        assert f"`{name}` was not run: {reason}." in tiny_run.markdown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "original,nobody"], "there is no contestant 'nobody' on cpu; there are original, generate-bf16"),
        (["--only", "ours-cuda-fp32"], "there is no contestant 'ours-cuda-fp32' on cpu"),
        (["--batches", "0"], "0 is not at least 1"),
        (["--batches", "1,many"], "'1,many' is not a list of numbers such as 1,8"),
        (["--rounds", "0"], "0 is not at least 1"),
        (["--threads", "-1"], "-1 is not at least 0"),
        (["--shapes", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_wrong_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--device", "cpu", *arguments])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda", "--shapes", "tiny", "--work", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("benchmarks.engine: --device cuda was asked for, but torch finds no GPU")
    assert not list(tmp_path.iterdir()), "nothing was made"


@pytest.mark.usefixtures("committed")
def test_a_wrong_label_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Engine.score

    def shifted(self: Any, pixels: Any) -> Any:
        scores = real(self, pixels)
        return type(scores)(np.roll(scores.probabilities, 1, axis=1), scores.encode_seconds, scores.score_seconds)

    monkeypatch.setattr(Engine, "score", shifted)
    file = tmp_path / "e.json"
    assert main(quick(tmp_path, "--rounds", 1, "--only", "one-pass,ours-cpu-fp32", "--json", file)) == 1
    told = capsys.readouterr()
    assert "ours-cpu-fp32 is wrong: on picture 0 (row 0 of a batch of 1) it chooses label" in told.err
    result = json.loads(file.read_text())
    assert not result["complete"]
    assert result["stopped"].startswith("ours-cpu-fp32 is wrong")
    assert result["batches"] == {}, "no figure of a wrong engine"
    assert "**Not complete: ours-cpu-fp32 is wrong" in told.out


def test_the_same_label_with_other_probabilities_is_wrong_too() -> None:
    wanted = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], dtype=np.float32))
    guard = Guard(wanted, {"strict"})
    places = np.array([1, 0])
    guard.check("strict", Answer(logprobs=wanted[places]), places)
    guard.check("strict", Answer(tokens=[[1]]), places)
    off = wanted.copy()
    off[1, 2] += 2 * TOLERANCE
    guard.check("loose", Answer(logprobs=off), np.array([0, 1]))
    with pytest.raises(WrongAnswerError, match="on picture 1 .row 1 of a batch of 2"):
        guard.check("strict", Answer(logprobs=off), np.array([0, 1]))
    with pytest.raises(WrongAnswerError, match="at most"):
        guard.check("strict", Answer(logprobs=np.full_like(wanted, np.nan)), np.array([0, 1]))
    assert guard.report()["loose"]["largest_logprob_difference"] == pytest.approx(2 * TOLERANCE, rel=0.1)


@pytest.mark.usefixtures("committed")
def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA out of memory:\n a lot")

    monkeypatch.setattr(benchmarks.engine.run, "load_torch", broken)
    file = tmp_path / "e.json"
    assert main(quick(tmp_path, "--rounds", 1, "--batches", 2, "--only", "one-pass,ours-cpu-fp32", "--json", file)) == 1
    result = json.loads(file.read_text())
    assert result["failed"] == {"one-pass": "CUDA out of memory: a lot"}
    assert result["complete"]
    assert result["batches"]["2"]["summary"]["ours-cpu-fp32"]["times_original"] is None, "the original did not run"
    told = capsys.readouterr()
    assert "one-pass failed: CUDA out of memory: a lot" in told.err
    assert "`one-pass` **failed**: CUDA out of memory" in told.out


def not_taken(*_: object) -> None:
    raise AssertionError("SIGTERM was not taken")


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_rounds(
    tmp_path: Path, stop: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(text: str) -> None:
        print(text, file=sys.stderr)
        if "round 3 of" in text:
            signal.raise_signal(stop)

    monkeypatch.setattr(benchmarks.engine.__main__, "_progress", told)
    file, table = tmp_path / "e.json", tmp_path / "e.md"
    arguments = ["--rounds", 10**6, "--batches", "1,2", "--only", "ours-cpu-fp32", "--json", file, "--markdown", table]
    before = signal.signal(signal.SIGTERM, not_taken)  # which would end this process
    try:
        assert main(quick(tmp_path / "work", *arguments)) == 130
        assert signal.getsignal(signal.SIGTERM) is not_taken, "as it was before"
    finally:
        signal.signal(signal.SIGTERM, before)
    rest = capsys.readouterr().err
    assert rest.endswith("benchmarks.engine: interrupted.\n")
    assert "Traceback" not in rest
    result = json.loads(file.read_text())
    assert (result["complete"], result["stopped"]) == (False, "interrupted")
    assert list(result["batches"]) == ["1"]
    assert len(result["batches"]["1"]["rounds"]) == result["batches"]["1"]["summary"]["ours-cpu-fp32"]["rounds"] == 3
    assert table.read_text().startswith("**Not complete: interrupted.**")


@pytest.mark.long  # the whole command, started and stopped as by a user or a time limit
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped(all_contestants: TinyRun, tmp_path: Path, stop: signal.Signals) -> None:
    work, file = all_contestants.work, tmp_path / "e.json"
    made = os.listdir(work)
    arguments = quick(work, "--rounds", 10**6, "--batches", "1,2", "--only", "ours-cpu-fp32", "--json", file)
    command = [sys.executable, "-m", "benchmarks.engine", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "round 3 of" in line:
                process.send_signal(stop)
                break
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130
    assert rest.endswith("benchmarks.engine: interrupted.\n")
    assert "Traceback" not in rest
    result = json.loads(file.read_text())
    assert (result["complete"], result["stopped"]) == (False, "interrupted")
    assert len(result["batches"]["1"]["rounds"]) >= 3
    assert os.listdir(work) == made, "the models were taken from the work folder"


def test_memory_is_what_came_after_loading_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, clear = tmp_path / "status", tmp_path / "clear_refs"
    monkeypatch.setattr(benchmarks.engine.memory, "STATUS", status)
    monkeypatch.setattr(benchmarks.engine.memory, "CLEAR", clear)
    status.write_text("Name:\tpython\nVmHWM:\t  900 kB\nVmRSS:\t  300 kB\n")
    meter = Meter("cpu")
    assert clear.read_text() == "5", "proc(5): this resets the high-water mark"
    status.write_text("Name:\tpython\nVmHWM:\t  820 kB\nVmRSS:\t  310 kB\n")
    assert meter.peak() == 520 * 1024
    status.write_text("VmHWM:\t  200 kB\n")
    assert meter.peak() == 0
    status.unlink()
    assert meter.peak() is None
    assert Meter("cpu").peak() is None


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no high-water mark that can be reset")
def test_memory_is_told_for_one_contestant_alone() -> None:
    """What others had before is not in it, by margins that no allocator comes near."""
    before = np.ones(32 << 20)  # 256 MiB
    del before
    meter = Meter("cpu")
    mine = np.ones(16 << 20)  # 128 MiB
    peak = meter.peak()
    assert peak is not None
    assert mine.nbytes / 2 < peak < 1.5 * mine.nbytes
