"""A run that is killed again and again ends with the weights of one that never was."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, run_module
from tests.training.tables import write_hub

KILLS = 20
EVERYTHING = [  # every random stream and everything that a state must hold
    "data.train_count=240", "data.test_count=16", "data.validation=0.1", "data.workers=0", "model.image_size=16",
    "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.epochs=4",
    "train.batch_size=8", "train.ema=0.9", "train.dropout=0.2", "train.label_smoothing=0.1", "train.accumulate=2",
    "train.save_every=3", "augment.mixup=0.4", "augment.crop=0.5", "augment.rotate=10", "augment.colour=0.2",
    "augment.rand_augment=1",
]  # fmt: skip
# Imports once, then forks a child for each attempt and kills it with SIGKILL at a step of its own choosing.
DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from training.__main__ import main

kills, out, argv = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
log, chance = Path(f"{out}.run/log.jsonl"), random.Random(7)
killed = 0
steps = sorted(chance.sample(range(1, 118), kills))
for step in [*steps, None]:
    child = os.fork()
    if child == 0:
        os._exit(main(argv))
    while step is not None:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            sys.exit(f"the run ended before step {step}")
        if log.exists() and log.read_bytes().count(b'"train"') >= step:
            time.sleep(chance.random() * 0.02)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            break
        time.sleep(0.001)
    else:
        print("killed", killed, "exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def command(out: Path, *overrides: str) -> list[str]:
    sets = [part for override in (*EVERYTHING, *overrides) for part in ("--set", override)]
    return ["--recipe", "drawn", "--out", str(out), "--threads", "1", *sets]


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_killed_at_twenty_random_steps_the_weights_are_the_same(tmp_path: Path) -> None:
    whole = run_module("training", *command(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    driver = start("-c", DRIVER, KILLS, tmp_path / "killed", *command(tmp_path / "killed"))
    output, errors = driver.communicate(timeout=600)
    assert f"killed {KILLS} exit 0" in output, output + errors
    assert output.count("going on from step") >= KILLS - 2, output
    names = ("whole", "killed")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in names]
    assert weights[0] == weights[1]
    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in names]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["temperature"] == records[1]["temperature"]
    logs = [(tmp_path / f"{name}.run" / "log.jsonl").read_text().splitlines() for name in names]
    losses = [[(e["step"], e["loss"]) for e in map(json.loads, log) if e["kind"] == "train"] for log in logs]
    assert losses[0] == losses[1], "no step is missing from the log, and none stands there twice"
    assert not list((tmp_path / "killed.run").glob("*state-*")), "a finished run keeps its logs only"


def test_a_stopped_run_goes_on_and_a_changed_recipe_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("-m", "training", *command(out, "train.epochs=500"))
    log = tmp_path / "out.run" / "log.jsonl"
    while process.poll() is None and not (log.exists() and '"train"' in log.read_text()):
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Stopped by SIGTERM at step" in errors
    assert "Traceback" not in errors
    changed = command(out, "train.epochs=2")
    refused = run_module("training", *changed)
    assert refused.returncode == 1
    assert "train.epochs was 500, now 2" in refused.stderr
    assert "--allow-changes" in refused.stderr
    assert list((tmp_path / "out.run").glob("state-*")), "nothing is lost by the refusal"
    shutil.copytree(tmp_path / "out.run", tmp_path / "other.run")
    allowed = run_module("training", *command(tmp_path / "other", "train.epochs=2"), "--allow-changes")
    assert allowed.returncode == 0, allowed.stderr
    assert "going on from step" in allowed.stdout
    anew = run_module("training", *command(out, "train.epochs=1"), "--restart")
    assert anew.returncode == 0, anew.stderr
    assert "going on" not in anew.stdout


def test_a_loss_that_is_no_number_keeps_the_last_good_state(tmp_path: Path) -> None:
    done = run_module("training", *command(tmp_path / "out", "train.learning_rate=1", "train.clip=1e30", "train.warmup=0",
                                           "train.epochs=500", "train.weight_decay=1000"))  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "of epoch" in done.stderr
    assert "is kept in" in done.stderr
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "out.run").glob("state-*"))


def test_a_disk_that_fills_loses_nothing(tmp_path: Path) -> None:
    code = (  # a file size limit stands in for a full disk
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))\n"
        "from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = start("-c", code, *command(tmp_path / "out"))
    _, errors = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "could not be written" in errors
    assert "Traceback" not in errors
    finished = run_module("training", *command(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr


def killed_and_whole(tmp_path: Path, kills: int, *overrides: str) -> list[bytes]:
    weights = []
    for name, times in (("whole", 0), ("killed", kills)):
        driver = start("-c", DRIVER, times, tmp_path / name, *command(tmp_path / name, *overrides))
        output, errors = driver.communicate(timeout=300)
        assert f"killed {times} exit 0" in output, output + errors
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    return weights


def test_cached_features_resume_too(tmp_path: Path) -> None:
    whole, killed = killed_and_whole(
        tmp_path, 3, "train.freeze=decoder", "cache.views=2", f"cache.folder={tmp_path / 'features'}",
        "data.preload=false",
    )  # fmt: skip
    assert whole == killed


def test_streams_resume_too(tmp_path: Path) -> None:
    labels = [i // 80 for i in range(240)]
    hub = write_hub(tmp_path / "hub", [*labels], row_group=10)
    whole, killed = killed_and_whole(
        tmp_path, 1, "data.source=hub", "data.streaming=true", f"data.name={hub}", "data.preload=false",
        "data.shuffle_buffer=120", "data.shuffle_shards=24", "train.epochs=4", "data.least_entropy=0.5",
    )  # fmt: skip
    assert whole == killed
