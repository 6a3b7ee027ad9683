"""A notebook's machine: its torch is kept where it will do, by links that nothing reaches through; it has no ensurepip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import prepare, torch_here
from scripts.torch_here import Here
from tests.conftest import ROOT

NEEDS = ("jinja2", "nvidia-blas-cu13==1; platform_system == 'Linux'", "triton", "nvidia-elsewhere; sys_platform == 'x'")


def install(packages: Path, name: str, version: str, files: tuple[str, ...], needs: tuple[str, ...] = ()) -> None:
    """A package as pip leaves it."""
    info = packages / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    requires = "".join(f"Requires-Dist: {one}\n" for one in needs)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
    for file in files:
        (packages / file).parent.mkdir(parents=True, exist_ok=True)
        (packages / file).write_text("")
    records = (*files, f"{info.name}/METADATA", f"{info.name}/RECORD", "../../../bin/torchrun")
    (info / "RECORD").write_text("".join(f"{record},,\n" for record in records))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this Python's packages lie: torch 2.10.0 for CUDA, what it needs, and another."""
    folder = tmp_path / "there"
    install(folder, "torch", "2.10.0+cu130", ("torch/__init__.py", "torchgen/__init__.py"), NEEDS)
    install(folder, "nvidia-blas-cu13", "1", ("nvidia/blas/lib/libblas.so",))
    install(folder, "triton", "3", ("triton/__init__.py",))
    install(folder, "jinja2", "3", ("jinja2/__init__.py",))
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(folder))
    importlib.invalidate_caches()
    return folder


@pytest.fixture
def here(packages: Path) -> Here:
    found = torch_here.find(driver=True)
    assert isinstance(found, Here), found
    return found


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_torch_and_what_is_large_below_it_are_linked_and_nothing_else(
    here: Here, packages: Path, tmp_path: Path
) -> None:
    assert here.version == "2.10.0+cu130"
    assert here.folder == packages / "torch"
    ours = tmp_path / "ours"
    (ours / "nvidia" / "own").mkdir(parents=True)
    (ours / "numpy").mkdir()
    torch_here.link(here, ours)
    torch_here.link(here, ours)
    assert {path.name for path in ours.iterdir()} == {
        "torch", "torchgen", "triton", "nvidia", "numpy", "torch-2.10.0+cu130.dist-info",
        "nvidia_blas_cu13-1.dist-info", "triton-3.dist-info",
    }  # fmt: skip
    assert (ours / "nvidia/blas/lib/libblas.so").resolve() == packages / "nvidia/blas/lib/libblas.so"
    assert not [path for path in ours.rglob("*") if path.is_dir() and path.is_symlink()]
    torch_here.unlink(ours)
    assert {str(path.relative_to(ours)) for path in ours.rglob("*")} == {"numpy", "nvidia", "nvidia/own"}


def test_nothing_that_pip_does_to_the_links_reaches_the_other_python(
    here: Here, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader may well upgrade torch in .venv: pip takes out what is there first."""
    before = files(packages)
    ours = tmp_path / "ours"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ours], check=True)
    into = next(ours.glob("lib/python*/site-packages"))
    wheel = tmp_path / "torch-2.11.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("torch/__init__.py", "another")
        file.writestr("torch/new.py", "")
        info = "torch-2.11.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"torch/__init__.py,,\ntorch/new.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    pip = [sys.executable, "-m", "pip", "--python", str(ours / "bin" / "python")]
    torch_here.link(here, into)
    install = [*pip, "install", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    monkeypatch.delenv("PYTHONPATH")
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Successfully uninstalled torch-2.10.0" in done.stdout
    assert files(packages) == before
    assert (into / "torch" / "__init__.py").read_text() == "another"


@pytest.mark.parametrize(
    ("version", "driver", "says"),
    [
        ("2.9.1", False, "has 2.9.1, and it takes 2.10 or newer below 3"), ("3.0.0", False, "newer below 3"),
        ("2.13.0+cpu", True, "cannot use this machine's GPU"), ("", False, "has none"),
    ],
)  # fmt: skip
def test_a_torch_that_will_not_do_is_named(
    version: str, driver: bool, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version:
        install(tmp_path, "torch", version, ("torch/__init__.py",))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    found = torch_here.find(driver)
    assert isinstance(found, str)
    assert says in found


def test_one_that_cannot_be_imported_or_that_pip_does_not_know_is_not_taken(packages: Path) -> None:
    (packages / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    assert "cannot import its own: OSError: libcudart.so.13" in str(torch_here.find(driver=True))
    (packages / "torch-2.10.0+cu130.dist-info" / "RECORD").unlink()
    assert "which pip did not install" in str(torch_here.find(driver=True))


def test_the_oldest_torch_is_that_of_the_package() -> None:
    lists = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert lists.count(f'"torch>={".".join(map(str, torch_here.LEAST))}"') == lists.count('"torch') == 2


class Installs:
    """In place of pip: remembers what it was asked and by which pins."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str]] = []
        self._root = root
        monkeypatch.setattr(prepare, "_pip", self)
        monkeypatch.setattr(prepare, "_pip_config", lambda: "global.find-links='/wheels'")

    def __call__(self, lock: int, *arguments: str) -> None:
        pins = self._root / ".venv" / "constraints.txt"
        self.asked.append((arguments[-1], pins.read_text() if pins.exists() else ""))
        found = next(self._root.glob(".venv/lib/python*/site-packages"))
        if not (found / "torch").exists():
            (found / "torch-9.9.9.dist-info").mkdir(exist_ok=True)


def test_the_torch_that_is_here_is_kept_until_another_is_wanted(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (root / name).write_text("# pins\ntorch==9.9.9\nnumpy==2\n")
    monkeypatch.setattr(prepare, "ROOT", root)
    monkeypatch.setattr(prepare, "VENV", root / ".venv")
    monkeypatch.setattr(prepare, "has_nvidia_driver", lambda: False)
    here = torch_here.find(driver=False)
    monkeypatch.setattr(torch_here, "find", lambda driver: here)
    pip = Installs(root, monkeypatch)

    kept = ["--for", "notebook", "--torch", "here"]
    assert prepare.main(kept) == 0
    assert "torch: 2.10.0+cu130 of" in capsys.readouterr().out
    assert pip.asked == [(f".[{prepare.FEWER}]", "# pins\ntorch==2.10.0+cu130\nnumpy==2\n")]
    assert prepare.main(kept) == 0
    assert len(pip.asked) == 1, "that is what it has"

    assert prepare.main(["--for", "demo"]) == 0
    assert pip.asked[1:] == [(f".[{prepare.EXTRAS}]", "")], "by the pins as they are"
    assert not list((root / ".venv").rglob("torch")), "the links are gone"
    assert (packages / "torch").exists()
    assert prepare.main(kept) == 0
    assert len(pip.asked) == 2, "what has more is enough"

    monkeypatch.setattr(torch_here, "find", lambda driver: "python has none")
    (root / "pyproject.toml").write_text("another")
    capsys.readouterr()
    assert prepare.main(kept) == 0
    assert "torch: python has none, so it is installed" in capsys.readouterr().out
    assert pip.asked[-1] == (f".[{prepare.FEWER}]", "")


@pytest.mark.parametrize("ours", [True, False])
def test_nothing_is_linked_among_the_files_of_a_torch_that_was_installed(
    ours: bool, here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("torch==9.9.9\n")
    venv = tmp_path / ".venv"
    packages = venv / "lib" / "python3" / "site-packages"
    install(packages, "torch", "9.9.9", ("torch/__init__.py",))
    if ours:
        (venv / ".installed").write_text("by older lists")
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "VENV", venv)
    monkeypatch.setattr(torch_here, "find", lambda driver: here)
    Installs(tmp_path, monkeypatch)
    begun_anew: list[bool] = []

    def made(build: str) -> None:
        begun_anew.append((venv / ".installing").exists())
        if begun_anew[0]:
            shutil.rmtree(packages)
            packages.mkdir()

    monkeypatch.setattr(prepare, "_make_venv", made)
    assert prepare.main(["--for", "notebook", "--torch", "here"]) == 0
    assert begun_anew == [ours], "what make did not make is never emptied"
    assert (packages / "torch" / "__init__.py").is_symlink() == ours


def test_what_is_meant_for_another_python_is_not_what_pip_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Colab sets PYTHONPATH: a package that is found there would not be installed into .venv."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nenv > seen\n")
    python.chmod(0o755)
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "VENV", tmp_path)
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "elsewhere")
    with prepare._alone() as lock:
        prepare._pip(lock, "install", "x")
    assert "=elsewhere" not in (tmp_path / "seen").read_text()
    assert "PIP_USER=0" in (tmp_path / "seen").read_text()


def test_without_ensurepip_this_pythons_pip_makes_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "constraints.txt").write_text("torch==9.9.9\n")
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "VENV", tmp_path / ".venv")
    missing, spec = {"ensurepip"}, importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else spec(name))
    asked: list[list[str]] = []

    def ran(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, int("pip" in command), "", "ERROR: no network\n")

    monkeypatch.setattr(subprocess, "run", ran)
    assert prepare.main(["--for", "notebook"]) == 1
    assert "could not be made: no network." in capsys.readouterr().err
    made, with_pip = asked
    assert made[1:] == ["-m", "venv", str(tmp_path / ".venv"), "--without-pip"]
    assert with_pip[1:5] == ["-m", "pip", "--python", str(tmp_path / ".venv" / "bin" / "python")]
    missing.add("pip")
    assert prepare.main(["--for", "notebook"]) == 1
    assert "apt-get install python3" in capsys.readouterr().err
    assert len(asked) == 2
