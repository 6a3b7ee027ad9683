"""The API description (`/openapi.json`): readable operation ids, examples, and no answer that is never given."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from fastapi.routing import APIRoute

from app.web.examples import ANSWERS, CURL, MODEL
from app.web.keys import is_open

ADDRESS = "http://127.0.0.1:8000"
IN_PATHS = {"{name}": MODEL.name, "{version}": MODEL.version}  # what stands for a parameter of the path in examples
GROUPS = {"predict": "Photos", "caption": "Photos", "health": "Operation", "metrics": "Operation"}


# Either will do; Swagger UI has an Authorize button where there are such schemes.
SCHEMES: dict[str, dict[str, str]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key as `Authorization: Bearer KEY`"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "or as `X-Api-Key: KEY`"},
}


def operation_id(route: APIRoute) -> str:
    """A name for generated clients: the path's fixed words, so that renaming a function changes no client.

    `/predict/batch` → `predict_batch`, `/v2/models/{name}/infer` → `v2_models_infer`; for `/` it is `root`, with the
    method before it unless that is GET.
    """
    words = [word for word in route.path.split("/") if word and not word.startswith("{")]
    if words:
        return re.sub(r"\W", "_", "_".join(words))
    methods = sorted(route.methods or ())
    return "root" if {"GET", "HEAD"} & set(methods) else f"{methods[0].lower()}_root"


def complete(document: dict[str, Any], *, keys: bool = False, probed: Collection[str] = ()) -> dict[str, Any]:
    """FastAPI's document with our examples, without what is not so: 422 (`app.web.errors` answers 400), null parameters.

    With `keys` it says which operations need one (`probed`: as in `app.web.keys`), and `/docs` asks for it.
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
    """The document as it is behind a proxy with such a prefix; the one that is given stays as it was."""
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
