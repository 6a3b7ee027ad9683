"""The gate: every graph against plain PyTorch in fp32 on several batch sizes; a bundle that fails is not written.

fp32: largest difference 1e-4 on logits and log-probabilities, the same label on every sample (two labels whose
reference scores differ by less than twice the tolerance count as a tie), the same greedy caption token for token.
Other precisions: the limits of `contract.precision`, without ties, and on real photographs: how often rounding turns a
label depends on how sure the model is, which made-up pictures do not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from transformers import BlipForConditionalGeneration

from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, STEP_FILE, DecoderTokens
from contract.errors import ContractError
from contract.familiarity import FamiliarityCheck
from contract.precision import Precision
from export.configs import BEST
from export.gate.familiarity import FamiliarityReport
from export.gate.report import ParityError, ParityReport
from export.precision import cpu_stand_in
from modeling.familiarity import Bank
from modeling.label_tree import LabelTree
from modeling.scoring import greedy_tokens, image_embeds, label_logprobs_by_fork, prefix_logits

BATCHES = (1, 2, 5)
CAPTION_TOKENS = 12
CAPTION_SAMPLES = 16  # greedy captions by PyTorch are slow
LEAST_PHOTOS = 100  # for a precision other than fp32


@dataclass(frozen=True)
class Subject:
    """What the gate compares: the PyTorch model, its label tree (None: captions only) and the folder of graphs.

    `image_size`, in pixels a side, is the graphs'; the model's own may be another. `bank` is that in the scorer (None: it
    has none).
    """

    model: BlipForConditionalGeneration
    tree: LabelTree | None
    tokens: DecoderTokens
    folder: Path
    image_size: int
    precision: Precision = "fp32"
    bank: Bank | None = None


def probe_pixels(count: int, size: int, seed: int = 0) -> np.ndarray:
    """uint8 pixels [count, size, size, 3]: smooth random colours with noise, from flat to busy."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).permute(0, 3, 1, 2), size=(size, size), mode="bicubic"
    )
    noise = rng.normal(0, 1, (count, size, size, 3)) * rng.uniform(0, 60, (count, 1, 1, 1))
    return np.clip(smooth.permute(0, 2, 3, 1).numpy() + noise, 0, 255).astype(np.uint8)


def check_photos(precision: Precision, photos: int) -> None:
    """Raise `ContractError` where a precision other than fp32 has too few photos to be judged by."""
    if precision != "fp32" and photos < LEAST_PHOTOS:
        raise ContractError(
            f"{precision} is measured on real photographs before it is written, and {photos} were given; "
            f"add --photos FOLDER with at least {LEAST_PHOTOS}, of the kind that will be served."
        )


def check_parity(
    subject: Subject, photos: Sequence[np.ndarray] = (), *, gate: bool = True
) -> tuple[dict[str, Any], FamiliarityCheck | None]:
    """Compare all graphs with PyTorch and return the report for the manifest, and what was found of familiarity.

    `photos` are samples beside the made-up ones, uint8 pixels [S, S, 3] each. Raises `ParityError` naming the graph and
    the figure; with `gate` false the figures are only recorded (benchmarks on random weights).
    """
    made_up = probe_pixels(max(BATCHES), subject.image_size)
    samples = np.concatenate([made_up, *(photo[None] for photo in photos)])
    report = ParityReport(subject.precision, gate)
    familiar = FamiliarityReport(subject.bank, subject.precision, gate) if subject.bank is not None else None
    graphs = _Graphs(subject)
    captioned = 0
    for batch, first in _batches(samples):
        pixels = torch.from_numpy(batch)
        wanted = image_embeds(subject.model, pixels)
        embeds = graphs.encode(batch)
        report.compare("encoder", embeds, wanted.numpy())
        if subject.tree is not None:
            scores = label_logprobs_by_fork(subject.model, wanted, subject.tree).numpy()
            found, *familiarity = graphs.run(SCORER_FILE, image_embeds=embeds)
            report.compare("scorer", found, scores)
            report.labels(found, scores, real=first >= len(made_up))
            if familiar is not None:
                similarity, share = familiarity
                familiar.compare(similarity, share, wanted, real=first >= len(made_up))
        if captioned < CAPTION_SAMPLES:
            captioned += len(batch)
            captions = greedy_tokens(subject.model, pixels, _new_tokens(subject.tokens))
            for row, caption in enumerate(captions):
                _compare_steps(report, graphs, subject, caption, wanted[row : row + 1], embeds[row : row + 1])
    return report.finish(len(samples), len(photos), BATCHES), familiar.finish() if familiar is not None else None


def _batches(samples: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Each batch size of `BATCHES` over the first samples, then all in batches of the largest; with their first index."""
    largest = max(BATCHES)
    rest = [(samples[i : i + largest], i) for i in range(0, len(samples), largest)]
    return [(samples[:n], 0) for n in BATCHES if n < largest] + rest


def _new_tokens(tokens: DecoderTokens) -> int:
    return min(CAPTION_TOKENS, tokens.static_length - 1)


class _Graphs:
    """Sessions of the folder's graphs on the CPU; stand-ins for 16-bit graphs, unoptimised so that no rounding is lost."""

    def __init__(self, subject: Subject) -> None:
        self._precision = subject.precision
        self._sessions = {
            name: _session(subject.folder / name, subject.precision)
            for name in (ENCODER_FILE, SCORER_FILE, DECODER_FILE, STEP_FILE)
            if (subject.folder / name).is_file()
        }

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings of a batch; int8 photo by photo, as it is served: its activations have one scale a call."""
        parts = pixels[:, None] if self._precision == "int8" else [pixels]
        return np.concatenate([self.run(ENCODER_FILE, pixels=part)[0] for part in parts])

    def run(self, file: str, outputs: Sequence[str] | None = None, **inputs: np.ndarray) -> list[np.ndarray]:
        found: list[np.ndarray] = self._sessions[file].run(outputs, inputs)
        return found


def _session(path: Path, precision: Precision) -> ort.InferenceSession:
    if precision in ("fp32", "int8"):
        return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    stand_in = cpu_stand_in(onnx.load(path)).SerializeToString()
    return ort.InferenceSession(stand_in, options, providers=["CPUExecutionProvider"])


def _compare_steps(
    report: ParityReport,
    graphs: _Graphs,
    subject: Subject,
    caption: list[int],
    wanted: torch.Tensor,
    embeds: np.ndarray,
) -> None:
    """Follow the reference caption: both decoders' logits are compared and must choose the same next token."""
    text = subject.model.config.text_config
    heads, width = text.num_attention_heads, text.hidden_size
    past = np.zeros((2 * text.num_hidden_layers, 1, heads, 0, width // heads), dtype=np.float32)
    ids = np.zeros((1, max(len(caption), subject.tokens.static_length)), dtype=np.int64)
    ids[0, : len(caption)] = caption
    # all beginnings in one pass: a token sees only those before it
    after = prefix_logits(subject.model, torch.tensor([caption]), wanted).numpy()[0]
    for length in range(1, len(caption)):
        plain = after[length - 1 : length]
        position = np.array([length - 1])
        whole = graphs.run(DECODER_FILE, BEST, input_ids=ids, position=position, image_embeds=embeds)
        token = ids[:, length - 1 : length]
        *step, past = graphs.run(STEP_FILE, token=token, position=position, past=past, image_embeds=embeds)
        for graph, (best, height, logits) in (("decoder", whole), ("decoder_step", step)):
            report.compare(graph, logits, plain)
            report.token(graph, logits[0], plain[0])
            if best[0] != logits[0].argmax() or height[0] != logits[0].max():
                raise ParityError(f"{graph}.onnx names {best[0]} as the best token, not {logits[0].argmax()}.")


__all__ = ["BATCHES", "LEAST_PHOTOS", "ParityError", "Subject", "check_parity", "check_photos", "probe_pixels"]
