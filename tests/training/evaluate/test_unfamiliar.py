"""Photos of another kind: scores of the same photos, what they are worth, and the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.labels import LabelSet
from contract.pixels import photo_to_pixels
from modeling.captions import label_tree
from modeling.familiarity import Bank, make_bank, pooled, save_bank
from modeling.load import load_blip
from modeling.scoring import energy, fork_logits, label_logprobs
from modeling.towers import tower_digest
from tests.conftest import drawn_png
from tests.training.evaluate.test_report import Page
from training.data.loading import BadPhotos
from training.data.sources import HELD_OUT_START, open_source
from training.drawn.pictures import FOODS, draw
from training.evaluate.__main__ import main
from training.evaluate.unfamiliar import Looks, as_json, auroc_interval, bank_needed, look, separation
from training.recipe import DataRecipe, load_recipe

LABELS = LabelSet.from_names(FOODS)


def pictures(count: int, start: int = 0, size: int = 32) -> torch.Tensor:
    """Drawn pictures as uint8 pixels [count, size, size, 3]."""
    shown = [np.asarray(draw(start + i, size=size)[0]) for i in range(count)]
    return torch.from_numpy(np.stack(shown))


@pytest.fixture(scope="module")
def familiar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a bank of 300 drawn pictures, some of which it was trained on."""
    from tests.conftest import CHECKPOINT

    path = Path(shutil.copytree(CHECKPOINT, tmp_path_factory.mktemp("familiar") / "tiny"))
    blip = load_blip(path)
    with torch.no_grad():
        features = pooled(blip.embed(pictures(300)))
    bank = make_bank(features, tower=tower_digest(blip.model), image_size=32)
    assert bank is not None
    save_bank(bank, path)
    return path


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of noise, one in a sub-folder, among other files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos") / "noise"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"{i}.png" for i in range(11)), "more/last.png"):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_bytes(b"no photo")
    return folder


def bank_of_rows(rows: torch.Tensor, reference: torch.Tensor) -> Bank:
    """A bank of features [N, W] of length 1 with made-up reference values."""
    bank = make_bank(rows, tower="", image_size=32)
    assert bank is not None
    return replace(bank, reference=reference)


def test_separation_by_hand() -> None:
    familiar, other = np.array([0.9, 0.8, 0.7, 0.4]), np.array([0.5, 0.4, 0.1, 0.0])
    found = separation(familiar, other)
    assert found["auroc"] == (16 - 1 - 0.5) / 16, "one pair the wrong way round, one the same"
    rows = found["refused_at"]
    assert [(row["kept_at_least"], row["threshold"], row["count"]) for row in rows] == [(0.95, 0.4, 2), (0.99, 0.4, 2)]
    many = np.arange(1, 201) / 200
    thresholds = [row["threshold"] for row in separation(many, other)["refused_at"]]
    assert thresholds == [11 / 200, 3 / 200], "190 and 198 of 200 lie at or above it"


def test_the_interval_of_an_auroc() -> None:
    low, high = auroc_interval(0.8, 390, 150)
    spread = np.random.default_rng(0)
    familiar, other = spread.normal(1.19, 1, (400, 390)), spread.normal(0, 1, (400, 150))
    drawn = [float((a[:, None] > b).mean()) for a, b in zip(familiar, other, strict=True)]
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([low, high], abs=0.01), "of photos drawn again"
    assert list(auroc_interval(1.0, 390, 150)) == pytest.approx([0.991, 1], abs=0.001), "not from 1 to 1"
    assert list(auroc_interval(0.0, 390, 150)) == pytest.approx([0, 0.009], abs=0.001)
    assert auroc_interval(1.0, 1, 1)[0] < 0.25
    mirrored = auroc_interval(0.2, 390, 150)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


def test_the_three_scores_are_those_of_the_photos(checkpoint: Path) -> None:
    blip, recipe = load_blip(checkpoint), load_recipe("drawn-scratch", [])
    tree, pixels = label_tree(blip.tokenizer, recipe.caption, LABELS), pictures(12, HELD_OUT_START, 32)
    rows = torch.nn.functional.normalize(torch.randn(40, blip.model.config.vision_config.hidden_size,
                                                     generator=torch.Generator().manual_seed(0)))  # fmt: skip
    bank = bank_of_rows(rows, torch.linspace(-0.2, 0.3, 40))
    items = open_source(DataRecipe(source="drawn", train_count=16, test_count=12, validation=0), 32).test
    found = look(blip, items, tree, bank, 2.0, bad=BadPhotos("stop"), workers=0, title="")
    pixels = torch.stack([items[i].pixels for i in range(12)])  # type: ignore[misc]
    with torch.no_grad():
        embeds = blip.embed(pixels)
        scores = label_logprobs(blip.model, embeds, tree)
        similar = bank.similarity(pooled(embeds))
        energies = energy(fork_logits(blip.model, embeds, tree), tree)
    assert found.probability == pytest.approx((scores / 2).softmax(1).max(1).values.numpy(), rel=1e-4), "temperature 2"
    assert found.best.tolist() == scores.argmax(1).tolist()
    assert found.similarity == pytest.approx(similar.numpy(), abs=1e-5)
    assert found.energy == pytest.approx(energies.numpy(), abs=1e-4)
    assert found.familiarity == pytest.approx(bank.familiarity(torch.from_numpy(found.similarity)).numpy(), abs=1e-6)
    few = look(blip, items, tree, bank, 2.0, bad=BadPhotos("stop"), workers=0, title="", limit=3)
    assert few.names == tuple(f"drawn picture {HELD_OUT_START + i}" for i in (0, 4, 8)), "as `ask` chooses them"


def test_a_photo_on_the_threshold_is_not_below_it(checkpoint: Path) -> None:
    """As in the service: 2 of 200 are 0.01, which in float32 is a little less."""
    blip, recipe = load_blip(checkpoint), load_recipe("drawn-scratch", [])
    tree = label_tree(blip.tokenizer, recipe.caption, LABELS)
    items = open_source(DataRecipe(source="drawn", train_count=16, test_count=2, validation=0), 32).test
    rows = torch.nn.functional.normalize(torch.randn(40, blip.model.config.vision_config.hidden_size,
                                                     generator=torch.Generator().manual_seed(0)))  # fmt: skip
    bank = bank_of_rows(rows, torch.tensor([-2.0] * 2 + [2.0] * 198))
    found = look(blip, items, tree, bank, 1.0, bad=BadPhotos("stop"), workers=0, title="")
    assert found.familiarity.tolist() == [0.01, 0.01]
    assert found.unfamiliar.count == 0


def test_what_is_told_of_a_folder() -> None:
    def looks(similar: list[float], names: str) -> Looks:
        values = np.array(similar)
        return Looks(values, values / 2, -values, values, np.arange(len(values)) % 2, tuple(names))

    bank = bank_of_rows(pooled(torch.randn(40, 1, 40, generator=torch.Generator().manual_seed(0))), torch.zeros(50))
    food, other = looks([0.9, 0.8, 0.005, 0.7], "abcd"), looks([0.001, 0.002, 0.6, 0.01, 0.0, 0.003, 0.004], "efghijk")
    found = as_json(bank, food, {"some/folder": other}, LABELS)
    assert (found["kept"]["count"], found["kept"]["photos"], found["threshold"]) == (3, 4, 0.01)
    (folder,) = found["folders"]
    assert (folder["folder"], folder["photos"], folder["refused"]["count"]) == ("some/folder", 7, 5), (
        "0.01 is not below"
    )
    assert [row["photo"] for row in folder["most_familiar"]] == ["g", "h", "k", "j", "f"]
    assert folder["scores"]["energy"]["auroc"] == pytest.approx(1 - folder["scores"]["similarity"]["auroc"])


def by_hand(checkpoint: Path, folder: Path) -> dict[str, tuple[float, float]]:
    """Similarity and familiarity of each photo of a folder, by name."""
    blip = load_blip(checkpoint)
    bank = bank_needed(checkpoint, blip)
    found = {}
    for path in folder.rglob("[0-9l]*.png"):
        with torch.no_grad():
            embeds = blip.embed(torch.from_numpy(photo_to_pixels(path.read_bytes(), blip.image_size).copy())[None])
        similar = bank.similarity(pooled(embeds))
        found[path.name] = (float(similar), float(bank.familiarity(similar)))
    return found


def test_the_command(familiar: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    food = tmp_path / "food"
    food.mkdir()
    for i in range(3):
        (food / f"{i}.png").write_bytes(drawn_png(1000 + i))
    out = ["--report", str(tmp_path / "out"), "--constrained", "0", "--no-base", "--limit", "24"]
    assert main([str(familiar), *out, "--unfamiliar", str(noise), "--unfamiliar", str(food)]) == 0
    said = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())["familiarity"]
    assert (report["bank"]["photos"], report["bank"]["reference_values"]) == (300, 300)
    assert report["photos"] == 24
    assert [(folder["folder"], folder["photos"]) for folder in report["folders"]] == [(str(noise), 12), (str(food), 3)]
    for folder, path in zip(report["folders"], (noise, food), strict=True):
        wanted = by_hand(familiar, path)
        shown = [row["similarity"] for row in folder["most_familiar"]]
        assert shown == pytest.approx(sorted((one for one, _ in wanted.values()), reverse=True)[:5], abs=1e-5)
    assert "24 held-out photos against 12 of" in said
    assert "Ranked by similarity: familiarity has 300 steps." in said
    page = Page((tmp_path / "out" / "report.html").read_text()).shown
    for score in ("similarity", "probability", "energy"):
        measured = report["folders"][0]["scores"][score]
        low, high = measured["auroc_interval_95"]
        told = f"{measured['auroc']:.4f} ({low:.4f}-{high:.4f})"
        assert told in page
        assert told in said
    assert report["folders"][0]["most_familiar"][0]["photo"] in page
    assert (tmp_path / "out" / "familiarity.png").stat().st_size > 1000


def test_a_photo_says_how_familiar_it_is(
    familiar: Path, noise: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(familiar), "--no-base", "--photo", str(noise / "0.png")]) == 0
    said = capsys.readouterr().out
    assert ": the share of training photos that look less like the rest" in said
    told = float(said.partition(" familiar ")[2].partition(":")[0])
    assert told == pytest.approx(by_hand(familiar, noise)["0.png"][1], abs=0.005)
    assert main([str(checkpoint), "--no-base", "--photo", str(noise / "0.png")]) == 0
    assert "familiar" not in capsys.readouterr().out


def test_mistakes_are_said_before_the_work(
    familiar: Path, checkpoint: Path, noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_text("no photo")
    for path, folder, says in (
        (checkpoint, noise, "remembers no training photos, so nothing can look unfamiliar to it. Train it again"),
        (familiar, tmp_path / "nowhere", "There is no folder of photos at"),
        (familiar, tmp_path / "empty", "has no photos (.bmp, "),
    ):
        assert main([str(path), "--no-base", "--unfamiliar", str(folder)]) == 1
        told = capsys.readouterr()
        assert says in told.err
        assert "held-out" not in told.out + told.err
    bad = ["--no-base", "--unfamiliar", str(tmp_path / "bad"), "--limit", "2", "--constrained", "0"]
    assert main([str(familiar), *bad]) == 1
    assert "Unreadable photo" in capsys.readouterr().err
    assert main([str(familiar), *bad, "--set", "data.on_bad_image=skip"]) == 1
    assert "No photo could be read" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([str(familiar), "--photo", "a.jpg", "--unfamiliar", str(noise)])
    assert stopped.value.code == 2
    assert "leave out --report, --json, --max-risk, --unfamiliar and --card" in capsys.readouterr().err
