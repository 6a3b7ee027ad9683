"""docs/operations.md says what the code does: its tables are made from it, and nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from app.faults import ERRORS
from app.settings import ENV_PREFIX, Settings
from app.telemetry.metrics import METRICS, PREFIX, REASONS
from app.web.keys import OPEN_TO_READ
from scripts.docs_tables import main
from tests.conftest import ROOT

FILE = ROOT / "docs" / "operations.md"
TEXT = FILE.read_text(encoding="utf-8")


def test_the_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_every_setting_and_error_has_a_row() -> None:
    for name, setting in Settings.model_fields.items():
        assert f"| `{ENV_PREFIX}{name.upper()}` |" in TEXT
        assert str(setting.description) in TEXT
    for slug, kind in ERRORS.items():
        assert f"| `{slug}` | {kind.status} | {kind.meaning} |" in TEXT


def test_every_metric_that_is_scraped_is_documented(server: str) -> None:
    scraped = re.findall(r"^# TYPE (\S+) ", httpx.get(f"{server}/metrics").text, re.MULTILINE)
    assert len(scraped) > len(METRICS)
    assert [name for name in scraped if f"`{name}`" not in TEXT] == []


def test_the_alerts_ask_for_what_there_is() -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(rf"\b{PREFIX}\w+", TEXT)}
    assert names == {PREFIX + name for name in METRICS}
    named = {slug for group in re.findall(r'(?:outcome|reason)=~"([^"]+)"', TEXT) for slug in group.split("\\|")}
    assert named
    assert named <= set(ERRORS)
    assert set(re.findall(r'reason=~?"(\w+)', TEXT)) <= set(REASONS)


def test_what_is_open_without_a_key_is_named() -> None:
    line = TEXT[TEXT.index("- Open without a key") :].split("\n- ")[0].split(" All else")[0]
    named = set(re.findall(r"`(/[^`…]*)…?`", line))
    assert named == OPEN_TO_READ | {"/static/"}


def test_a_table_out_of_date_is_found_and_made_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "operations.md"
    copy.write_text(TEXT.replace("| `overloaded` | 503 |", "| `overloaded` | 429 |"), encoding="utf-8")
    assert main(["--check", "--file", str(copy)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--write" in said
    assert main(["--write", "--file", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("spoilt", ["", TEXT + TEXT, TEXT.replace("<!-- errors:end -->", "")])
def test_a_table_without_its_place_is_one_sentence(
    spoilt: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "operations.md"
    copy.write_text(spoilt, encoding="utf-8")
    assert main(["--write", "--file", str(copy)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert copy.read_text(encoding="utf-8") == spoilt
