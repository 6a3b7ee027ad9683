"""The benchmark of the pretrained tower: which photos are few, and the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.accuracy.pretrained_tower import some_photos, table
from contract.errors import ContractError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Class folders of 9, 4 and 2 photos, and a file beside them."""
    folder = tmp_path / "source"
    for name, count in (("pho", 9), ("ramen", 4), ("apple_pie", 2)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(f"{name} {number}".encode())
    (folder / "readme.txt").touch()
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_few_photos_of_each_class_wherever_they_lie(source: Path, tmp_path: Path) -> None:
    few = files(some_photos(source, tmp_path / "few", 4))
    assert [sum(name.startswith(kind) for name in few) for kind in ("pho/", "ramen/", "apple_pie/")] == [4, 4, 2]
    assert few.items() <= files(source).items()
    other = Path(shutil.copytree(source, tmp_path / "elsewhere" / "again"))
    assert files(some_photos(other, tmp_path / "again", 4)) == few
    fewer = files(some_photos(source, tmp_path / "fewer", 3))
    assert fewer.items() <= few.items(), "more photos are the same and others"
    assert {name for name in few if name.startswith("pho/")} != {f"pho/{number}.jpg" for number in range(4)}, "no order"


def test_what_a_copy_that_was_cut_off_left_is_begun_anew(source: Path, tmp_path: Path) -> None:
    left = tmp_path / ".few" / "pho"
    left.mkdir(parents=True)
    (left / "torn.jpg").write_bytes(b"half")
    few = files(some_photos(source, tmp_path / "few", 2))
    assert len(few) == 6
    assert "pho/torn.jpg" not in few
    assert not (tmp_path / ".few").exists()


def test_what_is_there_is_kept_and_what_is_not_is_said(source: Path, tmp_path: Path) -> None:
    target = some_photos(source, tmp_path / "few", 2)
    before = files(target)
    assert files(some_photos(source, target, 4)) == before
    with pytest.raises(ContractError, match="There is no folder of photos at .*nowhere"):
        some_photos(tmp_path / "nowhere", tmp_path / "other", 2)


def test_the_table_has_the_mean_and_each_seeds_value() -> None:
    def rows(*values: float) -> list[dict[str, dict[str, float]]]:
        return [{"top1": {"value": value}} for value in values]

    found = table(
        {
            "15": {"decoder": rows(0.5, 0.6), "probe": rows(0.4, 0.4), "colour": rows(0.1)},
            "all": {"decoder": rows(0.75, 0.8), "probe": rows(0.7, 0.72), "colour": rows(0.2)},
        }
    )
    assert found.splitlines() == [
        "| | 15 photos a class | all photos a class |",
        "|---|---|---|",
        "| colour | 10.0 % | 20.0 % |",
        "| probe | 40.0 % (40.0, 40.0) | 71.0 % (70.0, 72.0) |",
        "| decoder | 55.0 % (50.0, 60.0) | 77.5 % (75.0, 80.0) |",
    ]
