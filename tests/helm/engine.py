"""Helm's engine for tests: a process in build/chart-venv that is started once and asked through pipes."""

from __future__ import annotations

import atexit
import functools
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

CHART = ROOT / "helm" / "food-vision"
PYTHON = ROOT / "build" / "chart-venv" / "bin" / "python"
KUBE = "v1.35.1-gke.1396000"
GKE = [  # what GKE has beside Kubernetes' own
    "autoscaling.gke.io/v1beta1", "gateway.networking.k8s.io/v1", "monitoring.googleapis.com/v1", "networking.gke.io/v1",
]  # fmt: skip
LEAST = {"image": {"repository": "example.com/food-vision", "tag": "0.1.0"}}
CASES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
Object = dict[str, Any]

needs_engine = pytest.mark.skipif(
    not (PYTHON.parent.parent / ".installed").exists(), reason="needs Helm's engine: make chart-venv"
)


class HelmError(Exception):
    """What Helm said; the message is what a user would read."""


class Engine:
    """One process of `worker.py`."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._process = subprocess.Popen(
            [str(PYTHON), str(Path(__file__).parent / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        atexit.register(self.close)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def ask(self, question: str, **arguments: Any) -> Any:
        """The answer, or `HelmError`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            self._process.stdin.write(json.dumps({"ask": question, "with": arguments}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise HelmError(answer["error"])
        return answer["answer"]


@functools.cache
def engine() -> Engine:
    """The process that all tests share."""
    return Engine()


def values_of(case: str) -> Object:
    """The values in helm/food-vision/ci/CASE-values.yaml."""
    return dict(yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text(encoding="utf-8")))


def merged(*parts: Object) -> Object:
    """Values laid over one another, as Helm does; a dotted key at the top reaches inside."""
    found: Object = {}
    for part in parts:
        for key, value in part.items():
            *above, last = key.split(".")
            _lay(found, {above[0]: _nested(above[1:], last, value)} if above else {last: value})
    return found


def _nested(above: list[str], last: str, value: Any) -> Object:
    return {above[0]: _nested(above[1:], last, value)} if above else {last: value}


def _lay(over: Object, part: Object) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            if not isinstance(over.get(key), dict):
                over[key] = {}
            _lay(over[key], value)
        else:
            over[key] = value


def texts(
    values: Object, *, kube: str = KUBE, name: str = "demo", apis: list[str] = GKE, chart: Path = CHART
) -> dict[str, str]:
    """Each template's text by file name, without the empty ones: `helm template --api-versions`. Raises `HelmError`."""
    found = engine().ask("render", chart=str(chart), values=values, kube=kube, apis=apis, name=name, namespace="food")
    return {path.partition("/templates/")[2]: text for path, text in found.items() if text.strip()}


def objects(
    values: Object, *, kube: str = KUBE, name: str = "demo", apis: list[str] = GKE, chart: Path = CHART
) -> list[Object]:
    """Every object of the release, hooks too. Raises `HelmError`."""
    rendered = texts(values, kube=kube, name=name, apis=apis, chart=chart)
    documents = (yaml.safe_load_all(text) for path, text in sorted(rendered.items()) if path != "NOTES.txt")
    return [document for several in documents for document in several if document]


def one(found: list[Object], kind: str, suffix: str = "") -> Object:
    """The only object of a kind (whose name ends so)."""
    right = [it for it in found if it["kind"] == kind and it["metadata"]["name"].endswith(suffix)]
    assert len(right) == 1, f"{len(right)} of {kind} {suffix}"
    return right[0]


def pod_specs(found: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Name, pod metadata and pod spec of each object that makes pods."""
    for it in found:
        name = f"{it['kind']}/{it['metadata']['name']}"
        if it["kind"] == "Pod":
            yield name, it["metadata"], it["spec"]
        elif it["kind"] in ("Deployment", "Job"):
            yield name, it["spec"]["template"]["metadata"], it["spec"]["template"]["spec"]
        elif it["kind"] == "JobSet":
            for job in it["spec"]["replicatedJobs"]:
                template = job["template"]["spec"]["template"]
                yield name, template["metadata"], template["spec"]


def server(found: list[Object]) -> Object:
    """The service's container."""
    containers: list[Object] = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert len(containers) == 1
    return containers[0]


def environment(found: list[Object]) -> dict[str, str]:
    """What the service's container is given, but for values that come from elsewhere."""
    assert "envFrom" not in server(found)  # an object that the next revision may change
    return {it["name"]: it["value"] for it in server(found)["env"] if "value" in it}
