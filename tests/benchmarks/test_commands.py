"""Every measurement is a command that says how it is used."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.conftest import ROOT

COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)
COMMANDS.remove("benchmarks.gpu.compiled")  # a step for another environment, which has nothing but TensorRT-RTX
OLD_SPELLINGS = {"benchmarks.gpu_check": "benchmarks.gpu.check"}


@pytest.mark.parametrize("module", COMMANDS)
def test_help_names_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main()
    name = OLD_SPELLINGS.get(module, module).removesuffix(".__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.split()[:4] == ["usage:", "python", "-m", name]
