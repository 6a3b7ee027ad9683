"""List what an image holds, as CycloneDX: the lock's wheels with hashes and licences, Debian's packages, Python itself.

    python3 -m scripts.sbom --target cpu                                  # of localhost/food-vision:cpu
    python3 -m scripts.sbom --target cpu --image REGISTRY/food-vision@sha256:…    # of a pushed one

Into build/sbom/TARGET.cdx.json. What is in the image is asked in a container of it: Debian's packages of dpkg, wheels of
Python. Hashes come from locks/TARGET.txt, by cyclonedx-py of build/tools (`make sbom` sees to it), licences from
locks/licences.json. Needs no package.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from scripts.containers import LOCAL, Tools, find_tools
from scripts.licences import read_table

ROOT = Path(__file__).parent.parent
CYCLONEDX = ROOT / "build" / "tools" / "bin" / "cyclonedx-py"
OUT = ROOT / "build" / "sbom"
TARGETS = ("cpu", "gpu", "gpu-slim", "bulk", "training")
# Python of the base, apart from ours: what lies beside it is the base's, too.
OF_BASE = """
import importlib.metadata as m, json, platform, sys
found = {one.metadata["Name"]: one.version for one in m.distributions(path=sys.path)}
print(json.dumps({"python": platform.python_version(), "packages": found}))
"""
OF_OURS = """
import importlib.metadata as m, json, re
print(json.dumps({re.sub("[-_.]+", "-", one.metadata["Name"]).lower(): one.version for one in m.distributions()}))
"""
DPKG = "${binary:Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\t${source:Version}\\n"


def write(target: str, image: str) -> int:
    """Write the list of one image. Returns the exit code."""
    tools = find_tools()
    listed = _lock(target)
    listed["components"] = wheels(listed["components"], json.loads(_inside(tools, image, "python", "-c", OF_OURS)))
    base = json.loads(_inside(tools, image, "env", "PATH=/usr/local/bin:/usr/bin:/bin", "python3", "-I", "-c", OF_BASE))
    release = _inside(tools, image, "sh", "-c", '. /etc/os-release && echo "$ID-$VERSION_ID"')
    debian = debian_components(_inside(tools, image, "dpkg-query", "--show", f"--showformat={DPKG}"), release)
    listed["components"] += [*base_components(base), *debian]
    listed["metadata"]["component"] = {"bom-ref": "image", "type": "container", "name": "food-vision", "version": image}
    # What depends on what is not known of all: the root of cyclonedx-py's is another.
    listed.pop("dependencies", None)
    out = OUT / f"{target}.cdx.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out, json.dumps(listed, indent=1, ensure_ascii=False) + "\n")
    print(f"{out}: {len(listed['components'])} components, {len(debian)} of Debian")
    return 0


def debian_components(lines: str, release: str) -> list[dict[str, Any]]:
    """Components of dpkg's lines (`DPKG`); `release` is as `debian-12`."""
    found = []
    for line in lines.splitlines():
        package, version, architecture, source, of_source = line.split("\t")
        name = package.split(":")[0]
        purl = f"pkg:deb/debian/{name}@{_quoted(version)}?arch={architecture}&distro={release}"
        properties = [{"name": "debian:source", "value": f"{source} {of_source}"}]
        found.append(_component(name, version, purl) | {"properties": properties})
    return found


def base_components(base: dict[str, Any]) -> list[dict[str, Any]]:
    """Components of the base's own Python and of the packages beside it."""
    python = _component("python", base["python"], f"pkg:generic/python@{base['python']}")
    return [
        python,
        *(_component(name, it, f"pkg:pypi/{name.lower()}@{it}") for name, it in sorted(base["packages"].items())),
    ]


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"bom-ref": purl, "type": "library", "name": name, "version": version, "purl": purl}


def _quoted(version: str) -> str:
    return version.replace("%", "%25").replace("+", "%2B").replace(":", "%3A").replace("~", "~")


def wheels(locked: list[dict[str, Any]], inside: dict[str, str]) -> list[dict[str, Any]]:
    """Components of the wheels in an image (name → version): those of the lock as it has them, with their licences."""
    table, known = read_table(), {(one["name"], one["version"]): one for one in locked}
    found = []
    for key in sorted(inside.items()):
        one = known.get(key) or _component(*key, f"pkg:pypi/{key[0]}@{key[1]}")
        row = table.get(key)
        found.append(one | {"licenses": [{"expression": row.licence}]} if row else one)
    return found


def _lock(target: str) -> Any:
    """What cyclonedx-py makes of the lock. Raises `ContractError` without that program, or where it fails."""
    if not CYCLONEDX.is_file():
        raise ContractError(f"{CYCLONEDX} is not there; it comes with `make sbom`.")
    lock = ROOT / "locks" / f"{target}.txt"
    command = [str(CYCLONEDX), "requirements", "--of", "JSON", "--output-reproducible", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContractError(f"cyclonedx-py did not read {lock.relative_to(ROOT)}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def _inside(tools: Tools, image: str, *command: str) -> str:
    return tools.call("run", "--rm", "--network=none", "--entrypoint", command[0], image, *command[1:])


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.sbom", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="what was built (default: cpu)")
    parser.add_argument("--image", help=f"the image, also by digest (default: {LOCAL}:TARGET)")
    args = parser.parse_args(argv)
    return run("sbom", lambda: write(args.target, args.image or f"{LOCAL}:{args.target}"))


if __name__ == "__main__":
    sys.exit(main())
