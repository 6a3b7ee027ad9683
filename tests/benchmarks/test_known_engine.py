"""The service with an engine of known speed: how long its calls take, and that its answers are the bundle's."""

from __future__ import annotations

import argparse
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

import benchmarks.known_engine
from app.engine import check
from app.engine.batches import buckets
from app.engine.engine import Engine, Scores
from app.engine.pool import EnginePool
from benchmarks.known_engine import Device, device, known_times, main, taking
from benchmarks.load.server_side import STARTED, between, parse
from benchmarks.serving.__main__ import main as compare
from benchmarks.serving.baselines.shared_engine import EngineFunction
from benchmarks.serving.servers import ENTRIES, ORIGINAL, on_device
from contract.bundle import read_bundle
from tests.conftest import drawn_png, serving_process


class Clock:
    """The device's, which only a sleep moves."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(benchmarks.known_engine, "time", made)
    return made


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
    plain, sizes, timed = Engine.score, vars(EnginePool)["sizes"], vars(check)["call_seconds"]
    with pytest.raises(RuntimeError), known_times(Device(1, 1)):
        assert Engine.score is not plain
        assert vars(EnginePool)["sizes"].fget(SimpleNamespace(max_batch=6)) == buckets(6), "as for a device that pads"
        assert vars(check)["call_seconds"](SimpleNamespace(max_batch=2)) == {1: 0.002, 2: 0.003}
        raise RuntimeError
    assert Engine.score is plain
    assert vars(check)["call_seconds"] is timed
    assert vars(EnginePool)["sizes"] is sizes


def test_every_server_of_the_comparison_can_be_given_one(bundle: Path) -> None:
    of = Device(10, 0.5)
    commands = [on_device(entry, of).command(bundle, bundle, 1) for entry in ENTRIES if entry.name != ORIGINAL]
    assert [command[1].rpartition(".")[2] for command in commands] == [
        "known_engine", "plain_fastapi", "litserve_server",
    ]  # fmt: skip
    assert all(device(command[command.index("--device-ms") + 1]) == of for command in commands)


def test_the_function_of_the_baselines_takes_the_device_s_time(bundle: Path, clock: Clock) -> None:
    known = EngineFunction(bundle, threads=1, max_batch=4, device=Device(100, 20))
    pixels = known.pixels(drawn_png(0))
    before = clock.now
    answers = known.label([pixels] * 3)
    assert clock.now - before == pytest.approx(0.180)
    assert answers == EngineFunction(bundle, threads=1, max_batch=4).label([pixels] * 3)


def test_a_call_takes_the_device_s_time_whatever_the_processor_took(clock: Clock) -> None:
    def score(pixels: list[int]) -> Scores:
        clock.now += pixels[0]
        return Scores(np.zeros((len(pixels), 1), dtype=np.float32), pixels[0] - 0.02, 0.02)

    timed = taking(Device(100, 20), score)
    for took, photos, seconds in ((0.05, 1, 0.120), (0.05, 3, 0.180), (0.5, 3, 0.5)):  # the last is slower than it
        before = clock.now
        found = timed([took] * photos)
        assert clock.now - before == pytest.approx(seconds)
        assert found.encode_seconds + found.score_seconds == pytest.approx(seconds)
        assert found.score_seconds == 0.02


def test_photos_that_come_during_a_call_share_the_next(bundle: Path, clock: Clock) -> None:
    """150 ms a call and 50 a photo: alone 200 ms, two together 250, three padded to four 350."""
    with known_times(Device(150, 50)):
        engine = Engine(read_bundle(bundle), provider="cpu", threads=1, max_batch=4)
        size = engine.bundle.manifest.image_size
        for photos, seconds in ((1, 0.2), (2, 0.25), (3, 0.35)):
            found = engine.score(np.zeros((photos, size, size, 3), dtype=np.uint8))
            assert found.encode_seconds + found.score_seconds == pytest.approx(seconds)
        engine.close()


@pytest.mark.parametrize("more", [["--shapes", "base"], ["--guard"]])
def test_the_comparison_is_of_the_tiny_model(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare(["--device-ms", "10,3", *more])
    assert ended.value.code == 2
    assert "it is for --shapes tiny" in capsys.readouterr().err


def test_the_service_takes_the_device_s_time_and_gives_the_bundle_s_answers(bundle: Path, server: str) -> None:
    """150 ms a call and 50 a photo: alone 200 ms; those that come meanwhile share a call of 250 or 350."""

    def ask(url: str, number: int) -> tuple[str, float]:
        got = httpx.post(f"{url}/predict", content=drawn_png(number), timeout=60).raise_for_status()
        encode, score = (float(re.search(rf"{name};dur=([\d.]+)", got.headers["server-timing"])[1]) for name in STAGES)  # type: ignore[index]
        return got.json()["label"], encode + score

    labels = [ask(server, number)[0] for number in range(3)]
    flags = ("--threads", 1, "--device-ms", "150,50")
    with serving_process(bundle, *flags, module="benchmarks.known_engine") as (url, _), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda number: ask(url, number), range(3)))
        after = parse(httpx.get(f"{url}/metrics", timeout=60).text)
    assert [label for label, _ in found] == labels
    counted = between({STARTED: after[STARTED]}, after)
    assert counted is not None
    calls = [min(int(most), 3) for most, count in counted["batches"]["upto"].items() for _ in range(count)]
    assert sum(calls) == 3
    least = sorted(1000 * Device(150, 50).seconds(photos) for photos in calls for _ in range(photos))
    # a busy machine is late, never early
    assert all(taken >= known - 1 for taken, known in zip(sorted(taken for _, taken in found), least, strict=True))


STAGES = ("encode", "score")
