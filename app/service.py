"""The service without HTTP: loads the engine, decodes, batches, and turns numbers into answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from app.batcher import Batcher, Expired, QueueFull
from app.engine import Captions, Engine, EngineError
from app.errors import ServiceError
from app.images import DecodePool
from app.pool import EnginePool
from app.schemas import Candidate, Caption, Model, Prediction
from app.self_check import REMEDY, SelfCheckReport, run_self_check
from app.settings import Settings
from contract.bundle import Bundle
from contract.errors import ContractError
from contract.pixels import Pixels

log = logging.getLogger("food_vision")
R = TypeVar("R")


@dataclass(frozen=True)
class _Scored:
    probabilities: np.ndarray
    encode_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class _Captioned:
    text: str
    encode_seconds: float
    decode_seconds: float


class Service:
    """One bundle, served. `state` is `starting`, `ready`, `failed` (with `reason`) or `stopped`."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.bundle = bundle
        self.settings = settings
        self.state: Literal["starting", "ready", "failed", "stopped"] = "starting"
        self.reason: str | None = "loading the model"
        self.self_check: SelfCheckReport | None = None  # None too for an older bundle, which has none
        self._model = Model(name=bundle.manifest.name, version=bundle.manifest.version)
        self._pool = EnginePool(self._load, settings.engines)
        self._decoder = DecodePool(
            settings.decoders,
            settings.max_decoding,
            image_size=bundle.manifest.image_size,
            max_pixels=settings.max_pixels,
        )

    async def start(self) -> None:
        """Load, warm up and check in the engines' threads; the state becomes `ready`, or `failed` with the reason."""
        slot = asyncio.Semaphore(1)
        batch, queue = self.settings.max_batch, self.settings.max_queue
        self._scores = Batcher(self._score, max_batch=batch, max_queue=queue, slot=slot)
        self._captions = Batcher(self._caption, max_batch=batch, max_queue=queue, slot=slot)
        try:
            await self._pool.load()
        except ContractError as error:
            self.state, self.reason = "failed", str(error)
        except Exception as error:  # a fault in the runtime: say so and stop rather than serve half a model
            log.error("the engine did not start", exc_info=error)
            self.state, self.reason = "failed", f"The engine did not start: {error}"
        else:
            self._scores.max_batch = self._captions.max_batch = self._pool.max_batch
            for _ in self._pool.engines[1:]:
                slot.release()
            self.state, self.reason = "ready", None

    async def stop(self) -> None:
        """Stop taking work and let the threads end."""
        self.state, self.reason = "stopped", "shutting down"
        await self._scores.close()
        await self._captions.close()
        self._decoder.close()
        self._pool.close()

    def _load(self, number: int) -> Engine:
        """Engine `number` of the pool, warm and checked. Runs in its thread."""
        started = time.perf_counter()
        settings = self.settings
        engine = Engine(
            self.bundle,
            provider=settings.provider,
            threads=settings.threads,
            max_batch=settings.max_batch,
            cuda_graphs=settings.cuda_graphs,
            engine_cache=settings.engine_cache,
            device=settings.device,
            progress=self._progress,
        )
        try:
            engine.warm_up()
            self._progress("comparing the model with its stored answers")
            self._check(engine)
        except EngineError as error:
            raise ContractError(f"The provider {engine.provider!r} computes wrongly: {error}. {REMEDY}") from None
        log.info(
            "model %s ready on %s in %.1f s, engine %d of %d, batches of up to %d",
            self._model.version, engine.provider, time.perf_counter() - started, number + 1, settings.engines,
            engine.max_batch,
        )  # fmt: skip
        return engine

    def _progress(self, text: str) -> None:
        self.reason = text
        log.info("start: %s", text)

    def _check(self, engine: Engine) -> None:
        if self.bundle.check is None:
            log.warning("no self-check: %s was exported before there was one; export again", self.bundle.path)
            return
        # after the warm-up: the engines that it built or chose are those that will serve
        found = self.self_check = run_self_check(engine, self.bundle.check)
        log.info("self-check: within %.1e of PyTorch in %.2f s", found.largest_difference, found.seconds)

    # -- requests ---------------------------------------------------------------------------------------------------

    async def predict(self, photo: bytes, top_k: int, timeout_ms: int | None = None) -> Prediction:
        """The best labels of one photo, within `timeout_ms` or the setting's, whichever is less.

        Raises `PhotoError` or `ServiceError`.
        """
        return await self._predict(photo, top_k, asyncio.Semaphore(1), self._deadline(timeout_ms))

    async def predict_all(
        self, photos: list[bytes], top_k: int, timeout_ms: int | None = None
    ) -> list[Prediction | BaseException]:
        """An answer or an exception for each photo, in order.

        One request decodes only a few photos at a time, so that a long list does not fill the decode pool by itself.
        """
        turns = asyncio.Semaphore(2 * self.settings.decoders)
        deadline = self._deadline(timeout_ms)
        calls = (self._predict(photo, top_k, turns, deadline) for photo in photos)
        return await asyncio.gather(*calls, return_exceptions=True)

    async def _predict(self, photo: bytes, top_k: int, turns: asyncio.Semaphore, deadline: float) -> Prediction:
        self.check_ready()
        if self.bundle.labels is None:
            raise ServiceError(
                "not_a_classifier", "This model has no labels: it can caption, not classify. Use /caption."
            )
        started = time.perf_counter()
        async with turns:
            pixels, decode_seconds = await self._decode(photo, deadline)
        done = await self._answered(self._scores.submit(pixels, _left(deadline)))
        scored = done.result
        timings = {
            "decode": decode_seconds,
            "queue": done.queue_seconds,
            "encode": scored.encode_seconds,
            "score": scored.score_seconds,
            "total": time.perf_counter() - started,
        }
        return self._prediction(scored.probabilities, top_k, timings)

    async def caption(self, photo: bytes, timeout_ms: int | None = None) -> Caption:
        """A free caption of one photo, within `timeout_ms` as in `predict`. Raises `PhotoError` or `ServiceError`."""
        self.check_ready()
        started, deadline = time.perf_counter(), self._deadline(timeout_ms)
        pixels, decode_seconds = await self._decode(photo, deadline)
        done = await self._answered(self._captions.submit(pixels, _left(deadline)))
        text, labels, form = done.result.text, self.bundle.labels, self.bundle.manifest.caption
        named = form.parse(text, labels) if form is not None and labels is not None else None
        return Caption(
            caption=text,
            prediction=named.display if named is not None else None,
            model=self._model,
            timings_ms=_milliseconds(
                {
                    "decode": decode_seconds,
                    "queue": done.queue_seconds,
                    "encode": done.result.encode_seconds,
                    "generate": done.result.decode_seconds,
                    "total": time.perf_counter() - started,
                }
            ),
        )

    def info(self) -> dict[str, Any]:
        """What is served, on what, with which limits: for operators."""
        manifest, engines = self.bundle.manifest, self._pool.engines
        return {
            "model": self._model.model_dump(),
            "state": self.state,
            "provider": engines[0].provider if engines else None,
            "engines": len(engines),
            "max_batch": self._pool.max_batch if engines else None,
            "buckets": list(engines[0].buckets) if engines else [],
            "labels": len(self.bundle.labels) if self.bundle.labels is not None else 0,
            "image_size": manifest.image_size,
            "precision": manifest.precision,
            "opset": manifest.opset,
            "caption": manifest.caption.template if manifest.caption is not None else None,
            "parity": manifest.parity,
            "self_check": asdict(self.self_check) if self.self_check is not None else None,
            "metrics": manifest.metrics,
            "source": manifest.source,
            "limits": self.settings.model_dump(include={"max_batch", "max_queue", "max_body_bytes", "max_pixels"}),
            "queued": {"predict": self._scores.depth, "caption": self._captions.depth},
        }

    def check_ready(self) -> None:
        """Raise `ServiceError` with slug `not_ready` unless the model is loaded and warm."""
        if self.state != "ready":
            raise ServiceError("not_ready", f"The service is not ready: {(self.reason or self.state).rstrip('.')}.")

    def _deadline(self, timeout_ms: int | None) -> float:
        """When a request that begins now is too late, by the clock of `time.perf_counter`; a client may only shorten it."""
        most = self.settings.request_timeout_ms
        return time.perf_counter() + (most if timeout_ms is None else min(timeout_ms, most)) / 1000

    async def _decode(self, photo: bytes, deadline: float) -> tuple[Pixels, float]:
        try:
            return await self._decoder.decode(photo, _left(deadline))
        except TimeoutError:
            raise _too_late() from None

    async def _answered(self, waiting: Awaitable[R]) -> R:
        try:
            return await waiting
        except QueueFull:
            raise ServiceError(
                "overloaded", f"The queue is full ({self.settings.max_queue} waiting). Try again in a second."
            ) from None
        except Expired:
            raise _too_late() from None
        except EngineError as error:
            log.error("engine: %s", error)
            raise ServiceError("engine_failed", "The model gave no usable answer; the fault is logged.") from None
        except Exception as error:
            log.error("engine failed on a batch", exc_info=error)
            raise ServiceError("engine_failed", "The engine failed on this batch; the fault is logged.") from None

    def _prediction(self, probabilities: np.ndarray, top_k: int, timings: dict[str, float]) -> Prediction:
        labels, form = self.bundle.labels, self.bundle.manifest.caption
        assert labels is not None
        assert form is not None
        order = np.argsort(-probabilities, kind="stable")[: min(top_k, len(labels))]
        top = [
            Candidate(
                class_id=int(i),
                label=labels[int(i)].name,
                prediction=labels[int(i)].display,
                confidence=round(float(probabilities[i]), 6),
            )
            for i in order
        ]
        best = top[0]
        return Prediction(
            prediction=best.prediction,
            raw_output=form.render(labels[best.class_id]),
            class_id=best.class_id,
            label=best.label,
            confidence=best.confidence,
            top=top,
            model=self._model,
            timings_ms=_milliseconds(timings),
        )

    # -- batches, run in an engine's thread ---------------------------------------------------------------------------

    async def _score(self, batch: list[Pixels]) -> list[_Scored]:
        scores = await self._pool.run(lambda engine: engine.score(batch))
        return [_Scored(row, scores.encode_seconds, scores.score_seconds) for row in scores.probabilities]

    async def _caption(self, batch: list[Pixels]) -> list[_Captioned]:
        limit = self.settings.max_caption_tokens
        found: Captions = await self._pool.run(lambda engine: engine.caption(batch, limit))
        return [_Captioned(text, found.encode_seconds, found.decode_seconds) for text in found.texts]


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.perf_counter())


def _too_late() -> ServiceError:
    return ServiceError("deadline_exceeded", "No answer before the request's deadline. Try again later.")


def _milliseconds(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(1000 * value, 3) for stage, value in seconds.items()}
