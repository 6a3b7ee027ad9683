"""Alerts and dashboard ask for metrics, labels and outcomes that there are, and each alert has its page in the runbook."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from app.faults import ERRORS
from app.telemetry.metrics import METRICS, PREFIX, REASONS, STAGES
from tests.conftest import ROOT
from tests.helm.engine import CHART, LEAST, merged, needs_engine, objects, one, texts, values_of

PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
SCRAPED = {"release", "namespace", "pod", "container", "node"}  # labels that PodMonitoring adds
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8") if (ROOT / "docs/runbook.md").exists() else ""
DASHBOARD = json.loads((CHART / "dashboards" / "food-vision.json").read_text(encoding="utf-8"))


def check_expression(text: str) -> None:
    """Metrics, labels and label values exist; brackets are closed; only pods of the release are asked."""
    for opened, closed in ("()", "[]", "{}"):
        assert text.count(opened) == text.count(closed), text
    names = re.findall(rf"\b(?:{PREFIX}|process_)\w+", text)
    assert names, text
    for name in names:
        assert re.search(rf"\b{name}\{{[^}}]*release=\"[^\"]+\"", text), f"{name} of every release: {text}"
        if name.startswith("process_"):
            assert name in PROCESS
            continue
        short = name.removeprefix(PREFIX)
        kind = METRICS.get(short) or METRICS[re.sub(r"_(bucket|sum|count)$", "", short)]
        assert (short in METRICS) == (kind.type != "histogram"), f"{name} is a histogram's series or not: {text}"
        asked = re.search(rf"\b{name}\{{([^}}]*)\}}", text)
        assert asked
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', asked[1])))
        assert labels <= {*kind.labels, *SCRAPED, *(["le"] if kind.type == "histogram" else [])}, text
    for label, known in (("outcome", {*ERRORS, "ok"}), ("reason", set(REASONS)), ("stage", set(STAGES))):
        for found in re.findall(rf'{label}=~?"([^"]+)"', text):
            assert set(found.split("|")) <= known, text
    routes = set(json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))["paths"])
    assert set(re.findall(r'route="([^"]+)"', text)) <= routes


def rules(values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The chart's alerts."""
    found: list[dict[str, Any]] = one(objects(merged(LEAST, values or {})), "Rules")["spec"]["groups"][0]["rules"]
    return found


@needs_engine
def test_alerts_ask_for_what_there_is() -> None:
    for rule in rules():
        check_expression(rule["expr"])
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_the_dashboard_asks_for_what_there_is() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(expressions) >= len(DASHBOARD["panels"]) > 10
    for text in expressions:
        check_expression(text)
    shown = " ".join(expressions)
    assert [name for name in METRICS if PREFIX + name not in shown] == []
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(
    "wrong",
    [
        'food_vision_reddy{release="a"}',
        "food_vision_ready",
        'food_vision_ready{release="a",route="/predict"}',
        'food_vision_request_seconds{release="a"}',
        'food_vision_requests_total{release="a",outcome="overlooded"}',
        'sum(food_vision_ready{release="a"}',
        'process_open_files{release="a"}',
        'food_vision_requests_total{release="a",route="/predikt"}',
    ],
)
def test_wrong_expressions_are_found(wrong: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check_expression(wrong)


@needs_engine
def test_alerts_and_runbook_hold_together() -> None:
    alerts = {rule["alert"] for rule in rules()}
    headings = set(re.findall(r"^## (FoodVision\w+)$", RUNBOOK, re.MULTILINE))
    assert headings == alerts
    for alert, page in zip(
        *[iter(re.split(r"^## (FoodVision\w+)$", RUNBOOK, flags=re.MULTILINE)[1:])] * 2, strict=True
    ):
        for part in ("**Symptom.**", "**Look at.**", "**Causes and what to do.**"):
            assert part in page, f"{alert}: {part}"
        expression = next(rule["expr"] for rule in rules() if rule["alert"] == alert)
        metric = re.findall(rf"\b(?:{PREFIX}|process_)\w+", expression)[0]
        assert re.sub(r"_(bucket|sum|count)$", "", metric) in page, f"{alert} does not name {metric}"


@needs_engine
def test_the_label_that_alerts_ask_for_is_the_one_that_pods_give() -> None:
    """`release` in every expression: PodMonitoring takes it from a label of the pods."""
    found = objects(LEAST, name="dinner")
    pod = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    given = {it["to"]: pod[it["from"]] for it in one(found, "PodMonitoring")["spec"]["targetLabels"]["fromPod"]}
    assert given == {"release": "dinner"}
    expressions = [rule["expr"] for rule in one(found, "Rules")["spec"]["groups"][0]["rules"]]
    assert all('release="dinner"' in text for text in expressions)


@needs_engine
def test_either_operator_gets_the_same_alerts_and_labels() -> None:
    found = objects(merged(LEAST, {"monitoring.operator": "prometheus"}))
    assert one(found, "PrometheusRule")["spec"] == one(objects(LEAST), "Rules")["spec"]
    pod = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    relabelled = one(found, "ServiceMonitor")["spec"]["endpoints"][0]["relabelings"]
    given = {it["targetLabel"]: it["sourceLabels"] for it in relabelled}
    label = "__meta_kubernetes_pod_label_app_kubernetes_io_instance"
    assert given == {"release": [label], "node": ["__meta_kubernetes_pod_node_name"]}
    assert pod["app.kubernetes.io/instance"] == "demo"  # what the alerts ask for as `release`


@needs_engine
def test_alerts_link_to_their_page() -> None:
    for rule in rules({"monitoring.alerts.runbookUrl": "https://wiki/food"}):
        assert rule["annotations"]["runbook_url"] == f"https://wiki/food#{rule['alert'].lower()}"
    assert rules()[0]["annotations"]["runbook_url"].startswith("docs/runbook.md#")


@needs_engine
def test_alerts_follow_the_values() -> None:
    tensorrt = {"settings.provider": "tensorrt", "engineCache.type": "emptyDir"}
    found = {
        it["alert"]: it
        for it in rules(tensorrt | {"resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": "500Mi"}}})
    }
    assert 'provider!~"|tensorrt"' in found["FoodVisionWrongProvider"]["expr"]
    assert found["FoodVisionMemory"]["expr"].endswith(f"> 0.9 * {500 << 20}")
    assert found["FoodVisionNotReady"]["for"] == "65m"
    changed = {"monitoring.alerts": {"slowSeconds": 0.25, "refusedShare": 0.05, "labels": {"team": "food"}}}
    found = {it["alert"]: it for it in rules(merged(changed, {"settings.requestTimeoutMs": 3000}))}
    assert found["FoodVisionSlow"]["expr"].endswith("> 0.25")
    assert found["FoodVisionRefusing"]["expr"].endswith("> 0.05")
    assert found["FoodVisionQueueOld"]["expr"].endswith("> 1.5")
    assert all(it["labels"]["team"] == "food" for it in found.values())


@needs_engine
@pytest.mark.parametrize(
    ("memory", "size"), [("8Gi", 8 << 30), ("2G", 2_000_000_000), ("1.5Gi", 3 << 29), (1 << 30, 1 << 30)]
)
def test_the_memory_alert_reads_quantities(memory: str | int, size: int) -> None:
    found = next(
        it
        for it in rules({"resources": {"requests": {"memory": "1Mi"}, "limits": {"memory": memory}}})
        if it["alert"] == "FoodVisionMemory"
    )
    assert found["expr"].endswith(f"0.9 * {size}")


@needs_engine
def test_the_dashboard_arrives_whole() -> None:
    config = one(objects(values_of("tensorrt")), "ConfigMap", "-dashboard")
    assert json.loads(config["data"]["food-vision.json"]) == DASHBOARD
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


@needs_engine
def test_scaling_follows_the_unlabelled_gauge() -> None:
    """One number of each pod: a gauge with labels would be several."""
    for case in ("tensorrt", "spot", "compute-class", "public"):
        text = "".join(texts(values_of(case)).get(name, "") for name in ("autoscaling.yaml", "keda.yaml"))
        named = set(re.findall(rf"\b{PREFIX}\w+", text))
        assert named == {f"{PREFIX}load_percent", f"{PREFIX}photos_waiting"}
        assert {METRICS[name.removeprefix(PREFIX)][:2] for name in named} == {("gauge", ())}, case
