"""Small tables of drawn photos for the tests of tables, streams and loading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.conftest import drawn_png

_PNG = [drawn_png(i, 16) for i in range(16)]


def png(index: int) -> bytes:
    """A different 16-pixel photo for each index: bytes behind the end of a PNG are not read."""
    return _PNG[index % 16] + index.to_bytes(4, "big")


def write_table(
    path: Path, labels: list[int | None], *, names: tuple[str, ...] = ("x", "b", "a"), row_group: int | None = None,
    photos: list[bytes | None] | None = None, first: int = 0,
) -> Path:  # fmt: skip
    """A parquet file with the hub's schema: photo `first + i` has the label `labels[i]`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    data = photos or [png(first + i) for i in range(len(labels))]
    images: Any = [None if photo is None else {"bytes": photo, "path": None} for photo in data]
    schema = Features({"image": Image(), "label": ClassLabel(names=list(names))}).arrow_schema
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, "label": labels}, schema=schema), path, row_group_size=row_group)
    return path


def write_hub(folder: Path, train: list[int | None], test: list[int | None] | None = None, **options: Any) -> Path:
    """A folder that the datasets library opens like a hub data set with the splits train and validation."""
    write_table(folder / "train-00000.parquet", train, **options)
    write_table(folder / "validation-00000.parquet", test or [0, 1, 2] * 4, first=50_000, **options)
    return folder
