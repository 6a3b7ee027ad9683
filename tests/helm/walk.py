"""docs/deploy-gke.md and its variants as scripts: their blocks, and a walk through them with stand-ins of the tools."""

from __future__ import annotations

import ast
import functools
import marshal
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

ROAD = (ROOT / "docs" / "deploy-gke.md").read_text(encoding="utf-8")
VARIANTS = (ROOT / "docs" / "deploy-gke-variants.md").read_text(encoding="utf-8")
TOOLS = ("gcloud", "gke-gcloud-auth-plugin", "kubectl", "helm", "docker", "make", "python3", "curl", "openssl", "sleep")
# Sections of the variants that stand in the place of steps.
INSTEAD = {
    "Spot": "4",
    "Several zones": "4",
    "A GPU for several pods": "4",
    "Autopilot": "3 4",
    "TLS in other ways": "7",
}
READ = ". ~/food-vision-gke/variables.sh\n"


def sections(page: str) -> dict[str, list[str]]:
    """The shell blocks of each `##` section, by its heading; a `###` counts as part of it."""
    found = {}
    for part in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if blocks:
            found[heading] = blocks
    return found


def blocks() -> list[str]:
    """Every shell block of both pages."""
    return [block for page in (ROAD, VARIANTS) for several in sections(page).values() for block in several]


@dataclass
class Walk:
    """What a walk left: output, each call of a tool, the folder that stood for the repository, the stand-ins' world."""

    code: int
    output: str
    calls: list[dict[str, Any]]
    repository: Path
    world: dict[str, Any]

    def commands(self, tool: str) -> list[list[str]]:
        """The arguments of each call of a tool."""
        return [call["arguments"] for call in self.calls if call["tool"] == tool]


def walk(folder: Path, several: list[str]) -> Walk:
    """Run blocks in their order, each but the first in a shell of its own that reads the file of variables.

    Parameters
    ----------
    folder
        An empty folder: home, repository and tools are made in it.
    several
        The blocks. The walk ends at the first that fails, names a variable that is not set, or ends a pipe badly.
    """
    repository, tools, home = folder / "repository", folder / "tools", folder / "a home"
    (repository / "bundles" / "food101").mkdir(parents=True)
    (repository / "bundles" / "food101" / "manifest.json").write_text("{}")
    for name in ("helm", "docs", "scripts", "Makefile"):
        (repository / name).symlink_to(ROOT / name)
    for made in (tools, home):
        made.mkdir()
    entry = f"import sys; sys.path[:0] = ['{ROOT}']; from tests.helm import stand_ins; stand_ins.main()"
    run = f'exec "{sys.executable}" -S -E -c "{entry}"'
    for tool in TOOLS:
        (tools / tool).write_text(f'#!/bin/sh\n{run} {tool} "$@"\n')
        (tools / tool).chmod(0o755)
    env = {"HOME": str(home), "STAND_INS": str(folder), "PATH": f"{tools}:{os.environ['PATH']}"}
    script = "\n".join(f"(\n{'' if i == 0 else READ}{block})" for i, block in enumerate(several))
    ran = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=repository,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    calls = [ast.literal_eval(line) for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]
    return Walk(ran.returncode, ran.stdout, calls, repository, marshal.loads((folder / "world").read_bytes()))


@functools.cache
def steps() -> dict[str, list[str]]:
    """The main road's blocks by step: `Variables`, `1`, `2`, …, `Tear down`."""
    return {heading.partition(".")[0]: several for heading, several in sections(ROAD).items()}


def road(*instead: str, until: str = "9") -> list[str]:
    """The blocks up to a step, sections of the variants in the place of steps: their first block counts."""
    replaced = {step: name for name in instead for step in INSTEAD[name].split()}
    found: list[str] = []
    for step, several in steps().items():
        if step not in replaced:
            found += several
        elif step == INSTEAD[replaced[step]].split()[0]:
            found += sections(VARIANTS)[replaced[step]][:1]
        if step == until:
            break
    return found


def after() -> list[str]:
    """The sections of the variants that come after step 9; each is undone, as the page says, before the next."""
    found = ['touch "$WORK/tls.crt" "$WORK/tls.key"\n']
    for name, several in sections(VARIANTS).items():
        found += several[1:] if name in INSTEAD else several
        found.append('rm -f "$WORK"/values/[56]0-*.yaml\n')
    return found


def in_prose() -> list[str]:
    """A block of the gcloud commands that stand in sentences."""
    found = [code for page in (ROAD, VARIANTS) for code in re.findall(r"`(gcloud [^`]+)`", page)]
    return ["".join(f"{' '.join(code.split())} || true\n" for code in dict.fromkeys(found))]


def roads() -> dict[str, list[str]]:
    """Every way through the pages, by name."""
    return {
        "main": road(until="Tear down"),
        "after": [*road(), *after(), *in_prose()],
        "spot-internal": road("Spot", "TLS in other ways"),
        "zones": road("Several zones"),
        "shared": road("A GPU for several pods"),
        "autopilot": road("Autopilot"),
    }
