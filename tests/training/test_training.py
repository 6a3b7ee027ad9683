"""Training and evaluation as a user runs them: a checkpoint that learnt, and mistakes that cost nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from contract.bundle import read_bundle
from contract.labels import LabelSet
from modeling.checkpoint import read_checkpoint_labels, read_training_record
from modeling.load import Blip, load_blip
from tests.conftest import drawn_png, run_module
from training.__main__ import main
from training.drawn.pictures import FOODS
from training.evaluate.own_words import LINE
from training.journal import read_journal
from training.validation import Validation

FAST = [
    "data.train_count=32", "data.test_count=16", "model.image_size=16", "model.vision_layers=1", "model.vision_width=16",
    "model.text_width=16", "model.heads=2", "train.epochs=1", "data.workers=0",
]  # fmt: skip


def sets(*overrides: str) -> list[str]:
    return [part for override in (*FAST, *overrides) for part in ("--set", override)]


def trained(out: Path, *overrides: str) -> Path:
    """The checkpoint of eight steps by the command."""
    done = run_module(
        "training", "--recipe", "drawn-scratch", "--out", out, "--threads", 1, *sets("train.epochs=4", *overrides)
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained in float32, its run beside it."""
    return trained(tmp_path_factory.mktemp("single") / "out")


def test_checkpoint_is_what_the_contract_says(checkpoint: Path) -> None:
    names = {path.name for path in checkpoint.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "labels.json", "training.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    record, labels = read_training_record(checkpoint), read_checkpoint_labels(checkpoint)
    assert labels == LabelSet.from_names(FOODS)
    assert record is not None
    assert record.seed == 0
    assert record.steps == 4 * 2048 // 16
    assert record.recipe["train"]["epochs"] == 4
    assert record.versions["torch"]
    assert record.parameters["trainable"] == record.parameters["total"]
    assert load_blip(str(checkpoint)).image_size == 32


def test_same_seed_same_weights(single: Path, tmp_path: Path) -> None:
    again, other = trained(tmp_path / "again"), trained(tmp_path / "other", "seed=1")
    first, second, third = ((path / "model.safetensors").read_bytes() for path in (single, again, other))
    assert first == second != third


def test_skipped_photos_are_counted_in_the_record(tmp_path: Path) -> None:
    for position, name in enumerate(("pho", "ramen")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(drawn_png(position + 16 * i, 32))
    (tmp_path / "photos" / "pho" / "bad.jpg").write_text("not a photo")
    folder = ["data.source=folder", f"data.train={tmp_path / 'photos'}", f"data.test={tmp_path / 'photos'}"]
    stopped = run_module("training", "--recipe", "drawn-scratch", "--out", tmp_path / "out", *sets(*folder))
    assert stopped.returncode == 1
    assert "bad.jpg" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "out").exists()
    skipped = run_module(
        "training",
        "--recipe",
        "drawn-scratch",
        "--out",
        tmp_path / "out",
        *sets(*folder, "data.on_bad_image=skip", "data.preload=false", "data.workers=1", "train.epochs=2"),
    )
    assert skipped.returncode == 0, skipped.stderr
    assert "left out 1 unreadable photos" in skipped.stdout
    assert json.loads((tmp_path / "out" / "training.json").read_text())["data"]["unreadable"] == 1


@pytest.mark.parametrize("way", [["data.preload=true"], ["cache.views=1", "train.freeze=decoder"]])
def test_a_class_that_is_lost_whole_ends_the_run(
    way: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pho", "ramen"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "photos" / name / f"{i}.png").write_bytes(b"no" if name == "ramen" else drawn_png(16 * i, 32))
    folder = ["data.source=folder", f"data.train={tmp_path / 'photos'}", "data.on_bad_image=skip"]
    cache = f"cache.folder={tmp_path / 'features'}"
    command = ["--recipe", "drawn-scratch", "--out", str(tmp_path / "out"), *sets(*folder, cache, *way)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "No training photo of the class 'ramen' could be read (left out was, for example, " in said
    assert "Mend or replace them, or leave the class out.\n" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--recipe", "drawn-scratch"], 2, "--out"),
        (["--recipe", "nothing", "--out", "x"], 1, "no recipe 'nothing'"),
        (["--recipe", "folder", "--out", "x", "--set", "data.train=nowhere"], 1, "no folder of photos at nowhere"),
        (["--recipe", "drawn-scratch", "--out", "tests"], 1, "will not be replaced"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], code: int, says: str) -> None:
    done = run_module("training", *arguments)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_bfloat16_follows_float32_and_stores_float32(single: Path, tmp_path: Path) -> None:
    half = trained(tmp_path / "bf16", "train.precision=bf16")
    curves = []
    for out in (single, half):
        log = read_journal(out.with_name(f"{out.name}.run") / "log.jsonl")
        curves.append([entry["loss"] for entry in log if entry["kind"] == "train"])
    weights = load_file(half / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)  # 7e-5 in these eight steps, on any processor
    assert curves[1] != curves[0], "it did run in another precision"
    refused = run_module(
        "training", "--recipe", "drawn-scratch", "--out", tmp_path / "half", *sets("train.precision=fp16")
    )
    if not torch.cuda.is_available():
        assert "'fp16' needs a GPU" in refused.stderr


@pytest.mark.parametrize(
    ("best_by", "values"),
    [
        ("accuracy", [(0.1, 3.0), (0.3, 2.0), (0.3, 1.5), (0.3, 1.6), (0.2, 1.0)]),
        ("loss", [(0.4, 3.0), (0.2, 1.5), (0.3, 1.5), (0.3, 1.6), (0.5, 1.7)]),
    ],
)
def test_it_stops_early_and_keeps_the_best(
    best_by: str,
    values: list[tuple[float, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The validations are made up: whether a real one is better than the last is rounding's choice."""
    seen: list[dict[str, torch.Tensor]] = []

    def found(blip: Blip, *args: object, **options: object) -> Validation:
        seen.append({name: weight.clone() for name, weight in blip.model.state_dict().items()})
        return Validation(16, *values[len(seen) - 1])

    monkeypatch.setattr("training.loop.validate", found)
    settings = sets("train.epochs=50", "train.patience=2", f"train.best_by={best_by}")
    assert main(["--recipe", "drawn-scratch", "--out", str(tmp_path / "out"), *settings]) == 0
    entries = read_journal(tmp_path / "out.run" / "log.jsonl")
    assert [(e["accuracy"], e["loss"]) for e in entries if e["kind"] == "validation"] == values
    assert "after epoch 3 of 5" in capsys.readouterr().out, (
        "the other figure decides a tie with the second; two are worse"
    )
    last, kept = tmp_path / "out.run" / "last", tmp_path / "out"
    assert read_training_record(last) is not None
    assert "were not measured" in ModelCard.load(last / "README.md").text
    assert len(ModelCard.load(kept / "README.md").data["eval_results"]) == 4
    for path, wanted in ((kept, seen[2]), (last, seen[4])):
        weights = load_file(path / "model.safetensors")
        assert all(torch.equal(weight, wanted[name]) for name, weight in weights.items())
    assert (last / "model.safetensors").read_bytes() != (kept / "model.safetensors").read_bytes()
    assert (tmp_path / "out.run" / "training.png").stat().st_size > 1000
    assert list((tmp_path / "out.run" / "tensorboard").glob("events.out.tfevents.*"))


def test_own_words_in_the_card_outlast_a_checkpoint(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(checkpoint, tmp_path / "out"))
    command = ["--recipe", "drawn-scratch", "--out", str(out), "--force", *sets("train.epochs=1")]
    (out / "README.md").write_text("# My own card\n", encoding="utf-8")
    assert main(command) == 1
    assert "is no card that can be written anew" in capsys.readouterr().err
    assert not out.with_name("out.run").exists(), "it said so before it began"
    (out / "README.md").write_text(f"{LINE}\n# My own card\n", encoding="utf-8")
    assert main(command) == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\n")
    assert card.endswith(f"{LINE}\n# My own card\n")


def test_the_temperature_reaches_record_and_bundle(checkpoint: Path, bundle: Path) -> None:
    record = read_training_record(checkpoint)
    assert record is not None
    assert record.temperature != 1.0
    assert record.metrics["validation_accuracy"] > 0.1
    assert read_bundle(bundle).manifest.temperature == record.temperature


def test_preview_shows_photos_without_training(tmp_path: Path) -> None:
    done = run_module(
        "training", "--recipe", "drawn-scratch", "--preview", tmp_path / "a" / "sheet.png", *sets("augment.mixup=1")
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a" / "sheet.png") as sheet:
        assert sheet.size[0] > 800
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "sheet.png"]


def test_help_and_settings_say_what_to_type() -> None:
    shown = run_module("training", "--help")
    for words in ("python -m training --recipe drawn", "--set data.train=photos/train", "it goes on", "--settings"):
        assert words in shown.stdout
    settings = run_module("training", "--settings")
    assert settings.returncode == 0
    assert "train.learning_rate" in settings.stdout
    neither = run_module("training", "--recipe", "drawn-scratch")
    assert (neither.returncode, "--out" in neither.stderr) == (2, True)
