"""Every setting comes from an environment variable or a flag, and a wrong value is named in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app.__main__ import main
from app.settings import ENV_PREFIX, Settings, load_settings
from contract.errors import ContractError

VALUES: dict[str, tuple[str, Any]] = {  # as text, and what it means; none is a default
    "bundle": ("some/where", Path("some/where")),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "provider": ("tensorrt", "tensorrt"),
    "threads": ("3", 3),
    "max_batch": ("7", 7),
    "max_queue": ("9", 9),
    "decode_processes": ("2", 2),
    "max_decoding": ("11", 11),
    "max_connections": ("50", 50),
    "decode_cpu_ms": ("300", 300),
    "keep_alive_seconds": ("75", 75),
    "max_body_bytes": ("4096", 4096),
    "body_timeout_ms": ("700", 700),
    "accept_compressed": ("true", True),
    "max_bodies_bytes": ("99000000", 99_000_000),
    "max_requests": ("3", 3),
    "max_pixels": ("1000", 1000),
    "max_images": ("6", 6),
    "top_k": ("1", 1),
    "abstain_below": ("0.35", 0.35),
    "unfamiliar": ("mark", "mark"),
    "unfamiliar_below": ("0.05", 0.05),
    "max_caption_tokens": ("5", 5),
    "request_timeout_ms": ("250", 250),
    "drain_seconds": ("0", 0),
    "stuck_seconds": ("5", 5),
    "shutdown_delay_seconds": ("7", 7),
    "log_level": ("warning", "warning"),
    "log_format": ("json", "json"),
    "api_keys_file": ("/keys", Path("/keys")),
    "root_path": ("/food", "/food"),
    "trusted_proxies": ("10.0.0.0/8, ::1", "10.0.0.0/8, ::1"),
    "cors_origins": ("https://a.org, http://b:3000", "https://a.org, http://b:3000"),
    "device": ("1", 1),
    "in_flight": ("3", 3),
    "cuda_graphs": ("true", True),
    "engine_cache": ("/engines", Path("/engines")),
}
WRONG = [
    ("port", "99999", "65535"),
    ("port", "http", "integer"),
    ("port", "", "integer"),
    ("provider", "nonsense", "'cpu', 'cuda' or 'tensorrt'"),
    ("provider", "CPU", "'cpu', 'cuda' or 'tensorrt'"),
    ("unfamiliar", "refuse", "'off', 'mark' or 'abstain'"),
    ("unfamiliar_below", "1.5", "1"),
    ("threads", "-1", "0"),
    ("max_batch", "0", "1"),
    ("max_queue", "100001", "100000"),
    ("decode_cpu_ms", "99", "100"),
    ("max_connections", "15", "16"),
    ("keep_alive_seconds", "0", "1"),
    ("keep_alive_seconds", "3601", "3600"),
    ("max_body_bytes", "10", "1024"),
    ("body_timeout_ms", "0", "1"),
    ("max_bodies_bytes", "33554431", "33554432"),
    ("max_requests", "0", "1"),
    ("max_pixels", "900000001", "900000000"),
    ("max_caption_tokens", "64", "63"),
    ("top_k", "101", "100"),
    ("abstain_below", "1.5", "1"),
    ("abstain_below", "-0.1", "0"),
    ("abstain_below", "nan", "1"),
    ("request_timeout_ms", "0", "1"),
    ("drain_seconds", "ten", "integer"),
    ("cors_origins", "https://a.org,b.org", "https://example.org"),
    ("root_path", "food", "/food"),
    ("root_path", "https://a.org/food", "256"),
    ("trusted_proxies", "10.0.0.0/8, proxy", "'proxy'"),
    ("trusted_proxies", "10.0.0.1/8", "host bits set"),
    ("log_format", "xml", "'text' or 'json'"),
    ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(ENV_PREFIX + name.upper(), raising=False)


def test_every_setting_is_tried_here() -> None:
    assert set(VALUES) == set(Settings.model_fields)
    defaults = load_settings(bundle=Path("b"))
    assert [name for name, (_, value) in VALUES.items() if getattr(defaults, name) == value] == []


@pytest.mark.parametrize("name", VALUES)
def test_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALUES[name]
    monkeypatch.setenv(f"{ENV_PREFIX}BUNDLE", "b")
    monkeypatch.setenv(ENV_PREFIX + name.upper(), text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize("name", VALUES)
def test_from_a_flag_which_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALUES[name]
    found: list[Settings] = []

    def only_settings(**overrides: Any) -> Settings:
        found.append(load_settings(**overrides))
        raise ContractError("That is far enough.")

    monkeypatch.setattr("app.__main__.load_settings", only_settings)
    monkeypatch.setenv(f"{ENV_PREFIX}BUNDLE", "b")
    if name not in ("host", "bundle"):
        monkeypatch.setenv(ENV_PREFIX + name.upper(), "not what is meant")
    assert main([f"--{name.replace('_', '-')}", text]) == 1
    assert getattr(found[0], name) == value


@pytest.mark.parametrize(("name", "text", "allowed"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(
    name: str, text: str, allowed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", "b", f"--{name.replace('_', '-')}={text}"]) == 1
    flagged = capsys.readouterr().err
    monkeypatch.setenv(ENV_PREFIX + name.upper(), text)
    assert main(["--bundle", "b"]) == 1
    assert capsys.readouterr().err == flagged
    assert flagged.startswith(f"app: The setting {name} ({ENV_PREFIX}{name.upper()}) is wrong: ")
    assert allowed in flagged
    assert flagged.count("\n") == 1
    assert flagged.endswith(".\n")


def test_tensorrt_without_a_cache_builds_every_engine_once(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--bundle", "b", "--provider", "tensorrt", "--in-flight", "2"]
    assert main(flags) == 1
    assert capsys.readouterr().err == (
        "app: The setting in_flight (FOOD_VISION_IN_FLIGHT) is wrong: With provider tensorrt it must be 0 or 1 unless "
        "there is an engine_cache (FOOD_VISION_ENGINE_CACHE): each start would build every engine 2 times, for minutes "
        "each, not '2'.\n"
    )
    chosen: list[tuple[dict[str, Any], int]] = [
        ({"provider": "tensorrt"}, 1),
        ({"provider": "tensorrt", "in_flight": 1}, 1),
        ({"provider": "tensorrt", "engine_cache": "e"}, 2),
        ({"provider": "tensorrt", "engine_cache": "e", "in_flight": 3}, 3),
        ({"provider": "cuda"}, 2),
        ({"provider": "cuda", "in_flight": 3}, 3),
        ({"provider": "cpu"}, 1),
    ]
    for given, engines in chosen:
        assert load_settings(bundle="b", **given).engines == engines, given


def test_the_bundle_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert capsys.readouterr().err == f"app: No bundle was given; use --bundle PATH or {ENV_PREFIX}BUNDLE.\n"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name.replace('_', '-')}" in text for name in Settings.model_fields)
    assert ENV_PREFIX in text


def test_a_connection_is_kept_for_as_long_as_the_setting_says(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Seen(Exception):
        """The server would begin now."""

    def server(config: uvicorn.Config) -> None:
        given["seconds"] = config.timeout_keep_alive
        raise Seen

    monkeypatch.setattr("app.__main__.Server", server)
    monkeypatch.setattr("app.__main__._listen", lambda host, port: [])
    with pytest.raises(Seen):
        main(["--bundle", str(bundle), "--keep-alive-seconds", "75"])
    assert given == {"seconds": 75}
