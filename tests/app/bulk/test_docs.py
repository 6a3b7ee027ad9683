"""docs/bulk.md says what the command does: its options, columns and errors; the example's command can be parsed."""

from __future__ import annotations

import re
import shlex

import pytest

pytest.importorskip("ray", reason="needs the extra bulk")

from app.bulk.__main__ import _parser
from app.bulk.output import ERRORS_SCHEMA, LABELS_SCHEMA
from app.faults import ERRORS
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "bulk.md").read_text(encoding="utf-8")


def test_the_columns_are_those_that_are_written() -> None:
    rows = re.findall(r"^\| (`[^|]*`) \|[^|]*\| (both|labels|errors) \|", TEXT, re.MULTILINE)
    named = {table: {name for cell, where in rows if where in ("both", table) for name in re.findall(r"`(\w+)`", cell)}
             for table in ("labels", "errors")}  # fmt: skip
    assert named == {"labels": set(LABELS_SCHEMA.names), "errors": set(ERRORS_SCHEMA.names)}


def test_options_and_slugs_that_are_named_exist() -> None:
    known = {option for action in _parser()._actions for option in action.option_strings}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert named <= known
    slugs = set(re.findall(r"`([a-z]+_[a-z_]+)`", TEXT[TEXT.index("Slugs:") :].split("\n\n")[0]))
    assert slugs
    assert slugs <= set(ERRORS)


def test_the_command_of_the_example_can_be_parsed() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    job = yaml.safe_load((ROOT / "docs" / "bulk-rayjob.yaml").read_text(encoding="utf-8"))
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "app.bulk"]
    assert _parser().parse_args(words[3:]).address == "auto"
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pins
