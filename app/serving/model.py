"""One bundle being served: engines, queues and decode pool, and photos turned into answers.

All that an answer is made of belongs to one of these, so that while one bundle replaces another each answer comes from
exactly one of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from app.decoding.line import is_quick
from app.decoding.pool import DecodePool
from app.engine.check import SelfCheckReport, ready_engine
from app.engine.engine import Engine, EngineError
from app.engine.load import EngineLoad
from app.engine.pool import EnginePool
from app.faults import ServiceError, overloaded
from app.heap import trim
from app.serving.answers import Ranked, Rules, caption, prediction, ranked
from app.serving.batcher import Batcher, Done, Expired, Failed, Place, QueueFull, Refused
from app.serving.info import DEMONSTRATION, bundle_info
from app.serving.schemas import Caption, Model, Prediction
from app.serving.several import Several
from app.serving.slots import Slots
from app.settings import Settings
from contract.bundle import Bundle
from contract.pixels import Pixels

log = logging.getLogger("food_vision")
LATELY = 1.0  # seconds
OF_ALL = ("overloaded", "not_a_classifier")  # concern a request, not one of its photos
R = TypeVar("R")


@dataclass(frozen=True)
class _Scored:
    ranked: Ranked
    encode_seconds: float
    score_seconds: float


@dataclass(frozen=True)
class _Captioned:
    text: str
    encode_seconds: float
    decode_seconds: float


class ServedModel:
    """A verified bundle on the settings' provider. `load` before use; `retire` waits for what is under way.

    `progress` is told, from another thread, what is being loaded, `on_batch` the queue and size of each batch,
    `on_decoder_lost` of each process that died while it decoded photos, and `load` of each engine call.
    """

    _refused = -math.inf  # when somebody was, for want of time or room

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        progress: Callable[[str], None],
        on_batch: Callable[[str, int], None] = lambda queue, size: None,
        on_decoder_lost: Callable[[], None] = lambda: None,
        load: EngineLoad | None = None,
    ) -> None:
        self.bundle = bundle
        self.self_check: SelfCheckReport | None = None  # None too for an older bundle, which has none
        self._settings = settings
        self._progress = progress
        self._on_batch = on_batch
        self._name = Model(name=bundle.manifest.name, version=bundle.manifest.version)
        self._pool = EnginePool(self._load, settings.engines, load)
        at_engines = 2 * settings.engines * settings.max_batch  # the batch that runs, and the next
        at_decoders = max(1, min(2 * settings.decoders, settings.max_decoding // 2))
        self._several = Several(min(settings.max_queue, at_decoders + at_engines))
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._decoder = DecodePool(
            settings.decoders,
            settings.max_decoding,
            image_size=bundle.manifest.image_size,
            max_pixels=settings.max_pixels,
            cpu_ms=settings.decode_cpu_ms,
            longest=settings.request_timeout_ms / 1000,
            on_lost=on_decoder_lost,
        )

    # -- life -----------------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load, warm up and check in the engines' threads. Raises what they raise; then nothing is left running."""
        if self._settings.builds_at_start and not self._settings.in_flight:
            log.info(
                "no engine cache: one batch at a time, since every engine is built now, and a second would double it"
            )
        if self.bundle.manifest.demonstration:
            log.warning("model %s is %s", self._name.version, DEMONSTRATION)
        slots = Slots()
        batch, queue = self._settings.max_batch, self._settings.max_queue
        same: Any = {"max_batch": batch, "max_queue": queue, "slots": slots, "on_failure": _failed}
        self._scores = Batcher(self._score, **same)
        self._captions = Batcher(self._caption, **same)
        try:
            await self._decoder.start()
            await self._pool.load()
            self._progress("waiting for the processes that decode photos")
            await self._decoder.ready()
            self.bundle.release()
            await self._pool.run(lambda engine: trim())  # loading takes more memory than serving
        except BaseException:
            await self.close()
            raise
        for batcher in (self._scores, self._captions):
            batcher.fit(self._pool.max_batch, self._pool.sizes)
        for _ in self._pool.engines[1:]:
            slots.add()

    async def retire(self) -> None:
        """Answer what has begun, then close."""
        await self._idle.wait()
        await self.close()

    def hurry(self) -> None:
        """Let `retire` wait no longer."""
        self._idle.set()

    async def close(self) -> None:
        """Cancel what waits; the engines are closed after what they are doing, and threads and processes end."""
        await self._scores.close()
        await self._captions.close()
        await self._decoder.close()
        self.bundle.release()
        await self._pool.close()

    def _load(self, number: int) -> Engine:
        """Engine `number` of the pool, warm and checked. Runs in its thread."""
        started, wanted = time.perf_counter(), self._settings
        engine, self.self_check = ready_engine(
            self.bundle, provider=wanted.provider, threads=wanted.threads, max_batch=wanted.max_batch,
            cuda_graphs=wanted.cuda_graphs, engine_cache=wanted.engine_cache, device=wanted.device,
            progress=self._progress,
        )  # fmt: skip
        log.info(
            "model %s ready on %s in %.1f s, engine %d of %d, batches of up to %d",
            self._name.version, engine.provider, time.perf_counter() - started, number + 1, wanted.engines,
            engine.max_batch,
        )  # fmt: skip
        return engine

    @property
    def longest_call_seconds(self) -> float:
        """How long the oldest running engine call has been running; 0 when none is."""
        return self._pool.longest_call_seconds

    @property
    def decoding_seconds(self) -> float:
        """Seconds that processes have read photos."""
        return self._decoder.read_seconds

    @property
    def decoders_down_seconds(self) -> float:
        """How long there has been no process to decode a photo; 0 while there is one."""
        return self._decoder.down_seconds

    @property
    def decoders_bytes(self) -> int:
        """Resident memory of the processes that decode photos."""
        return self._decoder.resident_bytes

    def info(self) -> dict[str, Any]:
        """The model and what runs it."""
        engines = self._pool.engines
        return {
            **bundle_info(self.bundle, self._settings),
            "provider": engines[0].provider if engines else None,
            "engines": len(engines),
            "max_batch": self._pool.max_batch if engines else None,
            "buckets": list(self._pool.sizes) if engines else [],
            "self_check": asdict(self.self_check) if self.self_check is not None else None,
            "queued": {"predict": self._scores.depth, "caption": self._captions.depth},
            "oldest_seconds": round(max(self._scores.oldest_seconds, self._captions.oldest_seconds), 3),
        }

    # -- requests -------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self) -> Iterator[None]:
        """`retire` waits for what is within."""
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    def check_room(self) -> None:
        """Raise `ServiceError` (`overloaded`) where a photo that comes now would be refused.

        What waits is reckoned up only if somebody was refused lately: all are asked again when their photo is there.
        """
        try:
            self._scores.check_full()
            if time.monotonic() - self._refused < LATELY:
                self._scores.check(self._settings.request_timeout_ms / 1000, *self._decoder.expected(quick=True))
        except Refused as refused:
            raise self._overloaded(refused) from None
        self._decoder.check_room()

    async def predict(self, photo: bytes, rules: Rules, deadline: float) -> Prediction:
        """The best labels of one photo. Raises `PhotoError` or `ServiceError`."""
        self._check_classifies()
        started = time.perf_counter()
        with self.held():
            return await self._predicted(photo, rules, deadline, started, owner=object())

    async def predict_all(self, photos: list[bytes], rules: Rules, deadline: float) -> list[Prediction | BaseException]:
        """An answer or an exception for each photo of a request, in order.

        Raises `ServiceError` for the request as a whole, before work starts: `overloaded` where not all of them would
        be answered in time, `deadline_exceeded` where that was not known in time. One photo is as any other single one.
        """
        if len(photos) == 1:
            try:
                return [await self.predict(photos[0], rules, deadline)]
            except Exception as error:
                if isinstance(error, ServiceError) and error.slug in OF_ALL:
                    raise
                return [error]
        self._check_classifies()
        kinds = [is_quick(photo) for photo in photos]
        started = time.perf_counter()
        with self.held():
            await self._check_room_for(kinds, deadline)
            with self._several.request(kinds) as turns:

                async def in_turn(photo: bytes, quick: bool) -> Prediction:
                    try:
                        async with turns.turn(quick, _left(deadline)):
                            return await self._predicted(
                                photo, rules, deadline, started, owner=self._several, let_in=True
                            )
                    except TimeoutError:
                        raise _too_late() from None

                return await asyncio.gather(*map(in_turn, photos, kinds), return_exceptions=True)

    def _check_classifies(self) -> None:
        if self.bundle.labels is None:
            raise ServiceError(
                "not_a_classifier", "This model has no labels: it can caption, not classify. Use /caption."
            )

    async def _check_room_for(self, kinds: list[bool], deadline: float) -> None:
        """Raise `ServiceError` (`overloaded`) where so many photos, each quick or not, would not be answered in time."""
        try:
            await self._scores.known(_left(deadline))
        except Expired:
            raise _too_late() from None
        quick, waiting = sum(kinds), self._several.waiting
        slow = len(kinds) - quick
        made = self._decoder.times.all_read_in(quick, slow, waiting, self._several)
        alone = self._decoder.times.alone(quick, slow)
        try:
            self._scores.check_all(len(kinds), waiting.total(), _left(deadline), made, alone)
        except Refused as refused:
            raise self._overloaded(refused) from None

    async def _predicted(
        self, photo: bytes, rules: Rules, deadline: float, started: float, *, owner: object, let_in: bool = False
    ) -> Prediction:
        place, pixels, decode_seconds = await self._decode(self._scores, photo, deadline, owner, let_in=let_in)
        done = await self._answered(place, pixels)
        scored = done.result
        timings = {
            "decode": decode_seconds,
            "queue": done.queue_seconds,
            "encode": scored.encode_seconds,
            "score": scored.score_seconds,
            "total": time.perf_counter() - started,
        }
        return prediction(self.bundle, self._name, scored.ranked, rules, timings)

    async def caption(self, photo: bytes, deadline: float) -> Caption:
        """A free caption of one photo. Raises `PhotoError` or `ServiceError`."""
        started = time.perf_counter()
        with self.held():
            place, pixels, decode_seconds = await self._decode(self._captions, photo, deadline, object())
            done = await self._answered(place, pixels)
        timings = {
            "decode": decode_seconds,
            "queue": done.queue_seconds,
            "encode": done.result.encode_seconds,
            "generate": done.result.decode_seconds,
            "total": time.perf_counter() - started,
        }
        return caption(self.bundle, self._name, done.result.text, timings)

    async def _decode(
        self,
        batcher: Batcher[Pixels, R],
        photo: bytes,
        deadline: float,
        owner: object,
        *,
        let_in: bool = False,
    ) -> tuple[Place[Pixels, R], Pixels, float]:
        """A place in the queue, and then the photo's pixels: what would be refused afterwards is not worth decoding.

        What was `let_in` with its request is refused for nothing.
        """
        quick = is_quick(photo)
        try:
            place = batcher.enter(_left(deadline), *self._decoder.expected(quick, owner), let_in=let_in)
        except Refused as refused:
            raise self._overloaded(refused) from None
        try:
            return place, *await self._decoder.decode(photo, _left(deadline), owner, quick, let_in=let_in)
        except BaseException as error:
            place.leave()
            if isinstance(error, TimeoutError):
                raise _too_late() from None
            raise

    async def _answered(self, place: Place[Pixels, R], pixels: Pixels) -> Done[R]:
        try:
            return await place.submit(pixels)
        except Expired:
            raise _too_late() from None
        except Failed as failed:
            why = "gave no usable answer" if issubclass(failed.kind, EngineError) else "failed on this batch"
            raise ServiceError("engine_failed", f"The engine {why}; the fault is logged.") from None

    def _overloaded(self, refused: Refused) -> ServiceError:
        self._refused = time.monotonic()
        why = (
            f"The queue is full ({self._settings.max_queue} waiting)."
            if isinstance(refused, QueueFull)
            else "Too many photos are waiting to answer this one before its deadline."
        )
        return overloaded(why, refused.seconds)

    # -- batches, run in an engine's thread -----------------------------------------------------------------------------

    def _score(self, batch: list[Pixels]) -> Awaitable[list[_Scored]]:
        def work(engine: Engine) -> list[_Scored]:
            scores = engine.score(batch)
            found = ranked(scores.probabilities, scores.familiarity)
            return [_Scored(one, scores.encode_seconds, scores.score_seconds) for one in found]

        self._on_batch("predict", len(batch))
        return self._pool.run(work, len(batch))

    def _caption(self, batch: list[Pixels]) -> Awaitable[list[_Captioned]]:
        limit = self._settings.max_caption_tokens

        def work(engine: Engine) -> list[_Captioned]:
            found = engine.caption(batch, limit)
            return [_Captioned(text, found.encode_seconds, found.decode_seconds) for text in found.texts]

        self._on_batch("caption", len(batch))
        return self._pool.run(work, len(batch))


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.perf_counter())


def _failed(error: Exception, photos: int) -> None:
    """The engine failed on a batch. What it foresaw is told in a sentence."""
    log.error("engine: %s (a batch of %d)", error, photos, exc_info=None if isinstance(error, EngineError) else error)


def _too_late() -> ServiceError:
    return ServiceError("deadline_exceeded", "No answer before the request's deadline. Try again later.")
