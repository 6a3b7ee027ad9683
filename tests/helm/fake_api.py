"""A Kubernetes API server for tests, small: discovery, objects in memory, watches, server-side apply by replacement.

What Helm sends goes through the same strict validation as in the other tests, so a wrong field is refused as by a real
server. Nothing runs: pods and Jobs are finished at once, well or badly as the test says.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
KINDS: dict[str, dict[str, str]] = {  # group/version: kind by plural
    "v1": {
        "configmaps": "ConfigMap",
        "namespaces": "Namespace",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "pods": "Pod",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment", "replicasets": "ReplicaSet"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "batch/v1": {"jobs": "Job"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "autoscaling.gke.io/v1beta1": {"autoscalingmetrics": "AutoscalingMetric"},
    "gateway.networking.k8s.io/v1": {"gateways": "Gateway", "httproutes": "HTTPRoute"},
    "jobset.x-k8s.io/v1alpha2": {"jobsets": "JobSet"},
    "keda.sh/v1alpha1": {"scaledobjects": "ScaledObject", "triggerauthentications": "TriggerAuthentication"},
    "apiregistration.k8s.io/v1": {"apiservices": "APIService"},
    "monitoring.coreos.com/v1": {"prometheusrules": "PrometheusRule", "servicemonitors": "ServiceMonitor"},
    "monitoring.googleapis.com/v1": {"podmonitorings": "PodMonitoring", "rules": "Rules"},
    "networking.gke.io/v1": {"gcpbackendpolicies": "GCPBackendPolicy", "healthcheckpolicies": "HealthCheckPolicy"},
}
PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<space>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)


class FakeCluster(ThreadingHTTPServer):
    """`admit` is asked of each object that is written and returns what is wrong with it, or nothing; it may change the
    object, as an admission webhook does."""

    daemon_threads = True

    def __init__(self, version: str, admit: Callable[[Object], str], lacks: Collection[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.version, self.admit = version, admit
        self.kinds = {group: kinds for group, kinds in KINDS.items() if group not in lacks}
        self.objects: dict[tuple[str, str, str], Object] = {}  # group/version/plural, namespace, name
        self.events: list[tuple[str, str, Object]] = []  # its number (from 1) is the resource version
        self.changed = threading.Condition()
        self.failing: set[str] = set()  # names of pods and Jobs that end badly
        self.written: list[str] = []  # "POST Deployment/name", in order

    @property
    def kubeconfig(self) -> str:
        """For clients."""
        cluster = {"server": f"http://127.0.0.1:{self.server_address[1]}"}
        names = {"cluster": "fake", "user": "fake", "namespace": "food"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "fake", "users": [{"name": "fake", "user": {}}],
            "clusters": [{"name": "fake", "cluster": cluster}], "contexts": [{"name": "fake", "context": names}],
        }  # fmt: skip
        return yaml.safe_dump(config)

    def named(self, kind: str) -> list[str]:
        """Names of the objects of a kind that are there."""
        return sorted(name for (_, _, name), it in self.objects.items() if it["kind"] == kind)

    def get(self, kind: str, name: str) -> Object:
        """An object that is there."""
        return next(it for (_, _, found), it in self.objects.items() if it["kind"] == kind and found == name)

    def store(self, key: tuple[str, str, str], it: Object, event: str) -> Object:
        """Write an object and tell who watches; a finished state is given to what would run."""
        with self.changed:
            it["metadata"].setdefault("uid", f"uid-{len(self.events)}")
            it["metadata"].setdefault("creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            it["metadata"]["resourceVersion"] = str(len(self.events) + 1)
            self._finish(it)
            self.objects[key] = it
            self.events.append((key[0], event, it))
            self.changed.notify_all()
        return it

    def remove(self, key: tuple[str, str, str]) -> Object | None:
        """Delete an object and tell who watches."""
        with self.changed:
            it = self.objects.pop(key, None)
            if it is not None:
                it = it | {"metadata": it["metadata"] | {"resourceVersion": str(len(self.events) + 1)}}
                self.events.append((key[0], "DELETED", it))
                self.changed.notify_all()
        return it

    def _finish(self, it: Object) -> None:
        bad = it["metadata"]["name"] in self.failing
        if it["kind"] == "Pod":
            it["status"] = {"phase": "Failed" if bad else "Succeeded"}
        elif it["kind"] == "Job":
            kind = "Failed" if bad else "Complete"
            it["status"] = {"succeeded": int(not bad), "conditions": [{"type": kind, "status": "True", "reason": kind}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeCluster

    def log_message(self, format: str, *args: Any) -> None:
        """Be quiet."""

    def _say(self, body: Any, status: int = 200) -> None:
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _fail(self, status: int, reason: str, message: str) -> None:
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        self._say(said | {"reason": reason, "message": message}, status)

    def _where(self) -> tuple[tuple[str, str, str], str, str]:
        """Key, kind and subresource of the path; KeyError for one that is not known."""
        found = PATH.match(urlsplit(self.path).path)
        if not found:
            raise KeyError(self.path)
        group = f"{found['group']}/{found['version']}" if found["group"] else found["version"]
        kind = self.server.kinds[group][found["plural"]]
        return (f"{group}/{found['plural']}", found["space"] or "", found["name"] or ""), kind, found["sub"] or ""

    def do_GET(self) -> None:
        """Discovery, one object, a list, or a watch."""
        path, query = urlsplit(self.path).path.rstrip("/"), parse_qs(urlsplit(self.path).query)
        discovered = _discovery(path, self.server.version, self.server.kinds)
        if discovered is not None:
            self._say(discovered)
            return
        try:
            key, kind, sub = self._where()
        except KeyError:
            self._fail(404, "NotFound", f"the server could not find {path}")
            return
        if sub == "log":
            self._say("the log of the test\n")
        elif key[2]:
            it = self.server.objects.get(key)
            self._say(it) if it else self._fail(404, "NotFound", f'{kind} "{key[2]}" not found')
        elif "watch" in query:
            self._watch(key, kind, None if "sendInitialEvents" in query else int(query["resourceVersion"][0] or 0))
        else:
            items = self._items(key)
            version = {"resourceVersion": str(len(self.server.events))}
            group = key[0].rpartition("/")[0]
            self._say({"kind": f"{kind}List", "apiVersion": group, "metadata": version, "items": items})

    def _items(self, key: tuple[str, str, str]) -> list[Object]:
        return [it for (where, space, _), it in self.server.objects.items() if (where, space) == key[:2]]

    def _watch(self, key: tuple[str, str, str], kind: str, seen: int | None) -> None:
        """Events from number `seen` on; None: what there is first, and a bookmark behind it."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        server, end = self.server, time.monotonic() + 30
        first: list[Object] = []
        if seen is None:
            with server.changed:
                seen = len(server.events)
                first = [{"type": "ADDED", "object": it} for it in self._items(key)]
            done = {"resourceVersion": str(seen), "annotations": {"k8s.io/initial-events-end": "true"}}
            bookmark = {"kind": kind, "apiVersion": key[0].rpartition("/")[0], "metadata": done}
            first.append({"type": "BOOKMARK", "object": bookmark})
        try:
            for event in first:
                self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()
            while time.monotonic() < end:
                with server.changed:
                    if len(server.events) == seen:
                        server.changed.wait(timeout=0.5)
                    new, seen = server.events[seen:], len(server.events)
                for where, change, it in new:
                    if where == key[0] and it["metadata"].get("namespace", "") == key[1]:
                        self.wfile.write(json.dumps({"type": change, "object": it}).encode() + b"\n")
                        self.wfile.flush()
        except OSError:  # the client has gone
            pass

    def _body(self) -> Object:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return cast(Object, yaml.safe_load(text)) if text else {}

    def _write(self) -> None:
        it, query = self._body(), parse_qs(urlsplit(self.path).query)
        try:
            key, kind, _ = self._where()
        except KeyError:
            self._fail(404, "NotFound", "the server could not find the requested resource")
            return
        name = key[2] or it["metadata"]["name"]
        key = (key[0], key[1], name)
        old = self.server.objects.get(key)
        if self.command == "POST" and old:
            self._fail(409, "AlreadyExists", f'{kind} "{name}" already exists')
            return
        wrong = self.server.admit(it)
        if wrong:
            self._fail(422, "Invalid", f'{kind} "{name}" is invalid: {wrong}')
            return
        if old and kind == "Deployment" and old["spec"]["selector"] != it["spec"]["selector"]:
            self._fail(422, "Invalid", "spec.selector: field is immutable")
            return
        it["metadata"].setdefault("namespace", key[1])
        if "dryRun" in query:
            self._say(it)
            return
        self.server.written.append(f"{self.command} {kind}/{name}")
        self._say(self.server.store(key, it, "MODIFIED" if old else "ADDED"), 200 if old else 201)

    do_POST = do_PUT = do_PATCH = _write

    def do_DELETE(self) -> None:
        """One object."""
        self._body()
        key, kind, _ = self._where()
        self.server.written.append(f"DELETE {kind}/{key[2]}")
        if self.server.remove(key) is None:
            self._fail(404, "NotFound", f'{kind} "{key[2]}" not found')
        else:
            self._say({"kind": "Status", "apiVersion": "v1", "status": "Success"})


def _discovery(path: str, version: str, known: dict[str, dict[str, str]]) -> Any:
    """What the server says of itself, or None for a path that is no discovery."""
    if path == "/version":
        major, minor = version.removeprefix("v").split(".")[:2]
        return {"major": major, "minor": minor, "gitVersion": version}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [
            {"name": group, "versions": [{"groupVersion": f"{group}/{v}", "version": v}]}
            | {"preferredVersion": {"groupVersion": f"{group}/{v}", "version": v}}
            for group, v in (one.split("/") for one in known if "/" in one)
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if path == "/openapi/v3":
        return {"paths": {p: {"serverRelativeURL": f"/openapi/v3/{p}"} for p in map(_place, known)}}
    for group, kinds in known.items():
        if path == f"/{_place(group)}":
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            rows = [
                {"name": plural, "singularName": kind.lower(), "kind": kind, "verbs": verbs}
                | {"namespaced": kind != "Namespace"}
                for plural, kind in kinds.items()
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group, "resources": rows}
        if path == f"/openapi/v3/{_place(group)}":
            return _openapi(group, kinds)
    return None


def _openapi(group: str, kinds: dict[str, str]) -> Object:
    """That the server validates fields is all that Helm looks for."""
    name, _, version = group.rpartition("/")
    paths = {}
    for plural, kind in kinds.items():
        says = {"group": name, "version": version, "kind": kind}
        known = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
        patch = {"x-kubernetes-group-version-kind": says, "parameters": known}
        paths[f"/{_place(group)}/namespaces/{{namespace}}/{plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": paths}


def _place(group: str) -> str:
    return f"apis/{group}" if "/" in group else f"api/{group}"


@contextmanager
def fake_cluster(version: str, admit: Callable[[Object], str], lacks: Collection[str] = ()) -> Iterator[FakeCluster]:
    """A server that runs, without the groups and versions that it `lacks`."""
    with FakeCluster(version, admit, lacks) as cluster:
        thread = threading.Thread(target=cluster.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            cluster.shutdown()
            thread.join()
