"""What `make` does first: which torch, what it says, and that an install that was cut off is begun anew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from contract.errors import ContractError
from scripts import prepare
from tests.conftest import ROOT

BACKEND = """\
# Builds an editable wheel without setuptools, so that nothing has to be fetched.
import zipfile
INFO = "food_vision-0.dist-info"
def prepare_metadata_for_build_editable(folder, settings=None):
    import pathlib
    (pathlib.Path(folder) / INFO).mkdir()
    (pathlib.Path(folder) / INFO / "METADATA").write_text(META)
    return INFO
META = "Metadata-Version: 2.1\\nName: food-vision\\nVersion: 0\\nProvides-Extra: training\\n"
META += "Requires-Dist: torch; extra == 'training'\\n"
def build_editable(folder, settings=None, metadata=None):
    name = "food_vision-0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        wheel.writestr(INFO + "/METADATA", META)
        wheel.writestr(INFO + "/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(INFO + "/RECORD", "")
    return name
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "food-vision"
dynamic = ["version", "optional-dependencies"]
"""


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))


def installing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that has nothing installed, in `root`."""
    for name in ("pyproject.toml", "constraints.txt"):
        (root / name).write_text("torch==9.9.9\n")
    monkeypatch.setattr(prepare, "ROOT", root)
    monkeypatch.setattr(prepare, "VENV", root / ".venv")


def has_python(root: Path, lines: str) -> Path:
    """`root` has an environment whose Python is this shell script."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{lines}\n")
    python.chmod(0o755)
    return python


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a space in its name whose only package is a torch."""
    root = tmp_path / "food vision"
    for name in (
        "scripts/prepare.py",
        "scripts/torch_here.py",
        "contract/__init__.py",
        "contract/cli.py",
        "contract/errors.py",
        "contract/files.py",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "constraints.txt").write_text("# pins\ntorch==9.9.9\n")
    return root


@pytest.fixture
def cpu_index(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A package index whose only package is a CPU build of torch, and what it was asked for."""
    folder, asked = tmp_path / "index", list[str]()
    (folder / "torch").mkdir(parents=True)
    with zipfile.ZipFile(folder / "torch" / "torch-9.9.9+cpu-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch-9.9.9+cpu.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9+cpu\n")
        wheel.writestr(
            "torch-9.9.9+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("torch-9.9.9+cpu.dist-info/RECORD", "")

    class Index(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def prepared(checkout: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """The command on a machine without an NVIDIA driver and with no settings of pip's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PATH": "/nowhere"}
    command = [sys.executable, "-m", "scripts.prepare", *flags]
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.skipif(prepare.has_nvidia_driver(), reason="this machine has an NVIDIA driver")
def test_torch_alone_comes_from_the_cpu_index_once(checkout: Path, cpu_index: tuple[str, list[str]]) -> None:
    index, asked = cpu_index
    done = prepared(checkout, "--torch-index", index)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"torch: a CPU build from {index}" in done.stdout
    assert "Installing into .venv" in done.stdout
    assert {path.strip("/").split("/")[0] for path in asked} == {"torch"}
    assert list((checkout / ".venv").glob("lib/python*/site-packages/torch-9.9.9+cpu.dist-info"))
    again = prepared(checkout, "--torch-index", index)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert prepared(checkout, "--torch", "cpu").stdout == "", "that is what it has"


def test_only_a_bare_pip_is_pointed_at_the_cpu_index(no_driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert prepare.wants_cpu_index("global.timeout='60'\n:env:.cert='/x'\n:env:.extra-index-url=''\n")
    for configured in (
        "global.index-url='https://mirror/simple'", ":env:.extra-index-url='file:///x'", "install.find-links='/wheels'",
        ":env:.no-index='1'",
    ):  # fmt: skip
        assert not prepare.wants_cpu_index(f"global.timeout='60'\n{configured}\n"), configured
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not prepare.wants_cpu_index("")


def test_with_a_driver_pips_default_stays(no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not prepare.has_nvidia_driver()
    monkeypatch.setattr(prepare, "DRIVER", tmp_path)
    assert prepare.has_nvidia_driver()
    assert not prepare.wants_cpu_index("")
    monkeypatch.setattr(prepare, "DRIVER", tmp_path / "none")
    (tmp_path / "nvidia-smi").touch(mode=0o755)
    assert prepare.has_nvidia_driver(), "WSL has the command and not the file"


@pytest.mark.parametrize(
    ("version", "torch", "fits"),
    [
        ("2.13.0+cpu", None, True), ("2.13.0", None, True), ("2.13.0+cpu", "cpu", True), ("2.13.0", "cpu", False),
        ("2.13.0+cpu", "cuda", False), ("2.13.0", "cuda", True), ("2.13.0+cpu", "torch==2.13.0+cpu", True),
        ("2.13.0", "torch==2.13.0+cpu", False), ("2.13.0+cpu", "torch==2.13.0", True), ("", "cuda", True),
        ("", "cpu", False),
    ],
)  # fmt: skip
def test_which_torch_is_the_one_asked_for(
    version: str, torch: str | None, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert prepare.fits(version, torch) is fits


class StandInPip:
    """In place of pip: remembers what it was asked, installs `torch` of a version, and cannot reach the CPU index."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path, gives: str, config: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self._packages, self._gives = root / ".venv/lib/python3/site-packages", gives
        installing(root, monkeypatch)
        has_python(root, f"echo {'.'.join(map(str, sys.version_info[:3]))}")
        monkeypatch.setattr(prepare, "_pip", self)
        monkeypatch.setattr(prepare, "_pip_config", lambda: config)

    def __call__(self, lock: int, *arguments: str) -> None:
        self.asked.append(arguments)
        if "--index-url" in arguments:
            raise ContractError("no route to host")
        (self._packages / f"torch-{self._gives}.dist-info").mkdir(parents=True, exist_ok=True)


def test_without_the_cpu_index_torch_comes_with_the_rest(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    pip = StandInPip(monkeypatch, tmp_path, "9.9.9")
    assert prepare.main(["--torch", "cpu"]) == 1, "not where it was asked for"
    assert "no route to host" in capsys.readouterr().err
    pip.asked.clear()
    assert prepare.main([]) == 0
    assert [arguments[-1] for arguments in pip.asked] == ["torch==9.9.9", f".[{prepare.EXTRAS},heic]"]
    assert "it comes from pip's default index, with CUDA's libraries" in capsys.readouterr().out
    pip.asked.clear()
    assert prepare.main([]) == 0
    assert prepare.main(["--torch", "cuda"]) == 0
    assert pip.asked == [], "that is what it has"


def test_the_build_that_was_asked_for_or_none(
    no_driver: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    pip = StandInPip(monkeypatch, tmp_path, "9.9.9+cpu", "global.find-links='/wheels'")
    assert prepare.main(["--torch", "cuda"]) == 1
    assert "TORCH=cuda was asked for and pip's configuration gave torch 9.9.9+cpu" in capsys.readouterr().err
    assert len(pip.asked) == 1, "the rest is not installed before that is known"
    assert prepare.main(["--torch", "cpu"]) == 0
    assert not any("--index-url" in arguments for arguments in pip.asked), "pip's own configuration wins"


@pytest.mark.parametrize(
    ("torch", "said"), [("rocm", "TORCH=rocm is not known"), ("torch==1.2", "constraints.txt, which has torch==")]
)
def test_a_torch_that_cannot_be(torch: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["--torch", torch]) == 1
    assert said in capsys.readouterr().err


def test_packages_that_pip_puts_elsewhere_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = StandInPip(monkeypatch, tmp_path, "9.9.9", "global.find-links='/wheels'")
    pip._packages = tmp_path / "elsewhere"
    assert prepare.main([]) == 1
    assert "pip put torch elsewhere than into .venv" in capsys.readouterr().err
    assert not (tmp_path / ".venv" / prepare.INSTALLED).exists()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("  Downloading torch-2.13.0%2Bcpu-cp311.whl (190.1 MB)", "torch-2.13.0%2Bcpu-cp311.whl, 190 MB"),
        ("Downloading https://host/a/ray-2.60.0.whl (70 MB)", "ray-2.60.0.whl, 70 MB"),
        ("Downloading nvidia_cudnn.whl (0.7 GB)", "700 MB"),
        ("Downloading click-8.whl (110 kB)", None), ("Downloading scipy.whl (19.9 MB)", None), ("Collecting torch", None),
        ("Installing collected packages: a, b, c", "3 packages"),
        ("WARNING: The candidate selected is yanked", "yanked"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'", None),
    ],
)  # fmt: skip
def test_only_what_takes_long_is_shown(line: str, shown: str | None) -> None:
    found = prepare.progress(line)
    assert (found or "").endswith(shown or "")
    assert (found is None) is (shown is None)


def test_what_pip_says_of_ignored_locations_is_not_shown() -> None:
    assert prepare.is_noise("WARNING: Location 'file:///a/ray/' is ignored: it is neither a file nor a directory.\n")
    assert not prepare.is_noise("WARNING: The candidate selected for download is a yanked version\n")


def full(monkeypatch: pytest.MonkeyPatch, where: Path) -> None:
    """The disk of `where` has no space left."""
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=(path != where) << 40))


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(("folder", "remedy"), [("root", "another disk"), ("temporary", "set TMPDIR")])
def test_a_full_disk_gets_one_sentence(
    folder: str, remedy: str, installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    installing(tmp_path, monkeypatch)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/temporary")
    full(monkeypatch, tmp_path if folder == "root" else Path("/temporary"))
    if installed:
        monkeypatch.setattr(prepare, "_is_installed", lambda *asked: True)
        assert prepare.main([]) == 0, "a linter needs no space"
    assert prepare.main(["--for", "run"]) == 1
    said = capsys.readouterr().err
    assert "0.0 GB free" in said
    assert remedy in said
    assert not (tmp_path / ".venv").exists()


def test_what_a_half_made_environment_holds_counts_as_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installing(tmp_path, monkeypatch)
    python = has_python(tmp_path, "exit 1")
    (tmp_path / ".venv" / prepare.CUT_OFF).touch()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=(not python.exists()) << 40))
    monkeypatch.setattr(prepare, "_pip", lambda lock, *arguments: None)
    monkeypatch.setattr(prepare, "_pip_config", lambda: "global.find-links='/wheels'")
    assert prepare.main([]) == 1, "there is no torch"
    assert (tmp_path / ".venv" / "pyvenv.cfg").exists(), "but a new environment"


SAYS_FULL = 'echo "ERROR: Could not install: [Errno 28] No space left on device"; exit 1'
SAYS_NOTHING_FITS = 'echo "ERROR: No matching distribution found for torch==9.9.9"; exit 1'
OFFLINE = """\
echo "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError': /simple/setuptools/"
echo "ERROR: No matching distribution found for setuptools>=77"; exit 1"""


@pytest.mark.parametrize(
    ("pip", "said", "changed"),
    [
        (f"echo 'Installing collected packages: torch'\n{SAYS_FULL}", "the disk is full", True),
        (OFFLINE, "the package index could not be reached", False),
        (SAYS_NOTHING_FITS, "pip failed: No matching distribution found for torch==9.9.9.\n", False),
    ],
)
def test_pips_failure_is_one_sentence_and_an_old_environment_stays(
    pip: str,
    said: str,
    changed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    installing(tmp_path, monkeypatch)
    has_python(tmp_path, f'case "$*" in *platform*) exec "{sys.executable}" "$@";; esac\n{pip}')
    (tmp_path / ".venv" / prepare.INSTALLED).write_text("of yesterday's constraints")
    assert prepare.main([]) == 1
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert (tmp_path / ".venv" / prepare.CUT_OFF).exists() is changed
    assert (tmp_path / ".venv" / prepare.INSTALLED).exists() is not changed


@pytest.mark.parametrize(
    ("says", "what"), [("echo 3.10.1", "is of Python 3.10.1"), ("exit 1", "that is gone or has no pip")]
)
def test_an_environment_that_will_not_do_is_not_deleted(
    says: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installing(tmp_path, monkeypatch)
    python = has_python(tmp_path, says)
    for _ in range(2):
        assert prepare.main([]) == 1
        assert what in capsys.readouterr().err
        assert python.exists()


def test_what_make_did_not_make_is_not_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installing(tmp_path, monkeypatch)
    file = tmp_path / ".venv" / "Scripts" / "python.exe"
    file.parent.mkdir(parents=True)
    file.touch()
    assert prepare.main([]) == 1
    assert "has no Python and was not made by make" in capsys.readouterr().err
    assert file.exists()
    (tmp_path / ".venv" / prepare.INSTALLED).touch()  # one of ours, whose Python was uninstalled
    full(monkeypatch, tmp_path)
    assert prepare.main([]) == 1
    assert "GB free and the install needs" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / ".venv").iterdir()] == [prepare.CUT_OFF]


def test_where_a_link_is_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installing(tmp_path, monkeypatch)
    (tmp_path / ".venv").symlink_to(tmp_path / "nowhere")
    assert prepare.main([]) == 1
    assert "is a link or a file" in capsys.readouterr().err


def test_the_tests_want_a_compiler(no_driver: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main(["--for", "test"]) == 1
    assert "gcc was not found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("python", "said"), [("old", "is 3.10.1"), ("/no where/python", "was not found"), ("broken", "was not found")]
)
def test_make_names_a_python_that_will_not_do(python: str, said: str, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    (tmp_path / "old").write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; *) echo 3.10.1;; esac\n')
    (tmp_path / "broken").write_text("#!/bin/sh\nexit 127\n")
    for file in tmp_path.iterdir():
        file.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "demo", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"make: Python 3.11 or newer is needed, and {python} {said}" in done.stderr
