"""A run that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from os import kill
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.commands import Started, run_module
from tests.training.kills import hurry, kill_after_line, kill_at, limit_files
from tests.training.tables import write_hub

EVERYTHING = [  # every random stream and everything that a state must hold: 3 epochs of 6 steps, states also at 3, 9, 15
    "data.train_count=48", "data.test_count=16", "data.validation=0.1", "data.workers=0", "model.image_size=16",
    "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.epochs=3",
    "train.batch_size=8", "train.ema=0.9", "train.dropout=0.2", "train.label_smoothing=0.1", "train.accumulate=2",
    "train.save_every=3", "augment.mixup=0.4", "augment.crop=0.5", "augment.rotate=10", "augment.colour=0.2",
    "augment.rand_augment=1",
]  # fmt: skip
STEPS = 18
# Where a run dies, at which call of that, and the step that the next attempt goes on from.
KILLS: list[tuple[str, int, int | None]] = [
    ("training.journal:Journal.write", 3, None),  # before the first state
    ("training.state:write_text_atomic", 1, None),  # halfway through the first state
    ("training.journal:Journal.write", 5, 3),  # in the middle of an epoch
    ("training.loop:save_state", 1, 3),  # between the best weights of an epoch and the state that names them
    ("training.journal:Journal.write", 6, 6),  # at step 8: 4 to 6 and a validation are written, and 7
    ("training.finish:ask", 1, STEPS),  # after the last step
]
RANDOM_KILLS = 20


def command(out: Path, *overrides: str) -> list[str]:
    sets = [part for override in (*EVERYTHING, *overrides) for part in ("--set", override)]
    return ["training", "--recipe", "drawn-scratch", "--out", str(out), "--threads", "1", *sets]


def killed(arguments: list[str], prepare: Callable[[], None]) -> str:
    """What a run said before it was killed."""
    with Started(*arguments, prepare=prepare) as process:
        done = process.wait()
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    return done.stdout


def finished(arguments: list[str], prepare: Callable[[], None] | None = None) -> CompletedProcess[str]:
    with Started(*arguments, prepare=prepare) as process:
        done = process.wait()
    assert done.returncode == 0, done.stderr
    return done


def weights(out: Path) -> bytes:
    """What the run left, and the training photos that it remembers."""
    return b"".join((out / name).read_bytes() for name in ("model.safetensors", "familiarity.safetensors"))


def assert_same_run(one: Path, other: Path) -> None:
    assert weights(one) == weights(other)
    records = [json.loads((out / "training.json").read_text()) for out in (one, other)]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["temperature"] == records[1]["temperature"]
    logs = [out.with_name(f"{out.name}.run").joinpath("log.jsonl").read_text().splitlines() for out in (one, other)]
    losses = [[(e["step"], e["loss"]) for e in map(json.loads, log) if e["kind"] == "train"] for log in logs]
    assert [step for step, _ in losses[0]] == list(range(1, STEPS + 1))
    assert losses[0] == losses[1], "no step is missing from the log, and none stands there twice"
    for out in (one, other):
        assert not list(out.with_name(f"{out.name}.run").glob("*state-*")), "a finished run keeps its logs only"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of EVERYTHING that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "whole"
    finished(command(out))
    return out


@pytest.mark.long  # runs killed and resumed
def test_killed_at_the_worst_places_the_weights_are_the_same(whole: Path, tmp_path: Path) -> None:
    start: int | None = None
    for function, call, after in KILLS:
        said = killed(command(tmp_path / "out"), partial(kill_at, function, call))
        assert went_on_from(said) == start
        start = after
    assert went_on_from(finished(command(tmp_path / "out")).stdout) == start
    assert_same_run(whole, tmp_path / "out")


def went_on_from(said: str) -> int | None:
    return int(said.partition("going on from step ")[2].split()[0]) if "going on from step" in said else None


@pytest.mark.long
def test_killed_at_twenty_random_places_the_weights_are_the_same(whole: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    starts = []
    for step in sorted(chance.randrange(1, STEPS) for _ in range(RANDOM_KILLS)):
        said = killed(command(tmp_path / "out"), partial(kill_after_line, step, chance.randrange(5000)))
        starts.append(went_on_from(said))
    starts.append(went_on_from(finished(command(tmp_path / "out")).stdout))
    assert len(set(starts)) > 3, "several states are gone on from"
    assert_same_run(whole, tmp_path / "out")


def test_a_stopped_run_goes_on_and_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    log = tmp_path / "out.run" / "log.jsonl"
    with Started(*command(out, "train.epochs=500")) as process:
        while process.running and not (log.exists() and '"train"' in log.read_text()):
            time.sleep(0.01)
        kill(process.pid, signal.SIGTERM)
        stopped = process.wait()
    assert stopped.returncode == 1
    assert "Stopped by SIGTERM at step" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    changed = command(out, "train.epochs=2")
    refused = run_module(*changed)
    assert refused.returncode == 1
    assert "train.epochs was 500, now 2" in refused.stderr
    assert "--allow-changes" in refused.stderr
    assert list((tmp_path / "out.run").glob("state-*")), "nothing is lost by the refusal"
    shutil.copytree(tmp_path / "out.run", tmp_path / "other.run")
    allowed = run_module(*command(tmp_path / "other", "train.epochs=2"), "--allow-changes")
    assert allowed.returncode == 0, allowed.stderr
    assert "going on from step" in allowed.stdout
    anew = run_module(*command(out, "train.epochs=1"), "--restart")
    assert anew.returncode == 0, anew.stderr
    assert "going on" not in anew.stdout


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path) -> None:
    """Each step makes the weights 999 times as large: on any processor they soon have no number."""
    done = run_module(*command(tmp_path / "out", "train.learning_rate=1", "train.clip=1e30", "train.warmup=0",
                               "train.epochs=500", "train.weight_decay=1000", "train.save_every=500"))  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "of epoch" in done.stderr
    assert "is kept in" in done.stderr
    assert not (tmp_path / "out").exists()
    step = int(done.stderr.partition(" at step ")[2].partition(",")[0])
    assert (tmp_path / "out.run" / f"state-{step - 1:08d}").is_dir(), "of the step before, not an older one"


def test_a_disk_that_fills_loses_nothing(whole: Path, tmp_path: Path) -> None:
    with Started(*command(tmp_path / "out"), prepare=partial(limit_files, 40_000)) as process:
        done = process.wait()
    assert done.returncode == 1
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    finished(command(tmp_path / "out"))
    assert_same_run(whole, tmp_path / "out")


def test_cached_features_resume_too(tmp_path: Path) -> None:
    cached = ["train.freeze=decoder", "cache.views=2", f"cache.folder={tmp_path / 'features'}", "data.preload=false"]
    arguments = command(tmp_path / "killed", *cached)
    killed(arguments, partial(kill_at, "training.data.cache:write_text_atomic", 1))  # a cache without its marker
    killed(arguments, partial(kill_at, "training.journal:Journal.write", 5))
    assert went_on_from(killed(arguments, partial(kill_at, "training.journal:Journal.write", 6))) == 3
    assert went_on_from(finished(arguments).stdout) == 6, "in the second view"
    cached[2] = f"cache.folder={tmp_path / 'others'}"
    finished(command(tmp_path / "whole", *cached))
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")


def test_streams_resume_too(tmp_path: Path) -> None:
    hub = write_hub(tmp_path / "hub", [i // 16 for i in range(48)], row_group=2)
    stream = [
        "data.source=hub", "data.streaming=true", f"data.name={hub}", "data.preload=false", "data.shuffle_buffer=24",
        "data.shuffle_shards=24", "data.least_entropy=0.5",
    ]  # fmt: skip
    arguments = command(tmp_path / "killed", *stream)
    killed(arguments, partial(hurry, partial(kill_at, "training.journal:Journal.write", 5)))
    assert went_on_from(finished(arguments, hurry).stdout) == 3
    finished(command(tmp_path / "whole", *stream), hurry)
    assert weights(tmp_path / "whole") == weights(tmp_path / "killed")
