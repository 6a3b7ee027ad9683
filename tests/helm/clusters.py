"""The clusters that the chart is installed on in tests: GKE Standard, GKE Autopilot, and one that is not GKE's.

What Autopilot refuses and changes is written down from Google's pages (autopilot-security, autopilot-resource-requests,
autopilot-privileged-allowlists: the names of its constraints), not seen on a cluster. It is stricter here than there: a
limit always becomes the request, as on Autopilot clusters without bursting.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.helm.engine import Engine
from tests.helm.fake_api import Object
from tests.helm.more_kinds import check_foreign, inner_objects, is_foreign

GOOGLES = ("monitoring.googleapis.com/v1", "networking.gke.io/v1", "autoscaling.gke.io/v1beta1")
ADDED = ("keda.sh/v1alpha1", "jobset.x-k8s.io/v1alpha2", "monitoring.coreos.com/v1")  # by whoever runs the cluster
GATEWAY = "gateway.networking.k8s.io/v1"
GI = 1 << 30
# autogke-default-linux-capabilities
CAPABILITIES = set(
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT SYS_PTRACE".split()
)
DEFAULTS = {"cpu": "500m", "memory": "2Gi", "ephemeral-storage": "1Gi"}
MOST_STORAGE = 10 * GI  # of a pod without a GPU; one with it may have more, how much is not held here


@dataclass(frozen=True)
class Cluster:
    """Version, groups that it lacks, and what is asked of each object: it says what is wrong, and may change it."""

    version: str
    lacks: tuple[str, ...]
    admit: Callable[[Object], str]


@functools.cache
def _validator() -> Engine:
    return Engine()  # its own: the other one waits for Helm while the server asks


def by_schema(it: Object) -> str:
    """What is wrong with an object, as the strict schemas of Kubernetes 1.35 and of tests/helm/kinds.py say."""
    if is_foreign(it):
        try:
            check_foreign(it)
        except ValueError as error:
            return str(error)
    own = inner_objects(it) if is_foreign(it) else [it]
    return "; ".join(_validator().ask("validate", documents=own, versions=["1.35"]))


def of_autopilot(it: Object) -> str:
    """The same, on Autopilot: resources are filled in first, then the constraints on pods hold."""
    said = []
    for pod in _pods(it):
        _fill_in(pod)
        said += [f'[denied by {name}]: "{why}"' for name, why in _denied(pod)]
    return f"GKE Warden rejected the request: {'; '.join(said)}" if said else by_schema(it)


STANDARD = Cluster("v1.35.1-gke.1396000", ADDED, by_schema)
AUTOPILOT = Cluster("v1.35.1-gke.1396000", ADDED, of_autopilot)
PLAIN = Cluster("v1.33.4", (*GOOGLES, *ADDED, GATEWAY), by_schema)


def bytes_of(quantity: Any) -> int:
    """Bytes of `8Gi`, `500M` or 1000000."""
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": GI, "Ti": 1 << 40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
    text = str(quantity)
    unit = next((unit for unit in units if text.endswith(unit)), "")
    return int(float(text.removesuffix(unit)) * units.get(unit, 1))


def storage_limit(pod: Object) -> int | None:
    """The ephemeral storage in bytes above which the kubelet evicts a pod, None for no such limit.

    The limits of its containers together, or that of an init container that is larger: `PodLimits`, of which
    `podEphemeralStorageLimitEviction` makes the pod's. A container without a limit adds nothing, but what it writes
    counts all the same.
    """

    def limits(kind: str) -> list[int]:
        asked = [one.get("resources", {}).get("limits", {}) for one in pod.get(kind, [])]
        return [bytes_of(limit["ephemeral-storage"]) for limit in asked if "ephemeral-storage" in limit]

    running, initial = limits("containers"), limits("initContainers")
    return max(sum(running), *initial, 0) if running or initial else None


def storage_written(pod: Object) -> int:
    """Most bytes that the emptyDirs of a pod may come to on the node, by their own limits, those in memory aside."""
    folders = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
    return sum(bytes_of(folder["sizeLimit"]) for folder in folders if folder.get("medium") != "Memory")


def _pods(it: Object) -> Iterator[Object]:
    if it["kind"] == "Pod":
        yield it["spec"]
    elif it["kind"] in ("Deployment", "Job"):
        yield it["spec"]["template"]["spec"]


def _fill_in(pod: Object) -> None:
    for one in [*pod["containers"], *pod.get("initContainers", [])]:
        resources = one.setdefault("resources", {})
        requests = resources.setdefault("requests", {})
        limits = resources.setdefault("limits", {})
        for name, default in DEFAULTS.items():
            limits[name] = requests.setdefault(name, limits.get(name, default))


def _denied(pod: Object) -> Iterator[tuple[str, str]]:
    for name in ("hostIPC", "hostNetwork", "hostPID"):
        if pod.get(name):
            yield "autogke-disallow-hostnamespaces", f"enabling {name} is not allowed in Autopilot."
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield "autogke-no-write-mode-hostpath", f"hostPath volume {volume['name']} is not allowed in Autopilot."
    if pod.get("nodeSelector", {}).get("cloud.google.com/gke-gpu-sharing-strategy") == "mps":
        yield "gpu-sharing", "NVIDIA MPS is for GKE Standard."
    if "kubernetes.io/hostname" in pod.get("nodeSelector", {}):
        yield "autogke-node-affinity-selector-limitation", "kubernetes.io/hostname is not allowed in Autopilot."
    gpu = False
    for one in [*pod["containers"], *pod.get("initContainers", [])]:
        security, limits = one.get("securityContext", {}), one["resources"]["limits"]
        gpu = gpu or "nvidia.com/gpu" in limits
        if security.get("privileged"):
            yield "autogke-disallow-privilege", f"container {one['name']} is privileged; not allowed in Autopilot."
        if more := set(security.get("capabilities", {}).get("add", [])) - CAPABILITIES:
            yield "autogke-default-linux-capabilities", f"linux capability {sorted(more)} not allowed."
        if any("hostPort" in port for port in one.get("ports", [])):
            yield "autogke-no-host-port", f"container {one['name']} has a host port; not allowed in Autopilot."
    asked = storage_limit(pod) or 0
    if asked > MOST_STORAGE and not gpu:
        yield "autogke-pod-limit-constraints", f"ephemeral-storage {asked} is higher than the maximum {MOST_STORAGE}."
