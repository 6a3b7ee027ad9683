"""Behind a Gateway: a pod that ends goes on answering for as long as requests may come, and a Gateway that is there
already is judged by what is said of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.engine import (
    LEAST,
    HelmError,
    environment,
    merged,
    needs_engine,
    objects,
    one,
    server,
    texts,
    values_of,
)
from tests.helm.more_kinds import check_foreign

pytestmark = needs_engine

INTERNAL = {"exposure.mode": "gateway", "networkPolicy.proxySubnets": ["10.129.0.0/23"]}
SHARED = {"create": False, "name": "shared", "className": "gke-l7-rilb", "sectionName": "web"}
NOT_OURS = merged(INTERNAL, {"exposure.gateway": SHARED})
KEYS = {"apiKeys.existingSecret": "k"}
Object = dict[str, Any]


def leaves(values: Object) -> tuple[int, int, int]:
    """Seconds of preStop, of the delay after SIGTERM, and of the whole grace period."""
    found = objects(merged(LEAST, values))
    sleep = server(found).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = one(found, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    return sleep, int(environment(found)["FOOD_VISION_SHUTDOWN_DELAY_SECONDS"]), grace


def sentences(values: Object) -> list[str]:
    """Why the values are refused."""
    with pytest.raises(HelmError) as refused:
        objects(merged(LEAST, values))
    return [line for line in str(refused.value).splitlines() if line.startswith("- ")]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, (5, 10, 41)),
        ({"exposure.mode": "loadBalancer"}, (5, 10, 41)),
        (INTERNAL, (5, 30, 61)),
        (NOT_OURS, (5, 30, 61)),
        (merged(INTERNAL, {"termination.preStopSeconds": 0}), (0, 30, 56)),
        (merged(INTERNAL, {"termination.preStopSeconds": 40, "settings.shutdownDelaySeconds": 0}), (40, 0, 66)),
    ],
)
def test_a_pod_answers_until_no_request_can_come(values: Object, wanted: tuple[int, int, int]) -> None:
    assert leaves(values) == wanted


def test_a_pod_that_would_go_too_early_is_refused() -> None:
    (line,) = sentences(merged(INTERNAL, {"settings.shutdownDelaySeconds": 10}))
    assert (
        "termination.preStopSeconds 5 + settings.shutdownDelaySeconds 10 is 15 s, but a Gateway's load balancer" in line
    )
    assert "for 30 s: leave both empty, which is 35 s, or let them be 30 or more together." in line


def test_a_spot_node_that_leaves_less_is_said() -> None:
    """Not refused where it is asked for by name: the requests are lost all the same, and the notes say so."""
    spot = values_of("cpu-spot")
    assert leaves(spot)[:2] == (0, 4)
    said = "A Spot node leaves its pods 15 s, and they take requests for 4 s of them, while the load balancer may send some"
    assert said in texts(spot)["NOTES.txt"]
    empty = merged(
        spot, {"settings": {"shutdownDelaySeconds": "", "drainSeconds": 20}, "termination.preStopSeconds": ""}
    )
    (line,) = sentences(empty)
    assert "the grace period is 61 s" in line
    assert "but a Spot node leaves its pods 15 s" in line
    enough = merged(empty, {"termination.spotSeconds": 120})
    assert leaves(enough) == (5, 30, 61)
    assert "A Spot node leaves" not in texts(enough)["NOTES.txt"]


@pytest.mark.parametrize(
    ("left_out", "sentence"),
    [
        ("name", "exposure.gateway.name is missing: exposure.gateway.create is false"),
        ("className", "exposure.gateway.className is missing: exposure.gateway.create is false, so say its class"),
        (
            "sectionName",
            "exposure.gateway.sectionName is missing: exposure.gateway.create is false, so name its listener",
        ),
    ],
)
def test_a_gateway_that_is_there_is_told_in_full(left_out: str, sentence: str) -> None:
    assert any(sentence in line for line in sentences(merged(NOT_OURS, {f"exposure.gateway.{left_out}": ""})))


def test_the_route_is_on_the_listener_that_was_named() -> None:
    found = objects(merged(LEAST, NOT_OURS, {"exposure.gateway.namespace": "gateways"}))
    (route,) = [it for it in found if it["kind"] == "HTTPRoute"]
    assert route["spec"]["parentRefs"] == [{"name": "shared", "namespace": "gateways", "sectionName": "web"}]
    assert not [it for it in found if it["kind"] == "Gateway"]
    (line,) = sentences(merged(INTERNAL, {"exposure.gateway.sectionName": "web"}))
    assert "exposure.gateway.sectionName is web, but exposure.gateway.create is true" in line
    secure = merged(LEAST, NOT_OURS, {"exposure.gateway.sectionName": "https", "exposure.gateway.hostnames": ["a.b"]})
    assert "https://a.b/predict" in texts(secure)["NOTES.txt"]


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("gke-l7-rilb", False),
        ("gke-l7-rilb-mc", False),
        ("gke-l7-cross-regional-internal-managed-mc", False),
        ("gke-l7-regional-external-managed", True),
        ("gke-l7-global-external-managed", True),
        ("gke-l7-gxlb", True),
        ("istio", True),  # not known: held to be
    ],
)
def test_a_class_that_may_be_on_the_internet_needs_keys(name: str, public: bool) -> None:
    allowed = {"networkPolicy.allowFrom": [{"namespaceSelector": {"matchLabels": {"name": "istio-system"}}}]}
    values = merged(LEAST, NOT_OURS, allowed, {"exposure.gateway.className": name})
    if public:
        assert any("opens the service to the internet without API keys" in line for line in sentences(values))
    assert objects(merged(values, KEYS) if public else values)


def test_the_proxies_of_another_class_are_let_in_by_name() -> None:
    (line,) = sentences(merged(NOT_OURS, KEYS, {"exposure.gateway.className": "istio"}))
    assert "networkPolicy.allowFrom is empty: the proxies of istio must be let in" in line


@pytest.mark.parametrize("name", ["gke-l7-gxlb", "gke-l7-global-external-managed-mc"])
def test_a_global_class_takes_a_map_and_has_no_proxy_subnet(name: str) -> None:
    secure = {"tls": {"mode": "certificateMap", "name": "m"}, "className": name, "hostnames": ["a.b"]}
    values = merged(KEYS, {"exposure": {"mode": "gateway", "gateway": secure}})
    assert objects(merged(LEAST, values))
    (line,) = sentences(merged(values, {"exposure.gateway.tls.mode": "certificates"}))
    assert f"certificates does not work with {name}: global classes take certificateMap or secret." in line


def test_what_only_googles_classes_do_is_refused_elsewhere() -> None:
    istio = {"exposure.gateway": {"className": "istio", "hostnames": ["a.b"], "tls": {"name": "m"}}}
    allowed: Object = {"networkPolicy.allowFrom": [{"podSelector": {}}]}
    for mode in ("certificateMap", "certificates"):
        (line,) = sentences(merged(INTERNAL, KEYS, istio, allowed, {"exposure.gateway.tls.mode": mode}))
        assert f"{mode} does not work with istio: classes that are not GKE's take secret." in line
    armor = {"exposure.gateway.securityPolicy": "armor"}
    plain = merged(INTERNAL, KEYS, istio, allowed, {"exposure.gateway.tls.mode": "secret"})
    (line,) = sentences(merged(plain, armor))
    assert "securityPolicy is armor, which a Gateway of GKE's alone reads, but exposure.mode is gateway and the" in line
    (line,) = sentences(merged(armor, {"exposure.mode": "loadBalancer"}))
    assert "but exposure.mode is loadBalancer" in line
    assert objects(merged(LEAST, armor))  # not exposed at all
    assert objects(merged(LEAST, INTERNAL, armor))


def test_a_gateway_of_ours_is_where_the_release_is() -> None:
    (line,) = sentences(merged(INTERNAL, {"exposure.gateway.namespace": "gateways"}))
    assert "exposure.gateway.create is true, and the chart makes the Gateway in food: leave it out." in line
    assert objects(merged(LEAST, INTERNAL, {"exposure.gateway.namespace": "food"}))


def test_a_drain_of_hours_is_cut_to_what_a_load_balancer_waits() -> None:
    found = objects(merged(LEAST, INTERNAL, {"settings.drainSeconds": 7000}))
    (policy,) = [it for it in found if it["kind"] == "GCPBackendPolicy"]
    check_foreign(policy)
    assert policy["spec"]["default"]["connectionDraining"]["drainingTimeoutSec"] == 3600


def test_shared_gpus_are_told_as_they_are() -> None:
    """MPS on GKE divides memory and threads, time-sharing does not."""

    def notes(strategy: str) -> str:
        sharing = {"strategy": strategy, "maxClients": 4}
        return texts(merged(LEAST, {"node.accelerator.sharing": sharing}))["NOTES.txt"]

    assert "shared by MPS, on GKE Standard alone: each of 4 pods has an equal part of its memory and threads" in notes(
        "mps"
    )
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" in notes("mps")
    assert "shared by time-sharing, and its memory is not divided: 4 pods must fit into it together" in notes(
        "time-sharing"
    )


@pytest.mark.parametrize("seconds", [270, 1200])
def test_helm_waits_longer_than_the_pod_of_its_test(seconds: int) -> None:
    values = merged(values_of("spot"), {"test.timeoutSeconds": seconds})
    pod = one(objects(values), "Pod")["spec"]
    assert pod["activeDeadlineSeconds"] == seconds
    assert pod["initContainers"]  # the download is within it
    assert f"helm -n food test demo --logs --timeout {seconds + 30}s" in texts(values)["NOTES.txt"]
    default = one(objects(values_of("spot")), "Pod")["spec"]["activeDeadlineSeconds"]
    assert default < 300, "Helm's own default, for who types no --timeout"


def test_the_notes_ask_a_host_that_there_is() -> None:
    values = merged(INTERNAL, {"exposure.gateway.hostnames": ["*.example.com"]})
    assert "dinner.jpg http://any.example.com/predict" in texts(merged(LEAST, values))["NOTES.txt"]


def test_a_prefix_is_a_path() -> None:
    (line,) = sentences(merged(INTERNAL, {"settings.rootPath": "food"}))
    assert "settings.rootPath is food, but the route's paths begin with /: set it to /food." in line
