"""Checkpoint → bundle folder: trace, compare, write."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from optimum.exporters.base import ExporterConfig
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration

from contract.bundle import (
    DECODER_FILE,
    ENCODER_FILE,
    LABELS_FILE,
    SCORER_FILE,
    STEP_FILE,
    TOKENIZER_FILE,
    DecoderTokens,
    ImageTower,
    Manifest,
    finish_bundle,
    new_bundle,
)
from contract.errors import ContractError
from contract.familiarity import NEIGHBOURS, Familiarity, FamiliarityCheck
from contract.notices import write_notice
from contract.precision import Precision
from contract.self_check import CHECK_FILE
from export.configs import DecoderConfig, EncoderConfig, ScorerConfig, StepConfig
from export.convolutions import CALIBRATION, has_convolutions, quantise_convolutions
from export.gate.parity import Subject, check_parity, check_photos, probe_pixels
from export.gate.self_check import make_self_check
from export.graphs.decoder import CaptionDecoder, CaptionStep, Scorer
from export.graphs.encoder import encoder_graph
from export.graphs.familiarity import familiar_scorer, store_bank_short
from export.graphs.resolution import check_image_size, config_at
from export.onnx import ATTENTION_OPSET, export_graph, save_graphs
from export.precision import DTYPES, quantise
from modeling.checkpoint import Checkpoint, checkpoint_digest
from modeling.familiarity import Bank
from modeling.label_tree import LabelTree
from modeling.towers import image_tokens, token_width, trained_image_size

MAX_CAPTION = 64  # tokens, [DEC] included
STATIC_CAPTION = 32
GraphWriter = Callable[[Path], bool]  # all of a bundle into a folder; whether the encoder holds convolutions
VERSIONED = ("torch", "transformers", "optimum", "onnx", "onnxscript", "onnxruntime")


def export_bundle(
    checkpoint: Checkpoint,
    path: Path,
    *,
    name: str,
    opset: int,
    photos: Sequence[np.ndarray] = (),
    replace: bool = False,
    image_size: int | None = None,
    precision: Precision = "fp32",
    gate: bool = True,
    compare: bool = True,
    graphs: GraphWriter | None = None,
) -> Manifest:
    """Export, compare with PyTorch and write the bundle; nothing is left behind when the gate fails.

    `image_size`, in pixels a side, defaults to the size that the model was trained at. At another size the manifest
    carries no metrics: the checkpoint's were measured at its own size. `gate` false only records the differences, for
    benchmarks on random weights, whose labels say nothing. `compare` false looks at nothing: most of the time goes there,
    and a bundle's stored answers still tell where it is served. `graphs` writes graphs and weights instead of tracing.
    Raises `export.gate.parity.ParityError`, and `ContractError` for a size that the model cannot have, a precision without
    photos to judge it by, or a target that cannot be written.
    """
    if precision == "bf16" and checkpoint.tower.convolutional:
        raise ContractError(
            f"The image tower {checkpoint.tower.name} cannot be exported in bf16: ONNX Runtime's CUDA provider does not run "
            "its convolutions and their clipping in that type; choose --precision fp16."
        )
    if gate and compare:
        check_photos(precision, len(photos))
    model, tree, tokens = checkpoint.model, checkpoint.tree(), decoder_tokens(checkpoint.model.config)
    trained = trained_image_size(model.config)
    size = trained if image_size is None else image_size
    check_image_size(model, size)
    config = config_at(model, size)
    bank = usable_bank(checkpoint, size) if graphs is None else None
    with new_bundle(path, replace=replace) as folder:
        if graphs is None:
            convolutions = write_graphs(folder, model, tree, config, opset, precision, photos, bank=bank)
        else:
            convolutions = graphs(folder)
        subject = Subject(model, tree, tokens, folder, size, precision, bank)
        if compare:
            report, familiar = check_parity(subject, photos, gate=gate)
        else:
            report, familiar = {"gate": "not applied: nothing compared"}, None
        make_self_check(subject).save(folder / CHECK_FILE)
        if checkpoint.tower.notice is not None:
            write_notice(folder, checkpoint.tower.notice)
        _save_tokenizer(checkpoint.tokenizer, folder)
        if checkpoint.labels is not None:
            checkpoint.labels.save(folder / LABELS_FILE)
        return finish_bundle(
            folder,
            name=name,
            source={"checkpoint": checkpoint.path.name, "sha256": checkpoint_digest(checkpoint.path)},
            tower=_tower(checkpoint, convolutions),
            image_size=size,
            trained_image_size=trained,
            image_tokens=image_tokens(config, size),
            width=token_width(config),
            text_layers=config.text_config.num_hidden_layers,
            text_heads=config.text_config.num_attention_heads,
            text_width=config.text_config.hidden_size,
            precision=precision,
            opset=opset,
            caption=checkpoint.caption,
            tokens=tokens,
            parity=report,
            metrics=checkpoint.metrics if size == trained else {},
            temperature=checkpoint.temperature,
            familiarity=_familiarity(bank, familiar) if bank else None,
            demonstration=checkpoint.drawn,
            versions=_versions(),
        )


def usable_bank(checkpoint: Checkpoint, image_size: int) -> Bank | None:
    """The bank of training photos for a bundle of this size, in pixels a side.

    None without labels, without a bank, and where that was made at another size: features change with it.
    """
    if checkpoint.tree() is None or checkpoint.bank is None or checkpoint.bank.image_size != image_size:
        return None
    return checkpoint.bank


def _familiarity(bank: Bank, check: FamiliarityCheck | None) -> Familiarity:
    photos, directions = bank.features.shape
    return Familiarity(photos=photos, directions=directions, neighbours=NEIGHBOURS, check=check)


@dataclass(frozen=True)
class TracedGraph:
    """One graph of a bundle before it is one: how its module is made, and its inputs and outputs."""

    module: Callable[[], nn.Module]
    config: ExporterConfig


def traced_graphs(
    model: BlipForConditionalGeneration, tree: LabelTree | None, config: BlipConfig, opset: int, precision: Precision,
    *, step: bool = True, bank: Bank | None = None,
) -> dict[str, TracedGraph]:  # fmt: skip
    """File name → what is traced for it, at one precision (int8: before it is quantised).

    Without a tree there is no scorer, without a `bank` it gives no familiarity. `step` false leaves out
    decoder_step.onnx, which GPUs have no use for.
    """
    dtype, length = DTYPES[precision], static_caption(config)
    size, fused = trained_image_size(config), opset >= ATTENTION_OPSET
    found = {DECODER_FILE: TracedGraph(lambda: CaptionDecoder(model, length, dtype), DecoderConfig(config, length))}
    if step:
        found[STEP_FILE] = TracedGraph(lambda: CaptionStep(model, dtype), StepConfig(config))
    if tree is not None and bank is None:
        found[SCORER_FILE] = TracedGraph(lambda: Scorer(model, tree, dtype), ScorerConfig(config))
    elif tree is not None and bank is not None:
        scorer = partial(familiar_scorer, model, tree, dtype, bank, image_tokens(config, size))
        found[SCORER_FILE] = TracedGraph(scorer, ScorerConfig(config, bank=True))
    tower = TracedGraph(lambda: encoder_graph(model, size, fused=fused, dtype=dtype), EncoderConfig(config))
    return found | {ENCODER_FILE: tower}


@torch.no_grad()
def write_graphs(
    folder: Path, model: BlipForConditionalGeneration, tree: LabelTree | None, config: BlipConfig, opset: int,
    precision: Precision, photos: Sequence[np.ndarray] = (), *, step: bool = True, bank: Bank | None = None,
) -> bool:  # fmt: skip
    """All graphs of one precision, with the text decoder's weights in one file and the image tower's in another.

    `photos` calibrate 8-bit convolutions; without any, made-up pictures do. `step` false leaves out decoder_step.onnx,
    which GPUs have no use for. With a `bank` of training photos the scorer gives familiarity as well. Returns whether the
    encoder holds convolutions.
    """
    traced = traced_graphs(model, tree, config, opset, precision, step=step, bank=bank)
    tower = traced.pop(ENCODER_FILE)
    text = {file: export_graph(one.module(), one.config, opset) for file, one in traced.items()}
    if tree is not None and bank is not None:
        store_bank_short(text[SCORER_FILE])
    save_graphs(text, folder, "text.weights")
    encoder = export_graph(tower.module(), tower.config, opset)
    convolutions = has_convolutions(encoder)
    if precision == "int8" and convolutions:
        pictures = photos or list(probe_pixels(CALIBRATION, trained_image_size(config)))
        encoder = quantise_convolutions(encoder, pictures)
    elif precision == "int8":
        encoder = quantise(encoder)
    save_graphs({ENCODER_FILE: encoder}, folder, "encoder.weights")
    return convolutions


def _versions() -> dict[str, str]:
    """Of `VERSIONED`; ONNX Runtime tells its own, since `onnxruntime-gpu` brings the same module under another name."""
    own = {"onnxruntime": ort.__version__}
    return {package: own.get(package) or importlib.metadata.version(package) for package in VERSIONED}


def _tower(checkpoint: Checkpoint, convolutions: bool) -> ImageTower:
    """What the manifest says of the image tower."""
    tower = checkpoint.tower
    return ImageTower(name=tower.name, source=checkpoint.source, licence=tower.licence, needs_cudnn=convolutions)


def decoder_tokens(config: BlipConfig) -> DecoderTokens:
    """What the caption loop of the service needs."""
    text = config.text_config
    return DecoderTokens(
        bos=text.bos_token_id,
        sep=text.sep_token_id,
        pad=text.pad_token_id,
        vocabulary=text.vocab_size,
        max_length=max_caption(config),
        static_length=static_caption(config),
    )


def max_caption(config: BlipConfig) -> int:
    """Longest caption in tokens, [DEC] included."""
    return min(MAX_CAPTION, int(config.text_config.max_position_embeddings))


def static_caption(config: BlipConfig) -> int:
    """Places of decoder.onnx, in tokens, [DEC] included: it computes all of them at every step."""
    return min(STATIC_CAPTION, max_caption(config))


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Only the `tokenizers` file: the service needs no transformers to turn token ids into text."""
    scratch = folder / ".tokenizer"
    tokenizer.save_pretrained(scratch)
    shutil.copyfile(scratch / "tokenizer.json", folder / TOKENIZER_FILE)
    shutil.rmtree(scratch)
