"""Familiarity from the engine: PyTorch's numbers on every path, and a scorer that does not give them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from app.engine.engine import Engine
from contract.bundle import read_bundle
from contract.pixels import Pixels
from modeling.checkpoint import load_checkpoint
from modeling.familiarity import pooled
from tests.app.engine.test_engine import StandIn
from tests.app.engine.test_engine import pictures as pictures
from tests.app.engine.test_engine import stand_in as stand_in


def by_pytorch(checkpoint: Path, pixels: Pixels) -> np.ndarray:
    loaded = load_checkpoint(checkpoint)
    assert loaded.bank is not None
    with torch.no_grad():
        found: np.ndarray = loaded.bank.familiarity(
            loaded.bank.similarity(pooled(loaded.embed(torch.from_numpy(pixels))))
        ).numpy()
    return found


@pytest.mark.parametrize("count", [3, 21])
@pytest.mark.parametrize(("provider", "cuda_graphs"), [("cpu", False), ("cuda", False), ("cuda", True)])
def test_it_is_pytorchs_on_every_path(
    familiar_bundle: Path, familiar_checkpoint: Path, stand_in: StandIn, pictures: Pixels, provider: str,
    cuda_graphs: bool, count: int,
) -> None:  # fmt: skip
    found = Engine(read_bundle(familiar_bundle), provider=provider, threads=1, max_batch=8, cuda_graphs=cuda_graphs)
    found.warm_up()
    for turn in range(2):
        part = np.roll(pictures, turn, axis=0)[:count]
        familiarity = found.score(part).familiarity
        assert familiarity is not None
        assert familiarity.dtype == np.float32
        wanted = by_pytorch(familiar_checkpoint, part)
        assert np.abs(familiarity - wanted).max() <= 1 / 64, "one of two that are nearly equal may be the larger"
        assert len(np.unique(wanted)) > 2
    found.close()
