"""The agreed answers hold here, and the check notices each thing that could move them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from contract.bundle import read_bundle
from contract.pixels import Pixels, photo_to_pixels
from scripts import model_regression
from scripts.model_regression import ANSWERS, BUNDLE, FOLDER, PICTURES, main
from tests.app.inside import running
from tests.conftest import ROOT, run_module

MOST_BYTES = 2_000_000  # of all that is committed for this


def test_the_answers_are_the_agreed_ones() -> None:
    done = run_module("scripts.model_regression")
    assert done.returncode == 0, done.stderr
    assert "16 of 16 answers stayed" in done.stdout


def test_they_are_the_same_over_http() -> None:
    with running(BUNDLE) as (url, _):
        assert main(["--url", url]) == 0


def test_each_picture_shows_another_food_and_the_model_knows_it() -> None:
    answers, labels = model_regression.agreed(), read_bundle(BUNDLE).labels
    assert labels is not None
    assert {answer.label for answer in answers.values()} == set(labels.names)
    assert all(file.split(".")[0] == answer.label for file, answer in answers.items())
    assert all(len(answer.log_probabilities) == len(labels.names) for answer in answers.values())


def without_draft(data: bytes, size: int) -> Pixels:
    return photo_to_pixels(data, size, sides=None)


def one_level_brighter(data: bytes, size: int) -> Pixels:
    return (np.minimum(photo_to_pixels(data, size), 254) + 1).astype(np.uint8)


def mirrored_channels(data: bytes, size: int) -> Pixels:
    return np.ascontiguousarray(photo_to_pixels(data, size)[..., ::-1])


@pytest.mark.parametrize(
    ("decoder", "moved"), [(without_draft, ".jpg"), (one_level_brighter, ".png"), (mirrored_channels, "and it was")]
)
def test_another_way_to_decode_is_noticed(
    decoder: Callable[[bytes, int], Pixels],
    moved: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(model_regression, "photo_to_pixels", decoder)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert moved in said
    assert "answers moved. If that is meant: --write answers" in said
    assert "Traceback" not in said


def test_a_missing_picture_and_one_without_an_answer_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.png").write_bytes((PICTURES / "pizza.png").read_bytes())
    monkeypatch.setattr(model_regression, "PICTURES", tmp_path)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "new.png: there is no agreed answer" in said
    assert "pizza.png: the picture is missing" in said


def test_accepting_gives_the_committed_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_regression, "ANSWERS", tmp_path / "answers.json")
    assert main(["--write", "answers"]) == 0
    written = json.loads((tmp_path / "answers.json").read_text())
    for file, answer in json.loads(ANSWERS.read_text()).items():
        assert written[file]["label"] == answer["label"]
        assert written[file]["log_probabilities"] == pytest.approx(answer["log_probabilities"], abs=1e-3)


def test_a_service_with_another_bundle_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(bundle) as (url, _):
        assert main(["--url", url]) == 1
    assert "serves version" in capsys.readouterr().err


def test_a_service_that_is_not_there_gets_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9"]) == 1
    assert "gave no answer" in capsys.readouterr().err


def test_what_is_committed_is_small_and_git_changes_none_of_it() -> None:
    files = [
        path
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    names = [str(path.relative_to(ROOT)) for path in files]
    done = subprocess.run(["git", "check-attr", "text", *names], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        assert all(line.endswith(": text: unset") for line in done.stdout.splitlines())
