"""The API description: committed, complete, and true. Every curl command in it is run."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from app.faults import ERRORS, Fault
from app.web.openapi import ADDRESS, MODEL, complete, operation_id
from scripts import openapi
from tests.app.inside import running
from tests.app.photos import assert_error
from tests.conftest import ROOT, drawn_png

DOCUMENT: dict[str, Any] = openapi.description()
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
COUNT = sum(len(methods) for methods in DOCUMENT["paths"].values())


def test_what_is_committed_is_what_the_code_says(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change: python -m scripts.openapi --write."""
    assert openapi.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "part"), [("openapi.json", '"operationId": "predict"'), ("api.md", "| 409 | `")])
def test_the_check_sees_a_stale_file(
    name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for attribute in ("DESCRIPTION", "API_DOCS"):
        copy = tmp_path / getattr(openapi, attribute).name
        copy.write_bytes(getattr(openapi, attribute).read_bytes())
        monkeypatch.setattr(openapi, attribute, copy)
    monkeypatch.setattr(openapi, "ROOT", tmp_path)
    assert openapi.main(["--write"]) == 0
    assert openapi.main(["--check"]) == 0
    file = tmp_path / name
    good = file.read_text(encoding="utf-8")
    assert good.count(part) == 1
    file.write_text(good.replace(part, "something else"), encoding="utf-8")
    assert openapi.main(["--check"]) == 1
    assert f"{name} is stale" in capsys.readouterr().err
    assert openapi.main(["--write"]) == 0
    assert file.read_text(encoding="utf-8") == good
    monkeypatch.setitem(ERRORS, "new_error", Fault(418, "Something new."))
    assert openapi.main(["--check"]) == 1


def test_operation_ids() -> None:
    assert len(OPERATIONS) == COUNT, "each is used once"
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in OPERATIONS)
    for path, method, expected in (
        ("/predict/batch", "POST", "predict_batch"), ("/v2/models/{name}/infer", "POST", "v2_models_infer"),
        ("/", "GET", "root"), ("/", "POST", "post_root"), ("/a-b.c", "GET", "a_b_c"),
    ):  # fmt: skip
        assert operation_id(APIRoute(path, lambda: None, methods=[method])) == expected


def test_completing_twice_changes_nothing() -> None:
    once = json.dumps(DOCUMENT)
    assert json.dumps(complete(json.loads(once))) == once


def test_the_served_description_is_the_committed_one(server: str) -> None:
    assert httpx.get(f"{server}/openapi.json").json() == json.loads(openapi.DESCRIPTION.read_text(encoding="utf-8"))


def test_where_keys_are_asked_for_it_says_so(bundle: Path, tmp_path: Path) -> None:
    assert "securitySchemes" not in DOCUMENT["components"]
    (tmp_path / "keys").write_text("secret-1\n", encoding="utf-8")
    with running(bundle, api_keys_file=tmp_path / "keys") as (url, _):
        document = httpx.get(f"{url}/openapi.json").json()
        assert set(document["components"]["securitySchemes"]) == {"bearer", "api_key"}
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                refused = httpx.request(method, url + path).status_code == 401
                assert ("security" in operation) == refused, f"{method} {path}"


WRONG_METHODS = [
    ("GET", "/predict", "POST"),
    ("OPTIONS", "/", "GET, HEAD, POST"),
    ("POST", "/v2/models/a/stats", "GET"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), WRONG_METHODS)
def test_wrong_methods_are_named(server: str, method: str, path: str, allowed: str) -> None:
    response = httpx.request(method, server + path)
    assert method in assert_error(response, "method_not_allowed")
    assert response.headers["allow"] == allowed


def test_every_slug_is_listed() -> None:
    assert DOCUMENT["components"]["schemas"]["ErrorBody"]["properties"]["error_type"]["enum"] == list(ERRORS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_complete(name: str) -> None:
    method, _, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["tags"]
    assert ("requestBody" in operation) == (method == "post")
    assert "422" not in operation["responses"]
    kinds = operation["responses"]["200"]["content"]
    assert any("example" in kind or "examples" in kind for kind in kinds.values()), "app/web/openapi.py lacks an answer"
    for status, answer in operation["responses"].items():
        if status == "200":
            continue
        examples = answer["content"]["application/json"]["examples"]
        for slug, example in examples.items():
            assert ERRORS[slug].status == int(status)
            assert example["value"]["error_type"] == slug
            assert f"`{slug}`" in answer["description"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the commands send."""
    folder = tmp_path_factory.mktemp("curl")
    for number, name in enumerate(("photo.jpg", "one.jpg", "two.jpg")):
        (folder / name).write_bytes(drawn_png(number))
    text = base64.b64encode(drawn_png(0)).decode()
    photo = {"name": "IMAGE", "datatype": "BYTES", "shape": [1, 1], "data": [text]}
    (folder / "request.json").write_text(json.dumps({"id": "42", "inputs": [photo]}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_curl_command_works_and_its_answer_looks_like_the_example(name: str, server: str, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    model = httpx.get(f"{server}/info").json()["model"]
    command = OPERATIONS[name][2]["x-codeSamples"][0]["source"].replace(ADDRESS, server)
    command = command.replace(f"/{MODEL.name}", f"/{model['name']}").replace(MODEL.version, model["version"])
    words = [*shlex.split(command), "--silent", "--show-error", "--fail-with-body"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = OPERATIONS[name][2]["responses"]["200"]["content"].get("application/json")
    if answer is None or not done.stdout:
        return
    example = answer["example"] if "example" in answer else next(iter(answer["examples"].values()))["value"]
    compare(example, json.loads(done.stdout), name)


def compare(example: Any, real: Any, where: str) -> None:
    """Same types and no key that the service does not give; figures and texts may differ."""
    if isinstance(example, dict) and isinstance(real, dict) and "error_type" not in example:
        assert set(example) <= set(real), where
        for key in example:
            compare(example[key], real[key], f"{where}.{key}")
    elif isinstance(example, list) and isinstance(real, list) and example and real:
        compare(example[0], real[0], f"{where}[0]")
    elif real is not None and not isinstance(example, dict):
        assert isinstance(real, int | float) if isinstance(example, float) else isinstance(real, type(example)), where


@pytest.mark.parametrize("name", ["post_root", "v2_models_infer", "v2_models_versions_infer"])
def test_the_example_request_can_be_sent_as_it_stands(name: str, server: str) -> None:
    model = httpx.get(f"{server}/info").json()["model"]
    method, path, operation = OPERATIONS[name]
    path = path.replace("{name}", model["name"]).replace("{version}", model["version"])
    body = operation["requestBody"]["content"]["application/json"]["example"]
    assert httpx.request(method, server + path, json=body, timeout=30).status_code == 200


def test_no_parameter_may_be_null() -> None:
    for _, _, operation in OPERATIONS.values():
        for parameter in operation.get("parameters", ()):
            assert isinstance(parameter["schema"]["type"], str), parameter["name"]


def test_every_route_is_in_the_docs() -> None:
    text = openapi.API_DOCS.read_text(encoding="utf-8")
    for method, path, _ in OPERATIONS.values():
        assert f"{method.upper()} {path.replace('/versions/{version}', '')}" in text, f"{method} {path}"


def test_commands_of_the_docs_name_routes_that_exist() -> None:
    text = openapi.API_DOCS.read_text(encoding="utf-8")
    paths = [
        re.escape(path).replace(r"\{name\}", "[^/]+").replace(r"\{version\}", "[^/]+") for path in DOCUMENT["paths"]
    ]
    asked = re.findall(re.escape(ADDRESS) + r"(/[^\s'?]*)", text)
    assert len(asked) >= 10
    for path in asked:
        assert path in ("/metrics", "/docs", "/openapi.json") or any(re.fullmatch(one, path) for one in paths), path


def test_images_and_links_of_the_docs_exist() -> None:
    for file in (openapi.API_DOCS, ROOT / "README.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
