"""The service as requests meet it: notes the timings of every answer, whichever route asked, and says how it is."""

from __future__ import annotations

from app.faults import ServiceError, body_of
from app.serving.model import ServedModel
from app.serving.schemas import Caption, Prediction
from app.serving.service import Service
from app.telemetry.metrics import State
from app.telemetry.record import note_abstained, note_refused, note_timings


class ObservedService(Service):
    """`Service`, whose answers leave their timings in the record of the request."""

    async def predict(
        self, photo: bytes, top_k: int, timeout_ms: int | None = None, min_confidence: float | None = None
    ) -> Prediction:
        """See `Service`."""
        found = await super().predict(photo, top_k, timeout_ms, min_confidence)
        _note(found)
        return found

    async def predict_all(
        self,
        photos: list[bytes],
        top_k: int,
        timeout_ms: int | None = None,
        min_confidence: float | None = None,
        *,
        model: ServedModel | None = None,
    ) -> list[Prediction | BaseException]:
        """See `Service`."""
        found = await super().predict_all(photos, top_k, timeout_ms, min_confidence, model=model)
        for one in found:
            if isinstance(one, Prediction):
                _note(one)
            elif isinstance(one, Exception):
                note_refused(body_of(one).error_type)
        return found

    async def caption(self, photo: bytes, timeout_ms: int | None = None) -> Caption:
        """See `Service`."""
        found = await super().caption(photo, timeout_ms)
        note_timings(found.timings_ms)
        return found

    def now(self, version: str) -> State:
        """What `/metrics` says of this moment; `version` is the program's."""
        try:
            self.check_ready()
        except ServiceError:
            ready = False
        else:
            ready = True
        info = self.info()
        return State(
            ready=ready,
            queued=info["queued"],
            oldest_seconds=info["oldest_seconds"],
            info={
                "version": version,
                "model": info["model"]["name"],
                "model_version": info["model"]["version"],
                "provider": info["provider"] or "",
            },
            decoders_bytes=self.model.decoders_bytes,
        )


def _note(found: Prediction) -> None:
    note_timings(found.timings_ms)
    if found.abstained is not None:
        note_abstained()
