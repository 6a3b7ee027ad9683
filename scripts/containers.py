"""The container tools of this machine: Docker where its daemon answers, else buildah and podman with a store of our own.

    eval "$(python3 -m scripts.containers env)"     # then plain `podman ps`, `podman images` show what `make image` made
    python3 -m scripts.containers clean             # delete the store, images and containers

The store lies in build/containers, so nothing of a machine's own containers is touched. Needs no package.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from contract.cli import run
from contract.errors import ContractError

STORE = Path(__file__).parent.parent / "build" / "containers"
LOCAL = "localhost/food-vision"  # images made here; no registry is meant
BUILDER = "food-vision"  # made where the current builder of Docker cannot attest
CREATE = f"docker buildx create --name {BUILDER} --driver docker-container --driver-opt network=host"
INSTALL = "apt-get install --no-install-recommends buildah podman runc catatonit netavark aardvark-dns uidmap iptables"


@dataclass(frozen=True)
class Tools:
    """Command prefixes, to which arguments are added, and the variables that they need."""

    name: str
    build: tuple[str, ...]
    run: tuple[str, ...]
    env: dict[str, str]

    def call(self, *arguments: object, check: bool = True) -> str:
        """Run a command of the container runtime and return its stdout. Raises `ContractError` with its stderr."""
        command = [*self.run, *map(str, arguments)]
        done = subprocess.run(command, env=os.environ | self.env, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ContractError(f"`{shlex.join(command)}` failed: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether the image is here."""
        command = [*self.run, "image", "inspect", image]
        return not subprocess.run(command, env=os.environ | self.env, capture_output=True, check=False).returncode


def find_tools() -> Tools:
    """The tools of this machine. Raises `ContractError` when there are none."""
    if _docker_answers():
        return Tools("docker", ("docker", "buildx", "build", "--load"), ("docker",), {})
    if shutil.which("buildah") and shutil.which("podman"):
        # chroot: a build needs no rights to make namespaces and cgroups; layers: an unchanged step is not run again.
        build = ("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--network", "host", "--layers")
        return Tools("podman", build, ("podman",), podman_env())
    if shutil.which("docker") and not _docker("info").returncode:
        raise ContractError(f"Docker is here without its plugin buildx. Install docker-buildx-plugin, or: {INSTALL}")
    raise ContractError(f"Neither Docker nor buildah with podman is here. Start Docker, or: {INSTALL}")


def _docker_answers() -> bool:
    if not shutil.which("docker"):
        return False
    return not any(
        subprocess.run(["docker", *words], capture_output=True, check=False).returncode
        for words in (("info",), ("buildx", "version"))
    )


def attesting_builder() -> tuple[str, ...]:
    """Options of `docker buildx build` that name a builder which attaches SBOM and provenance.

    None where the current one does: one of another driver than `docker`, or Docker with the containerd image store.
    Otherwise a builder of the driver docker-container, made now if it is not there. Raises `ContractError` where it
    cannot be made.
    """
    driver = re.search(r"^Driver:\s*(\S+)", _docker("buildx", "inspect").stdout, re.MULTILINE)
    if driver and driver[1] != "docker":
        return ()
    if "io.containerd.snapshotter" in _docker("info", "--format", "{{json .DriverStatus}}").stdout:
        return ()
    if _docker("buildx", "inspect", BUILDER).returncode:
        made = _docker(*CREATE.split()[1:])
        if made.returncode:
            raise ContractError(
                "Docker's classic image store holds neither SBOM nor provenance, and a builder that attaches them was "
                f"not made ({made.stderr.strip()[-300:]}). Make one ({CREATE}), or turn the containerd image store on."
            )
    return ("--builder", BUILDER)


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False)


def podman_env() -> dict[str, str]:
    """Write the configuration of the store and return the variables that name it.

    Limits are moderate: podman's own defaults may be above what the machine allows, and then no container starts. runc
    where it is there: crun refuses machines with both versions of cgroups.
    """
    STORE.mkdir(parents=True, exist_ok=True)
    limits = [
        f'"{name}={(limit := _limit(kind, most))}:{limit}"'
        for name, kind, most in (("nofile", resource.RLIMIT_NOFILE, 16384), ("nproc", resource.RLIMIT_NPROC, 4096))
    ]
    runtime = 'runtime = "runc"\n' if shutil.which("runc") else ""
    containers, storage = STORE / "containers.conf", STORE / "storage.conf"
    containers.write_text(
        f"[containers]\ndefault_ulimits = [{', '.join(limits)}]\n"
        f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n{runtime}'
    )
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{STORE / "storage"}"\nrunroot = "{STORE / "run"}"\n'
    )
    return {"CONTAINERS_CONF": str(containers), "CONTAINERS_STORAGE_CONF": str(storage)}


def _limit(kind: int, most: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(hard, most)


def clean() -> int:
    """Delete the store. Returns the exit code."""
    if not STORE.is_dir():
        return 0
    if shutil.which("podman"):
        for words in (("pod", "rm", "--all", "--force"), ("rm", "--all", "--force"), ("rmi", "--all", "--force")):
            subprocess.run(["podman", *words], env=os.environ | podman_env(), capture_output=True, check=False)
    for mount in reversed(_mounts()):  # a build or a pod that was cut off leaves its file system mounted
        subprocess.run(["umount", mount], capture_output=True, check=False)
    shutil.rmtree(STORE)
    return 0


def _mounts() -> list[str]:
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if Path(place).is_relative_to(STORE)]


def show_env() -> int:
    """Print the variables as shell commands. Returns the exit code."""
    for name, value in find_tools().env.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.containers", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=["env", "clean"], help="print the variables of the store, or delete it")
    return run("containers", {"env": show_env, "clean": clean}[parser.parse_args(argv).what])


if __name__ == "__main__":
    sys.exit(main())
