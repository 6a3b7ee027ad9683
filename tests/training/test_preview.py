"""The contact sheet of augmented photos."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from training.preview import GAP, PHOTO, contact_sheet, preview_captions


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
