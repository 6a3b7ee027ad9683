"""A chart's rendered manifest, run in containers by `podman play kube`: the pod as the cluster would start it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from scripts.containers import Tools
from tests.image.container import wait_until_ready

KINDS = {
    "Deployment",
    "ConfigMap",
    "Secret",
    "PersistentVolumeClaim",
}  # what podman makes of a manifest; the rest is the cluster's
PORT = 8000


def for_podman(manifest: str, image: str, port: int) -> list[dict[str, Any]]:
    """The documents that podman runs: one replica, this image, published on `port` of the loopback address.

    What only a cluster has is left out: GPU limits, the grace before SIGTERM that load balancers need, and the restart of
    a container that has ended, whose exit code would be lost. An init container's place in the pod's life is told to
    podman by its own annotation. All else stays as rendered.
    """
    found = [document for document in yaml.safe_load_all(manifest) if document and document["kind"] in KINDS]
    deployments = [document for document in found if document["kind"] == "Deployment"]
    assert len(deployments) == 1, f"{len(deployments)} Deployments were rendered, and one is run"
    spec = deployments[0]["spec"]
    spec["replicas"] = 1
    template = spec["template"]
    container = template["spec"]["containers"][0]
    container["image"], container["imagePullPolicy"] = image, "Never"
    container.pop("lifecycle", None)
    template["spec"]["restartPolicy"] = "Never"
    for kind in ("limits", "requests"):
        container.get("resources", {}).get(kind, {}).pop("nvidia.com/gpu", None)
    for one in container["ports"]:
        if one["containerPort"] == PORT:
            one["hostPort"], one["hostIP"] = port, "127.0.0.1"
    if template["spec"].get("initContainers"):
        notes = template.setdefault("metadata", {}).setdefault("annotations", {})
        notes["io.podman.annotations.init.container.type"] = "always"
    return found


@contextmanager
def played(tools: Tools, manifest: str, image: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The base URL of the Deployment in `manifest`, ready to answer, and the container's name; taken down at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "played.yaml"
    file.write_text(yaml.safe_dump_all(for_podman(manifest, image, port)))
    try:
        tools.call("play", "kube", file)
        names = tools.call("ps", "--all", "--format", "{{.Names}} {{.Image}}").splitlines()
        name = next(line.split()[0] for line in names if line.split()[1] == image)

        def logs() -> str:
            command = [*tools.run, "logs", name]
            env = os.environ | tools.env
            return subprocess.run(command, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False).stdout

        wait_until_ready(f"http://127.0.0.1:{port}", logs)
        yield f"http://127.0.0.1:{port}", name
    finally:
        tools.call("play", "kube", "--down", file, check=False)


def host_config(tools: Tools, name: str) -> dict[str, Any]:
    """What the runtime was told about a container: its rights and limits."""
    found: dict[str, Any] = json.loads(tools.call("inspect", name))[0]
    return found
