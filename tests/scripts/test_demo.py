"""`make demo`: its commands, folders that cannot be trained on, and which photos it shows; no step is run."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from scripts import demo
from training.data.sources import open_source
from training.recipe import load_recipe

Commands = list[list[str]]


def folder(root: Path, **classes: int) -> Path:
    """A folder of so many files a class; nothing decodes them here."""
    for name, count in classes.items():
        inner = root / name.replace("__", "/")
        inner.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            (inner / f"{number:02}.jpg").write_bytes(b"not decoded")
    return root


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """What the demo would have run, in a checkout of its own; its service answers 'Pie' to all but noise."""
    found: Commands = []
    root = tmp_path / "checkout"
    root.mkdir()

    @contextmanager
    def server(bundle: Path) -> Iterator[str]:
        found.append(["app", str(bundle)])
        yield "http://127.0.0.1:1"

    def post(url: str, *, files: dict[str, bytes], **_: object) -> httpx.Response:
        if not url.endswith("/predict"):
            raise AssertionError(url)
        answer: dict[str, object] = {"raw_output": "a pie", "timings_ms": {"total": 1.0}}
        if files["image"].startswith(b"\x89PNG"):  # what the demo draws itself
            abstained = {"reason": "unfamiliar", "message": "No food."}
            answer |= {"prediction": None, "abstained": abstained, "familiarity": 0.0}
        else:
            answer |= {"prediction": "Pie", "abstained": None, "familiarity": None}
        return httpx.Response(200, json={**answer, "top": [{"prediction": "Pie", "confidence": 0.9}]})

    def runs(command: list[str], **_: object) -> None:
        found.append(command[2:])
        if "--index" in command:
            Path(command[-1]).write_bytes(b"a picture")

    monkeypatch.setattr(demo, "ROOT", root)
    monkeypatch.setattr(demo, "server", server)
    monkeypatch.setattr(httpx, "post", post)
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(root)
    return found


def test_the_steps_on_drawings(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([]) == 0
    names = [command[0] for command in commands]
    assert names == ["training", "training.evaluate", "export", "training.drawn", "app"]
    assert commands[0][:3] == ["training", "--recipe", "drawn"]
    assert commands[2][1:3] == ["build/demo/checkpoint", "build/demo/bundle"], "what other targets take"
    assert commands[2][3:5] == ["--name", "demonstration"], "as answers and /info call it"
    said = capsys.readouterr().out
    assert all(f"$ python -m {shlex.join(command)}\n" in said for command in commands[:4]), "each can be typed again"
    assert "It knows drawings, no photos." in said
    assert "photo    build/demo/noise.png\ntruth    nothing: noise\nlabel    none, unfamiliar: No food.\n" in said
    assert "familiar 0.00: the share of the training pictures that look less like the rest\n" in said


def test_the_bundle_of_the_image_is_two_of_these_steps(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([]) == 0
    whole = commands.copy()
    commands.clear()
    assert demo.main(["--bundle-only"]) == 0
    assert commands == [whole[0], whole[2]]
    assert capsys.readouterr().out.endswith("The bundle is build/demo/bundle.\n")
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--bundle-only", "--photos", "photos"])


def test_the_noise_is_the_same_each_time(tmp_path: Path) -> None:
    pictures = [np.asarray(Image.open(demo.noise(tmp_path / name))) for name in ("a.png", "b.png")]
    assert pictures[0].shape == (224, 224, 3)
    assert (pictures[0] == pictures[1]).all()


def test_the_steps_on_photos(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = folder(tmp_path / "my photos", pie=20, pho=20, ramen=20, soup=20)
    before = sorted(photos.rglob("*"))
    assert demo.main(["--photos", str(photos)]) == 0
    assert [command[0] for command in commands] == ["training", "training.evaluate", "export", "app"]
    assert sorted(photos.rglob("*")) == before, "nothing is written beside the photos"
    trained = commands[0]
    assert trained[1:3] == ["--recipe", "folder-small"]
    assert Path(trained[trained.index("--out") + 1]) == Path("build/demo-photos/checkpoint")
    sets = [value for flag, value in pairwise(trained) if flag == "--set"]
    recipe = load_recipe("folder-small", sets)
    source = open_source(recipe.data, 16)
    parts = (source.train, source.validation)
    learnt = {part.where(row) for part in parts for row in range(len(part))}  # type: ignore[union-attr,arg-type]
    said = capsys.readouterr().out
    shown = [line.removeprefix("photo    ") for line in said.splitlines() if line.startswith("photo ")][:-1]
    assert len({Path(path).parent for path in shown}) == len(shown) == 3
    assert not learnt & set(shown)
    assert len(learnt) == 72
    assert said.startswith("80 photos of 4 classes in ")
    assert said.count("truth    ") == 4
    assert said.count("label    Pie  ('a pie'), right\n") == said.count("truth    Pie\n")


def test_photos_in_two_parts(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = folder(tmp_path / "2024", train__pie=2, train__pho=2, test__pie=1, test__pho=1)
    assert demo.main(["--photos", str(photos)]) == 0
    assert [f"data.train={photos}/train", f"data.test={photos}/test"] == commands[0][4:8:2]
    assert capsys.readouterr().out.count(f"photo    {photos}/test/") == 2, "fewer than three are there"


def test_a_relative_folder_with_a_name_that_toml_would_read(commands: Commands) -> None:
    folder(Path("2024"), pie=3, pho=3)
    assert demo.main(["--photos", "2024"]) == 0
    assert commands[0][4] == "data.train=./2024"
    assert load_recipe("folder-small", [commands[0][4]]).data.train == "./2024"


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ({}, "has no class folders; put the photos in"),
        ({"pie": 20}, "The data has one class only (pie)"),
        ({"pie": 20, "pho": 0}, "pho has no photos (.bmp"),
        ({"pie": 20, "pho": 1}, "The class 'pho' has one photo, so none can be held out. Add photos"),
        ({"pie": 20, "pho": 2}, "The class 'pho' has one photo to train on; at least two are needed"),
        ({"train__pie": 9, "train__pho": 1, "test__pie": 1}, "The class 'pho' has one photo to train on"),
        ({"train__pie": 9, "train__pho": 9, "test__pi": 1}, "has classes that the training photos lack: pi."),
    ],
)
def test_folders_that_cannot_be_trained_on(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: dict[str, int], says: str
) -> None:
    (tmp_path / "photos").mkdir()
    assert demo.main(["--photos", str(folder(tmp_path / "photos", **classes))]) == 1
    said = capsys.readouterr().err
    assert said.startswith("demo: ")
    assert says in said
    assert said.count("\n") == 1
    assert not commands, "found before anything is run"


def test_no_folder(commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    for name, says in (("photo.jpg", "is a file"), ("none", "does not exist")):
        assert demo.main(["--photos", str(tmp_path / name)]) == 1
        assert f"PHOTOS={tmp_path / name} {says}; name a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        demo.main(["--photo", "x", "y"])
    assert not commands


def test_the_photos_that_are_shown_are_of_classes_far_apart() -> None:
    photos = [(Path(f"{label}/{name}.jpg"), label) for label in range(13) for name in "ba"]
    assert demo.chosen(photos) == [(Path(f"{label}/a.jpg"), label) for label in (0, 6, 12)]
    assert demo.chosen(photos[::-1]) == demo.chosen(photos)
    two = [(Path("0/a"), 0), (Path("0/b"), 0), (Path("0/c"), 0), (Path("4/a"), 4)]
    assert demo.chosen(two) == [(Path("0/a"), 0), (Path("4/a"), 4), (Path("0/b"), 0)]
    assert demo.chosen(two[:1]) == two[:1]


def test_a_step_that_fails_ends_it_with_its_exit_code(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(3, command)

    monkeypatch.setattr(subprocess, "run", fails)
    assert demo.main([]) == 3
    assert capsys.readouterr().err == "demo: this step failed with exit code 3\n"
    assert not commands


def test_a_photo_that_the_service_refuses_is_told(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(httpx, "post", lambda *_, **__: httpx.Response(413, json={"detail": "It is too large."}))
    assert demo.main(["--photos", str(folder(tmp_path / "photos", pie=9, pho=9))]) == 0
    assert capsys.readouterr().out.count("label    none, status 413: It is too large.\n") == 3
    assert commands
