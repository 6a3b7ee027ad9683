"""Commands that have moved: for one release the old spelling says the new one and exits with 2."""

from __future__ import annotations

import pytest

from tests.commands import run_module

MOVED = {
    "app.fetch": "app.tools.fetch",
    "app.engines": "app.tools.build_engines",
    "app.smoke": "app.tools.smoke",
    "export.engines": "app.tools.build_engines",
    "training.probe": "training.evaluate.probe",
}


@pytest.mark.parametrize("old", MOVED)
def test_the_old_spelling_says_the_new_one(old: str) -> None:
    done = run_module(old, "whatever", "--flag")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{old}: this command is now python -m {MOVED[old]}; the options are the same.\n"


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_the_new_spelling_is_a_command(new: str) -> None:
    done = run_module(new, "--help")
    assert done.returncode == 0
    assert f"usage: python -m {new} " in done.stdout
