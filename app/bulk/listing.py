"""What is to be labelled, in one fixed order, and how it is cut into shards.

A piece is one photo file, or one row group of a Parquet table. A shard is a run of pieces that is written as one file. The
same inputs always give the same shards, so that a run which was stopped knows what it has.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from os.path import splitext
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.places import files_below, reason
from app.bulk.tables import row_groups
from contract.errors import ContractError

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .mpo .png .webp .gif .bmp .dib .tif .tiff .avif .heic .heif".split()
)  # of the formats that can be read; what such a file really holds is seen when it is decoded
TABLE = ".parquet"
SCHEMA = pa.schema(
    {"shard": pa.int32(), "index": pa.int32(), "path": pa.string(), "bytes": pa.int64(), "group": pa.int32(),
     "row": pa.int64(), "photos": pa.int32()}
)  # fmt: skip


class Piece(NamedTuple):
    """A photo file (`group` and `row` None, `photos` 1), or row group `group` of a table from its row `row` on."""

    path: str
    bytes: int
    group: int | None
    row: int | None
    photos: int


@dataclass(frozen=True)
class Listing:
    """`pieces` has the columns of `SCHEMA`, shard after shard; `skipped` counts files that are no photos by their names."""

    pieces: Any
    skipped: int = 0

    @property
    def photos(self) -> int:
        """All photos."""
        return sum(self.pieces["photos"].to_pylist())

    @property
    def digest(self) -> str:
        """Hex sha256 over every piece and how they are cut."""
        return piece_digest(self.pieces)

    def shards(self) -> Iterator[Any]:
        """The pieces of each shard, in order."""
        numbers = self.pieces["shard"].to_numpy()
        starts = [0, *((numbers[1:] != numbers[:-1]).nonzero()[0] + 1).tolist(), len(numbers)]
        for start, stop in pairwise(starts):
            yield self.pieces.slice(start, stop - start)

    def to_bytes(self) -> bytes:
        """A Parquet file of `SCHEMA`."""
        sink = io.BytesIO()
        pq.write_table(self.pieces, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Listing:
        """What `to_bytes` wrote. Raises `ContractError`."""
        try:
            found = pq.read_table(io.BytesIO(data))
            return cls(found.select(SCHEMA.names).cast(SCHEMA))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ContractError(f"The stored listing is damaged: {reason(error)}.") from None


def piece_digest(pieces: Any) -> str:
    """Hex sha256 over a table of pieces."""
    found = hashlib.sha256()
    for row in zip(*(column.to_pylist() for column in pieces.columns), strict=True):
        found.update(repr(row).encode())
    return found.hexdigest()


def list_inputs(places: Iterable[str], shard: int, *, column: str | None = None, all_files: bool = False) -> Listing:
    """Every photo and table at or below the places, sorted by path, cut into shards of at most `shard` photos.

    A folder's files count by their suffix (`SUFFIXES`, `TABLE`) unless `all_files`; a file that is named itself always
    counts. A row group is never cut: one with more photos is a shard of its own. Raises `ContractError`: nothing there, no
    photo, or a table that cannot be read or has no `column` of photos.
    """
    wanted: dict[str, int] = {}
    skipped = 0
    for place in places:
        found = files_below(place)
        kept = {path: size for path, size in found if all_files or path == place or _suffix(path) in {TABLE, *SUFFIXES}}
        skipped += len(found) - len(kept)
        wanted |= kept
    if not wanted:
        said = f"; {skipped} files have other suffixes (--all-files takes them all)" if skipped else ""
        raise ContractError(f"There is no photo and no Parquet table in {', '.join(places)}{said}.")
    files = sorted(wanted.items())
    tables = [path for path, _ in files if _suffix(path) == TABLE]
    with ThreadPoolExecutor(16) as pool:  # in a bucket each footer costs a round trip or two
        groups = dict(zip(tables, pool.map(lambda table: row_groups(table, column), tables), strict=True))
    pieces = _cut((piece for path, size in files for piece in _pieces(path, size, groups)), shard)
    if not len(pieces):
        raise ContractError(f"The tables in {', '.join(places)} have no rows.")
    return Listing(pieces, skipped)


def _suffix(path: str) -> str:
    return splitext(path)[1].lower()


def _pieces(path: str, size: int, groups: dict[str, list[int]]) -> Iterator[Piece]:
    if path not in groups:
        yield Piece(path, size, None, None, 1)
        return
    row = 0
    for group, count in enumerate(groups[path]):
        if count:
            yield Piece(path, size, group, row, count)
        row += count


def _cut(pieces: Iterable[Piece], most: int) -> Any:
    rows: list[tuple[Any, ...]] = []
    shard, index, before = 0, 0, None
    for piece in pieces:
        table = piece.path if piece.group is not None else None
        if index and (index + piece.photos > most or table != before):
            shard, index = shard + 1, 0
        rows.append((shard, index, *piece))
        index, before = index + piece.photos, table
    columns = zip(*rows, strict=True) if rows else [()] * len(SCHEMA)
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)
