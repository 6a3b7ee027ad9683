"""Settings class, chart values, environment and docs say the same: no setting is out of reach, no variable unknown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import ENV_PREFIX, Settings, load_settings
from scripts import chart
from tests.app.test_settings import VALUES
from tests.helm.engine import CASES, CHART, LEAST, environment, merged, needs_engine, objects, one, server, values_of

# What is set beside the service's own settings, and who reads it.
OTHERS = {"ORT_DISABLE_TELEMETRY", "HOME", "LD_LIBRARY_PATH", "CUDA_CACHE_PATH"}  # ONNX Runtime, libc, CUDA
OTEL = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_SERVICE_NAME"}
REACHED: dict[str, tuple[dict[str, Any], str]] = {  # by more than themselves: values, and what comes out
    "bundle": ({"model.baked.path": "/elsewhere"}, "/elsewhere"),
    "provider": ({"settings.provider": "tensorrt", "engineCache.type": "emptyDir"}, "tensorrt"),
    "port": ({"service.containerPort": 9000}, "9000"),
    "engine_cache": ({"settings.provider": "tensorrt", "engineCache.type": "emptyDir"}, "/engines"),
    "api_keys_file": ({"apiKeys.existingSecret": "keys"}, "/etc/food-vision/keys"),
}


def test_made_from_code() -> None:
    for path, text in chart.expected().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: python -m scripts.chart --write"


def test_the_check_of_what_is_made_sees_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("values.yaml", "values.schema.json", "chart.json", "README.md"):
        (tmp_path / name).write_bytes((CHART / name).read_bytes())
    monkeypatch.setattr(chart, "CHART", tmp_path)
    assert chart.main(["--check"]) == 0
    values = (tmp_path / "values.yaml").read_text()
    (tmp_path / "values.yaml").write_text(values.replace("replicas: 1 ", "replicas: 2 "))
    assert chart.main(["--check"]) == 1
    assert "run python -m scripts.chart --write" in capsys.readouterr().err
    assert chart.main(["--write"]) == 0
    assert "| `replicas` | `2` |" in (tmp_path / "README.md").read_text()
    (tmp_path / "values.yaml").write_text(values.replace("# @schema minimum: 0, maximum: 1000", "# @schema least: 0"))
    assert chart.main(["--check"]) == 1
    assert "replicas has the rule 'least: 0'; write `# @schema KEYWORD: VALUE" in capsys.readouterr().err
    (tmp_path / "values.yaml").write_text(values)
    (tmp_path / "README.md").write_text("no table")
    assert chart.main(["--write"]) == 1


def test_every_value_is_documented_and_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    table = chart.values_table((CHART / "values.yaml").read_text(encoding="utf-8"))
    rows = set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE))

    def walk(found: Any, rule: dict[str, Any], path: str) -> None:
        if path in rows:
            assert path
        elif isinstance(found, dict) and found:
            pass
        else:
            raise AssertionError(f"{path} has no comment")
        if isinstance(found, dict) and "properties" in rule and path not in rows:
            assert set(found) == set(rule["properties"]) - {"global"}, path
            for key, inner in found.items():
                walk(inner, rule["properties"][key], f"{path}.{key}".lstrip("."))

    walk(values, schema, "")


def test_managed_settings_are_all_known() -> None:
    assert {*chart.MANAGED, "provider"} == set(REACHED)
    assert set(chart.MANAGED) <= set(Settings.model_fields)
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    rules = chart.settings_rules(values)
    assert list(rules) == [chart.value_name(name) for name in Settings.model_fields]
    assert set(values["settings"]) <= {name for name, rule in rules.items() if "managed" not in rule}


@needs_engine
@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_within_reach(name: str) -> None:
    if name in REACHED:
        values, expected = REACHED[name]
    else:
        text, value = VALUES[name]
        values, expected = {f"settings.{chart.value_name(name)}": value}, text
    found = environment(objects(merged(LEAST, {"settings.shutdownDelaySeconds": 1}, values)))
    assert found[ENV_PREFIX + name.upper()] == expected


@needs_engine
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("training") or "indexed" in case])
def test_every_variable_is_a_setting(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = objects(values_of(case))
    env = environment(found)
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    extra = {it["name"] for it in values_of(case).get("extraEnv", [])}
    assert set(env) <= known | OTHERS | OTEL | extra
    last = [it["name"] for it in server(found)["env"]][len(env) - len(extra) :]
    assert set(last) == extra  # behind ours, so that none of ours can refer to them by accident
    given = values_of(case).get("settings", {})
    assert {ENV_PREFIX + re.sub("([A-Z])", r"_\1", name).upper() for name in given} <= set(env)
    for name in known:
        monkeypatch.delenv(name, raising=False)
    for variable, text in env.items():
        if variable in known:
            monkeypatch.setenv(variable, text)
    settings = load_settings()  # the service takes it
    assert settings.host == "0.0.0.0"
    assert settings.provider == env["FOOD_VISION_PROVIDER"]
    assert env["ORT_DISABLE_TELEMETRY"] == "1"
    gpu = values_of(case).get("node", {}).get("mode") != "cpu"
    assert (env.get("LD_LIBRARY_PATH") == "/usr/local/nvidia/lib64") == gpu
    assert (settings.provider == "cpu") == (not gpu)


@needs_engine
@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({"requests": {"cpu": "3"}}, "3"),
        ({"requests": {"cpu": 2}}, "2"),
        ({"requests": {"cpu": "1500m"}}, "2"),
        ({"requests": {"cpu": "250m"}}, "1"),
        ({"requests": {"cpu": "0.5"}}, "1"),
        ({"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}, "4"),
        ({"requests": {"cpu": None}}, "1"),
    ],
)
def test_threads_follow_the_cpus_of_the_container(resources: dict[str, Any], threads: str) -> None:
    """The program counts the node's cores, which may be many more than the container is given."""
    env = environment(objects(merged(LEAST, {"node.mode": "cpu", "resources": resources})))
    assert (env["FOOD_VISION_THREADS"], env["FOOD_VISION_DECODE_PROCESSES"]) == (threads, threads)
    asked = merged(LEAST, {"settings": {"threads": 7, "decodeProcesses": 8}, "resources": resources})
    env = environment(objects(asked))
    assert (env["FOOD_VISION_THREADS"], env["FOOD_VISION_DECODE_PROCESSES"]) == ("7", "8")


@needs_engine
def test_large_numbers_are_not_written_with_an_exponent() -> None:
    large = {"settings": {"maxBodyBytes": 1 << 40, "maxPixels": 123_456_789}}
    env = environment(objects(merged(LEAST, large)))
    assert (env["FOOD_VISION_MAX_BODY_BYTES"], env["FOOD_VISION_MAX_PIXELS"]) == (str(1 << 40), "123456789")


@needs_engine
def test_a_changed_setting_starts_new_pods() -> None:
    def pod(values: dict[str, Any]) -> Any:
        return one(objects(merged(LEAST, values)), "Deployment")["spec"]["template"]

    assert pod({}) == pod({"replicas": 3})
    assert pod({}) != pod({"settings.maxBatch": 8})


@needs_engine
def test_two_revisions_share_nothing_that_changes() -> None:
    """A pod that restarts during a roll must find what its own revision says, so no setting may be in another object."""
    old, new = (objects(merged(values_of("prometheus"), {"settings.maxBatch": size})) for size in (8, 9))
    differ = [now for was, now in zip(old, new, strict=True) if was != now and now["kind"] != "Secret"]
    assert {it["kind"] for it in differ} == {"Deployment", "Job"}  # the Job is made anew for each
    spec = one(new, "Deployment")["spec"]["template"]["spec"]
    for container in [*spec["containers"], *spec["initContainers"]]:
        assert "envFrom" not in container
        assert not [it for it in container.get("env", []) if "valueFrom" in it]
    assert not [it for it in spec["volumes"] if "configMap" in it]


def test_the_chart_has_the_programs_version() -> None:
    chart_file = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    project = (CHART.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{chart_file["appVersion"]}"' in project
