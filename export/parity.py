"""The gate: every graph against plain PyTorch on several batch sizes; a bundle that fails is not written.

fp32: largest difference 1e-4 on logits and log-probabilities, the same label on every sample (two labels whose
reference scores differ by less than twice the tolerance count as a tie), the same greedy caption token for token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from transformers import BlipForConditionalGeneration

from contract.bundle import DECODER_FILE, ENCODER_FILE, SCORER_FILE, DecoderTokens
from contract.errors import ContractError
from contract.label_tree import LabelTree
from export import reference

TOLERANCE = 1e-4  # absolute, on logits and log-probabilities
BATCHES = (1, 2, 5)
CAPTION_TOKENS = 12


class ParityError(ContractError):
    """An exported graph does not compute what the PyTorch model computes."""


@dataclass(frozen=True)
class Subject:
    """What the gate compares: the PyTorch model, its label tree (None: captions only) and the folder of graphs.

    `image_size`, in pixels a side, is the graphs'; the model's own may be another.
    """

    model: BlipForConditionalGeneration
    tree: LabelTree | None
    tokens: DecoderTokens
    folder: Path
    image_size: int


def probe_pixels(count: int, size: int, seed: int = 0) -> np.ndarray:
    """uint8 pixels [count, size, size, 3]: smooth random colours with noise, from flat to busy."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).permute(0, 3, 1, 2), size=(size, size), mode="bicubic"
    )
    noise = rng.normal(0, 1, (count, size, size, 3)) * rng.uniform(0, 60, (count, 1, 1, 1))
    return np.clip(smooth.permute(0, 2, 3, 1).numpy() + noise, 0, 255).astype(np.uint8)


def check_parity(subject: Subject, photos: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Compare all graphs with PyTorch and return the report for the manifest.

    `photos` are extra samples, uint8 pixels [S, S, 3] each. Raises `ParityError` naming the graph and the figure.
    """
    samples = np.concatenate([probe_pixels(max(BATCHES), subject.image_size), *(photo[None] for photo in photos)])
    report = _Report()
    sessions = {
        name: ort.InferenceSession(str(subject.folder / name), providers=["CPUExecutionProvider"])
        for name in (ENCODER_FILE, SCORER_FILE, DECODER_FILE)
        if (subject.folder / name).is_file()
    }
    for batch in _batches(samples):
        pixels = torch.from_numpy(batch)
        wanted = reference.image_embeds(subject.model, pixels)
        embeds = sessions[ENCODER_FILE].run(None, {"pixels": batch})[0]
        report.compare("encoder", embeds, wanted.numpy())
        if subject.tree is not None:
            scores = reference.label_logprobs(subject.model, wanted, subject.tree).numpy()
            found = sessions[SCORER_FILE].run(None, {"image_embeds": embeds})[0]
            report.compare("scorer", found, scores)
            report.labels(found, scores)
        captions = reference.greedy_tokens(subject.model, pixels, _new_tokens(subject.tokens))
        for row, caption in enumerate(captions):
            _compare_steps(
                report, sessions[DECODER_FILE], subject.model, caption, wanted[row : row + 1], subject.tokens
            )
    return report.finish(len(samples))


def _batches(samples: np.ndarray) -> list[np.ndarray]:
    """Each batch size of `BATCHES` over the first samples, then all samples in batches of the largest."""
    largest = max(BATCHES)
    rest = [samples[i : i + largest] for i in range(0, len(samples), largest)]
    return [samples[:n] for n in BATCHES if n < largest] + rest


def _new_tokens(tokens: DecoderTokens) -> int:
    return min(CAPTION_TOKENS, tokens.max_length - 1)


def _compare_steps(
    report: _Report,
    session: ort.InferenceSession,
    model: BlipForConditionalGeneration,
    caption: list[int],
    embeds: torch.Tensor,
    tokens: DecoderTokens,
) -> None:
    """Follow the reference caption: the graph's logits are compared and must choose the same next token at each step."""
    for length in range(1, len(caption)):
        ids = torch.tensor([caption[:length]])
        wanted = reference.next_logits(model, ids, embeds).numpy()
        found = session.run(None, {"input_ids": ids.numpy(), "image_embeds": embeds.numpy()})[0]
        report.compare("decoder", found, wanted)
        report.token(found[0], wanted[0])


class _Report:
    def __init__(self) -> None:
        self.error = {"encoder": 0.0, "scorer": 0.0, "decoder": 0.0}
        self.scored = self.same_label = self.steps = self.same_token = 0

    def compare(self, graph: str, found: np.ndarray, wanted: np.ndarray) -> None:
        if found.shape != wanted.shape:
            raise ParityError(f"{graph}.onnx gives shape {found.shape}, PyTorch gives {wanted.shape}.")
        if not np.isfinite(wanted).all():
            raise ParityError("The checkpoint's own outputs are not finite (NaN or infinity); its weights are damaged.")
        # Embeddings are not logits: their error counts relative to their size.
        scale = max(1.0, float(np.abs(wanted).max())) if graph == "encoder" else 1.0
        error = float(np.abs(found - wanted).max()) / scale
        self.error[graph] = max(self.error[graph], error)
        if not error <= TOLERANCE:
            raise ParityError(f"{graph}.onnx differs from PyTorch by {error:.2e}; at most {TOLERANCE:.0e} is allowed.")

    def labels(self, found: np.ndarray, wanted: np.ndarray) -> None:
        for a, b in zip(found, wanted, strict=True):
            self.scored += 1
            self.same_label += _same_choice(a, b)

    def token(self, found: np.ndarray, wanted: np.ndarray) -> None:
        self.steps += 1
        self.same_token += _same_choice(found, wanted)

    def finish(self, samples: int) -> dict[str, Any]:
        if self.same_label != self.scored:
            raise ParityError(
                f"scorer.onnx chose another label on {self.scored - self.same_label} of {self.scored} samples."
            )
        if self.same_token != self.steps:
            raise ParityError(
                f"decoder.onnx chose another token at {self.steps - self.same_token} of {self.steps} steps."
            )
        return {
            "tolerance": TOLERANCE,
            "samples": samples,
            "batch_sizes": list(BATCHES),
            "max_error": {graph: float(f"{error:.2e}") for graph, error in self.error.items()},
            "same_label": f"{self.same_label} of {self.scored}",
            "same_caption_token": f"{self.same_token} of {self.steps}",
        }


def _same_choice(found: np.ndarray, wanted: np.ndarray) -> bool:
    chosen, best = int(found.argmax()), int(wanted.argmax())
    return chosen == best or bool(wanted[best] - wanted[chosen] < 2 * TOLERANCE)
