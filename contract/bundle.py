"""The bundle hand-over: one folder with all that serving needs, every file named with its size and sha256.

    manifest.json   this module's `Manifest`
    labels.json     the label set (absent for a model that can only caption)
    tokenizer.json  of the `tokenizers` library
    encoder.onnx    pixels uint8 [batch, S, S, 3]      → image_embeds float32 [batch, tokens, width]
    scorer.onnx     image_embeds                       → label_logprobs float32 [batch, labels]
    decoder.onnx    input_ids int64 [batch, static_length], position int64 [1], image_embeds → best_token int64 [batch],
                    best_logit float32 [batch], logits float32 [batch, vocabulary] of the token after `position`; reads
                    the whole prefix at each step (the same shapes every time: for GPUs)
    decoder_step.onnx  token int64 [batch, 1], position, past, image_embeds → the same three, present: with a cache of the
                    tokens before, float32 [2 * layers, batch, heads, length, width of a head] (for CPUs)
    *.weights       the graphs' large tensors, each stored once (ONNX external data)
    check.npz       a few pictures and PyTorch's answers (`contract.self_check`; absent in older bundles)

Written to a temporary folder and renamed; every digest is verified when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.caption import CaptionFormat
from contract.errors import BundleError, ContractError
from contract.files import new_folder, sha256_file, write_text_atomic
from contract.labels import LabelSet
from contract.precision import LIMITS, Precision, ProviderName
from contract.self_check import CHECK_FILE, SelfCheck

FORMAT_VERSION = 2  # 2: decoder.onnx takes `position`; decoder_step.onnx; precisions
MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.json"
TOKENIZER_FILE = "tokenizer.json"
ENCODER_FILE = "encoder.onnx"
SCORER_FILE = "scorer.onnx"
DECODER_FILE = "decoder.onnx"
STEP_FILE = "decoder_step.onnx"
ALWAYS = (TOKENIZER_FILE, ENCODER_FILE, DECODER_FILE, STEP_FILE)
CLASSIFIER = (LABELS_FILE, SCORER_FILE)
MAX_MANIFEST_BYTES = 1 << 20


class FileEntry(BaseModel):
    """Size in bytes and hex sha256 of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class DecoderTokens(BaseModel):
    """What a caption loop needs: it starts with `bos` ([DEC]) and ends at `sep`, after at most `max_length` tokens.

    decoder.onnx has `static_length` places and ends there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bos: int = Field(ge=0)
    sep: int = Field(ge=0)
    pad: int = Field(ge=0)
    vocabulary: int = Field(ge=1)
    max_length: int = Field(ge=2)
    static_length: int = Field(ge=2)


class Manifest(BaseModel):
    """`manifest.json`. `files` names every other file of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    name: str
    source: dict[str, Any]
    image_size: int = Field(ge=1, le=4096)
    trained_image_size: int | None = Field(default=None, ge=1)  # None: exported before this was recorded
    image_tokens: int = Field(ge=1)
    width: int = Field(ge=1)
    text_layers: int = Field(ge=1)
    text_heads: int = Field(ge=1)
    text_width: int = Field(ge=1)
    precision: Precision
    opset: int
    caption: CaptionFormat | None
    tokens: DecoderTokens
    temperature: float = Field(default=1.0, gt=0)
    parity: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str]
    files: dict[str, FileEntry]

    @property
    def digest(self) -> str:
        """Hex sha256 over the names and digests of the files: two bundles with the same digest hold the same model.

        Without the self-check: it is no part of the model, and its last bits are those of the machine that exported.
        """
        rows = "".join(f"{name}\0{entry.sha256}\n" for name, entry in sorted(self.files.items()) if name != CHECK_FILE)
        return hashlib.sha256(rows.encode()).hexdigest()

    @property
    def providers(self) -> tuple[ProviderName, ...]:
        """Providers that may run a bundle of this precision."""
        return LIMITS[self.precision].providers

    @property
    def version(self) -> str:
        """The first 12 characters of the digest: the model version in every answer."""
        return self.digest[:12]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `labels` is None when the model can only caption, `check` when it has no self-check."""

    path: Path
    manifest: Manifest
    labels: LabelSet | None
    check: SelfCheck | None = field(default=None, compare=False, repr=False)

    def file(self, name: str) -> Path:
        """Path of one file of the bundle."""
        return self.path / name


@contextmanager
def new_bundle(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder to fill and finish with `finish_bundle`; renamed to `path` when the block ends well."""
    with new_folder(path, marker=MANIFEST_FILE, replace=replace) as folder:
        yield folder
        if not (folder / MANIFEST_FILE).is_file():
            raise BundleError("The bundle was not finished: it has no manifest.")


def finish_bundle(folder: Path, **fields: Any) -> Manifest:
    """Digest every file in `folder` and write the manifest with `fields` (all of `Manifest`'s but `files`)."""
    files = {
        path.name: FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }
    manifest = Manifest(files=files, **fields)
    write_text_atomic(folder / MANIFEST_FILE, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def read_bundle(path: Path) -> Bundle:
    """Read and verify a bundle: format version, every file's presence, size and sha256, labels, self-check.

    Raises `BundleError` with one sentence that names the first thing that is wrong.
    """
    manifest = _read_manifest(path)
    for name in ALWAYS:
        if name not in manifest.files:
            raise BundleError(f"The bundle {path} is incomplete: its manifest does not list {name}. Export it again.")
    if any(name in manifest.files for name in CLASSIFIER) or manifest.caption is not None:
        for name in CLASSIFIER:
            if name not in manifest.files:
                raise BundleError(
                    f"The bundle {path} is incomplete: its manifest does not list {name}. Export it again."
                )
        if manifest.caption is None:
            raise BundleError(f"The bundle {path} has labels but no caption format. Export it again.")
    for name, entry in manifest.files.items():
        _verify(path, name, entry)
    try:
        labels = LabelSet.load(path / LABELS_FILE) if LABELS_FILE in manifest.files else None
    except ContractError as error:
        raise BundleError(str(error)) from None
    return Bundle(path=path, manifest=manifest, labels=labels, check=_read_check(path, manifest, labels))


def _read_check(path: Path, manifest: Manifest, labels: LabelSet | None) -> SelfCheck | None:
    if CHECK_FILE not in manifest.files:  # exported before there was one
        return None
    return SelfCheck.load(
        path / CHECK_FILE,
        image_size=manifest.image_size,
        image_tokens=manifest.image_tokens,
        width=manifest.width,
        vocabulary=manifest.tokens.vocabulary,
        max_tokens=manifest.tokens.max_length - 1,
        labels=len(labels) if labels is not None else 0,
    )


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST_FILE
    if not path.is_dir():
        raise BundleError(f"There is no bundle folder at {path}. Make one with `python -m export CHECKPOINT {path}`.")
    if not file.is_file():
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_FILE}.")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES} bytes; it is not a manifest.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{file} has format version {version!r}; this release reads version {FORMAT_VERSION}. "
                "Export the checkpoint again with this release."
            )
        return Manifest.model_validate(data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{file} is not readable JSON: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{file} is damaged at {where}: {first['msg']}.") from None


def _verify(path: Path, name: str, entry: FileEntry) -> None:
    if name != Path(name).name or name in (".", "..", MANIFEST_FILE):
        raise BundleError(f"The manifest of {path} lists {name!r}, which is not a plain file name.")
    file = path / name
    if not file.is_file():
        raise BundleError(f"The bundle {path} is incomplete: {name} is missing. Copy it again or export it again.")
    if file.stat().st_size != entry.bytes:
        raise BundleError(
            f"{file} has {file.stat().st_size} bytes, its manifest says {entry.bytes}. Copy it again or export it again."
        )
    if sha256_file(file) != entry.sha256:
        raise BundleError(f"{file} is damaged: its sha256 is not the manifest's. Copy it again or export it again.")
