"""Small file helpers: digests and writes that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contract.errors import ContractError


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 `text` so that `path` holds the old or the new content, never a part."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        _fsync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, *, marker: str, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary sibling folder; it takes the name `path` only when the block ends without an exception.

    `marker` is the file that every such folder holds: an existing folder is replaced only if `replace` is true and
    it holds the marker, so that a mistyped path never deletes anything else. Raises `ContractError` otherwise.
    """
    check_can_write(path, marker=marker, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            _fsync(file)
        _fsync(temporary)
        if path.exists():
            old = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_can_write(path: Path, *, marker: str, replace: bool) -> None:
    """Raise `ContractError` if `new_folder` would refuse `path`: call it before long work, not after."""
    if not path.name:
        raise ContractError(f"{path} is not a folder that can be written; name a new one.")
    if not path.exists():
        return
    if not path.is_dir():
        raise ContractError(f"{path} exists and is not a folder; choose another path.")
    if any(path.iterdir()):
        if not (path / marker).is_file():
            raise ContractError(
                f"{path} exists and holds no {marker}, so it will not be replaced; choose another path."
            )
        if not replace:
            raise ContractError(f"{path} exists already; pass --force to replace it.")
