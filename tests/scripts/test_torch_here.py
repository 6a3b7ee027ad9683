"""A notebook's machine: its torch is kept where it will do, by links that nothing reaches through; it has no ensurepip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
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
    records = (*files, f"{info.name}/METADATA", "../../../bin/torchrun")
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


def test_torch_and_what_is_large_below_it_are_linked_and_nothing_else(packages: Path, tmp_path: Path) -> None:
    here = torch_here.find(driver=True)
    assert isinstance(here, Here), here
    assert here.version == "2.10.0+cu130"
    ours = tmp_path / "ours"
    (ours / "nvidia").mkdir(parents=True)
    (ours / "numpy").mkdir()
    torch_here.link(here, ours)
    torch_here.link(here, ours)
    assert {path.name for path in ours.iterdir()} == {
        "torch", "torchgen", "triton", "nvidia", "numpy", "torch-2.10.0+cu130.dist-info",
        "nvidia_blas_cu13-1.dist-info", "triton-3.dist-info",
    }  # fmt: skip
    assert not (ours / "nvidia").is_symlink(), "other packages are installed into it"
    assert (ours / "nvidia" / "blas").resolve() == packages / "nvidia" / "blas"
    torch_here.unlink(ours)
    assert [path.name for path in sorted(ours.rglob("*"))] == ["numpy", "nvidia"]
    assert (packages / "torch" / "__init__.py").exists()
    assert (packages / "nvidia" / "blas" / "lib" / "libblas.so").exists()


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
