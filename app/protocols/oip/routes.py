"""The Open Inference Protocol, version 2, over REST: what `tritonclient.http` and other clients of
Triton speak.

    client = tritonclient.http.InferenceServerClient("127.0.0.1:8000")
    client.infer("food101", [image])        # IMAGE: BYTES [n, 1] → LABEL: BYTES [n, 1], SCORE: FP32 [n, 1]
    curl --data-binary @dinner.jpg -H 'Inference-Header-Content-Length: 0' -H 'Accept: application/json' …/infer

The model's name and version are those of the bundle. Sources: `kserve/open-inference-protocol`, and
the protocol extensions binary data, classification, model configuration and statistics of Triton.
The protocol has no error for one photo of several: those that are bad fail the request, which names
them all.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from importlib.metadata import version as installed
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from app.faults import ServiceError
from app.protocols.json_photos import parsed
from app.protocols.oip.examples import CONFIG, INFER_BODY, METADATA, SERVER, STATS, example, infer_example
from app.protocols.oip.request import (
    FAMILIARITY,
    HEAD_LENGTH,
    IMAGE,
    OUTPUTS,
    InferRequest,
    Wanted,
    outputs_of,
    pack_bytes,
    pack_floats,
    parse_request,
)
from app.protocols.oip.stats import ModelStats, Statistics
from app.serving.model import ServedModel
from app.serving.schemas import Prediction
from app.settings import Unfamiliar
from app.telemetry.record import forget_refused
from app.web.body import read_body
from app.web.errors import responses
from app.web.leaving import unless_gone
from app.web.routes import PHOTO_ERRORS, MinConfidence, TimeoutMs, UnfamiliarMode, service_of
from contract.bundle import Manifest
from contract.errors import PhotoError

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
EXTENSIONS = ["binary_tensor_data", "classification", "model_configuration", "statistics"]
UNTOLD = -1.0  # familiarity where a request said `off`: an FP32 tensor has no null
MODEL, VERSION = "/models/{name}", "/models/{name}/versions/{version}"
UNREADY = ("not_ready", "engine_stuck")
UNKNOWN = responses("unauthorized", "unknown_model")
OF_SERVER_READY = example({"ready": True}) | responses(*UNREADY)
OF_READY = example({"name": "food101", "ready": True}) | responses("unauthorized", "unknown_model", *UNREADY)
OF_INFER = infer_example() | responses("unknown_model", *PHOTO_ERRORS)


async def _version(version: str) -> None:
    """Declares the parameter of those paths that have one; `_known` reads it."""


def _check(request: Request, name: str, manifest: Manifest) -> None:
    """Raise `ServiceError` with slug `unknown_model` unless the path names this model."""
    version = request.path_params.get("version")
    if name != manifest.name:
        raise ServiceError("unknown_model", f"There is no model {name[:80]!a}; {manifest.name!r} is served.")
    if version not in (None, manifest.version):
        raise ServiceError(
            "unknown_model",
            f"There is no version {version[:80]!a} of {name!r}; {manifest.version!r} is served. Or leave it out.",
        )


async def _known(request: Request, name: str) -> Manifest:
    """The manifest of the model that the path names."""
    manifest = service_of(request).bundle.manifest
    _check(request, name, manifest)
    return manifest


async def _met(request: Request, name: str) -> AsyncIterator[ServedModel]:
    """The model that the path names, kept until it has answered: another may take over while the
    body comes in.
    """
    model = service_of(request).model
    _check(request, name, model.bundle.manifest)
    with model.held():
        yield model


Known = Annotated[Manifest, Depends(_known)]
Met = Annotated[ServedModel, Depends(_met)]
OF_VERSION = [Depends(_version)]


@router.get("", responses=example(SERVER) | responses("unauthorized"))
async def server_metadata() -> dict[str, Any]:
    """Name, version and protocol extensions of the server."""
    return {"name": "food-vision", "version": installed("food-vision"), "extensions": EXTENSIONS}


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", responses=example({"live": True}) | responses("engine_stuck"))
async def server_live(request: Request) -> dict[str, bool]:
    """The process answers."""
    service_of(request).check_live()
    return {"live": True}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", responses=OF_SERVER_READY)
async def server_ready(request: Request) -> dict[str, bool]:
    """The model is loaded and warm."""
    service_of(request).check_ready()
    return {"ready": True}


@router.get("/models/stats", operation_id="v2_all_stats", responses=example(STATS) | responses("unauthorized"))
async def all_statistics(request: Request) -> dict[str, object]:
    """The statistics of the model that is served."""
    manifest = service_of(request).bundle.manifest
    return _answered(request, manifest)


@router.get(MODEL, responses=example(METADATA) | UNKNOWN)
@router.get(VERSION, responses=example(METADATA) | UNKNOWN, dependencies=OF_VERSION)
async def model_metadata(manifest: Known) -> dict[str, Any]:
    """Inputs and outputs of the model."""
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": IMAGE, "datatype": "BYTES", "shape": [-1, 1]}],
        "outputs": [{"name": output, "datatype": OUTPUTS[output], "shape": [-1, 1]} for output in outputs_of(manifest)],
    }


@router.get(MODEL + "/ready", responses=OF_READY)
@router.get(VERSION + "/ready", responses=OF_READY, dependencies=OF_VERSION)
async def model_ready(request: Request, manifest: Known) -> dict[str, Any]:
    """The model is loaded and warm."""
    service_of(request).check_ready()
    return {"name": manifest.name, "ready": True}


@router.get(MODEL + "/config", responses=example(CONFIG) | UNKNOWN)
@router.get(VERSION + "/config", responses=example(CONFIG) | UNKNOWN, dependencies=OF_VERSION)
async def model_config(request: Request, manifest: Known) -> dict[str, Any]:
    """The model's configuration in Triton's words. `max_batch_size`: the most photos in one request."""
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    return {
        "name": manifest.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": service_of(request).settings.max_images,
        "input": [{"name": IMAGE, "data_type": "TYPE_STRING", "dims": [1]}],
        "output": [
            {"name": output, "data_type": types[OUTPUTS[output]], "dims": [1]} for output in outputs_of(manifest)
        ],
        # a batch is formed as soon as an engine is free; nobody waits for it to fill
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
    }


@router.get(MODEL + "/stats", responses=example(STATS) | UNKNOWN)
@router.get(VERSION + "/stats", responses=example(STATS) | UNKNOWN, dependencies=OF_VERSION)
async def model_statistics(request: Request, manifest: Known) -> dict[str, object]:
    """Counts and nanoseconds of this protocol's requests since the service started."""
    return _answered(request, manifest)


def _statistics(request: Request) -> Statistics:
    found: Statistics = request.app.state.oip_statistics
    return found


def _answered(request: Request, manifest: Manifest) -> dict[str, object]:
    found = _statistics(request)
    return found.answer(found.of(manifest.name, manifest.version))


@router.post(MODEL + "/infer", response_class=Response, responses=OF_INFER, openapi_extra=INFER_BODY)
@router.post(
    VERSION + "/infer", response_class=Response, responses=OF_INFER, openapi_extra=INFER_BODY, dependencies=OF_VERSION
)
async def model_infer(
    request: Request,
    model: Met,
    min_confidence: MinConfidence = None,
    unfamiliar: UnfamiliarMode = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Name the food on one or several photos: JSON with base64 text, or JSON followed by binary tensors."""
    began = time.perf_counter_ns()
    manifest = model.bundle.manifest
    stats = _statistics(request).of(manifest.name, manifest.version)
    try:
        return await _infer(request, model, stats, began, timeout_ms, min_confidence, unfamiliar)
    except Exception:
        forget_refused()
        stats.inference_stats.fail.add(time.perf_counter_ns() - began)
        raise


async def _infer(
    request: Request,
    model: ServedModel,
    stats: ModelStats,
    began: int,
    timeout_ms: int | None,
    min_confidence: float | None,
    unfamiliar: Unfamiliar | None,
) -> Response:
    service = service_of(request)
    asked = await _read(request, model.bundle.manifest)
    top_k = max(1, *(one.classes for one in asked.wanted))
    limits = [one for one in (asked.timeout_ms, timeout_ms) if one is not None]
    least = min_confidence if asked.min_confidence is None else asked.min_confidence
    mode = asked.unfamiliar or unfamiliar
    work = service.predict_all(asked.photos, top_k, min(limits, default=None), least, mode, model=model)
    predictions = _good(await unless_gone(request, work))
    begin_output = time.perf_counter_ns()
    answer = _answer(asked, predictions)
    ended = time.perf_counter_ns()
    stats.succeeded(predictions, ended - began, ended - begin_output)
    return answer


async def _read(request: Request, manifest: Manifest) -> InferRequest:
    binary = "application/json" not in request.headers.get("accept", "")  # for people with curl; no client sends it
    read = partial(
        parse_request,
        head_length=request.headers.get(HEAD_LENGTH),
        max_images=service_of(request).settings.max_images,
        outputs=outputs_of(manifest),
        raw_answer_binary=binary,
    )
    return await parsed(await read_body(request), read, request.app.state.json_reader)


def _good(found: list[Prediction | BaseException]) -> list[Prediction]:
    """The predictions, if all are. Raises the first error; bad photos come first, and all of them
    are named.
    """
    bad = {index: one for index, one in enumerate(found) if isinstance(one, PhotoError)}
    if bad:
        index, first = next(iter(bad.items()))
        every = f" Bad elements: {', '.join(map(str, bad))}." if len(bad) > 1 else ""
        raise ServiceError(first.slug, f"Element {index} of {IMAGE}: {first}{every}")
    good = []
    for one in found:
        if isinstance(one, BaseException):
            raise one
        good.append(one)
    return good


def _answer(asked: InferRequest, found: Sequence[Prediction]) -> Response:
    """JSON; where an output is binary, its bytes follow the JSON, whose length a header gives."""
    head: dict[str, Any] = {"model_name": found[0].model.name, "model_version": found[0].model.version}
    if asked.id is not None:
        head["id"] = asked.id
    tensors = [_tensor(one, found) for one in asked.wanted]
    head["outputs"] = [tensor for tensor, _ in tensors]
    text = json.dumps(head).encode()
    if not any(one.binary for one in asked.wanted):
        return Response(text, media_type="application/json")
    blob = b"".join(data for _, data in tensors)
    return Response(text + blob, media_type="application/octet-stream", headers={HEAD_LENGTH: str(len(text))})


def _tensor(wanted: Wanted, found: Sequence[Prediction]) -> tuple[dict[str, Any], bytes]:
    """An output's JSON and its binary data, which is empty where the JSON holds the data."""
    values: list[str] | list[float]
    if wanted.classes:
        values = [
            f"{top.confidence:f}:{top.class_id}:{top.label}" for one in found for top in one.top[: wanted.classes]
        ]
    elif wanted.name == "LABEL":
        values = [one.label or "" for one in found]  # a BYTES tensor has no null: an empty text is "no answer"
    elif wanted.name == FAMILIARITY:
        values = [UNTOLD if one.familiarity is None else one.familiarity for one in found]
    else:
        values = [one.confidence for one in found]
    kind = "BYTES" if wanted.classes else OUTPUTS[wanted.name]
    tensor: dict[str, Any] = {"name": wanted.name, "datatype": kind, "shape": [len(found), len(values) // len(found)]}
    if not wanted.binary:
        return tensor | {"data": values}, b""
    data = pack_bytes(str(one).encode() for one in values) if kind == "BYTES" else pack_floats(map(float, values))
    return tensor | {"parameters": {"binary_data_size": len(data)}}, data
