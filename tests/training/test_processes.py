"""Two processes compute what one computes.

`accelerate launch` starts CPU processes through MPI only, so torchrun, which it calls for GPUs, starts these.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import run_module

SMALL = [  # nothing random by process: augmentation and drop-out draw their own numbers in each
    "data.train_count=203", "data.test_count=16", "data.validation=0.15", "data.workers=0", "model.image_size=16",
    "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.epochs=3",
    "train.batch_size=9", "train.ema=0.9", "train.label_smoothing=0.1", "augment.flip=false",
]  # fmt: skip


def command(out: Path, *overrides: str) -> list[object]:
    sets = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return ["training", "--recipe", "drawn", "--out", out, "--threads", 1, *sets]


def curve(out: Path) -> list[float]:
    entries = [json.loads(line) for line in (out.with_name(f"{out.name}.run") / "log.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries]


@pytest.mark.parametrize("what", ["all", "cached"])
def test_two_processes_equal_one(tmp_path: Path, what: str) -> None:
    cached = ["train.freeze=decoder", "cache.views=1", f"cache.folder={tmp_path / 'features'}", "data.preload=false"]
    overrides = cached if what == "cached" else []
    one, two = tmp_path / "one", tmp_path / "two"
    alone = run_module(*command(one, *overrides))
    assert alone.returncode == 0, alone.stderr
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    overrides += ["train.accumulate=2"]  # smaller pieces add up to the same, too
    launched = run_module(
        "torch.distributed.run", "--nproc_per_node", 2, "--master_port", port, "-m", *command(two, *overrides),
        env={"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert "2 x CPU" in launched.stdout
    assert launched.stdout.count("checkpoint:") == 1, "one process writes"
    losses = [curve(one), curve(two)]
    assert len(losses[0]) == 3 * 23 + 3, "23 steps an epoch, the last one of 5 photos, and three validations"
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-2] < losses[0][0], "and something is learnt"
    weights = [load_file(path / "model.safetensors") for path in (one, two)]
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=2e-3), name
