"""This project's engine as a contestant: the very class that the service runs, on one provider at one precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from app.engine.engine import Engine
from app.providers.sessions import PROVIDERS
from benchmarks.engine.contestants import Answer, Entry, NotHereError
from contract.bundle import Bundle
from contract.errors import ContractError
from contract.pixels import Pixels


class Ours:
    """`Engine.score` on pictures in host memory; the answer is in host memory too, so nothing is left running."""

    def __init__(self, entry: Entry, bundle: Bundle, *, threads: int, max_batch: int, engine_cache: Path) -> None:
        assert entry.provider is not None
        self.dtype = entry.precision
        cache = engine_cache if entry.provider == "tensorrt" else None
        self.engine = Engine(
            bundle, provider=entry.provider, threads=threads, max_batch=max_batch, cuda_graphs=entry.graphs,
            engine_cache=cache,
        )  # fmt: skip
        self.engine.warm_up()

    def run(self, pixels: Pixels) -> Answer:
        """See `Contestant`. The bundle's temperature is 1, so that the logarithm gives the label log-probabilities."""
        scores = self.engine.score(pixels)
        with np.errstate(divide="ignore"):  # a probability of 0 is the guard's business
            logprobs = np.log(scores.probabilities)
        return Answer(logprobs=logprobs, encode_seconds=scores.encode_seconds, score_seconds=scores.score_seconds)

    def close(self) -> None:
        """Give the sessions' memory back."""
        self.engine.close()


def check_provider(entry: Entry) -> None:
    """Raise `NotHereError` when this ONNX Runtime was built without the provider; cheap, so it comes before any export."""
    assert entry.provider is not None
    if PROVIDERS[entry.provider] not in ort.get_available_providers():
        raise NotHereError(f"this ONNX Runtime has no {PROVIDERS[entry.provider]}")


def load_ours(entry: Entry, bundle: Bundle, *, threads: int, max_batch: int, engine_cache: Path) -> Ours:
    """The contestant of `entry`, warm. Raises `NotHereError` when TensorRT cannot be loaded, `ContractError` else."""
    try:
        return Ours(entry, bundle, threads=threads, max_batch=max_batch, engine_cache=engine_cache)
    except ContractError as error:
        if entry.provider == "tensorrt":  # no package index but NVIDIA's has it: its absence is no failure
            raise NotHereError(str(error).rstrip(".")) from None
        raise
