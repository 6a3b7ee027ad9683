"""Inputs become the same shards every time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.listing import Listing, list_inputs
from contract.errors import ContractError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def table(path: Path, photos: int, group: int, **columns: Any) -> str:
    rows = columns or {"image": pa.array([b"x"] * photos, pa.binary())}
    pq.write_table(pa.table(rows), path, row_group_size=group)
    return str(path)


def shards(listing: Listing) -> list[list[tuple[Any, ...]]]:
    """(index, file name, group, row, photos) of each piece of each shard."""
    columns = ("index", "path", "group", "row", "photos")
    return [
        [
            (i, Path(path).name, *rest)
            for i, path, *rest in zip(*(one[name].to_pylist() for name in columns), strict=True)
        ]
        for one in listing.shards()
    ]


def test_files_are_sorted_and_cut(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/z.JPG", "a/y.heic", "c.webp", "notes.txt", "README", ".x.png")
    listing = list_inputs([str(tmp_path)], 3)
    names = [[piece[1] for piece in one] for one in shards(listing)]
    assert names == [["y.heic", "z.JPG", "b.png"], ["c.webp"]]
    assert (listing.photos, listing.skipped) == (4, 2)
    assert list_inputs([str(tmp_path / "a"), str(tmp_path)], 3).digest == listing.digest, "named twice is there once"
    assert list_inputs([str(tmp_path)], 2).digest != listing.digest
    assert list_inputs([str(tmp_path)], 3, all_files=True).photos == 6
    assert list_inputs([str(tmp_path / "notes.txt")], 3).photos == 1, "a file that is named itself counts"
    (tmp_path / "b.png").write_bytes(b"longer than before")
    assert list_inputs([str(tmp_path)], 3).digest != listing.digest


def test_row_groups_stay_whole_and_shards_do_not_mix_tables(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", 10, 4)  # groups of 4, 4, 2
    table(tmp_path / "b.parquet", 7, 7)
    table(tmp_path / "c.parquet", 0, 1)
    touch(tmp_path, "z.png")
    listing = list_inputs([str(tmp_path)], 6)
    assert shards(listing) == [
        [(0, "a.parquet", 0, 0, 4)],
        [(0, "a.parquet", 1, 4, 4), (4, "a.parquet", 2, 8, 2)],
        [(0, "b.parquet", 0, 0, 7)],
        [(0, "z.png", None, None, 1)],
    ]
    assert listing.photos == 18
    assert Listing.from_bytes(listing.to_bytes()).digest == listing.digest


def test_what_cannot_be_listed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"There is no photo and no Parquet table in .*\.$"):
        list_inputs([str(tmp_path)], 10)
    touch(tmp_path, "notes.txt")
    with pytest.raises(ContractError, match=r"1 files have other suffixes \(--all-files takes them all\)"):
        list_inputs([str(tmp_path)], 10)
    touch(tmp_path, "broken.parquet")
    with pytest.raises(ContractError, match=r"The table .*broken.parquet cannot be read as Parquet: "):
        list_inputs([str(tmp_path)], 10)
    empty = table(tmp_path / "broken.parquet", 0, 1)
    with pytest.raises(ContractError, match="have no rows"):
        list_inputs([empty], 10)
    with pytest.raises(ContractError, match="The stored listing is damaged"):
        Listing.from_bytes(b"PAR1")
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1]}), sink)
    with pytest.raises(ContractError, match="The stored listing is damaged"):
        Listing.from_bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("columns", "asked", "sentence"),
    [
        ({"image": [b"x"], "label": [1]}, None, None),
        ({"image": [b"x"], "caption": ["a"]}, None, None),
        ({"url": ["a.png"], "label": [1]}, None, None),
        ({"image": [{"bytes": b"x", "path": "a"}], "id": ["a"]}, None, None),
        ({"a": [b"x"], "b": [b"x"]}, "b", None),
        ({"url": ["a.png"], "caption": ["a"]}, None, "has several of photos .* it has url, caption. Name .*--column"),
        ({"label": [1]}, None, "has no column of photos"),
        ({"image": [b"x"]}, "photo", "has no column 'photo' of photos"),
        ({"image": [b"x"], "label": [1]}, "label", "has no column 'label' of photos"),
    ],
)
def test_the_column_of_photos(columns: dict[str, Any], asked: str | None, sentence: str | None, tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", 1, 1, **columns)
    if sentence is None:
        assert list_inputs([path], 10, column=asked).photos == 1
    else:
        with pytest.raises(ContractError, match=sentence):
            list_inputs([path], 10, column=asked)
