"""How many processors a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.cores import available


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", 64), ("", 64), ("1 0", 64)],
)
def test_a_container_has_its_quota(text: str, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    (tmp_path / "cpu.max").write_text(text)
    assert available(tmp_path / "cpu.max") == wanted


def test_affinity_and_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert available(tmp_path / "none") == 1
