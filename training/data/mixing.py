"""Is a stream shuffled? Its batches tell: their labels must be about as varied as those of a fair draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contract.errors import ContractError


@dataclass(frozen=True)
class Mixing:
    """Mean label entropy of some batches in bits, that of fair batches of the same sizes, and distinct labels seen."""

    entropy: float
    fair: float
    seen: int


def label_entropy(labels: Sequence[int]) -> float:
    """Shannon entropy of the label ids of one batch, in bits: 0 for one class, at most log2 of the batch size."""
    _, counts = np.unique(np.asarray(labels, dtype=np.int64), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def fair_entropy(classes: int, size: int, *, draws: int = 400) -> float:
    """Expected entropy of `size` labels drawn uniformly from `classes`, by simulation with a fixed generator.

    A batch of 64 from 101 classes has 5.45 bits, well below log2(101) = 6.66: small batches cannot show all classes.
    """
    labels = np.random.default_rng(0).integers(0, classes, (draws, size))
    return float(np.mean([label_entropy(row) for row in labels.tolist()]))


def measure_mixing(batches: Sequence[Sequence[int]], classes: int) -> Mixing:
    """Compare the label ids of `batches` with fair draws from `classes` equally common classes."""
    fair = {size: fair_entropy(classes, size) for size in {len(batch) for batch in batches}}
    return Mixing(
        entropy=float(np.mean([label_entropy(batch) for batch in batches])),
        fair=float(np.mean([fair[len(batch)] for batch in batches])),
        seen=len({label for batch in batches for label in batch}),
    )


def check_mixing(
    batches: Sequence[Sequence[int]], classes: int, *, least: float, buffer: int, shards: int, parts: int
) -> None:
    """Raise `ContractError` when the mean label entropy of `batches` is below `least` (0..1) of a fair shuffle's.

    buffer, shards and parts (photos held, parts read at the same time, parts there are) are for the explanation.
    Equally common classes are assumed; data with very unequal classes needs a lower `least`.
    """
    if not batches:
        return
    found = measure_mixing(batches, classes)
    if found.entropy >= least * found.fair:
        return
    raise ContractError(
        f"The stream is not shuffled well: its first {len(batches)} batches have {found.entropy:.2f} bits of label "
        f"entropy on average and {found.seen} of {classes} labels, where a fair shuffle would give {found.fair:.2f} bits "
        f"and {least:g} of that is asked for. Training on such batches learns one class and forgets it for the next. "
        f"Raise data.shuffle_buffer (now {buffer} photos), raise data.shuffle_shards (now {shards}, the data has "
        f"{parts}), set data.streaming = false, or lower data.least_entropy if the classes are of very unequal size."
    )
