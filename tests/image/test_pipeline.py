"""What ships the service keeps to the project's pins: locks, Dockerfile, workflows. Needs no container and no network."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from app.providers.tensorrt import CUDA_LIBRARIES
from scripts import sbom
from scripts.image import DEMONSTRATION
from tests.conftest import ROOT

LOCKS = ROOT / "locks"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILE = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
TARGETS = ("cpu", "gpu", "gpu-slim", "gpu-tensorrt")
STAGES = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=\nFROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
OF_CUDA = r"(triton|(cuda|nvidia)-[a-z0-9-]+)$"  # what torch of the common index brings along
REMEDY = "out of date: make lock"


def pins(text: str) -> dict[str, str]:
    """Name → version of each `name==version` at the beginning of a line."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): number for name, number in found}


def locked(name: str) -> dict[str, str]:
    return pins((LOCKS / f"{name}.txt").read_text(encoding="utf-8"))


def blocks(name: str) -> list[str]:
    """The packages of a lock, each with its hashes."""
    return re.split(r"\n(?=\S)", (LOCKS / f"{name}.txt").read_text(encoding="utf-8").strip())


def asked_for(name: str, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution with these extras needs here; ours as pyproject.toml says, others as they are installed."""
    if name != "food-vision":
        found = [Requirement(line) for line in requires(name) or ()]
        return [
            one for one in found if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras | {""})
        ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [Requirement(line) for line in sum((optional[extra] for extra in extras), project["dependencies"])]


def needed(name: str, extras: frozenset[str]) -> set[str]:
    """The distribution and all that it needs."""
    waiting, seen = [(name, extras)], set[tuple[str, frozenset[str]]]()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [(asked.name, frozenset(asked.extras)) for asked in asked_for(*one)]
    return {canonicalize_name(name) for name, _ in seen}


def test_the_cpu_lock_is_what_the_extras_need() -> None:
    wanted = needed("food-vision", frozenset({"cpu", "otel"})) - {"food-vision"}
    assert set(locked("cpu")) == wanted, REMEDY
    assert locked("cpu") == {name: version(name) for name in wanted}, REMEDY


def test_the_gpu_lock_differs_by_the_engine_alone() -> None:
    cpu, gpu = locked("cpu"), locked("gpu")
    assert set(cpu) - set(gpu) == {"onnxruntime"}
    assert {name for name in set(gpu) - set(cpu) if not name.startswith("nvidia-")} == {"onnxruntime-gpu"}
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"} <= set(gpu)
    assert all(gpu[name] == number for name, number in cpu.items() if name != "onnxruntime"), REMEDY


OF_CUDNN = {"nvidia-cudnn-cu13", "nvidia-cufft", "nvidia-nvjitlink"}  # cuFFT's linker comes with it
# pip package → the libraries in its wheel that the CUDA provider is linked to (readelf -d)
PROVIDED = {
    "nvidia-cublas": {"libcublas.so.13", "libcublasLt.so.13"},
    "nvidia-cuda-runtime": {"libcudart.so.13"},
    "nvidia-curand": {"libcurand.so.10"},
}


def test_the_slim_gpu_lock_is_the_gpu_lock_without_cudnn() -> None:
    """The image `gpu` is built on top of it, so each version must be the same."""
    gpu, slim = locked("gpu"), locked("gpu-slim")
    assert slim == {name: number for name, number in gpu.items() if name not in OF_CUDNN}, REMEDY
    assert "FROM packages-gpu-slim AS packages-gpu\n" in DOCKERFILE
    assert STAGES["gpu"].startswith(STAGES["gpu-slim"].splitlines()[0] + "\n"), "and its first layer is the same"


def test_the_slim_gpu_lock_has_all_that_the_cuda_provider_is_linked_to() -> None:
    """And of NVIDIA's nothing else, but nvrtc: cuBLAS opens it by name and pip says that it needs it."""
    assert set().union(*PROVIDED.values()) == set(CUDA_LIBRARIES["cuda"])
    assert {name for name in locked("gpu-slim") if re.match(OF_CUDA, name)} == {*PROVIDED, "nvidia-cuda-nvrtc"}


def test_the_training_lock_is_what_the_extras_need_and_cuda() -> None:
    wanted = needed("food-vision", frozenset({"training", "tower", "export"})) - {"food-vision"}
    found = {name: number for name, number in locked("training").items() if not re.match(OF_CUDA, name)}
    assert {"triton", "nvidia-cublas", "nvidia-nccl-cu13", "cuda-toolkit"} <= set(locked("training")) - set(found)
    installed = {name: Version(version(name)).public for name in wanted if not re.match(OF_CUDA, name)}
    assert found == installed, REMEDY


def test_another_torch_leaves_out_torch_and_cuda_and_nothing_else(tmp_path: Path) -> None:
    (script,) = re.findall(r"sed -i -E '(.+?)' /build/training.txt", DOCKERFILE)
    lock = tmp_path / "training.txt"
    shutil.copy(LOCKS / "training.txt", lock)
    subprocess.run(["sed", "-i", "-E", script, lock], check=True)
    text = lock.read_text(encoding="utf-8")
    left = {name: number for name, number in locked("training").items() if not re.match(rf"torch$|{OF_CUDA}", name)}
    assert pins(text) == left
    assert text.count("--hash=") == sum(
        one.count("--hash=") for one in blocks("training") if set(pins(one)) <= set(left)
    )


# Neither the service's framework nor what it serves with. Ray's dashboard has aiohttp, and exports metrics for Prometheus.
OF_THE_WEB = {"fastapi", "starlette", "uvicorn", "uvloop", "httptools", "python-multipart", "fastapi-offline"}
OF_A_DASHBOARD = {"aiohttp", "aiohttp-cors", "opencensus", "virtualenv", "smart-open"}  # of ray[default], for RayJobs


def test_the_bulk_lock_has_the_engine_ray_and_no_web_framework() -> None:
    bulk, slim = locked("bulk"), locked("gpu-slim")
    assert needed("food-vision", frozenset({"bulk"})) - {"food-vision"} <= set(bulk), REMEDY
    engine = {name for name in slim if re.match(rf"onnxruntime-gpu$|{OF_CUDA}", name)}
    assert {name: bulk[name] for name in engine} == {name: slim[name] for name in engine}, REMEDY
    assert not OF_THE_WEB & set(bulk)
    assert set(bulk) >= OF_A_DASHBOARD, "KubeRay submits a job through Ray's dashboard"
    ray = re.search(r"rayVersion: \"(.+)\"", (ROOT / "docs" / "bulk-rayjob.yaml").read_text(encoding="utf-8"))
    assert ray
    assert bulk["ray"] == ray[1], "the cluster's version in the example"


@pytest.mark.parametrize("name", ["cpu", "gpu", "gpu-slim", "bulk", "training", "heic"])
def test_locks_keep_to_the_constraints(name: str) -> None:
    constraints = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for package, number in locked(name).items():
        assert constraints.get(package, number) == number, f"{package}: {REMEDY}"


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*.txt")), ids=lambda path: path.stem)
def test_each_locked_package_has_a_hash_and_no_address(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert all("--hash=sha256:" in block for block in blocks(path.stem))
    assert "://" not in text
    assert "--index-url" not in text


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_ends_as_the_unprivileged_user(target: str) -> None:
    stage = STAGES[target]
    assert stage.rstrip().endswith("USER 10001:10001")
    engine = {"cpu": "cpu", "gpu": "cuda", "gpu-slim": "cuda", "gpu-tensorrt": "tensorrt"}[target]
    assert f"FOOD_VISION_PROVIDER={engine}" in stage, "a GPU image never serves on the CPU by itself"
    assert f"COPY --from=packages-{target} /" in stage


@pytest.mark.parametrize("target", [*TARGETS, "bulk", "training"])
def test_packages_are_layers_below_our_code(target: str) -> None:
    """What changes often is copied last: a node that has the packages pulls our wheel alone."""
    *packages, ours = re.findall(r"^COPY --from=(\S+) \S+ /$", STAGES[target], re.MULTILINE)
    if target != "training":
        assert packages.pop() == "baked", "a bundle stays, too, when our code changes"
    assert packages
    assert all(stage.startswith("packages-") for stage in packages)
    assert ours == ("ours-training" if target == "training" else "ours")
    for stage in packages:  # and no stage of the packages has seen our code, or they would be made anew with it
        assert not re.search(r"COPY .*(app|contract|pyproject)", chain(stage))
    assert re.search(r"\.sh /opt/venv /build/source /ours", STAGES[ours])


def chain(stage: str) -> str:
    """The instructions of a stage and of those that it is built from."""
    (parent,) = re.findall(rf"^FROM (\S+) AS {stage}$", DOCKERFILE, re.MULTILINE)
    return (chain(parent) if parent in STAGES else "") + STAGES[stage]


def test_no_instruction_above_the_packages_depends_on_the_day() -> None:
    """Every layer from the base to our code is copied from a folder whose times are the same everywhere."""
    for target in (*TARGETS, "bulk", "training"):
        made = re.findall(r"^(RUN|COPY|ADD)\b(.*)", chain(target), re.MULTILINE)
        folders = [" /layer/ /", " /cudnn/ /", " /baked/ /", " /account/ /", " /ours/ /"]
        assert {name for name, _ in made} == {"COPY"}
        assert all(line.endswith(tuple(folders)) for _, line in made)
    assert "SOURCE_DATE_EPOCH=315532800" in STAGES["tools"]
    assert 'touch -h -d "@$SOURCE_DATE_EPOCH"' in (ROOT / "docker" / "install.sh").read_text(encoding="utf-8")


def test_the_bulk_target_labels_on_ray_and_is_unprivileged() -> None:
    stage = STAGES["bulk"]
    assert "USER 10001:10001" in stage
    assert 'ENTRYPOINT ["python", "-m", "app.bulk"]' in stage
    assert "HOME=/tmp" in stage, "where Ray writes"
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in chain("bulk"), "where GKE mounts the driver"
    example = (ROOT / "docs" / "bulk-rayjob.yaml").read_text(encoding="utf-8")
    assert "make image-push TARGET=bulk IMAGE=REGISTRY/food-vision-bulk\n" in example
    assert set(re.findall(r"image: (.+)", example)) == {"REGISTRY/food-vision-bulk@sha256:DIGEST"}
    assert example.count("httpGet: { path: /api/healthz, port: 52365 }") == 2, "there is no wget for KubeRay's own"


def test_the_training_target_is_unprivileged_and_has_no_service() -> None:
    assert "USER 10001:10001" in STAGES["training"]
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in chain("training"), "where GKE mounts the driver"
    assert "FOOD_VISION_" not in chain("training")


def test_gpu_targets_find_the_driver_where_gke_mounts_it() -> None:
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in STAGES["runtime-gpu"]
    assert "ORT_DISABLE_TELEMETRY=1" in DOCKERFILE


def test_the_builder_is_sent_what_the_images_hold_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*", "all is left out"
    sent = {line[1:] for line in lines if line.startswith("!")}
    sources = {"app", "contract", "export", "modeling", "training"}
    scripts = {"docker/install.sh", "scripts/notices.py"}
    assert sent == sources | scripts | {"locks", "pyproject.toml", "README.md", "LICENSE", "NOTICE"}


def test_every_file_of_a_licence_is_sent_copied_and_packed() -> None:
    """setuptools takes what pyproject.toml names; a file that is not there would be left out without a word."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = re.findall(r"^COPY pyproject\.toml README\.md (.+) /build/source/$", DOCKERFILE, re.MULTILINE)
    of_rooms = [name for name in project["license-files"] if "/" in name]  # these come with their room
    assert [line.split() + of_rooms for line in copied] == [project["license-files"]] * 2
    assert {name.split("/")[0] for name in of_rooms} == {"contract"}
    assert DOCKERFILE.count("COPY contract /build/source/contract\n") == 2
    assert all((ROOT / name).is_file() for name in project["license-files"])


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for name, comment in used:
        if not name.startswith("$/"):  # a workflow of this repository, at this commit
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", name), name
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{name}{comment}"


def test_one_action_has_one_commit_everywhere() -> None:
    used = {
        one for path in WORKFLOWS for one in re.findall(r"uses: ([\w./-]+)@(\w+)", path.read_text(encoding="utf-8"))
    }
    assert len({name for name, _ in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_have_the_least_rights_and_an_end(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {}
    for name, job in jobs(path).items():
        assert "permissions" in job, name
        assert "uses" in job or job["timeout-minutes"] <= 60, name
    if path.stem == "ci":
        assert all(set(job["permissions"].values()) <= {"read"} for job in jobs(path).values())
        assert set(jobs(path)["green"]["needs"]) == set(jobs(path)) - {"green"}, "one job stands for all"


def test_every_target_that_the_pipelines_make_exists() -> None:
    runs = [step.get("run", "") for path in WORKFLOWS for job in jobs(path).values() for step in job.get("steps", ())]
    made = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(runs)))
    steps = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text(encoding="utf-8"))["steps"]
    made |= {step["args"][0] for step in steps if step.get("entrypoint") == "make"}
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    if not (ROOT / "helm").is_dir():
        made.discard("chart")
    assert made <= targets
    assert {"lint", "pipeline", "test", "regression", "image-test"} <= made


def test_a_release_pushes_and_names_the_images() -> None:
    release = ROOT / ".github" / "workflows" / "release.yml"
    targets = jobs(release)["image"]["strategy"]["matrix"]["target"]
    named = re.findall(r"-name '([a-z-]+)\.json'", release.read_text(encoding="utf-8"))
    text = release.read_text(encoding="utf-8")
    assert targets == named == ["cpu", "gpu", "gpu-slim"]
    assert set(targets) <= set(sbom.TARGETS), "each has its SBOM attested"
    assert jobs(release)["image"]["needs"] == ["base", "demonstration"], "one digest of the base for all, one bundle"
    assert 'BASE_IMAGE="$BASE"' in text
    assert "BASE: ${{ needs.base.outputs.image }}" in text


def test_a_release_bakes_in_one_demonstration_and_packages_the_chart_with_the_images(tmp_path: Path) -> None:
    """What one job hands over the next takes, by name and place; a release's files are of images and chart alone."""
    found = jobs(ROOT / ".github" / "workflows" / "release.yml")
    steps = {name: found[name]["steps"] for name in ("demonstration", "image", "release")}
    made, taken, of_images = (
        next(one["with"] for one in steps[job] if f"actions/{kind}-artifact@" in one.get("uses", ""))
        for job, kind in (("demonstration", "upload"), ("image", "download"), ("release", "download"))
    )
    place = DEMONSTRATION.relative_to(ROOT).as_posix()
    assert made["path"] == taken["path"] == place
    assert made["name"] == taken["name"]
    assert not fnmatch.fnmatch(made["name"], of_images["pattern"])
    packaged = next(one["run"] for one in steps["release"] if "package_chart" in one.get("run", ""))
    (command,) = [line.strip() for line in packaged.splitlines() if "package_chart" in line]
    records = tmp_path / of_images["path"] / "image"
    records.mkdir(parents=True)
    for target in ("cpu", "gpu"):
        (records / f"{target}.json").write_text(json.dumps({"repository": "r", "digest": f"sha256:{'1' * 64}"}))
    words = shlex.split(command.replace("$version", "1.2.3").replace("build/release", f"{tmp_path}/build/release"))
    assert subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=False).returncode == 0
    pushed = re.search(r"helm push \"(.+?)\"", packaged)
    assert pushed
    assert (tmp_path / pushed[1].replace("$version", "1.2.3")).is_file()


def test_a_release_that_is_run_again_names_the_newer_images(tmp_path: Path) -> None:
    """The last step, twice, with a `gh` that refuses a release which is there already."""
    gh = tmp_path / "gh"
    gh.write_text(
        '#!/bin/sh\necho "$*" >> calls\ncase $2 in view) [ -e made ] ;; delete) rm made ;;\n'
        "create) [ ! -e made ] && touch made && cat build/notes.md > told ;; esac\n"
    )
    (tmp_path / "jq").write_text('#!/bin/sh\nshift 2; cat "$@"\n')
    for tool in (gh, tmp_path / "jq"):
        tool.chmod(0o755)
    steps = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]["release"][
        "steps"
    ]
    (tmp_path / "build" / "release" / "image").mkdir(parents=True)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "GITHUB_REF_NAME": "v1.2.3"}
    for digest in ("sha256:1", "sha256:2"):
        (tmp_path / "build" / "release" / "image" / "cpu.json").write_text(digest)
        command = ["bash", "-e", "-o", "pipefail", "-c", steps[-1]["run"]]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert digest in (tmp_path / "told").read_text()
    calls = (tmp_path / "calls").read_text()
    assert calls.count("release create v1.2.3 --verify-tag") == 2
    assert "--cleanup-tag" not in calls
