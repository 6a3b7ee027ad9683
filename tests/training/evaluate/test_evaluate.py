"""`python -m training.evaluate` as a user runs it, and the measuring behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from torch.utils.data import Dataset

from contract.labels import LabelSet
from modeling.captions import label_tree
from modeling.checkpoint import checkpoint_digest
from tests.conftest import drawn_png, run_module
from training.data.loading import BadPhotos
from training.data.sources import Item
from training.data.stream import Raw, Stream
from training.drawn.pictures import FOODS
from training.evaluate.__main__ import main
from training.evaluate.ask import Answers, ask
from training.evaluate.metrics import Share
from training.model import initial_blip
from training.recipe import load_recipe

TINY = [
    "model.image_size=16", "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2",
]  # fmt: skip
NAMES = LabelSet.from_names(["hot dog", "hot soup", "hot", "pie", "apple pie", "apple tart cake"])


class Photos(Dataset[Item]):
    """Patches of colour, sorted by class as folders are: `each` photos of every label."""

    def __init__(self, each: int, bad: int | None = None) -> None:
        self._each, self._bad = each, bad

    def __len__(self) -> int:
        return self._each * len(NAMES)

    def __getitem__(self, index: int) -> Item:
        if index == self._bad:
            return Item(None, 0, "photo: is broken")
        generator = torch.Generator().manual_seed(index)
        colours = torch.randint(0, 2, (2, 2, 3), generator=generator, dtype=torch.uint8) * 255
        return Item(colours.repeat_interleave(8, 0).repeat_interleave(8, 1), index // self._each)


class Endless(Stream):
    """The same without a length."""

    def __init__(self) -> None:
        self.size = 16

    def raw_rows(self, epoch: int | None = None) -> Iterator[Raw]:
        return (Raw(b"", 0, position, "") for position in range(24))

    def item(self, raw: Raw) -> Item:
        return Photos(4)[raw.position]


def asked(items: Dataset[Item], target: str = "id", *, limit: int | None = None, constrained: int = 0) -> Answers:
    recipe = load_recipe("drawn-scratch", [*TINY, f"caption.target={target}"])
    blip = initial_blip(recipe, NAMES)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in blip.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # untrained, a model gives every photo one answer
    tree = label_tree(blip.tokenizer, recipe.caption, NAMES)
    return ask(
        blip, items, tree, recipe.caption, NAMES, bad=BadPhotos("skip"), workers=0, limit=limit, constrained=constrained
    )


@pytest.mark.parametrize("target", ["id", "name"])
def test_constrained_decoding_answers_as_the_single_pass(target: str) -> None:
    report = asked(Photos(4), target, constrained=1000)
    assert report.held == report.scored
    assert report.agreement == Share(24, 24)
    assert len(set(report.best)) > 1, "or agreeing means little"


def test_samples_are_spread_over_data_sorted_by_class() -> None:
    few = asked(Photos(4), limit=12, constrained=6)
    assert np.bincount(few.wanted).tolist() == [2] * 6
    assert np.bincount(few.wanted[few.constrained >= 0]).tolist() == [1] * 6
    whole = asked(Photos(4))
    assert whole.photos == 24
    assert whole.held is None
    assert np.allclose(few.probabilities, whole.probabilities[::2], atol=1e-5)


def test_of_a_stream_the_first_photos_are_asked() -> None:
    report = asked(Endless(), constrained=7)
    assert report.photos == 24
    assert np.flatnonzero(report.constrained >= 0).tolist() == list(range(7))
    assert asked(Endless(), limit=10).photos == 10


def test_an_unreadable_photo_is_left_out_of_every_count() -> None:
    report = asked(Photos(2, bad=3), constrained=12)
    assert report.photos == len(report.constrained) == len(report.said) == 11


def test_evaluation_shows_before_and_after(checkpoint: Path, tmp_path: Path) -> None:
    done = run_module("training.evaluate", checkpoint, "--set", "data.test_count=96", "--json", tmp_path / "a/b.json")
    assert done.returncode == 0, done.stderr
    assert "96 held-out photos of 16 classes, chance 6.2 %" in done.stdout
    assert "not the data that the checkpoint was trained with" in done.stderr, "it was trained with another test_count"
    report = json.loads((tmp_path / "a" / "b.json").read_text())
    before, after = report["before"], report["after"]
    assert before["shares"]["scored"]["value"] < 0.2
    assert after["shares"]["scored"]["value"] > before["shares"]["scored"]["value"] + 0.15, "seconds of training show"
    assert before["shares"]["unparsable"]["value"] > 0.9, "the untrained model says nothing that is a caption"
    low, high = after["shares"]["scored"]["interval_95"]
    assert low < after["shares"]["scored"]["value"] < high
    assert f"{100 * after['shares']['scored']['value']:.1f} % ({100 * low:.1f}-{100 * high:.1f})" in done.stdout
    assert after["shares"]["constrained"] == after["shares"]["scored"], "by default all of 96 are asked"
    assert "answers as constrained decoding on 96 of 96 photos" in done.stdout
    assert report["difference"]["gained"] - report["difference"]["lost"] == (
        after["shares"]["scored"]["count"] - before["shares"]["scored"]["count"]
    )
    assert [row["label"] for row in after["per_class"]] == list(FOODS)
    assert sum(map(sum, after["confusion"])) == 96


def test_report_folder_without_the_base(checkpoint: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"  # a checkpoint of another release: no temperature, other words for how it was trained
    shutil.copytree(checkpoint, old)
    record = json.loads((old / "training.json").read_text())
    record.pop("temperature", None)
    record["recipe"]["train"] = {"a_setting_of_long_ago": 1}
    (old / "training.json").write_text(json.dumps(record))
    command = ["training.evaluate", old, "--no-base", "--report", tmp_path / "report", "--set", "data.test_count=48"]
    digest = checkpoint_digest(old)
    done = run_module(*command, "--constrained", 16, "--card")
    assert done.returncode == 0, done.stderr
    assert "before" not in done.stdout
    assert checkpoint_digest(old) == digest, "a card changes no model"
    assert f"card: {old / 'README.md'}\n" in done.stdout
    card = ModelCard.load(old / "README.md")
    assert "**This is not the data of the training**" in card.text
    assert "no temperature was fitted" in card.text
    assert "right by constrained decoding, n=16" in done.stdout
    assert "at temperature" not in done.stdout
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.json", "report.html", "confusion.png", "reliability.png", "risk_coverage.png",
    }  # fmt: skip
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "before" not in report
    assert report["after"]["calibration"]["before"] == report["after"]["calibration"]["after"]
    assert "No temperature was fitted" in (tmp_path / "report" / "report.html").read_text()

    refused = run_module(*command)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "pass --force" in refused.stderr
    record["temperature"] = 2.5
    (old / "training.json").write_text(json.dumps(record))
    forced = run_module(*command, "--constrained", 0, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "ECE at temperature 2.50" in forced.stdout
    again = json.loads((tmp_path / "report" / "report.json").read_text())["after"]
    assert "constrained" not in again["shares"]
    shown = card.data["eval_results"][0].metric_value
    assert (
        shown == round(report["after"]["shares"]["scored"]["value"], 4) == round(again["shares"]["scored"]["value"], 4)
    )
    assert again["calibration"]["before"] == report["after"]["calibration"]["before"]
    assert again["calibration"]["after"] != again["calibration"]["before"]


def test_a_card_that_cannot_be_kept_is_refused_before_the_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / "README.md").write_text("# My own card\n", encoding="utf-8")
    monkeypatch.setattr("training.evaluate.__main__.load_blip", lambda *_: pytest.fail("it began"))
    assert main([str(copy), "--card"]) == 1
    assert f"{copy / 'README.md'} is no card that can be written anew" in capsys.readouterr().err
    assert (copy / "README.md").read_text(encoding="utf-8") == "# My own card\n"


def test_one_photo_before_and_after(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(drawn_png(2))
    done = run_module("training.evaluate", checkpoint, "--photo", tmp_path / "photo.png")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"before: a new model with random weights; after: {checkpoint}"
    assert [line.split()[0] for line in lines[1:]] == ["before", "labels", "after", "labels"]
    assert "'a photo of delicious " in done.stdout
    missing = run_module("training.evaluate", checkpoint, "--photo", tmp_path / "nowhere.png")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


def test_before_is_what_training_started_from(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tower of the model before is the recipe's, pretrained where it says so."""
    (tmp_path / "photo.png").write_bytes(drawn_png(2))
    lite = ["--set", "model.tower=efficientnet-lite0"]
    assert main([str(checkpoint), "--photo", str(tmp_path / "photo.png"), *lite]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        "before: a new text decoder with random weights on the pretrained efficientnet-lite0; after: "
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--constrained", "-1"], "--constrained must be 0 or more"),
        (["--limit", "0"], "--limit must be 1 or more"),
        (["--base", "a", "--no-base"], "not allowed with"),
        (["--photo", "a.jpg", "--report", "b"], "--photo prints to the terminal only"),
        (["--photo", "a.jpg", "--card"], "--photo prints to the terminal only"),
        (["--card", "--limit", "9"], "--card tells of all held-out photos; leave out --limit"),
        (["--photo", "a.jpg", "--max-risk", "0.1"], "--photo prints to the terminal only"),
        (["--max-risk", "0"], "--max-risk must lie between 0 and 1, not 0"),
        (["--max-risk", "5"], "--max-risk must lie between 0 and 1, not 5"),
        (["--max-risk", "nan"], "--max-risk must lie between 0 and 1, not nan"),
    ],
)
def test_wrong_usage(flags: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nowhere", *flags])
    assert stopped.value.code == 2
    assert says in capsys.readouterr().err
