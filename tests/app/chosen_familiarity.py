"""Photos of one colour, and an engine that finds each as familiar as it is red: a test chooses what is strange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app.engine.engine import Engine, Scores
from contract.pixels import Pixels
from tests.app.photos import encoded

STRANGER, STRANGE, KNOWN = 0.0, 0.0078, 0.6196  # familiarity as it is told, where the line is 0.01


def photo(familiarity: float) -> bytes:
    """A PNG that such an engine finds so familiar, to a 255th."""
    return encoded(Image.new("RGB", (8, 8), (round(255 * familiarity), 0, 0)), "PNG")


def by_red(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the familiarity that `Engine.score` gives, whatever the bundle can tell."""
    real = Engine.score

    def score(engine: Engine, pixels: Sequence[Pixels] | Pixels) -> Scores:
        corners = np.stack([one[0, 0, 0] for one in pixels])
        return replace(real(engine, pixels), familiarity=(corners / 255).astype(np.float32))

    monkeypatch.setattr(Engine, "score", score)
