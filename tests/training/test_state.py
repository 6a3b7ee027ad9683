"""States on disk: whole or absent, checked, and never another run's."""

from __future__ import annotations

import copy
import resource
from pathlib import Path

import pytest
import torch

from contract.errors import ContractError
from training.recipe import load_recipe
from training.state import (
    Best,
    Progress,
    check_same_run,
    discard_states,
    latest_state,
    load_best,
    run_folder,
    save_best,
    save_state,
    stream_seed,
)

RECIPE = {"seed": 0, "train": {"epochs": 2, "save_every": 3}, "data": {"workers": 2}}


def progress(step: int, best: int | None = None) -> Progress:
    found = Best(step=best, epoch=1, accuracy=0.5, loss=1.0) if best is not None else None
    return Progress(recipe=RECIPE, data={"train": 4}, step=step, best=found)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight/a": torch.full((3, 2), value), "step/a": torch.tensor(value)}


def test_the_newest_whole_state_is_found_and_two_are_kept(tmp_path: Path) -> None:
    assert latest_state(tmp_path / "nothing") is None
    for step in (1, 2, 3):
        save_state(tmp_path, tensors(step), progress(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-00000002", "state-00000003"]
    found = latest_state(tmp_path)
    assert found is not None
    assert found[1].step == 3
    assert torch.equal(found[0]["weight/a"], torch.full((3, 2), 3.0))


@pytest.mark.parametrize("harm", ["cut", "flip", "no tensors", "no progress", "half progress"])
def test_a_torn_state_is_skipped_with_a_warning(tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_state(tmp_path, tensors(1), progress(1))
    save_state(tmp_path, tensors(2), progress(2))
    newest = tmp_path / "state-00000002"
    data, text = (newest / "tensors.safetensors").read_bytes(), (newest / "progress.json").read_text()
    if harm == "cut":
        (newest / "tensors.safetensors").write_bytes(data[:-4])
    elif harm == "flip":
        (newest / "tensors.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "no tensors":
        (newest / "tensors.safetensors").unlink()
    elif harm == "no progress":
        (newest / "progress.json").unlink()
    else:
        (newest / "progress.json").write_text(text[: len(text) // 2])
    found = latest_state(tmp_path)
    assert found is not None
    assert found[1].step == 1
    assert "state-00000002 is damaged and is skipped" in capsys.readouterr().err


def test_damaged_later_states_do_not_push_out_new_ones(tmp_path: Path) -> None:
    for step in (400, 600):
        save_state(tmp_path, tensors(step), progress(step))
        (tmp_path / f"state-{step:08d}" / "tensors.safetensors").write_bytes(b"torn")
    (tmp_path / "state-00000600" / "progress.json").unlink()
    assert latest_state(tmp_path) is None
    for step in (200, 600):
        save_state(tmp_path, tensors(step), progress(step))
        found = latest_state(tmp_path)
        assert found is not None
        assert found[1].step == step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state-00000200", "state-00000600"]


def test_best_weights_stay_while_a_state_names_them(tmp_path: Path) -> None:
    first, second = (Best(step=step, epoch=1, accuracy=0.5, loss=1.0) for step in (1, 2))
    save_best(tmp_path, {"a": torch.ones(2)}, first)
    save_state(tmp_path, tensors(1), progress(1, best=1))
    save_best(tmp_path, {"a": torch.zeros(2)}, second)
    save_state(tmp_path, tensors(2), progress(2, best=2))
    assert sorted(p.name for p in tmp_path.glob("best-*")) == ["best-00000001", "best-00000002"]
    save_state(tmp_path, tensors(3), progress(3, best=2))
    assert [p.name for p in tmp_path.glob("best-*")] == ["best-00000002"]
    assert torch.equal(load_best(tmp_path, second)["a"], torch.zeros(2))
    with pytest.raises(ContractError, match="cannot be read"):
        load_best(tmp_path, Best(step=9, epoch=1, accuracy=0.5, loss=1.0))
    discard_states(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_recipe_or_other_data_is_refused_by_name(tmp_path: Path) -> None:
    state = progress(5)
    check_same_run(state, RECIPE, {"train": 4}, "", tmp_path)
    check_same_run(
        state, RECIPE | {"train": {"epochs": 2, "save_every": 9}, "data": {"workers": 0}}, {"train": 4}, "", tmp_path
    )
    with pytest.raises(ContractError, match=r"train\.epochs was 2, now 3.*--restart.*--allow-changes"):
        check_same_run(state, RECIPE | {"train": {"epochs": 3, "save_every": 3}}, {"train": 4}, "", tmp_path)
    with pytest.raises(ContractError, match="the data is not the same"):
        check_same_run(state, RECIPE, {"train": 5}, "", tmp_path)
    with pytest.raises(ContractError, match="the weights that do not train"):
        check_same_run(state, RECIPE, {"train": 4}, "another tower", tmp_path)
    with pytest.raises(ContractError, match="seed was 0, now 1"):
        check_same_run(state, RECIPE | {"seed": 1}, {"train": 4}, "", tmp_path)


def test_a_full_disk_keeps_the_state_before(tmp_path: Path) -> None:
    save_state(tmp_path, tensors(1), progress(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (4096, hard)
    )  # as a disk that fills while writing; Python ignores SIGXFSZ
    try:
        with pytest.raises(ContractError, match="The state of step 2 could not be written.*Kept: state-00000001"):
            save_state(tmp_path, {"weight/a": torch.zeros(4096)}, progress(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["state-00000001"], "nothing half-written stays"
    found = latest_state(tmp_path)
    assert found is not None
    assert found[1].step == 1


def test_streams_have_seeds_of_their_own() -> None:
    seeds = {stream_seed(seed, what, step) for seed in (0, 1) for what in ("step", "view") for step in range(500)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert run_folder(Path("a/b")) == Path("a/b.run")


def test_a_run_from_before_a_setting_goes_on_with_its_default(tmp_path: Path) -> None:
    now = load_recipe("drawn-scratch", []).model_dump(mode="json")
    stored = copy.deepcopy(now)
    del stored["model"]["tower"], stored["train"]["channel_dropout"], stored["train"]["best_by"], stored["familiarity"]
    state = Progress(recipe=stored, data={}, step=5)
    check_same_run(state, now, {}, "", tmp_path)
    without = load_recipe("drawn-scratch", ["familiarity.photos=0"]).model_dump(mode="json")
    check_same_run(state, without, {}, "", tmp_path)  # what is done at the end may be another
    other = load_recipe("drawn-scratch", ["train.best_by=loss"]).model_dump(mode="json")
    with pytest.raises(ContractError, match=r"other settings: train\.best_by was 'accuracy', now 'loss'\. Pass"):
        check_same_run(state, other, {}, "", tmp_path)
