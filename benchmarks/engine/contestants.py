"""What the contestants of the engine benchmark have in common: a name, one call, an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from contract.errors import ContractError
from contract.pixels import Pixels
from contract.precision import LIMITS, Precision, ProviderName

Floats = npt.NDArray[np.float32]


class NotHereError(ContractError):
    """This machine or this release cannot run the contestant; the message says why."""


@dataclass(frozen=True)
class Answer:
    """What one call gave, on the host.

    `logprobs` float32 [B, labels] (None for free captions), `tokens` the caption token ids of each row (None for
    labels), and the seconds of the two stages where the contestant tells them.
    """

    logprobs: Floats | None = None
    tokens: list[list[int]] | None = None
    encode_seconds: float | None = None
    score_seconds: float | None = None


class Contestant(Protocol):
    """Loaded and ready."""

    @property
    def dtype(self) -> str:
        """The element type of its products, which names the yardstick that its speed is a share of."""
        ...

    def run(self, pixels: Pixels) -> Answer:
        """uint8 pixels [B, S, S, 3] → answer; returns when the numbers are on the host."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


@dataclass(frozen=True)
class Entry:
    """A contestant that can be asked for: what it is, and what it computes with."""

    name: str
    what: str
    device: str  # cpu or cuda
    precision: Precision
    provider: ProviderName | None = None  # of ours; None: torch
    graphs: bool = False

    @property
    def memory(self) -> str:
        """Key of `benchmarks.engine.memory.METHODS`."""
        if self.device == "cpu":
            return "cpu"
        return "cuda-torch" if self.provider is None else "cuda-ours"


PROVIDERS: dict[str, tuple[ProviderName, ...]] = {"cpu": ("cpu",), "cuda": ("cuda", "tensorrt")}
GRAPHS = {"cpu": (False,), "cuda": (False, True)}
ORIGINAL, ONE_PASS = "original", "one-pass"
_TORCH: tuple[tuple[str, str, Precision], ...] = (
    (ORIGINAL, "transformers generate, greedy, 6 tokens", "fp32"),
    ("generate-bf16", "transformers generate, greedy, 6 tokens", "bf16"),
    (ONE_PASS, "transformers, one decoder pass over the prefix", "fp32"),
    ("one-pass-bf16", "transformers, one decoder pass over the prefix", "bf16"),
    ("one-pass-compiled", "the same through torch.compile, CUDA graphs on a GPU", "fp32"),
    ("one-pass-compiled-bf16", "the same through torch.compile, CUDA graphs on a GPU", "bf16"),
)


def entries(device: str) -> list[Entry]:
    """All contestants of a device (`cpu` or `cuda`), whether or not this machine can run them."""
    made = [Entry(name, what, device, precision) for name, what, precision in _TORCH]
    for provider in PROVIDERS[device]:
        for precision, limits in LIMITS.items():
            if provider in limits.providers:
                made += [_ours(device, provider, precision, graphs=graphs) for graphs in GRAPHS[device]]
    return made


def _ours(device: str, provider: ProviderName, precision: Precision, *, graphs: bool = False) -> Entry:
    name = f"ours-{provider}-{precision}" + ("-graphs" if graphs else "")
    what = f"this project's engine, {provider}" + (", CUDA graphs" if graphs else "")
    return Entry(name, what, device, precision, provider, graphs)
