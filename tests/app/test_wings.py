"""A wing says what its files are for, so that the right one is found at once."""

from __future__ import annotations

import ast
import re

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("wing", ["web", "telemetry", "protocols", "protocols/oip"])
def test_a_wing_names_each_of_its_files_once(wing: str) -> None:
    folder = ROOT / "app" / wing
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = re.findall(r"\b(\w+\.py)\b", text)
    assert sorted(named) == sorted(file.name for file in folder.glob("*.py") if file.name != "__init__.py")
