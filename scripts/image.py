"""Build an image of the service.

    python3 -m scripts.image                                    # localhost/food-vision:cpu, the bundle to be mounted
    python3 -m scripts.image --target gpu --tag localhost/food-vision:gpu
    python3 -m scripts.image --bundle bundles/food101 --tag localhost/food-vision:food101     # the bundle baked in
    python3 -m scripts.image --base local                       # where no image registry is in reach

pip's configuration and the certificates of this machine, where PIP_CONFIG_FILE and PIP_CERT name them, are mounted while
pip runs and are in no layer. Needs no package; see docs/image.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError
from scripts.containers import LOCAL, Tools, find_tools

ROOT = Path(__file__).parent.parent
TARGETS = ("cpu", "gpu", "gpu-tensorrt")
LOCAL_BASE = "localhost/debian-python:bookworm"
SECRETS = {"pip_config": "PIP_CONFIG_FILE", "ca_bundle": "PIP_CERT"}


def build(target: str, tag: str, base: str | None, bundle: Path | None) -> int:
    """Build one target and print its size. Returns the exit code."""
    if bundle is not None and not (bundle / "manifest.json").is_file():
        raise ContractError(f"{bundle} is not a bundle: it has no manifest.json. Make one with python -m export.")
    tools, started = find_tools(), time.monotonic()
    if base == "local":
        base = _local_base(tools)
    arguments = ["--target", target, "--tag", tag, *_labels(), *_secrets()]
    if base:
        arguments += ["--build-arg", f"BASE_IMAGE={base}"]
    if bundle is not None:
        arguments += ["--build-context", f"bundle={_readable(bundle.resolve())}"]
    done = subprocess.run([*tools.build, *arguments, "."], cwd=ROOT, env=os.environ | tools.env, check=False)
    if done.returncode:
        raise ContractError(f"{tag} was not built; the lines above say why.")
    size = int(tools.call("image", "inspect", tag, "--format", "{{.Size}}"))
    print(f"{tag}: {size / 1e6:.0f} MB, built in {time.monotonic() - started:.0f} s")
    return 0


def _local_base(tools: Tools) -> str:
    """Name of the base image made from Debian's packages, made now if it is not here."""
    if not tools.has(LOCAL_BASE):
        script = ["sh", "scripts/local_base_image.sh", LOCAL_BASE, *tools.run]
        if subprocess.run(script, cwd=ROOT, env=os.environ | tools.env, check=False).returncode:
            raise ContractError("The local base image was not made; the lines above say why.")
    return LOCAL_BASE


def _labels() -> list[str]:
    """Version, commit and its time: one commit has the same labels wherever it is built. Without git, the version alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {"version": project["version"]}
    if shutil.which("git") and (commit := _git("log", "-1", "--format=%H %ct")):
        revision, seconds = commit.split()
        found["revision"] = revision + ("-dirty" if _git("status", "--porcelain") else "")
        found["created"] = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [part for name, value in found.items() for part in ("--label", f"org.opencontainers.image.{name}={value}")]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _secrets() -> list[str]:
    files = {name: os.environ.get(variable, "") for name, variable in SECRETS.items()}
    return [part for name, file in files.items() if file for part in ("--secret", f"id={name},src={file}")]


def _readable(bundle: Path) -> Path:
    """The bundle, if the service's user may read all of it; its rights come along into the image."""
    hidden = [path for path in (bundle, *bundle.iterdir()) if not path.stat().st_mode & 0o004]
    if hidden:
        raise ContractError(
            f"{hidden[0]} can be read by its owner alone, not by the service's user: chmod -R a+rX {bundle}"
        )
    return bundle


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="which engine (default: cpu)")
    parser.add_argument("--tag", help=f"name of the image (default: {LOCAL}:TARGET)")
    parser.add_argument("--base", help="base image with Python 3.11, or `local` (default: the Dockerfile's)")
    parser.add_argument(
        "--bundle", type=Path, help="bundle folder to bake in (default: none, it is mounted at /bundle)"
    )
    args = parser.parse_args(argv)
    tag = args.tag or f"{LOCAL}:{args.target}"
    return run("image", lambda: build(args.target, tag, args.base, args.bundle))


if __name__ == "__main__":
    sys.exit(main())
