"""AdamW, its learning rate over time, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from training.recipe import TrainRecipe


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimiser(model: nn.Module, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; no weight decay on vectors (biases, layer norms)."""
    parameters = trainable(model).values()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type == "cpu" for p in parameters) or None  # one kernel; None: what torch chooses for a GPU
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=fused)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step: it depends on the step alone, so there is no schedule to restore."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def rate_at(step: int, total: int, recipe: TrainRecipe) -> float:
    """Learning rate at `step` of `total` as a share of the peak: linear warm-up, then cosine to `final_rate`."""
    warmup = max(1, round(recipe.warmup * total))
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


class MovingAverage:
    """Exponential moving average of the trainable weights; decay 0 follows the weights themselves.

    The decay grows as (1 + n) / (10 + n) up to its value, so that the start is forgotten in short runs.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = trainable(model)
        self.average = {name: p.detach().clone() for name, p in self.weights.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 1)."""
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))
            pairs = [list(self.average.values()), [p.detach() for p in self.weights.values()]]
            get_ema_multi_avg_fn(decay)(*pairs, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        own = {name: p.detach().clone() for name, p in self.weights.items()} if self.average else {}
        self.load(self.average)
        try:
            yield
        finally:
            self.load(own)

    @torch.no_grad()
    def load(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy `values` into the model's weights."""
        for name, value in values.items():
            self.weights[name].copy_(value)


KINDS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


def state_tensors(optimiser: torch.optim.Optimizer, average: MovingAverage) -> dict[str, torch.Tensor]:
    """Everything that changes while training, by name: weights, AdamW's moments and step counts, moving average."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in average.weights.items():
        tensors[f"weight/{name}"] = parameter
        for kind in KINDS:
            if kind in optimiser.state.get(parameter, {}):
                tensors[f"{kind}/{name}"] = optimiser.state[parameter][kind]
    return tensors | {f"average/{name}": value for name, value in average.average.items()}


@torch.no_grad()
def load_tensors(tensors: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer, average: MovingAverage) -> bool:
    """Take up what `state_tensors` gave; False, and nothing changed, when it is of other weights than the model's."""
    saved = {name.removeprefix("weight/"): t.shape for name, t in tensors.items() if name.startswith("weight/")}
    if saved != {name: parameter.shape for name, parameter in average.weights.items()}:
        return False
    for name, parameter in average.weights.items():
        parameter.copy_(tensors[f"weight/{name}"])
        found = {kind: tensors[f"{kind}/{name}"] for kind in KINDS if f"{kind}/{name}" in tensors}
        if found:  # AdamW keeps its step counts on the CPU
            optimiser.state[parameter] = {k: t if k == "step" else t.to(parameter.device) for k, t in found.items()}
        if average.average:
            average.average[name].copy_(tensors.get(f"average/{name}", parameter))
    return True
