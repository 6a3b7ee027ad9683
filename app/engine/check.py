"""An engine that may answer: loaded, warm, and compared with PyTorch's stored answers (the
self-check).

The bundle's stored pictures go through the sessions that will serve, before the service is ready.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.engine.engine import Engine, EngineError, Floats
from app.engine.graph import Value
from app.engine.load import by_photos, call_seconds, worths
from contract.bundle import ENCODER_FILE, SCORER_FILE, Bundle
from contract.errors import ContractError
from contract.familiarity import SIMILARITY
from contract.precision import LIMITS
from contract.self_check import SelfCheck

log = logging.getLogger("food_vision")
REMEDY = (
    "Use another provider (FOOD_VISION_PROVIDER), delete the provider's engine cache so that it is built again, "
    "or export the checkpoint again."
)


@dataclass(frozen=True)
class SelfCheckReport:
    """What a check that passed found; the same names as in `/info`."""

    largest_difference: float
    tolerance: float
    seconds: float


def ready_engine(
    bundle: Bundle,
    *,
    provider: str,
    threads: int,
    max_batch: int,
    cuda_graphs: bool,
    engine_cache: Path | None,
    device: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[Engine, SelfCheckReport | None]:
    """An engine as `Engine` makes it, warm, and what its self-check found (None: an older bundle,
    which has none).

    `progress` is told what is being done. Raises `ContractError`: the bundle or the provider is not
    what it must be, or the provider computes something else than PyTorch did.
    """
    engine = Engine(
        bundle,
        provider=provider,
        threads=threads,
        max_batch=max_batch,
        cuda_graphs=cuda_graphs,
        engine_cache=engine_cache,
        device=device,
        progress=progress,
    )
    try:
        engine.warm_up()
        progress("comparing the model with its stored answers")
        report = _check(engine)
        progress("timing batches")
        engine.worths = worths(by_photos(call_seconds(engine), padded=bool(engine.buckets)))
        return engine, report
    except EngineError as error:
        engine.close()
        raise ContractError(f"The provider {engine.provider!r} computes wrongly: {error}. {REMEDY}") from None
    except BaseException:
        engine.close()
        raise


def _check(engine: Engine) -> SelfCheckReport | None:
    bundle = engine.bundle
    if bundle.check is None:
        log.warning("no self-check: %s was exported before there was one; export again", bundle.path)
        return None
    # after the warm-up: the engines that it built or chose are those that will serve
    found = run_self_check(engine, bundle.check)
    log.info("self-check: within %.1e of PyTorch in %.2f s", found.largest_difference, found.seconds)
    return found


def run_self_check(engine: Engine, check: SelfCheck) -> SelfCheckReport:
    """Compare every graph with PyTorch's stored answers: each picture alone, then all rows of the
    largest batch.

    Differences are absolute, on log-probabilities, and relative to their largest value on
    embeddings; the tolerance of each precision is in `contract.precision`. Within it the best label
    is the same, unless two are nearer than twice the tolerance. Captions follow the stored tokens,
    so a near tie that falls the other way does not hide the steps after it. Raises `EngineError`
    that names the graph, the largest difference and the tolerance.
    """
    started = time.perf_counter()
    tolerance, max_batch = LIMITS[engine.bundle.manifest.precision].self_check, engine.max_batch
    batches = [np.array([picture]) for picture in range(len(check.pixels))]
    if max_batch > 1:
        batches.append(np.arange(max_batch) % len(check.pixels))
    with engine.guarded():
        largest = max(_check_rows(engine, check, rows, tolerance) for rows in batches)
    return SelfCheckReport(float(f"{largest:.2e}"), tolerance, round(time.perf_counter() - started, 3))


def _check_rows(engine: Engine, check: SelfCheck, rows: np.ndarray, tolerance: float) -> float:
    """Largest difference of one batch that holds the pictures `rows` [B]."""
    value = engine.encode(check.pixels[rows])
    embeds: Floats = value.numpy()[: len(rows), check.places]
    scale = max(1.0, float(np.abs(check.embeds).max()))
    every = np.arange(len(rows))
    largest = _compare(ENCODER_FILE, embeds / scale, check.embeds[rows] / scale, every, rows, tolerance)
    if check.label_logprobs is not None:
        found = engine.label_scores(value, len(rows))
        stored = check.label_logprobs[rows]
        largest = max(largest, _compare(SCORER_FILE, found.logprobs, stored, every, rows, tolerance))
        if check.similarity is not None and found.similarity is not None:
            # cosines: smaller than log-probabilities, with a tolerance of their own
            wanted, most = check.similarity[rows], LIMITS[engine.bundle.manifest.precision].similarity_check
            _compare(f"{SCORER_FILE}'s {SIMILARITY}", found.similarity, wanted, every, rows, most)
    return max(largest, _check_captions(engine, check, rows, value, tolerance))


def _check_captions(engine: Engine, check: SelfCheck, rows: np.ndarray, embeds: Value, tolerance: float) -> float:
    """Largest difference along the stored captions; a token that is not the stored one is refused
    unless it was near.
    """
    captioner, graph = engine.captioner(embeds), engine.decoder_file
    lengths, margins, largest = check.lengths[rows], check.margins[rows], 0.0
    fed = np.full(embeds.shape()[0], engine.bundle.manifest.tokens.bos, dtype=np.int64)
    for step in range(min(int(lengths.max()), captioner.length)):
        going = np.flatnonzero(lengths > step)
        logits = captioner.step(fed)["logits"].numpy()[going]
        if not np.isfinite(logits).all():
            raise EngineError(f"{graph} gives values that are not all finite")
        found = np.take_along_axis(_log_softmax(logits), check.tokens[rows[going], step], axis=1)
        stored = check.token_logprobs[rows[going], step]
        largest = max(largest, _compare(graph, found, stored, going, rows, tolerance))
        wanted = check.caption[rows[going], step]
        other = (logits.argmax(axis=1) != wanted) & (margins[going, step] > 2 * tolerance)
        if other.any():
            at = int(other.argmax())
            raise EngineError(
                f"{graph} picks caption token {logits[at].argmax()} where PyTorch picks {wanted[at]} by a margin "
                f"of {margins[going[at], step]:.1e} ({_where(going[at], rows)}); the largest difference is "
                f"{largest:.1e}, at most {tolerance:.0e} is allowed"
            )
        fed[: len(rows)] = check.caption[rows, step]
    return largest


def _compare(
    graph: str, found: Floats, wanted: Floats, places: np.ndarray, rows: np.ndarray, tolerance: float
) -> float:
    """Largest absolute difference; `places` are the rows of the batch that `found` and `wanted`
    hold.
    """
    if found.shape != wanted.shape:
        raise EngineError(f"{graph} gives shape {found.shape} where PyTorch gives {wanted.shape}")
    differences = np.abs(found - wanted).reshape(len(found), -1).max(axis=1)
    at = int(differences.argmax())  # a NaN is the largest to argmax
    largest = float(differences[at])
    if not largest <= tolerance:
        raise EngineError(
            f"{graph} differs from PyTorch by {largest:.1e} ({_where(places[at], rows)}); "
            f"at most {tolerance:.0e} is allowed"
        )
    return largest


def _where(place: int, rows: np.ndarray) -> str:
    return f"picture {rows[place]}, row {place} of a batch of {len(rows)}"


def _log_softmax(logits: Floats) -> Floats:
    # float64: a sum over the whole vocabulary must not add an error of its own
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Floats = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)
    return result
