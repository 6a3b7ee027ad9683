"""The pipeline: shards → decoding tasks → engine actors → complete shards, with Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from app.bulk.cluster import DECODE_CPUS, DECODE_RETRIES, SPARE_BYTES, Workers
from app.bulk.labeller import Labeller
from app.bulk.photos import BLOCK_BYTES, PhotoLimits, decode
from app.bulk.places import reason
from app.settings import Settings
from contract.errors import ContractError
from contract.pixels import DECODE_BYTES

ADDED = "\nFailed to apply UDF"  # what Ray adds to the text of an exception


class Gatherer:
    """Puts the rows of each shard together again; `done` is told the pieces and rows of one that is complete."""

    def __init__(self, shards: Iterable[Any], done: Callable[[Any, Any], None]) -> None:
        self._pieces = {pieces["shard"][0].as_py(): pieces for pieces in shards}
        self._missing = {shard: sum(pieces["photos"].to_pylist()) for shard, pieces in self._pieces.items()}
        self._parts: dict[int, list[Any]] = {}
        self._done = done

    @property
    def unfinished(self) -> int:
        """Shards that are not complete."""
        return len(self._missing)

    def add(self, table: Any) -> None:
        """Rows of any shards (`labeller.ANSWERED`). Raises `ContractError` when a photo comes twice."""
        numbers = table["shard"].to_numpy()
        for shard in dict.fromkeys(numbers.tolist()):
            part = table.filter(pa.array(numbers == shard))
            self._parts.setdefault(shard, []).append(part)
            self._missing[shard] -= len(part)
            if self._missing[shard] <= 0:
                self._complete(shard)

    def _complete(self, shard: int) -> None:
        rows = pa.concat_tables(self._parts.pop(shard)).sort_by("index")
        del self._missing[shard]
        if rows["index"].to_pylist() != list(range(len(rows))):
            raise ContractError(f"Shard {shard} came back with photos twice; run the same command again.")
        self._done(self._pieces.pop(shard), rows)


def run_shards(
    ray: Any,
    shards: list[Any],
    limits: PhotoLimits,
    settings: Settings,
    digest: str,
    workers: Workers,
    done: Callable[[Any, Any], None],
    progress: Callable[[int], None],
) -> None:
    """Label every shard (tables of pieces); `done` gets each that is complete, `progress` the photos as they come.

    Raises `ContractError` with a worker's own sentence, or with Ray's.
    """
    _quiet(ray)
    gatherer = Gatherer(shards, done)
    photos = ray.data.from_arrow(shards)
    decoded = photos.map_batches(
        decode,
        batch_size=None,  # a block: one shard
        batch_format="pyarrow",
        fn_kwargs={"limits": limits},
        num_cpus=min(DECODE_CPUS, workers.cpus),
        max_retries=DECODE_RETRIES,  # Ray's own number is endless
        # a reservation by which Ray runs fewer side by side; also what keeps it from running inside the actors
        memory=_decode_bytes(ray, settings),
    )
    answered = decoded.map_batches(
        Labeller,
        batch_size=settings.max_batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers.count),
        fn_constructor_kwargs={"settings": settings, "digest": digest},
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
    )
    for table in _tables(answered):
        gatherer.add(table)
        progress(len(table))
    if gatherer.unfinished:
        raise ContractError(f"{gatherer.unfinished} shards came back incomplete; run the same command again.")


def _decode_bytes(ray: Any, settings: Settings) -> float:
    """Memory that a decoding task reserves: what it may take, if that much is free at all."""
    wanted = float(DECODE_BYTES * settings.max_pixels + SPARE_BYTES)
    return min(wanted, ray.cluster_resources().get("memory", wanted) / 2)


def _quiet(ray: Any) -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    context.target_max_block_size = BLOCK_BYTES
    context.raise_original_map_exception = True  # else only its traceback's text comes back
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _tables(answered: Any) -> Iterator[Any]:
    """What comes out of the pipeline. Raises `ContractError` for whatever goes wrong in it."""
    try:
        yield from answered.iter_batches(batch_size=None, batch_format="pyarrow")
    except Exception as error:  # of a task, a worker, the session or Ray itself
        raise ContractError(_sentence(error)) from None


def _sentence(error: BaseException) -> str:
    """The sentence of the `ContractError` that a task or worker raised, or the last line of what Ray says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ContractError) and getattr(cause, "cause", None) is None:
            return str(cause).split(ADDED)[0]
        cause = getattr(cause, "cause", None) or cause.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = reason(Exception(lines[-1]))
    return f"Ray could not go on: {said}. Its logs say more; the same command goes on from the last whole shard."
