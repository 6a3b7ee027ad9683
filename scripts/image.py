"""Build an image of the service, or of what makes its bundles.

    python3 -m scripts.image                                    # localhost/food-vision:cpu with the demonstration
    python3 -m scripts.image --bundle none                      # no bundle baked in, it is mounted at /bundle
    python3 -m scripts.image --target gpu --tag localhost/food-vision:gpu
    python3 -m scripts.image --target gpu-slim                  # the same without cuDNN
    python3 -m scripts.image --bundle bundles/food101 --tag localhost/food-vision:food101     # your own baked in
    python3 -m scripts.image --target bulk                      # labelling in bulk on a Ray cluster
    python3 -m scripts.image --target training                  # training and export, with torch for NVIDIA GPUs
    python3 -m scripts.image --target training --torch torch==2.13.0+cpu   # another build of torch, from pip's configuration
    python3 -m scripts.image --heic                             # reads HEIC too; its decoder is under the GPL
    python3 -m scripts.image --base local                       # where no image registry is in reach
    python3 -m scripts.image --tag REGISTRY/food-vision:1.0 --push      # prints and writes down the digest

The demonstration is the bundle of `make demo`, made now where it is not there (`make demo-bundle`: training and export).
pip's configuration and the certificates of this machine, where PIP_CONFIG_FILE and PIP_CERT name them, are mounted while
pip runs and are in no layer. Needs no package; see docs/image.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from scripts.containers import LOCAL, Tools, attesting_builder, find_tools
from scripts.licences import expression

ROOT = Path(__file__).parent.parent
TARGETS = ("cpu", "gpu", "gpu-slim", "gpu-tensorrt", "bulk", "training")
LOCAL_BASE = "localhost/debian-python:bookworm"
DEMONSTRATION = ROOT / "build" / "demo" / "bundle"
# Targets that get it when no bundle is named; why the others do not.
WITH_DEMONSTRATION = ("cpu", "gpu")
WITHOUT = {
    "gpu-slim": "it has no cuDNN, which the demonstration's image tower needs",
    "gpu-tensorrt": "the demonstration is exported for CPU and CUDA",
    "bulk": "what labels in bulk is given a model of your own",
}
SECRETS = {"pip_config": "PIP_CONFIG_FILE", "ca_bundle": "PIP_CERT"}


def build(
    target: str,
    tag: str,
    base: str | None,
    bundle: Path | None,
    *,
    torch: str | None = None,
    heic: bool = False,
    push: bool = False,
) -> int:
    """Build one target, print its size and, pushed, its digest. Returns the exit code."""
    if bundle is not None:
        _check_bundle(bundle, target)
    tools, started = find_tools(), time.monotonic()
    attests = push and tools.name == "docker"
    builder = attesting_builder() if attests else ()
    if builder and base and base.startswith(("local", "localhost/")):
        raise ContractError(
            f"The base {base} is on this machine alone, where the builder that attests ({builder[-1]}) does not see it: "
            "name one of a registry (--base, BASE_IMAGE)."
        )
    if base == "local":
        base = _local_base(tools)
    labels = _labels(base or _default_base(), _licences(target, torch, heic, bundle))
    arguments = ["--target", target, "--tag", tag, *_secrets()]
    if tools.name == "docker":
        arguments += [part for name, value in labels.items() for part in ("--label", f"{name}={value}")]
    if base:
        arguments += ["--build-arg", f"BASE_IMAGE={base}"]
    if torch:
        arguments += ["--build-arg", f"TORCH={torch}"]
    if heic:
        arguments += ["--build-arg", "HEIC=1"]
    if bundle is not None:
        arguments += ["--build-context", f"bundle={bundle.resolve()}"]
    if attests:
        digest = _push_with_docker(tools, target, tag, [*builder, *arguments])
        return _write_digest(target, tag, base or _default_base(), digest)
    _shown([*tools.build, *arguments, "."], tools, f"{tag} was not built")
    if tools.name == "podman":
        _label_with_buildah(tools, tag, labels)
    size = int(tools.call("image", "inspect", tag, "--format", "{{.Size}}"))
    print(f"{tag}: {size / 1e6:.0f} MB, built in {time.monotonic() - started:.0f} s")
    if push:
        return _write_digest(target, tag, base or _default_base(), _push_with_podman(tools, target, tag))
    return 0


def _shown(command: list[str], tools: Tools, failure: str) -> None:
    """Run a command whose output goes to the terminal. Raises `ContractError` with `failure`."""
    if subprocess.run(command, cwd=ROOT, env=os.environ | tools.env, check=False).returncode:
        raise ContractError(f"{failure}; the lines above say why.")


def _label_with_buildah(tools: Tools, tag: str, labels: dict[str, str]) -> None:
    """Label what was built, by one more build: buildah leaves the labels of a cached image as they were."""
    image = tools.call("image", "inspect", tag, "--format", "{{.Id}}")
    recipe = "".join([f"FROM {image}\n", *(f"LABEL {name}={json.dumps(value)}\n" for name, value in labels.items())])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(recipe, encoding="utf-8")
        _shown([*tools.build, "--quiet", "--tag", tag, folder], tools, f"{tag} was not labelled")


def _push_with_docker(tools: Tools, target: str, tag: str, arguments: list[str]) -> str:
    """Build and push in one go: only so do BuildKit's SBOM and provenance come along, as attestations of the digest.

    Returns the digest.
    """
    metadata = _record(target, "metadata")
    attested = ["--sbom=true", "--provenance=mode=max", "--push", "--metadata-file", str(metadata)]
    command = [*(word for word in tools.build if word != "--load"), *arguments, *attested, "."]
    _shown(command, tools, f"{tag} was not built and pushed")
    return str(json.loads(metadata.read_text())["containerimage.digest"])


def _push_with_podman(tools: Tools, target: str, tag: str) -> str:
    """Push what was built and return the digest. buildah attests nothing: `make sbom` lists the packages."""
    digest = _record(target, "digest")
    plain = ["--tls-verify=false"] if tag.startswith(("localhost:", "127.0.0.1:")) else []
    _shown([*tools.run, "push", *plain, "--digestfile", str(digest), tag], tools, f"{tag} was not pushed")
    return digest.read_text().strip()


def _write_digest(target: str, tag: str, base: str, digest: str) -> int:
    """Print the name by digest, which no later push can change, and write it to build/image. Returns the exit code."""
    repository = re.sub(r":[^:/]*$", "", tag)  # a registry's port is no tag
    record = {"repository": repository, "digest": digest, "tag": tag, "base": base}
    write_text_atomic(_record(target, "json"), json.dumps(record) + "\n")
    print(f"{repository}@{digest}")
    return 0


def _record(target: str, kind: str) -> Path:
    folder = ROOT / "build" / "image"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{target}.{kind}"


def _local_base(tools: Tools) -> str:
    """Name of the base image made from Debian's packages, made now if it is not here."""
    if not tools.has(LOCAL_BASE):
        script = ["sh", "scripts/local_base_image.sh", LOCAL_BASE, *tools.run]
        _shown(script, tools, "The local base image was not made")
    return LOCAL_BASE


def _default_base() -> str:
    """The base that the Dockerfile names."""
    (name,) = re.findall(r"^ARG BASE_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    return str(name)


def _licences(target: str, torch: str | None, heic: bool, bundle: Path | None = None) -> str:
    """The SPDX expression of what the image holds, by locks/licences.json and the baked bundle's manifest."""
    parts = [expression("gpu" if target == "gpu-tensorrt" else target, cuda=not torch)]
    parts += [expression("heic")] if heic else []
    weights = _tower(bundle).get("licence") if bundle is not None else None
    parts += [weights] if weights else []
    return " AND ".join(dict.fromkeys(" AND ".join(parts).split(" AND ")))


def _labels(base: str, licences: str) -> dict[str, str]:
    """Version, licences, commit, its time and the base: one commit has the same labels wherever it is built.

    Without git no commit; the base's digest where it is named by it.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, _, digest = base.partition("@")
    found = {"version": project["version"], "licenses": licences, "base.name": name}
    found |= {"base.digest": digest} if digest else {}
    if shutil.which("git") and (commit := _git("log", "-1", "--format=%H %ct")):
        revision, seconds = commit.split()
        found["revision"] = revision + ("-dirty" if _git("status", "--porcelain") else "")
        found["created"] = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {f"org.opencontainers.image.{name}": value for name, value in found.items()}


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _secrets() -> list[str]:
    files = {name: os.environ.get(variable, "") for name, variable in SECRETS.items()}
    return [part for name, file in files.items() if file for part in ("--secret", f"id={name},src={file}")]


def _manifest(bundle: Path) -> dict[str, Any]:
    """The manifest of a bundle, unchecked. Raises `ContractError` for a folder that has none."""
    try:
        found = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (OSError, ValueError):
        pass
    raise ContractError(f"{bundle} is not a bundle: it has no manifest.json. Make one with python -m export.")


def _tower(bundle: Path) -> dict[str, Any]:
    """What a bundle's manifest says of its image tower; nothing for a bundle from before that."""
    return dict(_manifest(bundle).get("tower") or {})


def _check_bundle(bundle: Path, target: str) -> None:
    """Raises `ContractError` for a folder that is no bundle, or one that the target cannot run."""
    if _tower(bundle).get("needs_cudnn") and target == "gpu-slim":
        raise ContractError(
            f"{bundle} has an image tower that needs cuDNN, which {target} leaves out: take --target gpu (TARGET=gpu)."
        )


def demonstration(target: str) -> Path | None:
    """The bundle that is baked in when none is named, made now if it is not here; None for targets without it.

    Raises `ContractError` when it cannot be made.
    """
    if target in WITHOUT:
        print(
            f"{target}: no bundle is baked in, {WITHOUT[target]}. Name one with --bundle (BAKE=), or mount it at /bundle"
        )
    if target not in WITH_DEMONSTRATION:
        return None
    find_tools()  # or the training would have been for nothing
    if not _is_demonstration(DEMONSTRATION):
        print("The demonstration bundle is not here. It is trained and exported first, for some minutes:", flush=True)
        print("$ make demo-bundle", flush=True)
        try:
            failed = subprocess.run(["make", "demo-bundle"], cwd=ROOT, check=False).returncode
        except OSError as error:
            print(error, file=sys.stderr)
            failed = 1
        if failed or not _is_demonstration(DEMONSTRATION):
            raise ContractError(
                "The demonstration bundle was not made; the lines above say why. Run `make demo-bundle` where torch can be "
                "installed and copy build/demo/bundle here, name a bundle of your own (--bundle, BAKE=bundles/mine), or "
                "bake in none (--bundle none, BAKE=none)."
            )
    print(f"{target}: the demonstration bundle is baked in, {DEMONSTRATION.relative_to(ROOT)}", flush=True)
    return DEMONSTRATION


def _is_demonstration(bundle: Path) -> bool:
    """Whether it is there, whole and marked as one; that of an older version is not."""
    try:
        return _manifest(bundle).get("demonstration") is True
    except ContractError:
        return False


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.image", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--target", choices=TARGETS, default="cpu", help="what to build (default: cpu)")
    parser.add_argument("--tag", help=f"name of the image (default: {LOCAL}:TARGET)")
    parser.add_argument("--base", help="base image with Python 3.11, or `local` (default: the Dockerfile's)")
    parser.add_argument(
        "--bundle", metavar="FOLDER",
        help="bundle to bake in, or `none`: it is mounted at /bundle (default: the demonstration for "
        f"{' and '.join(WITH_DEMONSTRATION)}, none for the others)",
    )  # fmt: skip
    parser.add_argument(
        "--torch", metavar="PIN", help="with training: another build of torch (default: the lock's, with CUDA)"
    )
    parser.add_argument("--heic", action="store_true", help="read HEIC as well; its decoder is under the GPL")
    parser.add_argument("--base-only", action="store_true", help="make the local base image and nothing else")
    parser.add_argument("--push", action="store_true", help="push it to the registry of its tag")
    args = parser.parse_args(argv)
    if args.torch and args.target != "training":
        parser.error(f"--torch is for --target training; {args.target} has no torch")
    if args.bundle not in (None, "none") and args.target == "training":
        parser.error("--bundle is for the service; training makes bundles")
    if args.base_only:
        return run("image", lambda: print(_local_base(find_tools())) or 0)
    tag = args.tag or f"{LOCAL}:{args.target}"
    options = {"torch": args.torch, "heic": args.heic, "push": args.push}

    def chosen() -> Path | None:
        if args.bundle is None:
            return demonstration(args.target)
        return None if args.bundle == "none" else Path(args.bundle)

    return run("image", lambda: build(args.target, tag, args.base, chosen(), **options))


if __name__ == "__main__":
    sys.exit(main())
