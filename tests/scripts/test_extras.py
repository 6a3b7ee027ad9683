"""What is under the GPL is installed for the tests alone: neither for a demo nor by any other extra."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts import prepare
from tests.conftest import ROOT
from tests.scripts.test_prepare import StandInPip


def test_a_demo_is_installed_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = StandInPip(monkeypatch, tmp_path, "9.9.9+cpu", "global.find-links='/wheels'")
    assert prepare.main(["--for", "demo"]) == prepare.main(["--for", "demo"]) == 0
    assert [arguments[-1] for arguments in pip.asked] == [f".[{prepare.EXTRAS}]"]
    assert prepare.main([]) == 0, "what tests need is added"
    assert prepare.main(["--for", "demo"]) == 0
    assert [arguments[-1] for arguments in pip.asked][1:] == [f".[{prepare.EXTRAS},heic]"], (
        "and is no trouble to a demo"
    )


def test_no_other_extra_brings_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = {name: " ".join(packages) for name, packages in project["optional-dependencies"].items()}
    asked["none"] = " ".join(project["dependencies"])
    brings = {name for name, packages in asked.items() if "heif" in packages}
    while more := {
        name for name, packages in asked.items()
        if any(brings & set(inner.split(",")) for inner in re.findall(r"food-vision\[([\w,-]+)\]", packages))
    } - brings:  # fmt: skip
        brings |= more
    assert brings == {"heic"}
