"""Pixels → answers: the service's engine in a Ray actor. One row comes out for each that goes in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from app.bulk.places import reason
from app.engine.check import ready_engine
from app.engine.engine import Engine, EngineError, Scores
from app.serving.answers import Rules, prediction, ranked
from app.serving.schemas import Model, Prediction
from app.settings import Settings
from contract.bundle import read_bundle
from contract.errors import ContractError
from contract.pixels import Pixels

log = logging.getLogger("food_vision")

CANDIDATE = pa.struct(
    {"class_id": pa.int32(), "label": pa.string(), "prediction": pa.string(), "confidence": pa.float64()}
)
ANSWER = {
    "prediction": pa.string(), "raw_output": pa.string(), "class_id": pa.int32(), "label": pa.string(),
    "confidence": pa.float64(), "abstained": pa.string(), "familiarity": pa.float64(), "unfamiliar": pa.bool_(),
    "top": pa.list_(CANDIDATE),
    "decode_ms": pa.float32(), "encode_ms": pa.float32(), "score_ms": pa.float32(),
}  # fmt: skip
PLACE = {"path": pa.string(), "row": pa.int64(), "photo": pa.string()}
ERROR = {"error_type": pa.string(), "error": pa.string()}
ANSWERED = pa.schema({"shard": pa.int32(), "index": pa.int32(), **PLACE, **ANSWER, **ERROR})
NO_ANSWER = "The model gave no usable answer for this photo."


class Labeller:
    """Made once in each actor, called with tables of `photos.DECODED`.

    It never raises when it is made, because Ray tells only that an actor died: the first call raises instead.
    """

    def __init__(self, settings: Settings, digest: str) -> None:
        self._settings = settings
        self._failure: str | None = None
        try:
            bundle = read_bundle(settings.bundle)
            if bundle.manifest.digest != digest:
                raise ContractError(
                    f"The bundle at {settings.bundle} is {bundle.manifest.version} on one machine and {digest[:12]} on "
                    "another. Give all machines the same one."
                )
            self._engine, _ = ready_engine(
                bundle, provider=settings.provider, threads=settings.threads, max_batch=settings.max_batch,
                cuda_graphs=settings.cuda_graphs, engine_cache=settings.engine_cache, device=settings.device,
            )  # fmt: skip
            bundle.release()
        except ContractError as error:
            self._failure = str(error)

    def __call__(self, table: Any) -> Any:
        """A table of `photos.DECODED` → a table of `ANSWERED`. Raises `ContractError` where no photo is to blame."""
        if self._failure is not None:
            raise ContractError(self._failure)
        return answer(table, self._engine, self._settings)


def answer(table: Any, engine: Engine, settings: Settings) -> Any:
    """See `Labeller.__call__`."""
    size = engine.image_size
    rows = table.drop_columns("pixels").to_pylist()
    good = [place for place, row in enumerate(rows) if row["error_type"] is None]
    column = table["pixels"].combine_chunks()
    pixels = [np.frombuffer(column[place].as_buffer(), np.uint8).reshape(size, size, 3) for place in good]
    for place, found in zip(good, answers(pixels, engine, settings), strict=True):
        if found is None:
            rows[place] |= {"error_type": "engine_failed", "error": NO_ANSWER}
        else:
            rows[place] |= _columns(found)
    return pa.Table.from_pylist(rows, schema=ANSWERED)


def answers(pixels: Sequence[Pixels], engine: Engine, settings: Settings) -> list[Prediction | None]:
    """The service's answer to each photo; None where the engine has no finite numbers for that photo alone."""
    if not pixels:
        return []
    try:
        scores = _scores(pixels, engine)
    except EngineError as error:
        if len(pixels) > 1:  # one photo must not cost the others their answers
            return [found for one in pixels for found in answers([one], engine, settings)]
        log.error("engine: %s", error)
        return [None]
    seconds = {"encode": scores.encode_seconds, "score": scores.score_seconds}
    manifest, rules = engine.bundle.manifest, Rules.of(settings)
    model = Model(name=manifest.name, version=manifest.version)
    found = ranked(scores.probabilities, scores.familiarity)
    return [prediction(engine.bundle, model, one, rules, seconds) for one in found]


def _scores(pixels: Sequence[Pixels], engine: Engine) -> Scores:
    try:
        return engine.score(pixels)
    except (EngineError, ContractError):
        raise
    except Exception as error:  # the runtime's own types, which another process may not know
        raise ContractError(f"The engine failed on a batch of {len(pixels)} photos: {reason(error)}.") from None


def _columns(found: Prediction) -> dict[str, Any]:
    answer = found.model_dump(exclude={"model", "timings_ms", "abstained"})
    answer["abstained"] = found.abstained.reason if found.abstained is not None else None
    return answer | {f"{stage}_ms": value for stage, value in found.timings_ms.items()}
