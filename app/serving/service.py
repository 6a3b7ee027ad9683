"""The service without HTTP: which model is served, and whether it may be asked.

    starting → ready → draining → stopped
             ↘ failed

A reload loads the bundle at the same path beside the one that serves; it takes over between two requests when it is
warm and checked, and otherwise nothing changes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from app.engine.load import EngineLoad
from app.faults import ServiceError, body_of, forget_frames
from app.serving.answers import Rules
from app.serving.model import ServedModel
from app.serving.schemas import Caption, Prediction
from app.settings import Settings, Unfamiliar
from app.telemetry.record import note_abstained, note_familiarity, note_refused, note_timings
from contract.bundle import Bundle, read_bundle
from contract.errors import ContractError, PhotoError

log = logging.getLogger("food_vision")
LAST_WAIT = 2.5  # seconds, for what the engines are doing when the service stops; and then for threads of the process
LONGEST_WITHOUT_DECODERS = 5.0  # seconds; a process that died is replaced in less


class Service:
    """`state` is `starting`, `ready`, `draining`, `failed` (with `reason`) or `stopped`."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        self.settings = settings
        self.state: Literal["starting", "ready", "draining", "failed", "stopped"] = "starting"
        self.reason: str | None = "loading the model"
        self.last_reload: dict[str, Any] | None = None
        self.on_batch: Callable[[str, int], None] = lambda queue, size: None  # told the queue and size of each batch
        self.on_decoder_lost: Callable[[], None] = lambda: (
            None
        )  # told of each process that died while it decoded photos
        self.load = EngineLoad()  # of all models: during a reload two share the device
        self._model = ServedModel(bundle, settings, self._progress, self._batch, self._decoder_lost, self.load)
        self._leaving = False  # a signal came
        self._starting: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._next_reload: asyncio.Task[bool] | None = None  # that waits for the one under way
        self._reloads: set[asyncio.Task[bool]] = set()
        self._retiring: dict[asyncio.Task[None], ServedModel] = {}
        self._decoded = 0.0  # seconds, of models that are gone

    @property
    def decoding_seconds(self) -> float:
        """Seconds that processes have read photos, of all models until now: a reload does not begin anew."""
        return self._decoded + sum(model.decoding_seconds for model in (self._model, *self._retiring.values()))

    @property
    def bundle(self) -> Bundle:
        """The bundle that is served now."""
        return self._model.bundle

    @property
    def model(self) -> ServedModel:
        """The model that is served now; whoever asks it twice may meet two."""
        return self._model

    # -- life -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load, warm up and check; the state becomes `ready`, or `failed` with the reason."""
        try:
            await self._model.load()
        except ContractError as error:
            self.state, self.reason = "failed", str(error)
        except Exception as error:  # a fault in the runtime: say so and stop rather than serve half a model
            log.error("the engine did not start", exc_info=error)
            self.state, self.reason = "failed", f"The engine did not start: {error}"
        else:
            if self.state == "starting":  # else it was stopped meanwhile
                self.state, self.reason = "ready", None
                if self._leaving:
                    self.drain()

    def start_soon(self) -> asyncio.Task[None]:
        """`start` in a task of its own, which ends with the service; a reload waits for it."""
        self._starting = asyncio.create_task(self.start())
        return self._starting

    def drain(self) -> None:
        """Answer 503 at `/health/ready`, and requests as before: load balancers need time to look elsewhere."""
        self._leaving = True
        if self.state == "ready":  # what is loading goes on: it may be ready before the end
            self.state, self.reason = "draining", "shutting down"
            log.info("draining: not ready any more, still answering for %d s", self.settings.shutdown_delay_seconds)

    async def stop(self) -> None:
        """Stop taking work, and wait until threads and processes have ended.

        An engine call that goes on for `LAST_WAIT` is left behind, in a thread that may never end.
        """
        self.state, self.reason = "stopped", "shutting down"
        closing = asyncio.create_task(self._close())
        done, _ = await asyncio.wait([closing], timeout=LAST_WAIT)
        if done:
            closing.result()
        else:
            log.error("an engine call has not ended after %g s: left behind", LAST_WAIT)

    async def _close(self) -> None:
        loading = [*self._reloads, *([self._starting] if self._starting is not None else [])]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, return_exceptions=True)
        for model in self._retiring.values():
            model.hurry()
        await asyncio.gather(*self._retiring, return_exceptions=True)  # `_retired` tells of errors
        await self._model.close()

    async def reload(self) -> bool:
        """Serve the bundle that lies at the settings' path now; False when it is the same or cannot be served.

        Requests that have begun are answered by the old model. On failure the old one stays, and `last_reload` and the
        log say why. One runs at a time, after the start; all who ask meanwhile share the next one.
        """
        return await asyncio.shield(self.reload_soon())

    def reload_soon(self) -> asyncio.Task[bool]:
        """`reload` in a task of its own, which ends with the service."""
        if self._next_reload is None:
            self._next_reload = task = asyncio.create_task(self._reload_in_turn())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
        return self._next_reload

    async def _reload_in_turn(self) -> bool:
        async with self._reloading:
            if self._starting is not None:
                await asyncio.wait([self._starting])
            self._next_reload = None  # the bundle may change once it is being read
            return await self._reload()

    async def _reload(self) -> bool:
        if self.state not in ("ready", "draining"):
            return self._reloaded(False, f"the service is {self.state}")
        began = time.perf_counter()
        old = self._model
        try:
            bundle = await _read(self.settings.bundle)
            if bundle.manifest.digest == old.bundle.manifest.digest:
                return self._reloaded(False, f"the bundle is the same: {bundle.manifest.version}")
            new = ServedModel(
                bundle,
                self.settings,
                lambda text: log.info("reload: %s", text),
                self._batch,
                self._decoder_lost,
                self.load,
            )
            await new.load()
        except Exception as error:  # whatever it is, the old model serves on
            unforeseen = None if isinstance(error, ContractError) else error
            log.error("reload failed, %s serves on: %s", old.bundle.manifest.version, error, exc_info=unforeseen)
            return self._reloaded(False, str(error))
        if self.state not in ("ready", "draining"):
            await new.close()
            return self._reloaded(False, f"the service is {self.state}")
        self._model = new
        task = asyncio.create_task(old.retire())
        self._retiring[task] = old
        task.add_done_callback(self._retired)
        log.info(
            "reload: %s serves instead of %s after %.1f s",
            bundle.manifest.version, old.bundle.manifest.version, time.perf_counter() - began,
        )  # fmt: skip
        return self._reloaded(True, f"{old.bundle.manifest.version} → {bundle.manifest.version}")

    def _retired(self, task: asyncio.Task[None]) -> None:
        old = self._retiring.pop(task)
        self._decoded += old.decoding_seconds
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s was not closed well", old.bundle.manifest.version, exc_info=error)

    def _reloaded(self, done: bool, said: str) -> bool:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self.last_reload = {"done": done, "said": said, "at": at}
        return done

    def _batch(self, queue: str, size: int) -> None:
        self.on_batch(queue, size)

    def _decoder_lost(self) -> None:
        self.on_decoder_lost()

    def _progress(self, text: str) -> None:
        if self.state == "starting":
            self.reason = text
        log.info("start: %s", text)

    # -- may it be asked ------------------------------------------------------------------------------------------------

    def check_ready(self) -> None:
        """Raise `ServiceError` unless new traffic is welcome: loaded, warm, not draining, no engine stuck."""
        if self.state == "draining":
            raise ServiceError("not_ready", "The service is not ready: shutting down.")
        self.check_serving()

    def check_serving(self) -> None:
        """Raise `ServiceError` unless a request would be answered; a draining service still answers."""
        if self.state not in ("ready", "draining"):
            raise ServiceError("not_ready", f"The service is not ready: {(self.reason or self.state).rstrip('.')}.")
        if self._model.decoders_down_seconds > LONGEST_WITHOUT_DECODERS:
            raise ServiceError(
                "not_ready", "The service is not ready: no process that decodes photos stays alive; the log says why."
            )
        self.check_live()

    def check_room(self) -> None:
        """Raise `ServiceError` unless a request that comes now would be answered and find a place to wait."""
        self.check_serving()
        self._model.check_room()

    def check_live(self) -> None:
        """Raise `ServiceError` with slug `engine_stuck` when an engine call has run for longer than `stuck_seconds`."""
        busy, limit = self._model.longest_call_seconds, self.settings.stuck_seconds
        if busy > limit:
            raise ServiceError(
                "engine_stuck", f"An engine call has not ended for {busy:.0f} s (at most {limit} are normal); restart."
            )

    def info(self) -> dict[str, Any]:
        """What is served, on what, with which limits: for operators."""
        limits = self.settings.model_dump(include={"max_batch", "max_queue", "max_body_bytes", "max_pixels"})
        return {
            **self._model.info(),
            "abstain_below": self.settings.abstain_below,
            "state": self.state,
            "last_reload": self.last_reload,
            "limits": limits,
        }

    # -- requests -------------------------------------------------------------------------------------------------------

    async def predict(
        self,
        photo: bytes,
        top_k: int | None = None,
        timeout_ms: int | None = None,
        min_confidence: float | None = None,
        unfamiliar: Unfamiliar | None = None,
    ) -> Prediction:
        """The best labels of one photo, within `timeout_ms` or the setting's, whichever is less.

        `top_k` labels are told. It abstains below `min_confidence`, 0 to 1, and does with what is `unfamiliar` what that
        says; for each None is the setting's. Raises `PhotoError` or `ServiceError`.
        """
        self.check_serving()
        rules = Rules.of(self.settings, top_k, min_confidence, unfamiliar)
        found = await self._model.predict(photo, rules, self._deadline(timeout_ms))
        _note(found)
        return found

    async def predict_all(
        self,
        photos: list[bytes],
        top_k: int | None = None,
        timeout_ms: int | None = None,
        min_confidence: float | None = None,
        unfamiliar: Unfamiliar | None = None,
        *,
        model: ServedModel | None = None,
    ) -> list[Prediction | BaseException]:
        """An answer or an exception for each photo, in order, all from one model; parameters as for `predict`.

        `model`: the one that answers, which its caller holds; by default the one that is served now. Raises
        `ServiceError` for the request as a whole, as `ServedModel.predict_all` does.
        """
        self.check_serving()
        rules = Rules.of(self.settings, top_k, min_confidence, unfamiliar)
        found = await (model or self._model).predict_all(photos, rules, self._deadline(timeout_ms))
        for one in found:
            if isinstance(one, ServiceError | PhotoError):  # of any other the log will want to know where it was
                forget_frames(one)
            if isinstance(one, Prediction):
                _note(one)
            elif isinstance(one, Exception):
                note_refused(body_of(one).error_type)
        return found

    async def caption(self, photo: bytes, timeout_ms: int | None = None) -> Caption:
        """A free caption of one photo, within `timeout_ms` as in `predict`. Raises `PhotoError` or `ServiceError`."""
        self.check_serving()
        found = await self._model.caption(photo, self._deadline(timeout_ms))
        note_timings(found.timings_ms)
        return found

    def _deadline(self, timeout_ms: int | None) -> float:
        """When a request that begins now is too late, by the clock of `time.perf_counter`; a client may only shorten it."""
        most = self.settings.request_timeout_ms
        return time.perf_counter() + (most if timeout_ms is None else min(timeout_ms, most)) / 1000


def _note(found: Prediction) -> None:
    """Leave what is counted of an answer in the record of the request, if there is one."""
    note_timings(found.timings_ms)
    if found.abstained is not None:
        note_abstained(found.abstained.reason)
    if found.familiarity is not None:
        note_familiarity(found.familiarity, unfamiliar=bool(found.unfamiliar))


async def _read(path: Path) -> Bundle:
    """`read_bundle` in a thread of its own: the event loop waits for its threads at the end, however
    slow a disk is.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="bundle-reader")
    try:
        return await asyncio.get_running_loop().run_in_executor(reader, read_bundle, path)
    finally:
        reader.shutdown(wait=False)
