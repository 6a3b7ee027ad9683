"""The commands that the chart puts into pods, run for real on this machine, with the pod's folders mapped to others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import ENV_PREFIX
from contract.bundle import MANIFEST_FILE
from contract.files import sha256_file
from tests.app.file_server import FileServer, file_server
from tests.conftest import ROOT
from tests.helm.engine import environment, merged, needs_engine, objects, one, values_of
from training.recipe import recipe_names

pytestmark = needs_engine


def run(container: dict[str, Any], mapped: dict[str, str], **env: str) -> subprocess.CompletedProcess[str]:
    """A container's command and arguments, to its end."""
    return subprocess.run(
        _command(container, mapped), cwd=ROOT, env=_clean(env), capture_output=True, text=True, timeout=120, check=False
    )


def _command(container: dict[str, Any], mapped: dict[str, str]) -> list[str]:
    words = [*container.get("command", ["python", "-m", "app"]), *container.get("args", [])]
    for pod, here in mapped.items():
        words = [word.replace(pod, here) for word in words]
    return [sys.executable if words[0] == "python" else str(Path(sys.executable).parent / words[0]), *words[1:]]


def _clean(more: dict[str, str]) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | more


@pytest.fixture
def web(bundle: Path) -> Iterator[FileServer]:
    """A web server with the bundle."""
    with file_server() as server:
        server.put_folder("/models/tiny", bundle)
        yield server


def downloads(web: FileServer, sha256: str) -> dict[str, Any]:
    """Values of a CPU release that fetches the bundle."""
    url = f"http://{web.address}/models/tiny"
    download = {"source": "download", "download": {"url": url, "sha256": sha256}}
    settings = {"shutdownDelaySeconds": 0, "threads": 1}  # the model is tiny
    return merged(values_of("cpu"), {"model": download, "settings": settings})


def test_fetch_serve_and_test(web: FileServer, bundle: Path, tmp_path: Path) -> None:
    """From the init container to `helm test`, as the kubelet would run them one after another."""
    found = objects(downloads(web, sha256_file(bundle / MANIFEST_FILE)))
    spec = one(found, "Deployment")["spec"]["template"]["spec"]
    models = {"/models/bundle": f"{tmp_path}/models/bundle"}
    fetched = run(spec["initContainers"][0], models)
    assert fetched.returncode == 0, fetched.stderr

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {name: text.replace("/models/bundle", models["/models/bundle"]) for name, text in environment(found).items()}
    env |= {"FOOD_VISION_PORT": str(port), "FOOD_VISION_HOST": "127.0.0.1", "HOME": os.environ["HOME"]}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(_command(spec["containers"][0], {}), cwd=ROOT, env=_clean(env), stderr=log)
    try:
        readiness = spec["containers"][0]["readinessProbe"]["httpGet"]["path"]
        _until_ready(f"http://127.0.0.1:{port}{readiness}", process, tmp_path / "log")
        test = one(found, "Pod")["spec"]["containers"][0]
        tested = run(test, {"http://demo-food-vision:80": f"http://127.0.0.1:{port}"} | models)
        assert tested.returncode == 0, tested.stderr
        assert tested.stdout.count("as it must be") == 3
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_digest_that_does_not_fit_starts_nothing(web: FileServer, tmp_path: Path) -> None:
    found = objects(downloads(web, "0" * 64))
    fetch = one(found, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    done = run(fetch, {"/models/bundle": f"{tmp_path}/models/bundle"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "it is another bundle than was asked for" in done.stderr
    assert not (tmp_path / "models" / "bundle").exists()


def test_a_bucket_that_may_not_be_read(web: FileServer, tmp_path: Path) -> None:
    web.token = "t"
    web.errors["/models/tiny/manifest.json"] = [403]
    values = merged(downloads(web, "0" * 64), {"model.download.url": "gs://models/tiny"})
    fetch = one(objects(values), "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    done = run(
        fetch,
        {"--to=/models/": f"--to={tmp_path}/"},
        STORAGE_EMULATOR_HOST=f"http://{web.address}",
        GCE_METADATA_HOST=web.address,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "fetch: gs://models/tiny/manifest.json may not be read (HTTP 403): give the service account the role "
        "roles/storage.objectViewer on the bucket models.\n"
    )


def test_engines_without_a_gpu_end_with_a_sentence(bundle: Path, tmp_path: Path) -> None:
    found = objects(values_of("tensorrt"))
    builder = one(found, "Job", "-engines")["spec"]["template"]["spec"]["containers"][0]
    env = {it["name"]: it["value"] for it in builder["env"]} | {"HOME": os.environ["HOME"]}
    done = run(builder, {"/models/bundle": str(bundle)}, **env | {"FOOD_VISION_ENGINE_CACHE": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("engines: ")
    assert "tensorrt" in done.stderr


@pytest.mark.parametrize("case", ["training", "training-cpu", "training-indexed", "training-jobset"])
def test_accelerate_takes_the_arguments(case: str) -> None:
    """Up to `-m training`, which here only says its usage."""
    found = objects(values_of(case))
    job = next(it for it in found if it["kind"] in ("Job", "JobSet") and "train" in it["metadata"]["name"])
    spec = job["spec"]["replicatedJobs"][0]["template"]["spec"] if job["kind"] == "JobSet" else job["spec"]
    container = spec["template"]["spec"]["containers"][0]
    words = container["args"]
    at = words.index("-m") + 2
    assert words[at - 1] == "training"
    own = [word for word in words[at:] if not word.startswith(("--recipe=", "--out=/out/", "--set="))]
    assert own == []
    assert next(word for word in words if word.startswith("--recipe=")).removeprefix("--recipe=") in recipe_names()
    nodes, gpus = values_of(case)["training"].get("nodes", 1), container["resources"]["limits"].get("nvidia.com/gpu", 0)
    assert f"--num_machines={nodes}" in words
    assert f"--num_processes={nodes * max(gpus, 1)}" in words
    assert ("--multi_gpu" in words) == (nodes * gpus > 1)
    assert ("--cpu" in words) == (gpus == 0)
    if case != "training-jobset":  # one is enough: it takes ten seconds
        return
    alone = ["--cpu", "--num_machines=1", "--num_processes=1", "--machine_rank=0"]
    flags = [
        word for word in words[: at - 2] if not word.startswith(("--multi_gpu", "--cpu", "--num_", "--machine_rank"))
    ]
    done = run({"command": container["command"], "args": [*alone, *flags, "-m", "training", "--help"]}, {})
    assert done.returncode == 0, done.stderr
    assert "Fine-tune BLIP" in done.stdout


def test_the_nodes_of_a_training_run_find_each_other() -> None:
    found = objects(values_of("training-indexed"))
    job, service = one(found, "Job", "-train-7"), one(found, "Service", "-train-7")
    spec = job["spec"]
    container = spec["template"]["spec"]["containers"][0]
    name = job["metadata"]["name"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"] == name
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert f"--main_process_ip={name}-0.{name}" in container["args"]
    assert "--machine_rank=$(NODE)" in container["args"]
    node = next(it for it in container["env"] if it["name"] == "NODE")
    assert "job-completion-index" in node["valueFrom"]["fieldRef"]["fieldPath"]
    several = one(objects(values_of("training-jobset")), "JobSet")
    name = several["metadata"]["name"]
    inner = several["spec"]["replicatedJobs"][0]
    assert several["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": name}
    args = inner["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--main_process_ip={name}-{inner['name']}-0-0.{name}" in args
    assert inner["template"]["spec"]["backoffLimit"] == 0
