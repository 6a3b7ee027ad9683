"""Paths and buckets: a place is a local path, or a URI that pyarrow's file systems know (gs://, s3://, …)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from contract.errors import ContractError

_URI = re.compile(r"([a-z][a-z0-9+.-]*)://([^/]*)/?(.*)", re.DOTALL)
LOCK = ".lock"


def normal(place: str) -> str:
    """A place in the one form in which it is compared and stored: an absolute path, or a URI without a slash at its end.

    Raises `ContractError` for a URI without a bucket.
    """
    if place.startswith("file://"):
        place = unquote(place.removeprefix("file://").removeprefix("localhost"))
    found = _URI.fullmatch(place)
    if found is None:
        return os.path.abspath(place)
    if not found[2]:
        raise ContractError(f"{place} names no bucket; give one, like {found[1]}://bucket/photos.")
    return place.rstrip("/")


def is_local(place: str) -> bool:
    """Whether a place in its normal form is on this machine's file system."""
    return _URI.fullmatch(place) is None


def join(place: str, *names: str) -> str:
    """A place below another."""
    return "/".join((place.rstrip("/"), *names))


def inside(place: str, folder: str) -> bool:
    """Whether a place is a folder, or lies in it; both in their normal form."""
    return place == folder or place.startswith(join(folder, ""))


def locate(place: str) -> tuple[Any, str]:
    """The pyarrow file system of a place, and the place's path there. Raises `ContractError` for an unknown scheme."""
    found = _URI.fullmatch(place)
    if found is None:
        return fs.LocalFileSystem(), place
    scheme, bucket, key = found.groups()
    return _file_system(scheme, bucket), f"{bucket}/{key}".rstrip("/")


@lru_cache(maxsize=64)
def _file_system(scheme: str, bucket: str) -> Any:
    # made from the bucket alone: in a whole URI, a `%` or `?` of an object's name would be read as part of the URI
    try:
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}")[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError, ImportError) as error:
        raise ContractError(
            f"The place {scheme}://{bucket} cannot be reached: {reason(error)}. Give a local path, gs:// or s3://."
        ) from None


def reason(error: BaseException) -> str:
    """What went wrong, in one line without a full stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def files_below(place: str) -> list[tuple[str, int]]:
    """(place, bytes) of a file, or of every file below a folder, in any order; names that begin with a dot are left out.

    Links to files are followed, links to folders are not. A link to nothing has -1 bytes. Raises `ContractError` when there
    is nothing, it cannot be listed, or a name is not UTF-8.
    """
    try:
        found = list(_local_files(place) if is_local(place) else _bucket_files(place))
    except OSError as error:
        raise ContractError(f"{place} cannot be listed: {reason(error)}.") from None
    for path, _ in found:
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise ContractError(f"The name of the file {path!r} is not UTF-8; rename it.")
    return found


def _local_files(place: str) -> Iterator[tuple[str, int]]:
    if not os.path.isdir(place):
        if not os.path.exists(place):
            raise ContractError(f"There is no file or folder at {place}.")
        yield place, os.path.getsize(place)
        return

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(place, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = os.path.join(folder, name)
                yield path, os.path.getsize(path) if os.path.exists(path) else -1


def _bucket_files(place: str) -> Iterator[tuple[str, int]]:
    system, path = locate(place)
    itself = system.get_file_info(path)
    if itself.type == fs.FileType.File:
        yield place, itself.size
        return
    if itself.type == fs.FileType.NotFound:
        raise ContractError(f"There is no file or folder at {place}.")
    for info in system.get_file_info(fs.FileSelector(path, recursive=True)):
        name = info.path[len(path) + 1 :]
        if info.type == fs.FileType.File and not re.search(r"(^|/)\.", name):
            yield join(place, name), info.size


def read_at_most(place: str, limit: int | None) -> bytes:
    """The first `limit` bytes of a file, or all of it (None). Raises `OSError` as pyarrow does."""
    system, path = locate(place)
    with system.open_input_stream(path) as stream:
        data: bytes = stream.read(limit)
    return data


def names_in(place: str) -> set[str]:
    """Names of what lies directly in a folder; none where there is no such folder."""
    system, path = locate(place)
    found = system.get_file_info(fs.FileSelector(path, recursive=False, allow_not_found=True))
    return {info.base_name for info in found}


def write_whole(place: str, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; its folder is made.

    Locally under a temporary name, flushed and renamed; the name is the same for each try, so that a killed run's rest is
    overwritten by the next. To a bucket by one upload, which is not seen before it is complete.
    """
    system, path = locate(place)
    if not is_local(place):
        with system.open_output_stream(path) as stream:
            stream.write(data)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def only_run(place: str) -> Iterator[None]:
    """Hold a folder for one run of this machine. Raises `ContractError` if another has it. Buckets are not held."""
    if not is_local(place):
        yield
        return
    try:
        os.makedirs(place, exist_ok=True)
    except OSError as error:
        raise ContractError(f"The folder {place} cannot be made: {error.strerror}.") from None
    with open(os.path.join(place, LOCK), "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ContractError(f"Another run is at work on {place}; wait for it, or choose another --out.") from None
        except OSError:  # a file system without locks: two runs would write the same files twice, no more
            pass
        yield
