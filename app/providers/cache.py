"""The engine cache: one folder for each TensorRT engine that must not be mistaken for another.

ONNX Runtime names an engine after the graph's file name, its tensor names and versions, not after weights or shapes
(`TRTGenerateId`). New weights under an old name would be served by the old engine. So each engine has a folder of its
own, named after a digest of all that it depends on. An engine is code, and ONNX Runtime writes it in place and loads
whatever is there. So its own digest is written beside it, and compared before it is loaded:

    <cache>/encoder-batch8-1f0c62d9a4be/key.json      what the engine is for, checked before the folder is used again
                                        *.engine      written by ONNX Runtime, with *.profile beside it
                                        *.sha256      of each of the two, written when the engine is whole
    <cache>/timing-trt10.16.1-sm90-nvidia-h200/       tactic timings, shared by all engines built on that GPU
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from app.providers.gpu import ProviderError
from contract.files import sha256_file, write_text_atomic

log = logging.getLogger("food_vision")

KEY_FILE = "key.json"
DIGEST = ".sha256"  # behind the name of the file that it is of
LOADED = ("*.engine", "*.profile")  # what ONNX Runtime writes into a folder and loads from it
MOST_FOLDERS = 9  # of one name, before somebody has to look
Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on. Two keys that differ in any field never share a folder.

    `model` is the bundle's digest, `graph` the file name, `shapes` the profile (smallest, usual and largest by input)
    or empty, `fixed` the fixed dimensions by symbol, `options` the provider options that change what is built, `gpu`
    and `capability` the name and compute capability of the GPU: engines are tuned to one model of GPU.
    """

    model: str
    graph: str
    precision: str
    shapes: Shapes
    fixed: Mapping[str, int]
    cuda_graph: bool
    onnxruntime: str
    tensorrt: str
    gpu: str
    capability: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> str:
        """The content of `key.json`: the same text for the same key."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @property
    def what(self) -> str:
        """Graph, batch, GPU and versions, for a sentence."""
        return f"{self.graph} ({self._batch()}, {self.gpu}, TensorRT {self.tensorrt}, ONNX Runtime {self.onnxruntime})"

    @property
    def name(self) -> str:
        """The folder's name: graph, batch, and the first 12 characters of the key's sha256."""
        digest = hashlib.sha256(self.json.encode()).hexdigest()
        return f"{_slug(Path(self.graph).stem)}-{self._batch()}-{digest[:12]}"

    def _batch(self) -> str:
        if "batch" in self.fixed:
            return f"batch{self.fixed['batch']}"
        rows = [shape[0] for name in ("smallest", "largest") for shape in self.shapes.get(name, {}).values() if shape]
        return f"batch{min(rows)}to{max(rows)}" if rows else "batchany"


@dataclass(frozen=True)
class Entry:
    """One folder of the cache: its files with their sizes in bytes, and its key (None: unreadable, or no engine's)."""

    name: str
    key: dict[str, Any] | None
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(self.files.values())


def engine_folder(cache: Path, key: EngineKey) -> Path:
    """The folder of `key` in `cache`, made if it is not there; never one whose `key.json` says anything else.

    An engine in it is as it was when it was built, by the digest beside it. One that is not is deleted, with a line in
    the log, and will be built again. A folder that lost its key, or holds another one, is left as it is, with a line in
    the log, and the engine gets a fresh folder beside it.

    A cache that is read-only (baked into an image, or built ahead) must hold the engine, whole. Raises `ProviderError`:
    it does not, the cache cannot be written, or too many damaged folders have gathered.
    """
    for attempt in range(1, MOST_FOLDERS + 1):
        folder = cache / (key.name if attempt == 1 else f"{key.name}-{attempt}")
        if _is_fresh(folder):
            if cache.is_dir() and not os.access(cache, os.W_OK):
                raise _read_only(cache, f"holds no engine for {key.what}")
            _make(folder)
            try:
                write_text_atomic(folder / KEY_FILE, key.json)
            except OSError as error:
                raise _cannot_write(folder, error) from None
            return folder
        if _read(folder / KEY_FILE) == key.json:
            _check(folder, key)
            return folder
        log.warning("%s is not used: its %s is not that of the engine; delete the folder", folder, KEY_FILE)
    raise ProviderError(
        f"The engine cache {cache} holds {MOST_FOLDERS} damaged folders named {key.name}; delete them and start again."
    )


def seal(folder: Path) -> None:
    """Write the digest of each engine file in `folder` beside it, where ONNX Runtime has written it since.

    To be called when a session is open: ONNX Runtime has then written all of it. In a folder that is read-only it wrote
    nothing. Raises `ProviderError` when a digest cannot be written.
    """
    if not os.access(folder, os.W_OK):
        return
    for file in _loaded(folder):
        digest = _digest_of(file)
        if not digest.exists() or digest.stat().st_mtime_ns < file.stat().st_mtime_ns:
            try:
                write_text_atomic(digest, f"{sha256_file(file)}  {file.name}\n")  # as sha256sum -c reads it
            except OSError as error:
                raise _cannot_write(folder, error) from None


def timing_folder(cache: Path, *, tensorrt: str, gpu: str, capability: str) -> Path:
    """The folder of tactic timings that all engines built by one TensorRT on one model of GPU share.

    Raises `ProviderError` when it is not there and cannot be made.
    """
    folder = cache / f"timing-trt{tensorrt}-sm{capability.replace('.', '')}-{_slug(gpu)}"
    _make(folder)
    return folder


def is_built(folder: Path) -> bool:
    """True if ONNX Runtime has left an engine in `folder`; a file of 0 bytes does not count."""
    return folder.is_dir() and any(path.stat().st_size > 0 for path in folder.glob("*.engine"))


def entries(cache: Path) -> list[Entry]:
    """What is in a cache folder, by name; empty when the folder is not there."""
    if not cache.is_dir():
        return []
    found = []
    for folder in sorted(path for path in cache.iterdir() if path.is_dir()):
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
        found.append(Entry(folder.name, _parse(_read(folder / KEY_FILE)), files))
    return found


def _check(folder: Path, key: EngineKey) -> None:
    """Nothing in `folder` is loaded that is not what was built: deleted where that can be, else `ProviderError`."""
    writable = os.access(folder, os.W_OK)
    fault = _fault(folder)
    if not writable and not is_built(folder):
        raise _read_only(folder.parent, f"holds no engine for {key.what}")
    if fault and not writable:
        raise _read_only(folder.parent, f"holds an engine for {key.what} that is not used, since {fault}")
    if fault:
        log.warning("%s: the engine is built again, since %s", folder, fault)
        for file in _loaded(folder):
            for each in (_digest_of(file), file):
                try:
                    each.unlink(missing_ok=True)
                except OSError as error:
                    raise _cannot_write(folder, error) from None


def _fault(folder: Path) -> str | None:
    """Why the files that ONNX Runtime would load from `folder` are not those that it wrote; None where they are."""
    for file in _loaded(folder):
        said = (_read(_digest_of(file)) or "").split()
        if not said:
            return f"{file.name} has no digest ({_digest_of(file).name}): whoever wrote it did not end"
        try:
            found = sha256_file(file)
        except OSError as error:
            return f"{file.name} cannot be read ({error.strerror})"
        if found != said[0]:
            return f"{file.name} is not what its digest ({_digest_of(file).name}) says: it was changed or damaged"
    return None


def _loaded(folder: Path) -> list[Path]:
    return sorted(file for pattern in LOADED for file in folder.glob(pattern))


def _digest_of(file: Path) -> Path:
    return file.with_name(file.name + DIGEST)


def _is_fresh(folder: Path) -> bool:
    # names with a dot in front are key.json while it is written, by us or by a process beside us
    return not folder.exists() or (
        folder.is_dir() and all(path.name.startswith(f".{KEY_FILE}") for path in folder.iterdir())
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _parse(text: str | None) -> dict[str, Any] | None:
    try:
        data = json.loads(text or "")
    except (json.JSONDecodeError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _cannot_write(folder: Path, error: OSError) -> ProviderError:
    return ProviderError(
        f"The engine cache cannot be written at {folder} ({error.strerror}); mount a writable volume there or choose "
        "another folder (FOOD_VISION_ENGINE_CACHE)."
    )


def _read_only(cache: Path, why: str) -> ProviderError:
    return ProviderError(
        f"The engine cache {cache} is read-only and {why}; build the engines first, on this model of GPU with the same "
        "image, bundle and settings: engineCache.prebuild.enabled=true in the chart does so in a Job before each "
        f"install and upgrade, elsewhere python -m app.tools.build_engines BUNDLE --engine-cache {cache}."
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"
