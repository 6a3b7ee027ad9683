"""Requests made from the API description by schemathesis: whatever it promises must hold of a running server.

No 500; no status, header or body that is not described; what fits the description is accepted, what does not is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.part import Part
from tests.conftest import ROOT, serving

CONFIG = Path(__file__).parent / "schemathesis.toml"
DESCRIPTION = ROOT / "openapi.json"


def description_part(bundle: Path, cases: int, seed: int, *flags: object) -> Part:
    """About `cases` requests for each operation, after those that the description's own limits suggest.

    The server has its defaults, but for `flags`.
    """
    with serving(bundle, "--log-level", "error", "--threads", 1, *flags) as url:
        report, output = schemathesis(DESCRIPTION, url, "--max-examples", cases, "--seed", seed)
    part = Part("description", {"requests": report["test_cases"]["generated"], "operations": report["operations"]})
    part.faults = [f"{one['title']}: {', '.join(one['operations'])}" for one in report["failures"]]
    part.faults += [f"schemathesis could not test all: {one['title']}" for one in report["errors"]]
    print(f"description: {figures(report)}")
    if part.faults or report["exit_code"]:
        print(output)
        part.faults.append("the server does not keep to openapi.json; requests that show it are above")
    return part


def schemathesis(description: Path | str, url: str, *flags: object) -> tuple[dict[str, Any], str]:
    """The report and the output of `schemathesis run`, in a folder of its own, since it leaves files where it runs."""
    model = httpx.get(f"{url}/v2/models/stats", timeout=10).json()["model_stats"][0]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "HYPOTHESIS_STORAGE_DIRECTORY": folder,
            "MODEL_NAME": model["name"],
            "MODEL_VERSION": model["version"],
        }
        command = [
            sys.executable, "-m", "schemathesis.cli", "--config-file", CONFIG, "run", description, "--url", url,
            "--no-color", "--report", "json", "--report-json-path", "report.json", *flags,
        ]  # fmt: skip
        done = subprocess.run(
            list(map(str, command)),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        file = Path(folder) / "report.json"
        if not file.is_file():
            raise AssertionError(f"schemathesis made no report: {done.stdout}{done.stderr}")
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report, done.stdout


def figures(report: dict[str, Any]) -> str:
    """One line: operations, requests, how many were accepted where they fit the description, and seconds."""
    operations, requests = report["operations"], report["test_cases"]["generated"]
    rates = [phase for one in report["valid_rates"].values() for phase in one.values()]
    accepted = sum(rate["accepted"] for rate in rates)
    return (
        f"{operations['tested']} of {operations['total']} operations, {requests} requests ({accepted} fit the description "
        f"and were accepted), {len(report['failures'])} kinds of fault in {report['running_time']:.0f} s, "
        f"seed {report['seed']}"
    )
