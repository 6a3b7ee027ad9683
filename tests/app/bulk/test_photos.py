"""Every photo comes out as one row, good or bad, and in tables of a bounded size."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk import photos
from app.bulk.listing import list_inputs
from app.bulk.photos import PhotoLimits, ahead, decode
from app.decoding.pool import DEADLY as DEADLY_SENTENCE
from contract.errors import ContractError
from contract.pixels import photo_to_pixels
from tests.app.decoders import decoders
from tests.app.photos import png_of_size
from tests.app.strange_decoder import BURNING, DEADLY, FAULTY, HANGING, SWELLING
from tests.conftest import drawn_png

LIMITS = PhotoLimits(image_size=32, max_bytes=100_000, max_pixels=1_000_000, cpu_ms=60_000)
STRANGE = ("-m", "tests.app.strange_decoder")


def decoded(place: Path, limits: PhotoLimits = LIMITS) -> list[dict[str, Any]]:
    """The rows of everything below a folder or in a file."""
    pieces = list_inputs([str(place)], 100).pieces
    return [row for table in decode(pieces, limits) for row in table.to_pylist()]


def test_photos_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    files = {
        "a.png": drawn_png(1, size=64), "b.png": b"", "c.png": b"no picture", "d.png": drawn_png(2, size=64)[:200],
        "e.png": png_of_size(2000, 501), "f.png": b"x" * 100_001, "h.png": drawn_png(3, size=64),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "g.png").symlink_to("/nowhere")
    rows = decoded(tmp_path)
    slugs = [
        None,
        "empty_image",
        "unsupported_format",
        "bad_image",
        "image_too_large",
        "body_too_large",
        "missing_image",
        None,
    ]
    assert [row["error_type"] for row in rows] == slugs
    assert [row["index"] for row in rows] == list(range(8))
    assert [Path(row["path"]).name for row in rows] == [f"{letter}.png" for letter in "abcdefgh"]
    for row, slug in zip(rows, slugs, strict=True):
        assert (row["pixels"] is None) is (slug is not None)
        assert (row["error"] is None) is (slug is None)
        assert (row["row"], row["photo"]) == (None, None)
    assert rows[0]["pixels"] == photo_to_pixels(files["a.png"], 32).tobytes()
    assert rows[5]["error"] == "The photo has more than 100000 bytes (max_body_bytes)."
    assert rows[6]["error"] == "The file cannot be read: No such file or directory."


def test_a_photo_that_its_process_does_not_survive_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.decoding.pool.PROGRAM", STRANGE)
    good = [drawn_png(index, size=64) for index in range(4)]
    files = [good[0], DEADLY, good[1], BURNING, SWELLING, good[2], FAULTY, DEADLY, good[3]]
    for index, data in enumerate(files):
        (tmp_path / f"{index}.png").write_bytes(data)
    rows = decoded(tmp_path, replace(LIMITS, cpu_ms=1000))
    slugs = {DEADLY: "bad_image", BURNING: "image_too_costly", SWELLING: "image_too_costly", FAULTY: "internal_error"}
    assert [row["error_type"] for row in rows] == [slugs.get(data) for data in files]
    assert rows[1]["error"] == DEADLY_SENTENCE
    assert rows[6]["error"] == "The decoder failed on this photo; the log of Ray's worker has the fault."
    wanted = [photo_to_pixels(one, 32).tobytes() for one in good]
    assert [row["pixels"] for row in rows if row["error_type"] is None] == wanted
    assert decoders() == []


def test_a_photo_that_hangs_is_one_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.decoding.pool.PROGRAM", STRANGE)
    monkeypatch.setattr(photos, "LONGEST", 1.0)
    (tmp_path / "a.png").write_bytes(HANGING)
    assert [row["error_type"] for row in decoded(tmp_path)] == ["bad_image"]


def test_without_a_process_the_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.decoding.pool.PROGRAM", ("-c", ""))
    monkeypatch.setattr("app.decoding.pool.AGAIN_SECONDS", 0)
    (tmp_path / "a.png").write_bytes(drawn_png(0, size=64))
    with pytest.raises(ContractError, match="ended as soon as they were started"):
        decoded(tmp_path)


def test_tables_of_bytes_of_structs_and_of_paths(tmp_path: Path) -> None:
    data = [drawn_png(index, size=64) for index in range(5)]
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "0.png").write_bytes(data[0])
    cells = {
        "bytes": [*data, None, b""],
        "image": [
            *({"bytes": one, "path": f"{i}.png"} for i, one in enumerate(data)),
            None,
            {"bytes": b"", "path": "e"},
        ],
        "path": [
            "aside/0.png",
            str(tmp_path / "aside" / "0.png"),
            f"file://{tmp_path}/aside/0.png",
            "none.png",
            "http://a/b.png",
            None,
        ],
    }
    for column, values in cells.items():
        pq.write_table(pa.table({column: values}), tmp_path / f"{column}.parquet", row_group_size=3)
    wanted = [photo_to_pixels(one, 32).tobytes() for one in data]
    for column, names in (("bytes", [None] * 7), ("image", [*(f"{i}.png" for i in range(5)), None, "e"])):
        rows = decoded(tmp_path / f"{column}.parquet")
        assert [row["pixels"] for row in rows] == [*wanted, None, None]
        assert [row["error_type"] for row in rows[5:]] == ["missing_image", "empty_image"]
        assert [row["row"] for row in rows] == list(range(7))
        assert [row["photo"] for row in rows] == names
    rows = decoded(tmp_path / "path.parquet")
    assert [row["pixels"] for row in rows] == [wanted[0]] * 3 + [None] * 3
    assert [row["error_type"] for row in rows[3:]] == ["missing_image"] * 3
    assert "http://a cannot be reached" in rows[4]["error"]
    assert [row["photo"] for row in rows] == cells["path"]


def test_a_table_that_changed_meanwhile_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [b"x"] * 5}), path)
    pieces = list_inputs([str(path)], 10).pieces
    pq.write_table(pa.table({"image": [b"x"] * 4}), path)
    with pytest.raises(ContractError, match="has changed since it was listed"):
        list(decode(pieces, LIMITS))
    path.write_bytes(b"broken")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        list(decode(pieces, LIMITS))


def test_tables_that_come_out_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(10):
        (tmp_path / f"{index}.png").write_bytes(drawn_png(index, size=32))
    monkeypatch.setattr(photos, "BLOCK_BYTES", 4 * 32 * 32 * 3)
    tables = list(decode(list_inputs([str(tmp_path)], 10).pieces, LIMITS))
    assert [len(table) for table in tables] == [4, 4, 2]
    assert np.frombuffer(tables[0]["pixels"][0].as_py(), np.uint8).size == 32 * 32 * 3


def test_few_photos_are_read_ahead() -> None:
    begun: list[int] = []
    lock = threading.Lock()

    def read(item: int) -> int:
        with lock:
            begun.append(item)
        return item * 2

    found = ahead(read, iter(range(100)))
    assert next(found) == (0, 0)
    assert len(begun) <= photos.AHEAD + 1
    assert list(found) == [(item, item * 2) for item in range(1, 100)]


def test_a_fault_that_may_pass_is_tried_again_and_then_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def read(path: str, limit: int) -> bytes:
        tries.append(path)
        if len(tries) < faults + 1:
            raise OSError("the network is down")
        return b"photo"

    monkeypatch.setattr(photos, "read_at_most", read)
    monkeypatch.setattr(photos, "PAUSE", 0.001)
    faults = 3
    assert photos.read_photo("s3://b/a.png", 10) == b"photo"
    tries.clear()
    faults = 4
    with pytest.raises(ContractError, match=r"s3://b/a.png cannot be read, after 4 tries: the network is down\."):
        photos.read_photo("s3://b/a.png", 10)
