"""This project's engine as the plain function that a baseline calls: photo → pixels, pixels → labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.engine.engine import Engine
from benchmarks.known_engine import Device, taking
from contract.bundle import read_bundle
from contract.errors import ContractError
from contract.pixels import Pixels, photo_to_pixels


class EngineFunction:
    """The bundle's engine on the CPU provider, loaded and warm; one thread may call it at a time.

    With a `device` its calls take as long as that one's.
    """

    def __init__(self, bundle: Path, *, threads: int, max_batch: int, device: Device | None = None) -> None:
        found = read_bundle(bundle)
        if found.labels is None or found.manifest.caption is None:
            raise ContractError(f"The bundle {bundle} has no labels.")
        self._labels, self._caption = found.labels, found.manifest.caption
        self.engine = Engine(found, provider="cpu", threads=threads, max_batch=max_batch)
        self.engine.warm_up()
        self.score = taking(device, self.engine.score) if device else self.engine.score

    def pixels(self, photo: bytes) -> Pixels:
        """One photo's uint8 pixels [S, S, 3]."""
        return photo_to_pixels(photo, self.engine.image_size)

    def label(self, pixels: Sequence[Pixels]) -> list[dict[str, str]]:
        """Answers to photos, in order."""
        probabilities = self.score(np.stack(list(pixels))).probabilities
        best = (self._labels[int(place)] for place in probabilities.argmax(axis=1))
        return [{"prediction": label.display, "raw_output": self._caption.render(label)} for label in best]
