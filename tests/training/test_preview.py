"""The contact sheet of augmented photos, and the folder of held-out ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contract.pixels import to_pixels
from training.__main__ import main
from training.data.sources import open_source
from training.preview import GAP, PHOTO, contact_sheet, preview_captions
from training.recipe import DataRecipe

HELD_OUT = ["--recipe", "drawn-scratch", "--set", "model.image_size=16", "--set", "data.workers=0"]


def solid(*colours: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[:, None, None, :].repeat(1, 8, 8, 1)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def test_a_cell_shows_the_augmented_photo_the_original_and_the_caption(tmp_path: Path) -> None:
    path = tmp_path / "preview.png"
    path.write_text("an older one")
    contact_sheet(solid((255, 0, 0)), solid((0, 0, 255)).float() + 0.4, ["a photo of delicious 6"], path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    sheet = opened(path)
    assert sheet.getpixel((GAP + 5, GAP + 5)) == (0, 0, 255)
    assert sheet.getpixel((GAP + PHOTO + 20, GAP + 5)) == (255, 0, 0)
    below = sheet.convert("L").crop((0, GAP + PHOTO + 2, sheet.width, sheet.height))
    assert below.getextrema() == (0, 255), "black text on white"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [8, 384])
def test_twenty_four_photos_are_six_columns_of_four_at_any_image_size(size: int, tmp_path: Path) -> None:
    pixels = torch.zeros(24, size, size, 3, dtype=torch.uint8)
    contact_sheet(pixels, pixels.float(), ["×" * 500, "", "many words " * 50] * 8, tmp_path / "a.png")
    width, height = opened(tmp_path / "a.png").size
    assert 6 * PHOTO < width < 7 * (PHOTO + 90)
    assert 4 * PHOTO < height < 5 * (PHOTO + 80)


@pytest.mark.parametrize("caption", ["w" * 300, "many words " * 60])
def test_long_captions_stay_in_their_cell(caption: str, tmp_path: Path) -> None:
    black = solid((0, 0, 0), (0, 0, 0))
    contact_sheet(black, black.float(), [caption, ""], tmp_path / "two.png")
    text = opened(tmp_path / "two.png").convert("L").point(lambda v: 255 - v)
    box = text.crop((0, GAP + PHOTO + 1, text.width, text.height)).getbbox()
    assert box is not None
    assert text.width // 2 - 60 < box[2] <= text.width // 2, "cut at the end of the first cell"


def test_numbers_that_differ_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1, 1 and 2"):
        contact_sheet(solid((0, 0, 0)), solid((0, 0, 0)), ["a", "b"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        contact_sheet(solid((0, 0, 0))[:0], solid((0, 0, 0))[:0], [], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_captions_name_both_photos_where_they_are_mixed() -> None:
    captions = preview_captions(
        ["a pie", "a pho"], torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 2, 0]), torch.tensor([0.7, 1.0, 0.6, 0.5])
    )
    assert captions == ["0.70 × a pie + 0.30 × a pho", "a pho", "a pie", "0.50 × a pho + 0.50 × a pie"]


def test_held_out_photos_are_written_as_the_model_sees_them(tmp_path: Path) -> None:
    """One of each class, none that was trained on; what cannot be read is passed over."""
    photos = tmp_path / "photos"
    for name in ("pho", "ramen", "steak"):
        (photos / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30), (50 * i, 0, len(name))).save(photos / name / f"{i}.png")
    source = open_source(DataRecipe(source="folder", train=str(photos), held_out=0.5), 16)
    held = [Path(source.test[index].where) for index in range(len(source.test))]  # type: ignore[arg-type]
    first = next(path for path in held if path.parent.name == "ramen")
    first.write_text("no photo")
    out, data = tmp_path / "a" / "held-out", ["--set", "data.source=folder", "--set", f"data.train={photos}"]
    assert main([*HELD_OUT, *data, "--set", "data.held_out=0.5", "--held-out", str(out)]) == 0
    listed = json.loads((out / "examples.json").read_text(encoding="utf-8"))
    assert [(row["label"], row["display"]) for row in listed] == [
        ("pho", "Phở"),
        ("ramen", "Ramen"),
        ("steak", "Steak"),
    ]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(row["file"] for row in listed), "examples.json"])
    for row in listed:
        assert Path(row["where"]) in held
        assert Path(row["where"]) != first
        shown = torch.from_numpy(to_pixels(opened(Path(row["where"])), 16).copy())
        assert (torch.from_numpy(np.asarray(opened(out / row["file"])).copy()) == shown).all()


def test_held_out_photos_are_of_sixteen_classes_at_most_and_replaced_only_by_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "held-out"
    sheet = tmp_path / "sheet.png"
    few = [*HELD_OUT, "--set", "data.train_count=8", "--set", "data.test_count=40"]
    assert main([*few, "--held-out", str(out), "--preview", str(sheet)]) == 0
    assert f"16 held-out photos of as many classes: {out}\n" in capsys.readouterr().out
    listed = json.loads((out / "examples.json").read_text(encoding="utf-8"))
    assert len({row["label"] for row in listed}) == len(listed) == 16
    assert opened(sheet).width > 0
    assert main([*few, "--held-out", str(out)]) == 1
    assert "pass --force" in capsys.readouterr().err
    assert main([*few, "--set", "data.test_count=3", "--held-out", str(out), "--force"]) == 0
    assert len(list(out.glob("*.png"))) == 3, "the older ones went"
    sheet.rename(tmp_path / "mine.png")
    assert main([*few, "--held-out", str(tmp_path), "--force"]) == 1, "no folder of held-out photos"
    assert "holds no examples.json" in capsys.readouterr().err
    assert (tmp_path / "mine.png").exists()
    assert main(["--recipe", "drawn-scratch", "--held-out", ""]) == 1
    assert "name a new one" in capsys.readouterr().err


def test_no_held_out_photo_that_can_be_read_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pho", "ramen"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.png").write_text("no photo")
    data = ["--set", "data.source=folder", "--set", f"data.train={tmp_path / 'photos'}"]
    assert main([*HELD_OUT, *data, "--held-out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "training: None of the held-out photos can be read.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
