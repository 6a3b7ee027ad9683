"""Bundles beside the tests' own: the same graphs, other answers; and how a folder is written over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from contract.bundle import LABELS_FILE, MANIFEST_FILE, SCORER_FILE
from contract.self_check import CHECK_FILE


def hotter(bundle: Path, folder: Path, temperature: float = 2.0) -> Path:
    """A copy calibrated to another temperature: the same labels, less sure."""
    shutil.copytree(bundle, folder)
    return changed(folder, temperature=temperature)


def only_captions(bundle: Path, folder: Path) -> Path:
    """A copy without labels: it captions, and is no classifier."""
    shutil.copytree(bundle, folder)
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    kept = {name: entry for name, entry in files.items() if name not in (LABELS_FILE, SCORER_FILE)}
    return changed(folder, caption=None, files=kept)


def without_self_check(bundle: Path, folder: Path) -> Path:
    """A copy as an earlier release exported it, before a bundle had a self-check."""
    shutil.copytree(bundle, folder)
    (folder / CHECK_FILE).unlink()
    files = json.loads((folder / MANIFEST_FILE).read_text())["files"]
    del files[CHECK_FILE]
    return changed(folder, format_version=3, files=files)


def changed(folder: Path, **fields: Any) -> Path:
    """The bundle at `folder`, with other fields in its manifest."""
    file = folder / MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def overwrite(folder: Path, other: Path) -> None:
    """Write every file of `other` over the one in `folder`, into the same inodes, as `cp -r other/. folder/` does."""
    for path in sorted(other.iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())


def wipe(folder: Path, byte: int = 0) -> None:
    """Write one value over every byte of every file but the manifest, into the same inodes."""
    for path in folder.iterdir():
        if path.name != MANIFEST_FILE:
            path.write_bytes(bytes([byte]) * path.stat().st_size)
