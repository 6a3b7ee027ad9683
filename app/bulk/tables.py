"""Parquet tables of photos: their rows, and which column holds the photos."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.bulk.places import locate, reason
from contract.errors import ContractError


def row_groups(path: str, column: str | None) -> list[int]:
    """Rows of each row group of a table. Raises `ContractError` when it cannot be read or `image_column` fails."""
    with open_table(path) as table:
        image_column(table.schema_arrow, column, path)
        return [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]


def open_table(path: str) -> Any:
    """A `pyarrow.parquet.ParquetFile` that reads page by page. Raises `ContractError`."""
    system, inner = locate(path)
    try:
        return pq.ParquetFile(inner, filesystem=system, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"The table {path} cannot be read as Parquet: {reason(error)}.") from None


def image_column(schema: Any, asked: str | None, table: str) -> str:
    """The column that holds photos: the one asked for, else the only one that can. Raises `ContractError`."""
    able = [field.name for field in schema if _can_hold(field.type)]
    wanted = [name for name in able if name == asked or asked is None]
    sure = [name for name in wanted if not _is_text(schema.field(name).type)] or wanted
    if len(sure) == 1:
        return sure[0]
    problem = "has no column" if asked is None and not able else f"has no column {asked!r}" if asked else "has several"
    raise ContractError(
        f"The table {table} {problem} of photos (bytes, paths, or structs of both); it has {', '.join(schema.names)}. "
        "Name the column with --column."
    )


def _can_hold(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
