"""Two processes compute what one computes.

`accelerate launch` starts CPU processes through MPI only, so torchrun, which it calls for GPUs, starts these.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from safetensors.torch import load_file

from contract.labels import LabelSet
from tests.commands import Started, run_module
from training.drawn.pictures import FOODS
from training.model import initial_blip
from training.recipe import load_recipe

SMALL = [  # nothing random by process: augmentation and drop-out draw their own numbers in each
    "data.train_count=37", "data.test_count=16", "data.validation=0.15", "data.workers=0", "model.image_size=16",
    "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.epochs=2",
    "train.batch_size=9", "train.ema=0.9", "train.label_smoothing=0.1", "augment.flip=false",
]  # fmt: skip


def command(out: Path, *overrides: str) -> list[object]:
    sets = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return ["training", "--recipe", "drawn-scratch", "--out", out, "--threads", 1, *sets]


def in_two_processes(arguments: list[object]) -> list[CompletedProcess[str]]:
    """The command in two processes with the environment that torchrun gives them; the store is this process's."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    shared = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    with ExitStack() as stack:
        started = [
            stack.enter_context(Started(*arguments, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(2)
        ]
        return [process.wait(120) for process in started]


def curves(out: Path, name: str) -> list[float]:
    entries = [json.loads(line) for line in (out.with_name(f"{out.name}.run") / "log.jsonl").read_text().splitlines()]
    return [entry[name] for entry in entries if name in entry]


def assert_same_run(one: Path, two: Path) -> None:
    """Ten steps: rounding, 1e-7 in the first, has not grown to what the tolerances allow."""
    losses, norms = ([curves(out, name) for out in (one, two)] for name in ("loss", "gradient_norm"))
    assert len(losses[0]) == 2 * 5 + 2, "five steps an epoch, the last one of one photo, and two validations"
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4), "AdamW would hide gradients that are twice as large"
    first = initial_blip(load_recipe("drawn-scratch", SMALL), LabelSet.from_names(FOODS)).model.state_dict()
    weights = [load_file(path / "model.safetensors") for path in (one, two)]
    for name, weight in weights[0].items():
        exact = not name.endswith("key.bias")  # its gradient is nothing but rounding, which AdamW makes larger
        assert torch.allclose(weight, weights[1][name], atol=1e-5 if exact else 1e-3), name
    moved = {name: float((weight - first[name]).abs().max()) for name, weight in weights[0].items()}
    assert max(moved.values()) > 1e-3, "something is learnt"


@pytest.mark.parametrize("what", ["all", "cached"])
def test_two_processes_equal_one(tmp_path: Path, what: str) -> None:
    cached = ["train.freeze=decoder", "cache.views=1", f"cache.folder={tmp_path / 'features'}", "data.preload=false"]
    overrides = cached if what == "cached" else []
    alone = run_module(*command(tmp_path / "one", *overrides))
    assert alone.returncode == 0, alone.stderr
    overrides += ["train.accumulate=2"]  # smaller pieces add up to the same, too
    done = in_two_processes(command(tmp_path / "two", *overrides))
    for process in done:
        assert process.returncode == 0, process.stderr
    assert "2 x CPU" in done[0].stdout
    assert [process.stdout.count("checkpoint:") for process in done] == [1, 0], "one process writes"
    assert_same_run(tmp_path / "one", tmp_path / "two")
    banks = [(tmp_path / out / "familiarity.safetensors").read_bytes() for out in ("one", "two")]
    assert (banks[0] == banks[1]) == (what == "cached"), "the first process remembers the photos; a tower differs"


@pytest.mark.long
def test_torchrun_starts_them(tmp_path: Path) -> None:
    alone = run_module(*command(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    launched = run_module(
        "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", *command(tmp_path / "two"),
        env={"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert "2 x CPU" in launched.stdout
    assert launched.stdout.count("checkpoint:") == 1, "one process writes"
    assert_same_run(tmp_path / "one", tmp_path / "two")
