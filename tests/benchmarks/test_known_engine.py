"""The service with an engine of known speed: how long its calls take, and that its answers are the bundle's."""

from __future__ import annotations

import argparse
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.engine import Engine
from benchmarks.baselines.shared_engine import EngineFunction
from benchmarks.known_engine import Device, device, known_times, main
from benchmarks.servers import ENTRIES, ORIGINAL, on_device
from benchmarks.serving import main as compare
from tests.conftest import drawn_png, serving, serving_process


def test_a_call_is_padded_to_the_next_power_of_two() -> None:
    of = Device(10, 3)
    assert [round(1000 * of.seconds(photos)) for photos in (1, 2, 3, 5, 8, 16)] == [13, 16, 22, 34, 34, 58]
    assert str(of) == "10 ms a call and 3 ms a photo"
    assert device("10,3") == of
    assert device("10,10") == Device(10, 10)


@pytest.mark.parametrize("text", ["10", "10,3,1", "fast,3", "-1,3", "10,nan", "10,", "1e9,1"])
def test_a_wrong_speed_is_told(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        device(text)


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--device-ms", "slow", "--bundle", "x"])
    assert ended.value.code == 2
    assert "'slow' is not two times in ms" in capsys.readouterr().err


def test_engines_are_themselves_again_afterwards() -> None:
    plain = Engine.score
    with pytest.raises(RuntimeError), known_times(Device(1, 1)):
        assert Engine.score is not plain
        raise RuntimeError
    assert Engine.score is plain


def test_every_server_of_the_comparison_can_be_given_one(bundle: Path) -> None:
    of = Device(10, 0.5)
    commands = [on_device(entry, of).command(bundle, bundle, 1) for entry in ENTRIES if entry.name != ORIGINAL]
    assert [command[1].rpartition(".")[2] for command in commands] == [
        "known_engine", "plain_fastapi", "litserve_server",
    ]  # fmt: skip
    assert all(device(command[command.index("--device-ms") + 1]) == of for command in commands)


def test_the_function_of_the_baselines_takes_the_device_s_time(bundle: Path) -> None:
    known = EngineFunction(bundle, threads=1, max_batch=4, device=Device(100, 20))
    pixels = known.pixels(drawn_png(0))
    began = time.perf_counter()
    answers = known.label([pixels] * 3)
    assert 0.180 <= time.perf_counter() - began < 0.5
    assert answers == EngineFunction(bundle, threads=1, max_batch=4).label([pixels] * 3)


@pytest.mark.parametrize("more", [["--shapes", "base"], ["--guard"]])
def test_the_comparison_is_of_the_tiny_model(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare(["--device-ms", "10,3", *more])
    assert ended.value.code == 2
    assert "it is for --shapes tiny" in capsys.readouterr().err


def test_the_service_takes_the_device_s_time_and_gives_the_bundle_s_answers(bundle: Path) -> None:
    """150 ms a call and 50 a photo: alone 200 ms; two that come meanwhile share a call of 250 ms."""

    def ask(number: int) -> tuple[str, float]:
        got = httpx.post(f"{url}/predict", content=drawn_png(number), timeout=30).raise_for_status()
        encode, score = (float(re.search(rf"{name};dur=([\d.]+)", got.headers["server-timing"])[1]) for name in STAGES)  # type: ignore[index]
        return got.json()["label"], encode + score

    with serving(bundle, "--threads", 1) as url:
        labels = [ask(number)[0] for number in range(3)]
    flags = ("--threads", 1, "--device-ms", "150,50")
    with serving_process(bundle, *flags, module="benchmarks.known_engine") as (url, _), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert [label for label, _ in found] == labels
    for taken, least in zip(sorted(taken for _, taken in found), (200, 250, 250), strict=True):
        assert least - 1 <= taken < least + 200  # a busy machine is late, never early


STAGES = ("encode", "score")
