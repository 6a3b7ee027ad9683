"""`python -m scripts.image`: what it refuses, and which bundle it bakes in. Nothing is built, nothing is trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.errors import ContractError
from scripts import image
from tests.conftest import ROOT


def image_command(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.image", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | env, check=False)


def test_wrong_usage_of_the_image_command_gets_2() -> None:
    done = image_command("--target", "tpu")
    assert done.returncode == 2
    assert "tpu" in done.stderr


@pytest.mark.parametrize("words", [("--torch", "torch==2"), ("--target", "training", "--bundle", "b")])
def test_what_does_not_go_together_is_wrong_usage(words: tuple[str, ...]) -> None:
    done = image_command(*words)
    assert done.returncode == 2
    assert words[-2] in done.stderr


def test_without_a_tool_it_says_which_to_install(tmp_path: Path) -> None:
    done = image_command(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "Neither Docker nor buildah with podman is here" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_bundle_is_not_baked_in(tmp_path: Path) -> None:
    done = image_command("--bundle", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} is not a bundle" in done.stderr
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "RUN chmod -R u=rwX,go=rX /baked &&" in dockerfile, "who made it may have hidden it from the service's user"


def bundle_of(folder: Path, **manifest: object) -> Path:
    """A bundle, as far as the image's command looks at it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_tower_with_convolutions_is_not_baked_into_the_image_without_cudnn(tmp_path: Path) -> None:
    mine = bundle_of(tmp_path / "mine", tower={"name": "efficientnet-lite0", "needs_cudnn": True})
    done = image_command("--target", "gpu-slim", "--bundle", str(mine))
    assert done.returncode == 1
    assert f"{mine} has an image tower that needs cuDNN, which gpu-slim leaves out: take --target gpu" in done.stderr


def test_the_licence_of_a_bundles_weights_is_in_the_images_label(tmp_path: Path) -> None:
    mine = bundle_of(tmp_path / "mine", tower={"name": "x", "licence": "LicenseRef-Mine"})
    before = bundle_of(tmp_path / "before")
    plain = image._licences("cpu", None, False, before)
    assert plain == image._licences("cpu", None, False, None)
    assert image._licences("cpu", None, False, mine) == f"{plain} AND LicenseRef-Mine"
    assert "Apache-2.0" in plain.split(" AND "), "and is said once"


class Make:
    """Stands in for the demonstration's place and for `make`; `makes` is the manifest that it writes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle, self.calls, self.makes = folder / "bundle", list[list[str]](), {"demonstration": True}
        monkeypatch.setattr(image, "DEMONSTRATION", self.bundle)
        monkeypatch.setattr(image, "ROOT", folder)
        monkeypatch.setattr(image, "find_tools", lambda: None)
        monkeypatch.setattr(subprocess, "run", self._run)

    def _run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.makes:
            bundle_of(self.bundle, **self.makes)
        return subprocess.CompletedProcess(command, 0 if self.makes else 2)


def test_the_demonstration_is_made_where_it_is_not_and_printed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = Make(tmp_path, monkeypatch)
    assert image.demonstration("cpu") == image.demonstration("gpu") == make.bundle
    assert make.calls == [["make", "demo-bundle"]], "once"
    assert "$ make demo-bundle\n" in capsys.readouterr().out
    bundle_of(make.bundle, format_version=4)  # of a version that marked none
    image.demonstration("cpu")
    assert len(make.calls) == 2
    (make.bundle / "manifest.json").write_text('{"format_ver')  # half copied
    image.demonstration("cpu")
    assert len(make.calls) == 3


def test_a_demonstration_that_cannot_be_made_is_one_sentence_with_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Make(tmp_path, monkeypatch)
    make.makes = {}
    with pytest.raises(ContractError, match=r"was not made; .* `make demo-bundle` .* BAKE=bundles/mine.* BAKE=none"):
        image.demonstration("cpu")


def test_without_make_it_is_the_same_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "DEMONSTRATION", tmp_path / "bundle")
    monkeypatch.setattr(image, "find_tools", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContractError, match="The demonstration bundle was not made"):
        image.demonstration("cpu")


@pytest.mark.parametrize("target", sorted({*image.TARGETS} - {*image.WITH_DEMONSTRATION}))
def test_targets_without_the_demonstration_say_why(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = Make(tmp_path, monkeypatch)
    assert image.demonstration(target) is None
    assert not make.calls
    said = capsys.readouterr().out
    assert (
        said.startswith(f"{target}: no bundle is baked in, {image.WITHOUT[target]}.")
        if target != "training"
        else not said
    )
