"""Which batch sizes an engine runs, and how running out of memory is told from other faults."""

from __future__ import annotations

from contract.bundle import Manifest
from contract.errors import ContractError

# Activations of one layer beyond this fall out of a CPU's cache, and a batch is slower than its photos one by one:
# BLIP-base at 384 px (7.1 MB a photo) by a tenth at 8. Small models gain from batches up to here (docs/performance.md).
CPU_ACTIVATION_BYTES = 12e6


def buckets(max_batch: int) -> tuple[int, ...]:
    """Batch sizes that a GPU runs: powers of two below `max_batch`, and itself."""
    return (*(2**i for i in range(max_batch.bit_length()) if 2**i < max_batch), max_batch)


def cpu_batch(manifest: Manifest) -> int:
    """Photos whose activations in one layer (the feed-forward's: four widths a token, float32) stay in the cache.

    One for int8: its activations have one scale a call, so an answer would depend on the other photos of the batch.
    """
    if manifest.precision == "int8":
        return 1
    return max(1, int(CPU_ACTIVATION_BYTES // (manifest.image_tokens * manifest.width * 4 * 4)))


def is_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out; those of the runtime say it only in their words."""
    text = str(error).lower()
    if isinstance(error, MemoryError | ContractError):
        return isinstance(error, MemoryError)
    return any(word in text for word in ("memory", "allocat", "bad_alloc"))
