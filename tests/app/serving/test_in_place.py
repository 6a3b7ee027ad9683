"""A bundle whose files are written over while it is served: what serves does not change, and a reload takes all or none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.app.inside import running
from tests.app.other_bundles import hotter, overwrite, wipe
from tests.app.serving.test_lifecycle import in_loop, with_other_labels
from tests.conftest import drawn_png

PHOTOS = [drawn_png(i) for i in range(3)]


def answers(url: str) -> list[Any]:
    """What the server says of some photos, times aside: labels with their probabilities, and captions."""
    found = []
    for photo in PHOTOS:
        for route in ("predict", "caption"):
            answer = httpx.post(f"{url}/{route}", content=photo)
            assert answer.status_code == 200, answer.text
            found.append({name: value for name, value in answer.json().items() if name != "timings_ms"})
    return found


@pytest.fixture
def live(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "live"))


@pytest.mark.parametrize("byte", [0, 255])
def test_wiped_files_change_no_answer(live: Path, byte: int) -> None:
    with running(live) as (url, app):
        before = answers(url)
        assert str(live) not in Path("/proc/self/maps").read_text(), "no file of it is mapped"
        wipe(live, byte)
        assert answers(url) == before
        assert not in_loop(app.state.service)
        said = httpx.get(f"{url}/info").json()["last_reload"]["said"]
        assert said.startswith(f"{live}/")
        assert "is damaged: its sha256 is not the manifest's" in said
        assert answers(url) == before, "what serves is untouched by what was refused"


def test_a_bundle_written_over_another_is_served_after_the_reload(bundle: Path, live: Path, tmp_path: Path) -> None:
    other = hotter(with_other_labels(bundle, tmp_path / "labels"), tmp_path / "other")
    with running(other) as (url, _):
        wanted = answers(url)
    with running(live) as (url, app):
        before = answers(url)
        overwrite(live, other)
        assert answers(url) == before
        decoded = app.state.service.decoding_seconds
        assert in_loop(app.state.service)
        assert app.state.service.decoding_seconds >= decoded > 0, "a load that is read from it does not fall to 0"
        assert answers(url) == wanted != before
        assert app.state.service.decoding_seconds > decoded


def test_a_truncated_file_is_not_missed_by_what_serves(live: Path) -> None:
    """A page of a mapped file that is no more ends the process (SIGBUS)."""
    with running(live) as (url, app):
        before = answers(url)
        for path in live.iterdir():
            path.write_bytes(b"")
        assert answers(url) == before
        assert not in_loop(app.state.service)
        assert answers(url) == before
