"""`python -m app.tools.build_engines`: build ahead, list, and say plainly what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.providers.cache import KEY_FILE
from app.settings import load_settings
from app.tools import build_engines as engines
from tests.app.engine.test_engine import StandIn
from tests.conftest import run_module


def test_without_tensorrt_it_says_so(bundle: Path, tmp_path: Path) -> None:
    done = run_module("app.tools.build_engines", bundle, "--engine-cache", tmp_path, env={})  # a fresh process
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("engines: The provider 'tensorrt' was asked for, but this ONNX")
    assert "Traceback" not in done.stderr


def test_usage(bundle: Path, tmp_path: Path) -> None:
    assert run_module("app.tools.build_engines").returncode == 2
    done = run_module("app.tools.build_engines", bundle)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "use --engine-cache FOLDER or FOOD_VISION_ENGINE_CACHE" in done.stderr


def test_it_lists_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "encoder-batch8-0123"
    folder.mkdir()
    (folder / KEY_FILE).write_text(json.dumps({}))
    (folder / "a.engine").write_bytes(b"x" * 2_000_000)
    assert engines.main(["--list", "--engine-cache", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"      2.0 MB  encoder-batch8-0123\n1 folders of engines in {tmp_path}\n"


def test_it_opens_and_runs_what_the_service_will(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = StandIn(monkeypatch)
    monkeypatch.setattr(engines, "BEAT", 0.001)
    engines.build(
        load_settings(bundle=bundle, provider="tensorrt", engine_cache=tmp_path, max_batch=2, cuda_graphs=True)
    )
    sizes = {(name, options["fixed"]["batch"]) for name, options in stand_in.asked}
    assert sizes == {(name, b) for name in ("encoder.onnx", "scorer.onnx", "decoder.onnx") for b in (1, 2)}
    output = capsys.readouterr()
    assert "ready in " in output.out
    assert "loading encoder.onnx for batches of 2" in output.err
    assert "warming up batches of 2" in output.err
