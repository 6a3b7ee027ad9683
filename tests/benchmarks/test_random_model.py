"""A work folder's random models: an export by other code is not taken for this one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_model import ROOT, _key, _sources

FILES = ("contract/pixels.py", "export/bundle.py", "export/graphs/encoder.py", "modeling/load.py", "training/model.py")


def checkout(folder: Path, changed: str = "") -> Path:
    for file in FILES:
        assert (ROOT / file).is_file()
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("changed" if file == changed else "as it was")
    return folder


@pytest.mark.parametrize("changed", FILES)
def test_a_change_of_any_file_that_makes_a_bundle_is_another_export(changed: str, tmp_path: Path) -> None:
    assert _sources(checkout(tmp_path / "one")) == _sources(checkout(tmp_path / "same"))
    assert _sources(checkout(tmp_path / "other", changed)) != _sources(tmp_path / "one")


def test_what_is_kept_is_named_by_what_made_it() -> None:
    assert _key("tiny", 0, "fp32").startswith("tiny-fp32-")
    assert (
        len({_key("tiny", 0, "fp32"), _key("tiny", 1, "fp32"), _key("tiny", 0, "int8"), _key("base", 0, "fp32")}) == 4
    )
