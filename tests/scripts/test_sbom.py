"""An image's list of packages: what dpkg and Python say, with the lock's hashes and the table's licences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from contract.errors import ContractError
from scripts import sbom
from scripts.containers import Tools

INSIDE = {
    "dpkg-query": "bash\t5.2.15-2+b13\tamd64\tbash\t5.2.15-2\nlibc6:amd64\t2.36-9+deb12u14\tamd64\tglibc\t2.36-9+deb12u14",
    "sh": "debian-12",
    "env": json.dumps({"python": "3.11.2", "packages": {"pip": "23.0.1"}}),
    "python": json.dumps({"food-vision": "0.1.0", "numpy": "2.4.6"}),
}
CYCLONEDX = """#!/bin/sh
echo '{"bomFormat": "CycloneDX", "metadata": {}, "dependencies": [], "components": [
    {"bom-ref": "r1", "type": "library", "name": "numpy", "version": "2.4.6", "hashes": ["h"]},
    {"bom-ref": "r2", "type": "library", "name": "gone", "version": "1"}]}'
"""


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is written of an image that answers as `INSIDE` says."""
    program = tmp_path / "cyclonedx-py"
    program.write_text(CYCLONEDX)
    program.chmod(0o755)
    monkeypatch.setattr(sbom, "CYCLONEDX", program)
    monkeypatch.setattr(sbom, "OUT", tmp_path / "sbom")
    monkeypatch.setattr(sbom, "find_tools", lambda: Tools("podman", (), ("podman",), {}))
    monkeypatch.setattr(Tools, "call", lambda _, *words: INSIDE[words[words.index("--entrypoint") + 1]])
    assert sbom.write("cpu", "registry.example/food-vision@sha256:55") == 0
    return json.loads((tmp_path / "sbom" / "cpu.cdx.json").read_text(encoding="utf-8"))


def test_it_holds_debians_packages_beside_the_wheels(listed: Any) -> None:
    purls = {one["name"]: one.get("purl") for one in listed["components"]}
    assert purls["libc6"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12"
    assert purls["bash"] == "pkg:deb/debian/bash@5.2.15-2%2Bb13?arch=amd64&distro=debian-12"
    assert purls["python"] == "pkg:generic/python@3.11.2"
    assert purls["pip"] == "pkg:pypi/pip@23.0.1"
    glibc = next(one for one in listed["components"] if one["name"] == "libc6")
    assert glibc["properties"] == [{"name": "debian:source", "value": "glibc 2.36-9+deb12u14"}]


def test_of_the_lock_it_holds_what_is_in_the_image_with_its_licence(listed: Any) -> None:
    found = {one["name"]: one for one in listed["components"]}
    assert found["numpy"]["hashes"] == ["h"]
    assert "BSD-3-Clause" in found["numpy"]["licenses"][0]["expression"]
    assert "food-vision" in found
    assert "gone" not in found
    assert listed["metadata"]["component"]["version"] == "registry.example/food-vision@sha256:55"
    assert len({one["bom-ref"] for one in listed["components"]}) == len(listed["components"])


def test_without_its_program_it_says_where_that_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom, "CYCLONEDX", tmp_path / "none")
    monkeypatch.setattr(sbom, "find_tools", lambda: None)
    with pytest.raises(ContractError, match="is not there; it comes with `make sbom`"):
        sbom.write("cpu", "any")
