"""The notebook: as it is kept in git, that its commands exist, and what its cells do with a reader's photos."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nbformat
import pytest

from contract.errors import ContractError
from scripts import notebook as command
from tests.conftest import ROOT

NOTEBOOK = nbformat.read(command.NOTEBOOK, as_version=4)
CODE = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}


def test_it_is_kept_without_outputs_and_valid() -> None:
    text = command.NOTEBOOK.read_text(encoding="utf-8")
    nbformat.validate(NOTEBOOK)
    assert text == command.stripped(nbformat.reads(text, as_version=4)), "python -m scripts.notebook --strip"
    run = nbformat.reads(text, as_version=4)
    run.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    run.cells[2].execution_count = 1
    run.metadata.widgets, run.cells[2].metadata.executionInfo = {}, {"user": "reader"}
    assert command.stripped(run) == text


def test_it_is_short_and_every_step_is_told_in_two_or_three_sentences() -> None:
    kinds = [cell.cell_type for cell in NOTEBOOK.cells]
    assert len(kinds) <= 25
    assert kinds == ["markdown"] + ["markdown", "code"] * (len(kinds) // 2)
    for cell in NOTEBOOK.cells[1::2]:
        title, words = cell.source.split("\n\n")
        assert re.fullmatch(r"## \d+\. .+", title)
        assert len(re.findall(r"[.?](?:\s|$)", words)) in (2, 3), words


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(module, options) of every command of ours in a text."""
    found = re.findall(r"(?:python|sys\.executable\)\}) -m ([\w.]+)(.*)", text)
    return [(module, re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)) for module, rest in found]


@pytest.mark.parametrize("cell", CODE)
def test_every_command_in_it_exists(
    cell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, options in commands(CODE[cell]):
        main = importlib.import_module(f"{module}.__main__" if (ROOT / module.replace(".", "/")).is_dir() else module)
        monkeypatch.setattr(sys, "argv", [module, "--help"])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
        known = re.findall(r"--[a-z][\w-]*", capsys.readouterr().out)
        assert set(options) <= set(known), module


def test_the_whole_path_is_in_it() -> None:
    used = {module for source in CODE.values() for module, _ in commands(source)}
    assert used == {"scripts.prepare", "training.drawn", "training", "training.evaluate", "export", "app"}


def test_badges_and_links_lead_to_one_address_which_a_command_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = []
    for path in command.WITH_ADDRESS:
        copies.append(tmp_path / path.name)
        text = path.read_text(encoding="utf-8")
        copies[-1].write_text(text, encoding="utf-8")
        assert "https://colab.research.google.com/github/YOUR_NAME/food-vision/blob/main/notebooks" in text
        assert {found.split("/")[-2] for found in command.ADDRESS.findall(text)} == {"YOUR_NAME"}
    monkeypatch.setattr(command, "WITH_ADDRESS", copies)
    assert command.main(["--repository", "https://github.com/YOUR_NAME/food-vision"]) == 1
    assert "is not an address such as" in capsys.readouterr().err
    for name in ("a-team", "another"):
        assert command.main(["--repository", f"https://github.com/{name}/food-vision.git"]) == 0
        for copy in copies:
            text = copy.read_text(encoding="utf-8")
            assert {found.split("/")[-2] for found in command.ADDRESS.findall(text)} == {name}
            assert "YOUR_NAME/" not in text
    nbformat.validate(nbformat.read(copies[0], as_version=4))


def test_a_setting_is_changed_as_a_reader_would_type_it() -> None:
    changed = nbformat.from_dict(NOTEBOOK)
    command.setting(changed, "PHOTOS", 'my "photos"')
    assert 'PHOTOS = "my \\"photos\\""  # @param' in changed.cells[4].source
    with pytest.raises(ContractError, match="no setting NOTHING"):
        command.setting(changed, "NOTHING", "x")


# -- the cells ---------------------------------------------------------------------------------------------------------


class Reader:
    """Runs single cells, with commands that are only remembered, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        self.commands: list[str] = []
        classes = CODE["install"].split("\n\n\n")[1]
        self.names: dict[str, Any] = {
            "START": folder,
            "CHECKOUT": folder,
            "WORK": Path("work"),
            "sh": self.commands.append,
        }
        exec(
            "import json, os, shlex, shutil, subprocess, sys, zipfile\nfrom pathlib import Path\n\n\n" + classes,
            self.names,
        )
        self.names["subprocess"] = type("subprocess", (), {"run": staticmethod(lambda *a, **k: self)})
        self.stdout = ""  # of the question for a GPU

    def photos(self, data: str, photos: str = "photos.zip") -> dict[str, Any]:
        cell = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE["photos"])])
        command.setting(cell, "DATA", data)
        command.setting(cell, "PHOTOS", photos)
        exec(cell.cells[0].source, self.names)
        return self.names


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    return Reader(tmp_path, monkeypatch)


def a_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x")


def test_drawings_on_the_cpu_and_blip_on_a_gpu(reader: Reader) -> None:
    found = reader.photos("drawn")
    assert (found["RECIPE"], found["SETS"]) == ("folder-small", "--set data.train=work/drawings")
    assert reader.commands == ["python -m training.drawn --each 16 --out work/drawings"]
    for capability, precision in (("7 5", "fp16"), ("8 0", "bf16"), ("9 0", "bf16")):
        reader.stdout = f"{capability}\n"
        found = reader.photos("drawn")
        assert found["RECIPE"] == "folder"
        assert f"train.precision={precision}" in found["SETTINGS"]


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("pie/1.jpg", "soup/1.jpg"), ["data.train=work/photos"]),
        (
            ("my photos/pie/1.jpg", "my photos/soup/1.jpg", "__MACOSX/my photos/._1.jpg", "my photos/.DS_Store"),
            ["data.train=work/photos/my photos"],
        ),
        (
            ("a/b/train/pie/1.jpg", "a/b/test/pie/1.jpg"),
            ["data.train=work/photos/a/b/train", "data.test=work/photos/a/b/test"],
        ),
        (("Train/pie/1.jpg", "TEST/pie/1.jpg"), ["data.train=work/photos/Train", "data.test=work/photos/TEST"]),
        (("pie/1.jpg", "../../soup/1.jpg", "/etc/bread/1.jpg"), ["data.train=work/photos"]),
    ],
)  # fmt: skip
def test_an_uploaded_zip_with_whatever_around_the_photos(
    names: tuple[str, ...], settings: list[str], reader: Reader, tmp_path: Path
) -> None:
    a_zip(tmp_path / "photos.zip", *names)
    for _ in range(2):
        assert reader.photos("folder")["SETTINGS"] == settings
    assert reader.commands == []


@pytest.mark.parametrize(
    ("code", "says"), [(0, ""), (1, "exit code 1; .* above"), (-2, "interrupted; run this cell again"), (-9, "memory")]
)
def test_a_command_that_fails_ends_the_run_with_a_sentence(code: int, says: str, reader: Reader) -> None:
    shell = type("Shell", (), {"user_ns": {"_exit_code": code}, "system": lambda self, command: None})
    reader.names["get_ipython"] = shell
    exec(CODE["install"].split("\n\n\n")[2].split("\nSTART")[0], reader.names)
    with pytest.raises(reader.names["Stop"], match=says) if says else nullcontext():
        reader.names["sh"]("false")


def test_without_the_service_the_questions_are_a_sentence(reader: Reader) -> None:
    reader.names["server"] = type("server", (), {"poll": staticmethod(lambda: 0)})
    with pytest.raises(reader.names["Stop"], match="has ended; start it again"):
        exec(CODE["ask"], reader.names)


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_a_zip_of_a_mac_or_of_an_old_windows_keeps_the_names(encoding: str, reader: Reader, tmp_path: Path) -> None:
    """A Mac's has UTF-8 and does not say so."""
    name = "Klöße".encode(encoding)
    placeholder = b"z" * len(name)
    a_zip(tmp_path / "photos.zip", "pie/1.jpg", f"{placeholder.decode()}/1.jpg")
    packed = (tmp_path / "photos.zip").read_bytes()
    (tmp_path / "photos.zip").write_bytes(packed.replace(placeholder, name))
    reader.photos("folder")
    assert {folder.name for folder in (tmp_path / "work" / "photos").iterdir()} == {"pie", "Klöße"}


def test_a_folder_of_the_readers_home(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind in ("pie", "soup"):
        (tmp_path / "my food's photos" / kind).mkdir(parents=True)
    found = reader.photos("folder", "~/my food's photos")
    assert found["SETTINGS"] == [f"data.train={tmp_path}/my food's photos"]
    assert shlex.split(found["SETS"]) == ["--set", *found["SETTINGS"]]


def test_an_unfinished_run_of_other_photos_is_not_gone_on_with(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    reader.names |= {"display": lambda _: None, "Image": lambda *_, **__: None}
    asked = []
    for data in ("drawn", "drawn", "food101", "food101"):
        reader.photos(data)
        exec(CODE["train"], reader.names)
        asked.append("--restart" in reader.commands[-1])
    assert asked == [True, False, True, False]


def test_what_is_no_folder_is_a_sentence(reader: Reader, tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    (tmp_path / "photo.jpg").touch()
    a_zip(tmp_path / "torn.zip", "pie/1.jpg")
    whole = (tmp_path / "torn.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole.replace(b"x", b"y", 1))
    for photos in ("nowhere", "photo.jpg", "broken.zip", "torn.zip"):
        with pytest.raises(reader.names["Stop"], match=re.escape(f"{tmp_path / photos}")) as stopped:
            reader.photos("folder", photos)
        assert stopped.value._render_traceback_() == [f"Stopped: {stopped.value}"]


def test_food101_is_streamed_in_full_with_a_gpu_and_ten_classes_of_it_without(reader: Reader) -> None:
    found = reader.photos("food101")
    assert found["RECIPE"] == "folder-small"
    from training.recipe import load_recipe

    small = load_recipe(found["RECIPE"], found["SETTINGS"])
    assert len(small.data.classes or ()) == 10
    assert small.data.streaming
    reader.stdout = "7 5"
    found = reader.photos("food101")
    whole = load_recipe(found["RECIPE"], found["SETTINGS"])
    assert (whole.data.name, whole.data.classes, whole.train.precision) == ("ethz/food101", None, "fp16")
    assert not whole.data.streaming, "every pass over a stream would be a download of its own"
