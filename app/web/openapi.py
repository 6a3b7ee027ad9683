"""The API description (`/openapi.json`): readable operation ids, examples, and no answer that is
never given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from fastapi.routing import APIRoute

from app.faults import ErrorBody
from app.serving.schemas import Abstention, BatchAnswer, Candidate, Caption, Health, Labels, Links, Model, Prediction
from app.web.keys import is_open

ADDRESS = "http://127.0.0.1:8000"
GROUPS = {"predict": "Photos", "caption": "Photos", "health": "Operation", "metrics": "Operation"}

# Either will do; Swagger UI has an Authorize button where there are such schemes.
SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key as `Authorization: Bearer KEY`"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "or as `X-Api-Key: KEY`"},
}


def operation_id(route: APIRoute) -> str:
    """A name for generated clients: the path's fixed words, so that renaming a function changes no
    client.

    `/predict/batch` → `predict_batch`, `/v2/models/{name}/infer` → `v2_models_infer`; for `/` it is
    `root`, with the method before it unless that is GET.
    """
    words = [word for word in route.path.split("/") if word and not word.startswith("{")]
    if words:
        return re.sub(r"\W", "_", "_".join(words))
    methods = sorted(route.methods or ())
    return "root" if {"GET", "HEAD"} & set(methods) else f"{methods[0].lower()}_root"


def complete(document: dict[str, Any], *, keys: bool = False, probed: Collection[str] = ()) -> dict[str, Any]:
    """FastAPI's document with our examples, without what is not so: 422 (`app.web.errors` answers
    400), null parameters.

    With `keys` it says which operations need one (`probed`: as in `app.web.keys`), and `/docs` asks
    for it.
    """
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            operation["summary"] = _first_sentence(operation.get("description", operation["operationId"]))
            operation.setdefault("tags", [GROUPS.get(path.split("/")[1], "Model and page")])
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _without_null(parameter["schema"])
            if keys and not is_open(method.upper(), path, probed):
                operation["security"] = [{name: []} for name in SCHEMES]
            _add_examples(operation, method, path)
    if keys:
        document.setdefault("components", {})["securitySchemes"] = SCHEMES
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


def behind(document: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The document as it is behind a proxy with such a prefix; the one that is given stays as it
    was.
    """
    if not prefix:
        return document
    found: dict[str, Any] = json.loads(json.dumps(document).replace(ADDRESS, ADDRESS + prefix))
    return found | {"servers": [{"url": prefix}]}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out cannot be null: no URL or header can say that."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return {**kinds[0], **{key: value for key, value in schema.items() if key != "anyOf"}} if kinds else schema


def _first_sentence(text: str) -> str:
    return re.split(r"[.:;](?:\s|$)", text, maxsplit=1)[0]


def _add_examples(operation: dict[str, Any], method: str, path: str) -> None:
    name = operation["operationId"]
    for parameter, value in IN_PATHS.items():
        path = path.replace(parameter, value)
    options = CURL.get(name, "" if method == "get" else f"-X {method.upper()}")
    command = " ".join(part for part in ("curl", options, ADDRESS + path) if part)
    operation["x-codeSamples"] = [{"lang": "Shell", "label": "curl", "source": command}]
    answer = operation["responses"].get("200", {}).get("content", {}).get("application/json", {})
    if name in ANSWERS and answer and "examples" not in answer:
        answer.setdefault("example", ANSWERS[name])


# -- examples ---------------------------------------------------------------------------------------------------------
# One answer for each operation, built from the answers' own classes: a test holds that none lacks one.
# The figures are those of a small model trained on drawn pictures.

MODEL = Model(name="food101", version="ad197e481c04")
IN_PATHS = {"{name}": MODEL.name, "{version}": MODEL.version}  # what stands for a parameter of the path in examples
PREDICTION = Prediction(
    prediction="Beignets",
    raw_output="a photo of delicious 6",
    class_id=6,
    label="beignets",
    confidence=0.941,
    abstained=None,
    familiarity=0.6187,
    unfamiliar=False,
    top=[
        Candidate(class_id=6, label="beignets", prediction="Beignets", confidence=0.941),
        Candidate(class_id=31, label="donuts", prediction="Donuts", confidence=0.032),
    ],
    model=MODEL,
    timings_ms={"decode": 2.4, "queue": 0.1, "encode": 8.0, "score": 0.9, "total": 11.6},
)
UNSURE = PREDICTION.model_copy(
    update={
        "prediction": None,
        "class_id": None,
        "label": None,
        "confidence": 0.412,
        "abstained": Abstention(
            reason="low_confidence",
            message="The best label has a probability of 0.412, below 0.6.",
            min_confidence=0.6,
            min_familiarity=None,
        ),
        "top": [
            Candidate(class_id=6, label="beignets", prediction="Beignets", confidence=0.412),
            Candidate(class_id=31, label="donuts", prediction="Donuts", confidence=0.388),
        ],
    }
)
UNFAMILIAR = PREDICTION.model_copy(
    update={
        "prediction": None,
        "class_id": None,
        "label": None,
        "confidence": 0.497,
        "abstained": Abstention(
            reason="unfamiliar",
            message="It does not look like what the model was trained on: only 0.02 % of the training photos look less "
            "like the rest, below 1 %.",
            min_confidence=None,
            min_familiarity=0.01,
        ),
        "familiarity": 0.0002,
        "unfamiliar": True,
    }
)
CAPTION = Caption(
    caption="a photo of delicious 6",
    prediction="Beignets",
    model=MODEL,
    timings_ms={"decode": 2.4, "queue": 0.1, "encode": 8.0, "generate": 14.2, "total": 24.9},
)
BROKEN = ErrorBody(error="The image is damaged or truncated.", error_type="bad_image")
INFO = {
    "model": MODEL.model_dump(),
    "state": "ready",
    "provider": "cpu",
    "engines": 1,
    "max_batch": 16,
    "labels": 101,
    "image_size": 384,
    "precision": "fp32",
    "caption": "a photo of delicious {target}",
    "tower": {
        "name": "blip-vit",
        "source": "Salesforce/blip-image-captioning-base",
        "licence": None,
        "needs_cudnn": False,
    },
    "familiarity": {
        "photos": 4096,
        "directions": 128,
        "neighbours": 10,
        "unfamiliar": "abstain",
        "below": 0.01,
        "check": None,
    },
    "demonstration": False,
    "abstain_below": 0.0,
    "limits": {"max_batch": 16, "max_queue": 256, "max_body_bytes": 33554432, "max_pixels": 67108864},
    "queued": {"predict": 0, "caption": 0},
}

# operation id → the body of its 200 answer
ANSWERS: dict[str, Any] = {
    "root": Links().model_dump(),
    "post_root": [{"label": "beignets", "score": 0.941, "generated_text": "a photo of delicious 6"}],
    "predict": PREDICTION.model_dump(),
    "predict_batch": BatchAnswer(results=[PREDICTION, UNSURE, UNFAMILIAR, BROKEN]).model_dump(),
    "caption": CAPTION.model_dump(),
    "labels": Labels(labels=[{"id": 6, "name": "beignets", "display": "Beignets"}]).model_dump(),
    "info": INFO,
    "health": Health(status="ok").model_dump(),
    "health_live": Health(status="ok").model_dump(),
    "health_ready": Health(status="ok").model_dump(),
}

# operation id → what stands between `curl` and the address; a test runs every command as it is shown
CURL: dict[str, str] = {
    "predict": "-F image=@photo.jpg",
    "predict_batch": "-F images=@one.jpg -F images=@two.jpg",
    "caption": "-F image=@photo.jpg",
    "root": "-H 'Accept: application/json'",
    "post_root": "--data-binary @photo.jpg",
    "v2_models_infer": "-d @request.json",
    "v2_models_versions_infer": "-d @request.json",
}
