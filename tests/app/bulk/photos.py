"""Many different drawn photos, quickly; runs of the command; and what an output folder holds."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.conftest import ROOT, drawn_png

DRAWN = 64  # different pictures; the others are variants of them
BAD = {"empty_image": b"", "unsupported_format": b"no picture", "bad_image": b"\x89PNG\r\n\x1a\n" + b"x" * 40}


def variants(count: int) -> Iterator[bytes]:
    """PNG bytes of `count` different photos: drawn pictures of 32 px, each shifted, mirrored and darkened its own way."""
    drawn = [np.asarray(Image.open(io.BytesIO(drawn_png(index, size=32))).convert("RGB")) for index in range(DRAWN)]
    for index in range(count):
        turn, picture = divmod(index, DRAWN)
        pixels = np.roll(drawn[picture], (turn % 5, turn // 5 % 5), axis=(0, 1))
        pixels = (pixels[:, :: 1 - 2 * (turn // 25 % 2)] * (1 - 0.01 * (turn // 50 % 30))).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
        yield file.getvalue()


def fill(folder: Path, count: int, bad_every: int = 0) -> dict[str, str]:
    """Write `count` photos into subfolders of `folder`; every `bad_every`-th is a bad one: path → slug of these."""
    bad: dict[str, str] = {}
    slugs = list(BAD)
    for index, data in enumerate(variants(count)):
        path = folder / f"{index % 7}" / f"photo-{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if bad_every and index % bad_every == bad_every - 1:
            bad[str(path)] = slug = slugs[index // bad_every % len(slugs)]
            data = BAD[slug]
        path.write_bytes(data)
    return bad


@contextlib.contextmanager
def held_photo(path: Path) -> Iterator[None]:
    """A photo that whoever opens it waits for, so that no run ends within the block; afterwards it is an empty file.

    It is a named pipe, and is listed with 0 bytes like the empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # nobody waits
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        path.unlink()
        path.write_bytes(b"")


def broken_bundle(bundle: Path, folder: Path) -> Path:
    """A copy that reads well and whose encoder is no graph."""
    shutil.copytree(bundle, folder)
    (folder / "encoder.onnx").write_bytes(b"no graph")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["encoder.onnx"] = {"bytes": 8, "sha256": hashlib.sha256(b"no graph").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def command(*arguments: object) -> list[str]:
    """`python -m app.bulk` with the arguments."""
    return [sys.executable, "-m", "app.bulk", *map(str, arguments)]


def killed_when(done: int, out: Path, *arguments: object, seconds: float = 600) -> None:
    """Start the command and kill it (SIGKILL) once `done` shards are finished. Raises `AssertionError` if it ends before."""
    process = subprocess.Popen(
        command(*arguments, "--out", out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + seconds
    while len(finished(out)) < done:
        assert process.poll() is None, f"it ended before the kill: {process.stderr.read() if process.stderr else ''}"
        assert time.monotonic() < deadline, "too slow to be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Finished shards: file name → inode and time of change in ns, which a shard that is written again would change."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in (out / "labels").glob("[!.]*")}


def rows(out: Path, table: str = "labels") -> list[dict[str, Any]]:
    """All rows of `labels` or `errors`, in the order of the shards."""
    found = [pq.ParquetFile(file).read().to_pylist() for file in sorted((out / table).glob("[!.]*.parquet"))]
    return [row for part in found for row in part]
