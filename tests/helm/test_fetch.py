"""What fetches the bundle may have to go through a proxy: its variables, its certificate, and the way to it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helm.engine import LEAST, merged, needs_engine, objects, one, server, values_of

pytestmark = needs_engine

PROXY = {"name": "HTTPS_PROXY", "value": "http://proxy.corp:3128"}
TRUST = [
    PROXY,
    {"name": "NO_PROXY", "value": "metadata.google.internal"},
    {"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"},
]
MOUNT = {"name": "ca", "mountPath": "/ca", "readOnly": True}
MORE = {
    "extraEnv": TRUST,
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [MOUNT],
}


def test_fetch_has_what_it_needs_to_get_out() -> None:
    found = objects(merged(values_of("spot"), MORE))
    for spec in (one(found, "Deployment")["spec"]["template"]["spec"], one(found, "Pod")["spec"]):
        (fetch,) = spec["initContainers"]
        assert all(variable in fetch["env"] for variable in TRUST)
        assert MOUNT in fetch["volumeMounts"]
        assert "ca" in {volume["name"] for volume in spec["volumes"]}
    assert all(variable in server(found)["env"] for variable in TRUST)
    (test,) = one(found, "Pod")["spec"]["containers"]
    assert "env" not in test  # it asks inside the cluster, where a proxy has no business


@pytest.mark.parametrize(
    ("value", "port"),
    [("http://proxy.corp:3128", 3128), ("proxy:3128", 3128), ("https://proxy/", 443), ("http://me:secret1@proxy", 80)],
)
def test_the_way_to_the_proxy_is_open(value: str, port: int) -> None:
    def ports(values: dict[str, Any]) -> set[int]:
        rules = one(objects(values), "NetworkPolicy")["spec"]["egress"]
        return {each["port"] for rule in rules for each in rule.get("ports", [])}

    values = values_of("spot")
    proxied = merged(values, {"extraEnv": [PROXY | {"value": value}]})
    assert ports(proxied) == ports(values) | {port}
    assert ports(merged(values_of("baked"), {"extraEnv": [PROXY]})) == set()  # nothing to fetch


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ({"source": "download", "download": {"url": "gs://b/x", "sha256": "a" * 64}}, True),
        ({"source": "download", "download": {"url": "https://b/x", "sha256": "a" * 64}}, False),
        ({"source": "gcsFuse", "gcsFuse": {"bucket": "b"}}, True),
        ({"source": "baked"}, False),
    ],
)
def test_only_who_needs_a_token_reaches_who_gives_them(model: dict[str, Any], tokens: bool) -> None:
    """Whoever breaks into the server would have the node's, or the service account's."""
    rules = one(objects(merged(LEAST, {"model": model})), "NetworkPolicy")["spec"]["egress"]
    assert any("169.254.169.254/32" in str(rule) for rule in rules) == tokens
