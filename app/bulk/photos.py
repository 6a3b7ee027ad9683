"""Pieces → pixels, or the reason why not, in tables of a bounded size. Runs in Ray's tasks.

Every photo comes out as one row, good or bad. The limits are the service's: bytes before reading
on, pixels from the header before decoding, processor time and memory while decoding.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa

from app.bulk.places import join, locate, normal, read_at_most, reason
from app.bulk.tables import image_column, open_table
from app.decoding.pool import DecodePool
from contract.errors import ContractError, PhotoError

DECODED = pa.schema(
    {"shard": pa.int32(), "index": pa.int32(), "path": pa.string(), "row": pa.int64(), "photo": pa.string(),
     "pixels": pa.binary(), "decode_ms": pa.float32(), "error_type": pa.string(), "error": pa.string()}
)  # fmt: skip
BLOCK_BYTES = 16 << 20  # of pixels in one table
AHEAD = 8  # photos that are read while one is decoded: in a bucket each costs tens of milliseconds of waiting
ROWS_AT_ONCE = 16  # of a table
TRIES, PAUSE = 4, 1.0  # of reading a file, and seconds before the second; twice as long before each later one
LONGEST = 60.0  # seconds that one photo may be read, whatever its processor time: beyond that its process hangs
PATIENCE = 3600.0  # seconds for a photo's pixels: there is no process to be had
FAULTY = "The decoder failed on this photo; the log of Ray's worker has the fault."

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class PhotoLimits:
    """The model's image size, the service's `max_body_bytes`, `max_pixels` and `decode_cpu_ms`, and
    a table's image column.
    """

    image_size: int
    max_bytes: int
    max_pixels: int
    cpu_ms: int
    column: str | None = None


@dataclass(frozen=True)
class Found:
    """One photo: its row in a table, the name that the table gives it, and its bytes or why there
    are none.
    """

    row: int | None
    name: str | None
    data: bytes | PhotoError


def decode(pieces: Any, limits: PhotoLimits) -> Iterator[Any]:
    """A table of pieces → tables of `DECODED`; `pixels` are uint8 [S, S, 3] as bytes, null where
    there is an error.

    Raises `ContractError` when a file or table cannot be read and it is not the photo's fault.
    """
    most = max(1, BLOCK_BYTES // (3 * limits.image_size**2))
    rows: list[dict[str, Any]] = []
    with Decoding(limits.image_size, limits.max_pixels, limits.cpu_ms) as decoding:
        for piece, place, found in _photos(pieces.to_pylist(), limits):
            rows.append(
                {"shard": piece["shard"], "index": piece["index"] + place, "path": piece["path"], "row": found.row,
                 "photo": found.name, **_decoded(found.data, decoding)}
            )  # fmt: skip
            if len(rows) == most:
                yield pa.Table.from_pylist(rows, schema=DECODED)
                rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=DECODED)


def _decoded(data: bytes | PhotoError, decoding: Decoding) -> dict[str, Any]:
    try:
        if isinstance(data, PhotoError):
            raise data
        pixels, took = decoding.pixels(data)
    except PhotoError as error:
        return {"pixels": None, "decode_ms": None, "error_type": error.slug, "error": str(error)}
    return {"pixels": pixels, "decode_ms": took, "error_type": None, "error": None}


class Decoding:
    """A process of the service's that decodes photos (`app.decoding.pool`) under its limits, from
    `with` to its end.

    A photo that crashes it, or makes it hang, costs two processes at most, and no other photo
    anything. Raises `ContractError` where none stays alive.
    """

    def __init__(self, image_size: int, max_pixels: int, cpu_ms: int) -> None:
        self._runner = asyncio.Runner()
        self._pool = DecodePool(1, 1, image_size=image_size, max_pixels=max_pixels, cpu_ms=cpu_ms, longest=LONGEST)

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._start())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    async def _start(self) -> None:
        await self._pool.start()
        await self._pool.ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._runner.run(self._pool.close())
        self._runner.close()

    def pixels(self, photo: bytes) -> tuple[bytes, float]:
        """uint8 [S, S, 3] as bytes, and the milliseconds it took. Raises `PhotoError`, also for a
        photo that its process does not survive, or fails on.
        """
        began = time.perf_counter()
        try:
            found, _ = self._runner.run(self._pool.decode(photo, PATIENCE, self))
        except TimeoutError:
            raise ContractError(
                "No process that decodes photos stays alive; the log of Ray's worker says why."
            ) from None
        except RuntimeError:
            raise PhotoError("internal_error", FAULTY) from None
        return found.tobytes(), 1000 * (time.perf_counter() - began)


def _photos(pieces: list[dict[str, Any]], limits: PhotoLimits) -> Iterator[tuple[dict[str, Any], int, Found]]:
    """(piece, place in it, photo) of each photo of the pieces, in order."""
    files = [piece for piece in pieces if piece["group"] is None]
    for piece, data in ahead(lambda piece: read_photo(piece["path"], limits.max_bytes), files):
        yield piece, 0, Found(None, None, data)
    for piece in pieces:
        if piece["group"] is not None:
            yield from ((piece, place, found) for place, found in enumerate(_table_photos(piece, limits)))


def ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[tuple[A, B]]:
    """Each item and its result, in order; `AHEAD` results are made beforehand, in threads."""
    waiting: deque[tuple[A, Future[B]]] = deque()
    with ThreadPoolExecutor(AHEAD, thread_name_prefix="read") as pool:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > AHEAD:
                first, result = waiting.popleft()
                yield first, result.result()
        for item, result in waiting:
            yield item, result.result()


# -- bytes ------------------------------------------------------------------------------------------------------------


def read_photo(path: str, max_bytes: int) -> bytes | PhotoError:
    """The bytes of a photo's file, or why there are none: too many, or no such file, or one that
    may not be read.

    Anything else may pass, as a network's fault does: it is tried again, and then raised as
    `ContractError`.
    """
    pause = PAUSE
    for attempt in range(1, TRIES + 1):
        try:
            return within(read_at_most(path, max_bytes + 1), max_bytes)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            return PhotoError("missing_image", f"The file cannot be read: {os.strerror(error.errno or 2)}.")
        except OSError as error:
            if attempt == TRIES:
                raise ContractError(f"{path} cannot be read, after {TRIES} tries: {reason(error)}.") from None
            time.sleep(pause)
            pause *= 2
    raise AssertionError("unreachable")


def within(data: bytes, max_bytes: int) -> bytes | PhotoError:
    """The bytes, unless they are more than the service would take."""
    if len(data) <= max_bytes:
        return data
    return PhotoError("body_too_large", f"The photo has more than {max_bytes} bytes (max_body_bytes).")


def _table_photos(piece: dict[str, Any], limits: PhotoLimits) -> Iterator[Found]:
    with open_table(piece["path"]) as table:
        column = image_column(table.schema_arrow, limits.column, piece["path"])
        row = piece["row"]
        for _, (name, data) in ahead(
            lambda cell: _cell(cell, piece["path"], limits.max_bytes), _cells(piece, table, column)
        ):
            yield Found(row, name, data)
            row += 1
    if row != piece["row"] + piece["photos"]:
        raise ContractError(f"The table {piece['path']} has changed since it was listed.")


def _cells(piece: dict[str, Any], table: Any, column: str) -> Iterator[Any]:
    try:
        for batch in table.iter_batches(ROWS_AT_ONCE, row_groups=[piece["group"]], columns=[column]):
            yield from batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"The table {piece['path']} cannot be read: {reason(error)}.") from None


def _cell(cell: Any, table: str, max_bytes: int) -> tuple[str | None, bytes | PhotoError]:
    """(name, bytes) of a cell: bytes, a path or URI, or a struct of both as the `datasets` library
    writes it.
    """
    name, data = (cell.get("path"), cell.get("bytes")) if isinstance(cell, dict) else (None, cell)
    if data is None and name:
        data = name
    if data is None:
        return name, PhotoError("missing_image", "The cell of the table is empty.")
    if isinstance(data, str):
        return data, _named(data, table, max_bytes)
    return name, within(data, max_bytes)


def _named(name: str, table: str, max_bytes: int) -> bytes | PhotoError:
    """The photo that a cell names: by a URI, an absolute path, or one from the table's folder."""
    try:
        place = normal(name if "://" in name or name.startswith("/") else join(os.path.dirname(table), name))
        locate(place)
    except ContractError as error:  # the table's fault, not the network's
        return PhotoError("missing_image", str(error))
    return read_photo(place, max_bytes)
