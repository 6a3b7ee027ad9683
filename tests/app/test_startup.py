"""`python -m app` on something it cannot serve: one sentence that names it, exit code 1, and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from app.__main__ import main
from contract.bundle import LABELS_FILE, MANIFEST_FILE, SCORER_FILE
from tests.conftest import run_module


def flip_a_byte(bundle: Path) -> None:
    data = bytearray((bundle / SCORER_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / SCORER_FILE).write_bytes(data)


def drop_labels(bundle: Path) -> None:
    (bundle / LABELS_FILE).unlink()


def drop_manifest(bundle: Path) -> None:
    (bundle / MANIFEST_FILE).unlink()


def drop_all(bundle: Path) -> None:
    shutil.rmtree(bundle)


def next_version(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST_FILE).read_text())
    (bundle / MANIFEST_FILE).write_text(json.dumps(manifest | {"format_version": 99}))


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (flip_a_byte, SCORER_FILE),
    (drop_labels, LABELS_FILE),
    (drop_manifest, MANIFEST_FILE),
    (drop_all, "no bundle folder"),
    (next_version, "99"),
]


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "damaged")
    return tmp_path / "damaged"


@pytest.mark.parametrize(("damage", "named"), DAMAGES)
def test_a_damaged_bundle(
    damage: Callable[[Path], None], named: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy)
    assert main(["--bundle", str(copy)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert_one_sentence(output.err, str(copy), named)


def assert_one_sentence(stderr: str, *named: str) -> None:
    assert stderr.startswith("app: ")
    assert stderr.endswith(".\n")
    assert stderr.count("\n") == 1
    assert all(one in stderr for one in named), stderr


def test_a_missing_bundle_as_a_user_sees_it(tmp_path: Path) -> None:
    done = run_module("app", "--bundle", tmp_path / "nothing")
    assert done.returncode == 1
    assert_one_sentence(done.stderr, str(tmp_path / "nothing"))


def test_a_damaged_bundle_of_the_environment(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_a_byte(copy)
    monkeypatch.setenv("FOOD_VISION_BUNDLE", str(copy))
    assert main([]) == 1
    assert_one_sentence(capsys.readouterr().err, str(copy / SCORER_FILE))


def test_a_wrong_setting(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--port", "99999"]) == 1
    assert_one_sentence(capsys.readouterr().err, "port", "65535")


def test_wrong_usage_as_a_user_sees_it(bundle: Path) -> None:
    done = run_module("app", "--bundle", bundle, "--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_provider_that_is_not_there(bundle: Path) -> None:
    """It is found while the model loads, after the port opened, so the server's own log lines stand on stderr too."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs the CPU package of ONNX Runtime")
    done = run_module("app", "--bundle", bundle, "--port", "0", "--provider", "cuda")
    assert done.returncode == 1
    assert "app: The provider 'cuda' was asked for, but this ONNX Runtime has only " in done.stderr
    assert "Traceback" not in done.stderr
