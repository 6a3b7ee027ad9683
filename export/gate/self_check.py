"""Pictures and PyTorch's answers for the bundle's self-check (`contract.self_check`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from contract.self_check import SelfCheck
from export.gate.parity import Subject
from modeling.familiarity import pooled
from modeling.scoring import image_embeds, label_logprobs_by_fork, next_logits

PLACES = 16  # image tokens whose embeddings are stored
STEPS = 8  # tokens of a caption: all of "a photo of delicious 5" and its end
CHOICES = 5  # best tokens stored for each step
PICTURES = ((2, 0), (4, 24), (8, 96))  # cells a side, and strength of the noise: from smooth to busy


def check_pixels(size: int) -> npt.NDArray[np.uint8]:
    """uint8 pixels [3, size, size, 3]: random colours on a coarse grid, bilinear between, with noise.

    The same bytes everywhere: integers only, from the raw stream of PCG64, which numpy promises not to change.
    """
    return np.stack([_picture(size, cells, noise, seed) for seed, (cells, noise) in enumerate(PICTURES)])


def _picture(size: int, cells: int, noise: int, seed: int) -> npt.NDArray[np.uint8]:
    source = np.random.PCG64(seed)

    def bytes_of(*shape: int) -> npt.NDArray[np.int64]:
        return (source.random_raw(int(np.prod(shape))) >> np.uint64(56)).astype(np.int64).reshape(shape)

    grid = bytes_of(cells + 1, cells + 1, 3)
    place = np.arange(size) * cells * 256 // size
    cell, after = place >> 8, place & 255
    rows = grid[cell] * (256 - after)[:, None, None] + grid[cell + 1] * after[:, None, None]
    smooth = rows[:, cell] * (256 - after)[:, None] + rows[:, cell + 1] * after[:, None]
    grain = (bytes_of(size, size, 3) - 128) * noise // 128
    return np.clip((smooth >> 16) + grain, 0, 255).astype(np.uint8)


def make_self_check(subject: Subject) -> SelfCheck:
    """The pictures at the bundle's size and what the PyTorch model computes for them."""
    pixels = check_pixels(subject.image_size)
    embeds = image_embeds(subject.model, torch.from_numpy(pixels))
    logprobs = None
    if subject.tree is not None:
        logprobs = label_logprobs_by_fork(subject.model, embeds, subject.tree).numpy()
    stored = min(PLACES, embeds.shape[1])
    places = np.arange(stored) * (embeds.shape[1] - 1) // max(1, stored - 1)
    similarity = None if subject.bank is None else subject.bank.similarity(pooled(embeds)).numpy()
    return SelfCheck(pixels, places, embeds.numpy()[:, places], logprobs, *_captions(subject, embeds), similarity)


def _captions(
    subject: Subject, embeds: torch.Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Greedy captions by the stock decoder: best tokens and their log-probabilities [N, T, C], and lengths [N]."""
    tokens = subject.tokens
    ids = torch.full((len(embeds), 1), tokens.bos)
    ended = torch.zeros(len(embeds), dtype=torch.bool)
    lengths = torch.zeros(len(embeds), dtype=torch.int64)
    best = []
    for _ in range(min(STEPS, tokens.static_length - 1)):
        logits = next_logits(subject.model, ids, embeds).double()
        best.append(logits.log_softmax(dim=-1).topk(min(CHOICES, tokens.vocabulary), dim=-1))
        lengths += ~ended
        chosen = best[-1].indices[:, :1]
        ids = torch.cat([ids, chosen], dim=1)
        ended |= chosen[:, 0] == tokens.sep
        if ended.all():
            break
    indices = torch.stack([step.indices for step in best], dim=1).numpy()
    values = torch.stack([step.values for step in best], dim=1).float().numpy()
    return indices, values, lengths.numpy()
