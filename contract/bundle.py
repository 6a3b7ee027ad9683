"""The bundle hand-over: one folder with all that serving needs, every file named with its size and sha256.

    manifest.json   this module's `Manifest`
    labels.json     the label set (absent for a model that can only caption)
    tokenizer.json  of the `tokenizers` library
    encoder.onnx    pixels uint8 [batch, S, S, 3]      → image_embeds float32 [batch, tokens, width]
    scorer.onnx     image_embeds                       → label_logprobs float32 [batch, labels]; of a bundle with a bank
                    of training photos also similarity and familiarity, float32 [batch] (`contract.familiarity`)
    decoder.onnx    input_ids int64 [batch, static_length], position int64 [1], image_embeds → best_token int64 [batch],
                    best_logit float32 [batch], logits float32 [batch, vocabulary] of the token after `position`; reads
                    the whole prefix at each step (the same shapes every time: for GPUs)
    decoder_step.onnx  token int64 [batch, 1], position, past, image_embeds → the same three, present: with a cache of the
                    tokens before, float32 [2 * layers, batch, heads, length, width of a head] (for CPUs)
    *.weights       the graphs' large tensors, each stored once (ONNX external data)
    check.npz       a few pictures and PyTorch's answers (`contract.self_check`; absent in older bundles)

Written to a temporary folder and renamed. Every file is verified when it is read, and what was verified is what is used
(`contract.bundle_files`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from contract.bundle_files import WEIGHTS, FileEntry, Folder, GraphFile, opened
from contract.caption import CaptionFormat
from contract.errors import BundleError, ContractError
from contract.familiarity import Familiarity
from contract.files import new_folder, sha256_file, write_text_atomic
from contract.labels import LabelSet
from contract.notices import LICENCE_FILE, NOTICE_FILE
from contract.precision import LIMITS, Precision, ProviderName
from contract.self_check import CHECK_FILE, SelfCheck

FORMAT_VERSION = 5  # 5: `familiarity`, `demonstration`; 4: `tower`
# 3: the version covers the manifest's fields too; 2: `decoder.onnx` takes `position`; `decoder_step.onnx`; precisions
READS = (2, 3, 4, FORMAT_VERSION)
MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.json"
TOKENIZER_FILE = "tokenizer.json"
ENCODER_FILE = "encoder.onnx"
SCORER_FILE = "scorer.onnx"
DECODER_FILE = "decoder.onnx"
STEP_FILE = "decoder_step.onnx"
ALWAYS = (TOKENIZER_FILE, ENCODER_FILE, DECODER_FILE, STEP_FILE)
CLASSIFIER = (LABELS_FILE, SCORER_FILE)
GRAPH = ".onnx"
MAX_MANIFEST_BYTES = 1 << 20

# Fields of the manifest that no answer depends on; a new field is part of the digest unless it is named here.
DESCRIPTIONS = {
    "format_version", "source", "trained_image_size", "opset", "parity", "metrics", "versions", "tower", "familiarity",
    "demonstration",
}  # fmt: skip


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


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds what cannot be printed on a line")
    return text


Line = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_one_line)]


class ImageTower(BaseModel):
    """The image tower's kind, where its weights come from and under which licence (None: as the checkpoint's)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Line
    source: Line | None = None
    licence: Line | None = None
    needs_cudnn: bool = False  # its graph holds convolutions, which the CUDA provider leaves to cuDNN

    def __str__(self) -> str:
        """For people: `image tower efficientnet-lite0 (source; Apache-2.0); GPUs need cuDNN`."""
        about = "; ".join(part for part in (self.source, self.licence) if part is not None)
        return (
            f"image tower {self.name}{f' ({about})' if about else ''}{'; GPUs need cuDNN' if self.needs_cudnn else ''}"
        )


class Manifest(BaseModel):
    """`manifest.json`. `files` names every other file of the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    name: str
    source: dict[str, Any]
    tower: ImageTower | None = None  # None: exported before this was recorded
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
    familiarity: Familiarity | None = None  # None: the scorer holds no bank of training photos
    demonstration: bool = False  # trained on drawn pictures, to show that all works
    parity: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str]
    files: dict[str, FileEntry]

    @property
    def digest(self) -> str:
        """Hex sha256 over all that an answer depends on: two bundles with the same digest give the same answers.

        Without what only describes the model (`DESCRIPTIONS`, the notice), and without the self-check, which is no part
        of it: the last bits of its numbers are those of the machine that exported.
        """
        fields = self.model_dump(mode="json", exclude=DESCRIPTIONS)
        for name in (CHECK_FILE, NOTICE_FILE, LICENCE_FILE):
            fields["files"].pop(name, None)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def graphs_digest(self) -> str:
        """Hex sha256 over graphs and weights alone: what engines are built from."""
        files = {name: entry.sha256 for name, entry in self.files.items() if name.endswith((GRAPH, WEIGHTS))}
        return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def providers(self) -> tuple[ProviderName, ...]:
        """Providers that may run a bundle of this precision."""
        return LIMITS[self.precision].providers

    @property
    def needs_cudnn(self) -> bool:
        """Whether a GPU provider needs cuDNN for it; an older bundle has BLIP's own tower, which has no convolution."""
        return self.tower is not None and self.tower.needs_cudnn

    @property
    def version(self) -> str:
        """The first 12 characters of the digest: the model version in every answer."""
        return self.digest[:12]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `labels` is None when the model can only caption, `check` when it has no self-check.

    `contents` are the bytes that were verified, by file name, until `release`.
    """

    path: Path
    manifest: Manifest
    labels: LabelSet | None
    check: SelfCheck | None = field(default=None, compare=False, repr=False)
    contents: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)

    def graph(self, name: str) -> GraphFile:
        """One graph, with all weights."""
        weights = {name: data for name, data in self.contents.items() if name.endswith(WEIGHTS)}
        return GraphFile(self.path / name, self.contents[name], weights)

    def release(self) -> None:
        """Let go of the files' bytes, once no more sessions will be made of them."""
        self.contents.clear()


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


def read_bundle(path: Path, *, weights: bool = True) -> Bundle:
    """Read and verify a bundle: format version, every file's presence, size and sha256, labels, self-check.

    Without `weights` the large files are verified all the same, but in pieces and not kept: for those who make no engine.
    Raises `BundleError` with one sentence that names the first thing that is wrong.
    """
    with opened(path) as folder:
        manifest = _read_manifest(folder)
        _check_names(path, manifest)
        contents = {
            name: data
            for name, entry in manifest.files.items()
            if (data := folder.verified(name, entry, keep=weights or not name.endswith(WEIGHTS))) is not None
        }
    try:
        labels = LabelSet.parse(contents[LABELS_FILE], path / LABELS_FILE) if LABELS_FILE in contents else None
    except ContractError as error:
        raise BundleError(str(error)) from None
    return Bundle(path, manifest, labels, _read_check(path, manifest, labels, contents), contents)


def _read_check(
    path: Path, manifest: Manifest, labels: LabelSet | None, contents: dict[str, bytes]
) -> SelfCheck | None:
    if CHECK_FILE not in contents:  # exported before there was one
        return None
    return SelfCheck.parse(
        contents[CHECK_FILE],
        path / CHECK_FILE,
        image_size=manifest.image_size,
        image_tokens=manifest.image_tokens,
        width=manifest.width,
        vocabulary=manifest.tokens.vocabulary,
        max_tokens=manifest.tokens.max_length - 1,
        labels=len(labels) if labels is not None else 0,
        bank=manifest.familiarity is not None,
    )


def _read_manifest(folder: Folder) -> Manifest:
    file = folder.path / MANIFEST_FILE
    text = folder.read(MANIFEST_FILE, MAX_MANIFEST_BYTES)
    if text is None:
        raise BundleError(f"{folder.path} is not a bundle: it has no {MANIFEST_FILE}.")
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES} bytes; it is not a manifest.")
    try:
        data = json.loads(text.decode("utf-8"))
        version = data.get("format_version") if isinstance(data, dict) else None
        if version not in READS:
            raise BundleError(
                f"{file} has format version {version!r}; this release reads versions "
                f"{', '.join(map(str, READS))}. Export the checkpoint again with this release."
            )
        return Manifest.model_validate(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{file} is not readable JSON: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{file} is damaged at {where}: {first['msg']}.") from None


def _check_names(path: Path, manifest: Manifest) -> None:
    """Every file that a bundle needs is listed, and none that lies outside it."""
    needed = list(ALWAYS)
    if any(name in manifest.files for name in CLASSIFIER) or manifest.caption is not None:
        needed += CLASSIFIER
    for name in needed:
        if name not in manifest.files:
            raise BundleError(f"The bundle {path} is incomplete: its manifest does not list {name}. Export it again.")
    if manifest.familiarity is not None and SCORER_FILE not in manifest.files:
        raise BundleError(f"The bundle {path} has a bank of training photos but no {SCORER_FILE}. Export it again.")
    if LABELS_FILE in manifest.files and manifest.caption is None:
        raise BundleError(f"The bundle {path} has labels but no caption format. Export it again.")
    for name in manifest.files:
        if name != Path(name).name or name in (".", "..", MANIFEST_FILE) or "\0" in name:
            raise BundleError(f"The manifest of {path} lists {name!r}, which is not a plain file name.")
