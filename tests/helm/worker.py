"""Answers questions about the chart, one JSON object a line, in the virtual environment of `make chart-venv`.

Helm's engine (the Go library, through helm-python-sdk) and the Kubernetes schemas are large and for tests alone, so they
live apart; `tests/helm/engine.py` starts this file and asks. Imports nothing of this repository.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python as helm
import kubernetes_validate
from helm_python import _native


class Worker:
    """Each method that is not private is a question; its arguments come by name."""

    def __init__(self) -> None:
        self._configs: dict[str, helm.Config] = {}

    def render(
        self, chart: str, values: dict[str, Any], kube: str, apis: list[str], name: str, namespace: str
    ) -> dict[str, str]:
        """Every template's text, NOTES.txt too. The public `render` cannot say the cluster's version."""
        loaded = helm.Chart.load(chart)  # must live until the call ends
        options = {"name": name, "namespace": namespace, "kube_version": kube, "api_versions": apis}
        handle = loaded._raw()
        found: dict[str, str] = json.loads(
            _native.call_string("helm_render", handle, json.dumps(values), json.dumps(options))
        )
        return found

    def lint(self, chart: str, values: dict[str, Any], kube: str) -> dict[str, Any]:
        """Helm's own lint, strict."""
        return dict(helm.lint(chart, values, strict=True, kube_version=kube))

    def package(self, chart: str, destination: str) -> str:
        """Path of the packaged chart."""
        return str(helm.package(chart, destination=destination))

    def dry_run(self, chart: str, values: dict[str, Any], kube: str) -> str:
        """`helm install --dry-run=client`, which also holds to Chart.yaml's kubeVersion; the manifest."""
        with helm.Config(storage_driver="memory", namespace="ns") as config:
            handle, reference = config._chart_args(chart)
            options = json.dumps({"namespace": "ns", "dry_run": "client", "kube_version": kube})
            answer = _native.call_string(
                "helm_install", config._raw(), config._context_arg(None), handle, reference, "rel",
                json.dumps(values), options,
            )  # fmt: skip
        return str(json.loads(answer)["manifest"])

    def validate(self, documents: list[dict[str, Any]], versions: list[str]) -> list[str]:
        """What is wrong with each document by Kubernetes' own schemas, unknown fields included."""
        wrong = []
        for version in versions:
            for document in documents:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except Exception as error:
                    place = f"{version} {document.get('kind')} {document.get('metadata', {}).get('name')}"
                    wrong.append(f"{place}: {getattr(error, 'message', error)}")
        return wrong

    def cluster(self, config: str, kubeconfig: str) -> None:
        """Remember a connection under a name; releases are stored in its memory."""
        self._configs[config] = helm.Config(
            kubeconfig_content=kubeconfig, storage_driver="memory", namespace="food", qps=1000, burst_limit=1000
        )

    def act(self, config: str, action: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        """`install`, `upgrade`, `rollback`, `history`, `test`, `uninstall` on a connection."""
        return getattr(self._configs[config], action)(*arguments, **options)


def main() -> None:
    """Answer until the input ends."""
    worker = Worker()
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"answer": getattr(worker, question["ask"])(**question["with"])}
        except Exception as error:
            answer = {"error": f"{error}", "type": type(error).__name__}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main()
