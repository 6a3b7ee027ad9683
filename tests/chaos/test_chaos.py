"""A short attack, so that `make test` meets hostile requests too; `make chaos` is the long one, with overload."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.__main__ import PARTS, main
from tests.chaos.description import DESCRIPTION, description_part, schemathesis
from tests.chaos.hostile import hostile_part
from tests.chaos.mutations import mutations_part
from tests.chaos.overload import Load
from tests.chaos.part import Part
from tests.chaos.requests import KINDS, hostile
from tests.conftest import serving

# A busy neighbour is no fault, and no answer is another one where there are other cores.
PATIENT = ("--request-timeout-ms", 60_000)


def test_a_short_attack_leaves_the_service_as_it_was(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # memory is measured by `make chaos`: so few requests are less than what an allocator keeps
    part = hostile_part(bundle, 250, 100_000, *PATIENT, "--decode-processes", 2, growth=math.inf, patience=60)
    assert part.faults == [], capsys.readouterr().out


def test_damaged_photos_cost_nobody_else(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = mutations_part(bundle, 110, 1_000_000, *PATIENT, growth=math.inf)
    assert part.faults == [], capsys.readouterr().out


@pytest.mark.long  # a live server, asked for a while
def test_the_server_keeps_to_its_description(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert description_part(bundle, 3, 1, *PATIENT).faults == [], capsys.readouterr().out


def test_a_server_that_does_not_is_seen(bundle: Path, tmp_path: Path) -> None:
    document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    operation = document["paths"]["/health"]["get"]
    operation["responses"]["200"]["content"]["application/json"]["schema"] = {"type": "array"}
    document["paths"] = {"/health": {"get": operation}, "/labels": {"post": operation}}
    (tmp_path / "wrong.json").write_text(json.dumps(document))
    with serving(bundle, "--threads", 1) as url:
        report, output = schemathesis(tmp_path / "wrong.json", url, "--max-examples", 3)
    found = {(one["title"], *one["operations"]) for one in report["failures"]}
    assert ("Response violates schema", "GET /health") in found, output
    assert ("Undocumented status code", "POST /labels") in found, output


def test_requests_of_a_seed_are_the_same_and_of_every_kind() -> None:
    assert hostile(7) == hostile(7)
    kinds = Counter(hostile(seed).kind for seed in range(400))
    assert len(kinds) == len(KINDS), kinds


def test_figures_of_a_load() -> None:
    load = Load(2.0, accepted=[0.1, 0.2, 0.3, 0.4], refused=[0.001])
    assert load.goodput == 2.0
    assert load.percentile(load.accepted, 50) == pytest.approx(0.25)
    assert "2 answers/s, accepted p50 250 ms" in load.line()


def test_parts_are_chosen_and_kept(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PARTS, "good", ("one without a fault", lambda args: Part("good", {"answers": 3})))
    monkeypatch.setitem(PARTS, "bad", ("one with a fault", lambda args: Part("bad", {}, ["it fell over"])))
    out = tmp_path / "new" / "chaos.json"
    flags = ["--bundle", str(bundle), "--out", str(out)]
    assert main([*flags, "--only", "good"]) == 0
    assert json.loads(out.read_text())["parts"]["good"]["figures"] == {"answers": 3}
    assert main([*flags, "--only", "good, bad"]) == 1
    assert "FAULT bad: it fell over" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        main([*flags, "--only", "nothing"])
    assert wrong.value.code == 2
