"""The training loop, by hand: forward, loss over the label's tokens, backward, clip, step.

Loss: cross-entropy over the tokens of the target and the closing [SEP]; the constant prefix and padding are masked out
of it. A second term of small weight over the prefix keeps free captions in form (`train.prefix_weight`, 0 to leave out).
The image tower runs without gradients and in eval mode while it is frozen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from tqdm import tqdm

from contract.errors import ContractError
from training.augment import augment
from training.captions import IGNORED, CaptionTokens
from training.data import Item
from training.loading import BadPhotos, Batch, batches
from training.model import Blip, embed_images, normalise
from training.recipe import TrainRecipe


@dataclass
class TrainingRun:
    """What a run did: optimiser steps, photos seen, the last smoothed loss."""

    steps: int = 0
    photos: int = 0
    loss: float = math.nan


def train(
    blip: Blip,
    tokens: CaptionTokens,
    items: Dataset[Item],
    count: int,
    recipe: TrainRecipe,
    *,
    bad: BadPhotos,
    seed: int,
    workers: int,
) -> TrainingRun:
    """Train `blip` in place on `items` (`count` photos a pass); gradients go to parameters that require them.

    Raises `ContractError` when the loss is not a number or when no photo could be read.
    """
    torch.manual_seed(seed)  # dropout
    crops = torch.Generator().manual_seed(seed)
    device = blip.model.device
    total = recipe.epochs * math.ceil(count / recipe.batch_size)
    optimiser = make_optimiser(blip.model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate_at(step, total, recipe))
    trainable = [p for p in blip.model.parameters() if p.requires_grad]
    run = TrainingRun()
    set_train_mode(blip)
    with tqdm(total=recipe.epochs * count, unit="img", mininterval=1.0, desc="training") as bar:
        for batch in _epochs(items, recipe, bad, seed, workers):
            pixels = augment(batch.pixels.to(device), crops, flip=recipe.flip, crop=recipe.crop)
            loss = caption_loss(blip, pixels, batch.labels.to(device), tokens, recipe.prefix_weight)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ContractError(
                    f"The loss became {value} at step {run.steps + 1}. Lower train.learning_rate (now "
                    f"{recipe.learning_rate}) or raise train.warmup (now {recipe.warmup})."
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, recipe.clip)
            optimiser.step()
            schedule.step()
            run.steps += 1
            run.photos += len(batch.labels)
            run.loss = value if math.isnan(run.loss) else 0.95 * run.loss + 0.05 * value
            bar.set_postfix(loss=f"{run.loss:.3f}", refresh=False)
            bar.update(len(batch.labels))
    blip.model.eval()
    if run.steps == 0:
        raise ContractError(f"No photo could be read ({bad.first}).")
    return run


def _epochs(items: Dataset[Item], recipe: TrainRecipe, bad: BadPhotos, seed: int, workers: int) -> Iterator[Batch]:
    for epoch in range(recipe.epochs):
        yield from batches(items, bad, batch_size=recipe.batch_size, workers=workers, seed=seed, epoch=epoch)


def caption_loss(
    blip: Blip, pixels: torch.Tensor, labels: torch.Tensor, tokens: CaptionTokens, prefix_weight: float
) -> torch.Tensor:
    """Scalar loss of pixels [B, S, S, 3] (0..255) with label ids int64 [B]."""
    frozen = not any(p.requires_grad for p in blip.model.vision_model.parameters())
    with torch.set_grad_enabled(not frozen and torch.is_grad_enabled()):
        image_embeds = embed_images(blip.model, normalise(pixels))
    chosen = labels.cpu()
    logits = blip.model.text_decoder(
        input_ids=tokens.input_ids[chosen].to(pixels.device),
        attention_mask=tokens.mask[chosen].to(pixels.device),
        encoder_hidden_states=image_embeds,
        use_cache=False,
    ).logits
    loss = _cross_entropy(logits, tokens.targets[chosen])
    return loss + prefix_weight * _cross_entropy(logits, tokens.prefix[chosen]) if prefix_weight else loss


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.to(logits.device).flatten(), ignore_index=IGNORED)


def set_train_mode(blip: Blip) -> None:
    """Train mode for what trains; a frozen image tower stays in eval mode."""
    blip.model.train()
    if not any(p.requires_grad for p in blip.model.vision_model.parameters()):
        blip.model.vision_model.eval()


def make_optimiser(model: torch.nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no weight decay on vectors (biases, layer norms)."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))


def rate_at(step: int, total: int, recipe: TrainRecipe) -> float:
    """Learning rate at `step` of `total` as a share of the peak: linear warm-up, then cosine to `final_rate`."""
    warmup = max(1, round(recipe.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
