"""Pushing with Docker: a builder that attests, the base by digest, the record. The daemon is a stand-in that writes down
what it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.image.test_image_command import image_command

DIGEST = "sha256:" + "5" * 64
BASE = f"python:3.11-slim-bookworm@sha256:{'b' * 64}"
TAG = "registry.example/food-vision:1.0"
# What it answers stands in files beside it; a file that is not there is a failure.
STAND_IN = f"""#!/bin/sh
here=${{0%/*}}
{{ printf '%s\\037' "$@"; echo; }} >> "$here/calls"
case "$*" in
    info*) answer=info ;;
    "buildx version") answer=buildx ;;
    "buildx inspect food-vision") answer=made ;;
    "buildx inspect"*) answer=current ;;
    "buildx create"*) answer=create ;;
    *) answer= ;;
esac
if [ -n "$answer" ]; then
    [ -e "$here/$answer" ] || {{ echo "the daemon refuses" >&2; exit 1; }}
    while read -r line; do echo "$line"; done < "$here/$answer"
fi
while [ "$#" -gt 1 ]; do
    [ "$1" != --metadata-file ] || echo '{{"containerimage.digest": "{DIGEST}"}}' > "$2"
    shift
done
"""


class Docker:
    """The stand-in on PATH; `answers` are name of a file → content."""

    def __init__(self, folder: Path, **answers: str) -> None:
        self._folder = folder
        (folder / "docker").write_text(STAND_IN)
        (folder / "docker").chmod(0o755)
        for name, content in ({"info": "[]", "buildx": "v0.30"} | answers).items():
            (folder / name).write_text(f"{content}\n")

    def lose(self, name: str) -> None:
        """From now on this fails."""
        (self._folder / name).unlink()

    def push(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command with this Docker alone on PATH."""
        return image_command("--bundle", "none", "--tag", TAG, "--push", *words, PATH=str(self._folder))

    def calls(self, *first: str) -> list[list[str]]:
        """What was called with these words first."""
        told = [line.split("\037")[:-1] for line in (self._folder / "calls").read_text().split("\n")]
        return [words for words in told if tuple(words[: len(first)]) == first]


@pytest.fixture(autouse=True)
def record() -> Iterator[Path]:
    """Where the digest is written; what is there is put back."""
    path = ROOT / "build" / "image" / "cpu.json"
    before = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("answers", "options"),
    [
        ({"current": "Name: ci\nDriver:        docker-container\n"}, []),
        ({"current": "Driver: docker\n", "info": '[["driver-type","io.containerd.snapshotter.v1"]]'}, []),
        ({"current": "Driver: docker\n", "made": "Driver: docker-container\n"}, ["--builder", "food-vision"]),
        ({"current": "Driver: docker\n", "create": "food-vision"}, ["--builder", "food-vision"]),
    ],
    ids=["another driver", "containerd image store", "made before", "made now"],
)
def test_what_is_pushed_is_attested_by_a_builder_that_can(
    tmp_path: Path, record: Path, answers: dict[str, str], options: list[str]
) -> None:
    docker = Docker(tmp_path, **answers)
    done = docker.push("--base", BASE)
    assert done.returncode == 0, done.stderr
    (built,) = docker.calls("buildx", "build")
    assert {"--sbom=true", "--provenance=mode=max", "--push"} <= set(built)
    assert "--load" not in built
    assert built[2 : 2 + len(options)] == options
    assert ("--builder" in built) == bool(options)
    wanted = [["--name", "food-vision", "--driver", "docker-container", "--driver-opt", "network=host"]]
    assert [words[2:] for words in docker.calls("buildx", "create")] == (wanted if "create" in answers else [])
    assert json.loads(record.read_text()) == {
        "repository": "registry.example/food-vision", "digest": DIGEST, "tag": TAG, "base": BASE,
    }  # fmt: skip
    assert {
        f"BASE_IMAGE={BASE}",
        "org.opencontainers.image.base.name=python:3.11-slim-bookworm",
        f"org.opencontainers.image.base.digest=sha256:{'b' * 64}",
    } <= set(built)


@pytest.mark.parametrize("tag", ["", ":1.0"])
def test_the_record_names_the_repository_whether_or_not_there_is_a_tag(tmp_path: Path, record: Path, tag: str) -> None:
    repository = "registry.example:5000/food-vision"
    done = Docker(tmp_path, current="Driver: docker-container").push("--base", BASE, "--tag", repository + tag)
    assert done.stdout.splitlines()[-1] == f"{repository}@{DIGEST}"
    assert json.loads(record.read_text())["repository"] == repository


def test_without_a_builder_that_attests_the_sentence_has_the_command(tmp_path: Path, record: Path) -> None:
    docker = Docker(tmp_path, current="Driver: docker\n")
    done = docker.push()
    assert done.returncode == 1
    assert "holds neither SBOM nor provenance" in done.stderr
    assert "the daemon refuses" in done.stderr
    assert "docker buildx create --name food-vision --driver docker-container" in done.stderr
    assert "Traceback" not in done.stderr
    assert not docker.calls("buildx", "build"), "nothing is built that could not be pushed"
    assert not record.exists()


def test_a_base_of_this_machine_is_not_seen_by_the_builder_that_attests(tmp_path: Path) -> None:
    docker = Docker(tmp_path, current="Driver: docker\n", made="")
    done = docker.push("--base", "local")
    assert done.returncode == 1
    assert "The base local is on this machine alone" in done.stderr
    assert not docker.calls("buildx", "build")


def test_docker_without_buildx_is_not_taken_for_no_docker(tmp_path: Path) -> None:
    docker = Docker(tmp_path)
    docker.lose("buildx")
    done = docker.push()
    assert done.returncode == 1
    assert "Docker is here without its plugin buildx. Install docker-buildx-plugin" in done.stderr
