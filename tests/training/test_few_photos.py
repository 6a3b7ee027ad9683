"""Few photos, and unreadable ones, by the command: what cannot work is one sentence, and what can says by how many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import drawn_png
from training.__main__ import main

TINY = [
    "data.source=folder", "data.workers=0", "data.preload=true", "data.validation=0.1", "model.image_size=16",
    "model.vision_layers=1", "model.vision_width=16", "model.text_width=16", "model.heads=2", "train.epochs=1",
]  # fmt: skip


def photos(root: Path, *counts: int, broken: tuple[int, ...] = ()) -> Path:
    """A folder of classes with so many photos each; of those that are `broken` no file is a photo."""
    for number, count in enumerate(counts):
        folder = root / "photos" / f"dish {number}"
        folder.mkdir(parents=True)
        for index in range(count):
            data = b"no photo" if number in broken else drawn_png(16 * index + number, size=32)
            (folder / f"{index}.png").write_bytes(data)
    return root / "photos"


def trained(tmp_path: Path, folder: Path, *overrides: str) -> int:
    sets = [part for one in (*TINY, f"data.train={folder}", *overrides) for part in ("--set", one)]
    return main(["--recipe", "drawn-scratch", "--out", str(tmp_path / "out"), *sets])


def test_a_run_says_by_how_many_photos_it_chose(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert trained(tmp_path, photos(tmp_path, 3, 4)) == 0
    said = capfd.readouterr().out
    assert "data: 3 photos of 2 classes to learn from, 2 to choose by, 2 held out (folder)" in said
    assert "validation: 2 photos, best " in said
    assert any(f"best {share} after epoch 1 of 1" in said
               for share in ("0.0 % (0.0-65.8)", "50.0 % (9.5-90.5)", "100.0 % (34.2-100.0)"))  # fmt: skip


def test_two_photos_a_class_are_enough_without_validation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = photos(tmp_path, 2, 2)
    assert trained(tmp_path, folder) == 1
    assert "'dish 0' has one training photo, so none can be kept for validation. Add photos" in capfd.readouterr().err
    assert trained(tmp_path, folder, "data.validation=0") == 0
    assert "data: 2 photos of 2 classes to learn from, 2 held out (folder)" in capfd.readouterr().out


def test_one_class_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert trained(tmp_path, photos(tmp_path, 5)) == 1
    assert "The data has one class only (dish 0)" in capfd.readouterr().err


@pytest.mark.parametrize("kept", ["preload", "cached"])
def test_a_class_without_a_readable_photo_is_refused(
    kept: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = photos(tmp_path, 5, 5, broken=(1,))
    how = [] if kept == "preload" else ["train.freeze=decoder", "cache.views=1", f"cache.folder={tmp_path / 'cache'}"]
    assert trained(tmp_path, folder, *how) == 1
    assert "Unreadable photo" in capfd.readouterr().err, "by default one is enough to stop"
    assert trained(tmp_path, folder, "data.on_bad_image=skip", *how) == 1
    said = capfd.readouterr().err
    assert "No training photo of the class 'dish 1' could be read (left out was, for example, " in said
    assert "Traceback" not in said
