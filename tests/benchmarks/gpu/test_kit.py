"""The kit for a machine without a network: what goes along, how large it may be, and what run.sh says."""

from __future__ import annotations

import importlib.metadata
import struct
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu import kit, thin_wheel
from contract.errors import ContractError


def test_what_the_machine_lacks_is_carried_and_nothing_else() -> None:
    carried = kit.carried("3.12")
    assert {"transformers", "fastapi", "datasets", "kornia", "optimum", "pydantic-core", "uvicorn"} <= set(carried)
    # once left behind, since a list was kept by hand
    assert {"httpx2", "httpcore2", "truststore", "opentelemetry-api", "tzdata"} <= set(carried)
    assert not kit.machine_has() & set(carried)
    assert not {"torch", "numpy", "onnxruntime", "food-vision"} & set(carried)
    assert carried["transformers"] == importlib.metadata.version("transformers")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def distribution(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(ContractError, match="food-vision, which the kit needs, is not installed here"):
        kit.closure("3.12")


def test_a_folder_that_is_missing_or_too_large_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gpu-a").mkdir()
    (tmp_path / ".gpu-a" / "a").write_bytes(bytes(1000))
    assert kit.main(["--check", "--root", str(tmp_path)]) == 1
    assert "there is none" in capsys.readouterr().out
    (tmp_path / ".gpu-b").mkdir()
    with (tmp_path / ".gpu-b" / "b").open("wb") as file:
        file.truncate(kit.LIMIT)
    assert kit.main(["--check", "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert "TOO LARGE" in said[1]
    assert said[0] == ".gpu-a: 0.0 MiB, 0.0 of 64 with the sources"


def test_wrong_usage_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        kit.main(["--arch", "90"])
    assert ended.value.code == 2
    script = tmp_path / ".gpu-a" / "run.sh"
    script.parent.mkdir()
    script.write_text(kit.RUN)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")
    done = subprocess.run(
        ["bash", str(script), "check"], capture_output=True, text=True, check=False, env={"PATH": "/bin"}
    )
    assert done.returncode != 0
    assert "name the folder of the results" in done.stderr


def entry(kind: int, capability: int, payload: bytes) -> bytes:
    """One entry of a fat binary, with a header of 64 bytes."""
    return struct.pack("<HHIQ12xI", kind, 1, 64, len(payload), capability).ljust(64, b"\0") + payload


def test_only_the_code_of_one_gpu_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = entry(2, 75, b"turing00") + entry(2, 90, b"hopper00") + entry(1, 90, b"ptx of90")
    section = struct.pack("<IHHQ", thin_wheel.CONTAINER_MAGIC, 1, 16, len(entries)) + entries
    library = tmp_path / "provider.so"
    library.write_bytes(b"before--" + section + b"--behind")
    monkeypatch.setattr(thin_wheel, "_sections", lambda _: iter([(8, len(section))]))
    assert thin_wheel.keep_only(library, 90) == 1
    left = library.read_bytes()
    assert left == (b"before--" + section + b"--behind").replace(b"turing00", bytes(8)).replace(b"ptx of90", bytes(8))
    with pytest.raises(ContractError, match="no code for compute capability 8.9"):
        thin_wheel.keep_only(library, 89)
