"""The gcloud commands of the deployment pages, and those that gcloud's own parser accepts (gcloud.txt).

`python -m tests.helm.gcloud_parser` walks the pages, has each command parsed by the gcloud of this machine, which asks
nobody for that, and writes gcloud.txt. A test then holds the pages to that file, on machines without gcloud too.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helm.walk import Walk, roads, walk

ACCEPTED = Path(__file__).parent / "gcloud.txt"


def commands(walks: list[Walk]) -> list[str]:
    """Each gcloud command of walks once, sorted."""
    return sorted({" ".join(["gcloud", *map(_quoted, words)]) for it in walks for words in it.commands("gcloud")})


def _quoted(word: str) -> str:
    flag, sign, value = word.partition("=")
    return f"{flag}{sign}{shlex.quote(value)}" if sign and flag.startswith("--") else shlex.quote(word)


def main() -> int:
    """Write gcloud.txt, or say which commands gcloud refuses."""
    folder = Path(tempfile.mkdtemp())
    walks = []
    for name, blocks in roads().items():
        (folder / name).mkdir()
        walks.append(walk(folder / name, blocks))
    for stopped in (it for it in walks if it.code):
        print(stopped.output, file=sys.stderr)
        return 1
    found = commands(walks)
    (folder / "commands.json").write_text(
        json.dumps([{"command_string": it, "id": number} for number, it in enumerate(found)])
    )
    env = os.environ | {"CLOUDSDK_CONFIG": str(folder), "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1"}
    version = subprocess.run(["gcloud", "version"], env=env, capture_output=True, text=True, check=True).stdout.split()[
        3
    ]
    parsed = json.loads(
        subprocess.run(
            ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={folder}/commands.json"],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    refused = [it for it in parsed if not it["success"]]
    for it in refused:
        print(f"gcloud {version} refuses: {it['command_string']}\n    {it['error_message']}", file=sys.stderr)
    if refused or len(parsed) != len(found):
        return 1
    head = f"# The parser of gcloud {version} accepts these. Made by `python -m tests.helm.gcloud_parser`.\n"
    ACCEPTED.write_text(head + "".join(f"{it}\n" for it in found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
