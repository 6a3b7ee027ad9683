"""Files of a bundle as they were verified: each is opened once, and what was hashed is what is used.

A file's bytes are read into memory, never mapped: whoever writes over it afterwards changes nothing here. The folder
is opened once too, so that another which takes its name meanwhile is not mixed in.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from contract.errors import BundleError

WEIGHTS = ".weights"  # suffix of the files that hold the graphs' large tensors


class FileEntry(BaseModel):
    """Size in bytes and hex sha256 of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True)
class GraphFile:
    """A verified graph: its ONNX bytes, and by file name those that its tensors may lie in. `path` is for messages."""

    path: Path
    data: bytes = field(repr=False)
    weights: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Folder:
    """A folder held open."""

    path: Path
    descriptor: int

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of a file, one more than `most` if it is longer; None when there is none of that name.

        Raises `BundleError` when it cannot be read.
        """
        with _readable(self.path / name):
            file = self._open(name)
            if file is None:
                return None
            with file:
                return file.read(most + 1)

    def verified(self, name: str, entry: FileEntry, *, keep: bool) -> bytes | None:
        """The bytes of a file, verified; None without `keep`: then it is read in pieces.

        Raises `BundleError` when it is missing, cannot be read, or is not the one that `entry` describes.
        """
        path = self.path / name
        with _readable(path):
            file = self._open(name)
            if file is None:
                raise BundleError(
                    f"The bundle {self.path} is incomplete: {name} is missing. Copy it again or export it again."
                )
            with file:
                size = os.fstat(file.fileno()).st_size
                if size != entry.bytes:
                    raise BundleError(
                        f"{path} has {size} bytes, its manifest says {entry.bytes}. Copy it again or export it again."
                    )
                data = file.read(entry.bytes + 1) if keep else None
                digest = hashlib.file_digest(file, "sha256") if data is None else hashlib.sha256(data)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{path} is damaged: its sha256 is not the manifest's. Copy it again or export it again.")
        return data

    def _open(self, name: str) -> BufferedReader | None:
        try:
            # O_NONBLOCK: a pipe of that name must not make the opening wait
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return os.fdopen(descriptor, "rb")


@contextmanager
def opened(path: Path) -> Iterator[Folder]:
    """The folder at `path`. Raises `BundleError` when there is none, or it cannot be read."""
    try:
        with _readable(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise BundleError(
            f"There is no bundle folder at {path}. Make one with `python -m export CHECKPOINT {path}`."
        ) from None
    try:
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
