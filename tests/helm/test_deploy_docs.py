"""docs/deploy-gke.md and its variants: walked from top to bottom with stand-ins, their values rendered by Helm's engine."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.helm.engine import CHART, HelmError, merged, needs_engine, objects, one
from tests.helm.gcloud_parser import ACCEPTED, commands
from tests.helm.walk import INSTEAD, ROAD, VARIANTS, Walk, blocks, road, roads, sections, walk

PAGES = ("docs/deploy-gke.md", "docs/deploy-gke-variants.md")
OPERATORS = (*PAGES, "docs/operations.md", "docs/runbook.md", "helm/food-vision/README.md")
# What `--addons` switches off when it does not name them: gcloud's own defaults, and the disks that GKE has on.
DEFAULT_ADDONS = {"HttpLoadBalancing", "HorizontalPodAutoscaling", "GcePersistentDiskCsiDriver"}


@functools.cache
def _walked(folder: Path, name: str) -> Walk:
    (folder / name).mkdir()
    return walk(folder / name, roads()[name])


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the walks are, each made once."""
    return tmp_path_factory.mktemp("walks")


def installs(found: Walk) -> list[tuple[str, dict[str, Any]]]:
    """Name and values of each release that was installed or upgraded."""
    several = [it for it in found.calls if it["tool"] == "helm" and it["arguments"][0] == "upgrade"]
    return [(it["arguments"][2], merged(*(yaml.safe_load(text) for text in it["values"].values()))) for it in several]


@pytest.mark.parametrize("name", sorted(roads()))
def test_the_pages_run_from_top_to_bottom(name: str, folder: Path) -> None:
    """No variable unset, no command before what it needs; each block in a new shell that has read the variables alone."""
    found = _walked(folder, name)
    assert found.code == 0, found.output[-2000:]
    assert "STOP" not in found.output
    assert sorted(it.name for it in found.repository.iterdir()) == ["Makefile", "bundles", "docs", "helm", "scripts"]
    assert list((found.repository / "bundles" / "food101").iterdir()) == [
        found.repository / "bundles" / "food101" / "manifest.json"
    ]


def test_tearing_down_leaves_nothing(folder: Path) -> None:
    left = {
        it for it in _walked(folder, "main").world if not it.startswith(("service ", "docker's", "asked", "applied"))
    }
    assert not left


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (
            "gcloud container clusters delete",
            "helm -n $NAMESPACE uninstall",
            "the release is still there, and its load balancer would stay",
        ),
        ("gcloud storage buckets add-iam-policy-binding", "gcloud container clusters create", "identity pool"),
    ],
)
def test_another_order_would_fail(first: str, second: str, says: str, tmp_path: Path) -> None:
    """The stand-ins see what the walks are to prove."""
    several = road(until="Tear down")
    early, late = (next(it for it in several if words in it) for words in (first, second))
    if early == late:
        lines = early.splitlines(keepends=True)
        moved = [it for it in lines if it.startswith(first)]
        several[several.index(early)] = "".join(moved + [it for it in lines if it not in moved])
    else:
        several.insert(several.index(late), several.pop(several.index(early)))
        several = several[: several.index(late)]
    found = walk(tmp_path, several)
    assert found.code != 0
    assert says in found.output


def test_a_check_stops_the_walk(tmp_path: Path) -> None:
    several = road(until="1")
    several[-1] = several[-1].replace("NVIDIA_L4_GPUS 1", "NVIDIA_L4_GPUS 9")
    found = walk(tmp_path, several)
    assert found.code != 0
    assert found.output.endswith("STOP, not so: quota NVIDIA_L4_GPUS has 9 left\n")


def test_gcloud_has_parsed_every_command(folder: Path) -> None:
    """gcloud.txt is made by gcloud's own parser: `python -m tests.helm.gcloud_parser`, where gcloud is installed."""
    walks = [_walked(folder, name) for name in roads()]
    accepted = set(ACCEPTED.read_text(encoding="utf-8").splitlines()[1:])
    assert set(commands(walks)) == accepted, "run `python -m tests.helm.gcloud_parser` where gcloud is installed"


def test_blocks_are_bash() -> None:
    assert len(blocks()) > 25
    for block in blocks():
        checked = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{checked.stderr}\n{block}"
    lines = [line for block in blocks() for line in block.splitlines()]
    assert [line for line in lines if len(line) > 125 and "principal://" not in line] == []


def test_the_add_ons_keep_the_defaults() -> None:
    found = re.findall(r"--addons=(\S+)", ROAD + VARIANTS)
    assert found
    for several in found:
        assert set(several.split(",")) >= DEFAULT_ADDONS


def test_what_has_cuda_asks_for_the_latest_driver() -> None:
    """CUDA 13 needs driver R580; GKE's default one may be older."""
    accelerators = re.findall(r"--accelerator=\S+", ROAD + VARIANTS)
    types = re.findall(r"\btype: nvidia-[^}]*\}", ROAD + VARIANTS)
    assert len(accelerators) >= 5
    assert len(types) >= 4
    assert [it for it in accelerators if "gpu-driver-version=latest" not in it] == []
    assert [it for it in types if "driverVersion: latest" not in it] == []
    for case in CHART.glob("ci/*-values.yaml"):
        node = yaml.safe_load(case.read_text(encoding="utf-8")).get("node", {})
        if node.get("mode", "accelerator") == "accelerator" and node.get("accelerator", {}).get("type", "nvidia-l4"):
            assert node.get("accelerator", {"driverVersion": "latest"})["driverVersion"] == "latest", case.name


def test_nothing_is_written_into_the_repository() -> None:
    for block in blocks():
        targets = re.findall(r">>?\s*([^\s;|&)]+)", re.sub(r"<<'?END'?\n.*?\nEND\n", "", block, flags=re.DOTALL))
        for target in targets:
            assert target.startswith(('"$WORK/', "~/food-vision-gke/", "/dev/null")), block


@needs_engine
@pytest.mark.parametrize("name", sorted(roads()))
def test_what_the_pages_install_renders(name: str, folder: Path) -> None:
    several = installs(_walked(folder, name))
    assert several
    for release, values in several:
        kinds = {it["kind"] for it in objects(values, name=release)}
        if release == "train":
            assert "Job" in kinds
        else:
            assert {"Deployment", "Gateway", "HTTPRoute", "HealthCheckPolicy", "GCPBackendPolicy"} <= kinds
            assert "PodMonitoring" in kinds


@needs_engine
def test_the_export_reads_what_the_training_writes(folder: Path) -> None:
    found = _walked(folder, "after")
    (values,) = (values for release, values in installs(found) if release == "train")
    job = one(objects(values, name="train"), "Job")
    applied = [yaml.safe_load(text) for text in found.world["applied"]["flags"] if not text.startswith("http")]
    claim, pod = one(applied, "PersistentVolumeClaim"), one(applied, "Pod")
    (trains,), (exports,) = job["spec"]["template"]["spec"]["containers"], pod["spec"]["containers"]
    assert trains["image"] == exports["image"]
    assert f"/out/{values['training']['run']} " in exports["command"][-1]
    claims = {it["persistentVolumeClaim"]["claimName"] for it in pod["spec"]["volumes"]}
    assert claims == {claim["metadata"]["name"]} == {values["training"]["outputClaim"]}


@needs_engine
def test_the_refusal_on_the_page_is_the_one_that_is_seen() -> None:
    gateway = {  # as the path has it
        "className": "gke-l7-global-external-managed",
        "hostnames": ["a.b"],
        "tls": {"mode": "certificateMap", "name": "food-vision"},
    }
    exposed = {"apiKeys": {"generate": True}, "exposure": {"mode": "gateway", "gateway": gateway}}
    least = {"image": {"repository": "a/b", "tag": "1"}, "node": {"accelerator": {"spot": True}}}
    with pytest.raises(HelmError) as refused:
        objects(least | exposed)
    lines = [line for line in str(refused.value).splitlines() if line.startswith("- ")]
    assert len(lines) == 1
    assert lines[0] in VARIANTS


def test_values_that_the_pages_name_exist() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    names = "|".join(it for it in values if it != "settings")  # those are checked by the values that render
    for page in OPERATORS:
        text = (ROOT / page).read_text(encoding="utf-8")
        for path in re.findall(rf"[`,\s]((?:{names})(?:\.[a-zA-Z]+)+)(?=[`=,\s])", text):
            module = (ROOT / path.replace(".", "/")).with_suffix(".py")  # as `training.evaluate`
            if "googleapis" in path or path.endswith(".yaml") or module.exists() or module.with_suffix("").is_dir():
                continue
            found: Any = values
            for key in path.split("."):
                assert isinstance(found, dict), f"{page}: {path}"
                assert key in found or not found, f"{page}: {path}"  # an empty map takes any key
                found = found.get(key, {})


def test_make_targets_modules_and_files_that_the_pages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in OPERATORS:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert f"\n{target}:" in makefile, f"{page}: make {target}"
        for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
            place = ROOT / module.replace(".", "/")
            assert (place / "__main__.py").exists() or place.with_suffix(".py").exists(), f"{page}: {module}"
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            assert (ROOT / os.path.dirname(page) / link).exists(), f"{page}: {link}"


def test_anchors_within_the_pages_exist() -> None:
    for page, text in zip(PAGES, (ROAD, VARIANTS), strict=True):
        for target, anchor in re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", text):
            other = (ROOT / "docs" / (target or os.path.basename(page))).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", other, re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", it).lower().replace(" ", "-") for it in headings}, (
                f"{page}: {anchor}"
            )


@pytest.mark.parametrize("page", OPERATORS)
def test_operators_are_told_nothing_for_contributors(page: str) -> None:
    text = re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(encoding="utf-8"))
    assert not re.findall(
        r"make (?:test|lint|chart|pipeline|bench|format)\b|pytest|ruff|--write|\ba test fails\b", text
    )
    assert "](../tests/" not in text


def test_the_helpers_say_stop(tmp_path: Path) -> None:
    """must, within and remember of scripts/gke.sh: a failure is seen, in a sentence and by the exit code."""
    for command, says in (
        ("must 'two is three' test 2 = 3", "STOP, not so: two is three"),
        ("within 0 'two is three' test 2 = 3", "STOP, not so: two is three"),
        ("remember NUMBER ''", "STOP, nothing was found for NUMBER"),
    ):
        script = f". scripts/gke.sh; WORK={shlex.quote(str(tmp_path))}; {command}"
        ran = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr.strip()) == (1, says)
    assert not (tmp_path / "found.sh").exists()


HELPERS = """set -u
PROJECT=my-project RELEASE=demo NAMESPACE=food NAME=demo-food-vision MODELS=my-project-food-models BUNDLE=bundle ADDRESS=
kubectl() { :; }
helm() { :; }
gcloud() { :; }
. scripts/gke.sh
"""


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("deploy", 0, "ok: demo serves"),
        ("helm() { return 1; }; deploy", 1, "STOP, not so: demo serves"),
        ("kubectl() { return 1; }; deploy", 1, "STOP, not so: demo serves"),
        ("helm() { [ $1 = upgrade ]; }; deploy", 1, "STOP, not so: demo serves"),
        ("SHA256=1; must 'it is there' bundle_is_there", 0, "ok: it is there"),
        (
            "gcloud() { [ $2 != rsync ]; }; SHA256=1; must 'it is there' bundle_is_there",
            1,
            "STOP, not so: it is there",
        ),
        ("ADDRESS=203.0.113.7; must 'it is gone' balancer_is_gone", 0, "ok: it is gone"),
        ("must 'it is gone' balancer_is_gone", 1, "STOP, not so: it is gone"),
        ("unset ADDRESS; must 'it is gone' balancer_is_gone", 1, "STOP, not so: it is gone"),
        ("gcloud() { echo gkegw1-x; }; ADDRESS=203.0.113.7; must 'it is gone' balancer_is_gone", 1, "STOP, not so"),
        ("gcloud() { return 1; }; ADDRESS=203.0.113.7; must 'it is gone' balancer_is_gone", 1, "STOP, not so"),
    ],
)
def test_a_step_that_fails_says_stop_and_never_ok(script: str, code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "10.yaml").write_text("{}")
    text = f"WORK={shlex.quote(str(tmp_path))}\n{HELPERS}{script}"
    ran = subprocess.run(["bash", "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert says in ran.stdout + ran.stderr
    assert ("ok:" in ran.stdout) == (code == 0)


def test_what_is_remembered_is_read_again_and_nothing_found_is_not_the_old_value(tmp_path: Path) -> None:
    text = """WORK=$1; . scripts/gke.sh
    remember KEPT "two words; \\"and\\" \\$more"
    remember DIGEST sha256:old
    remember DIGEST "" || echo "now: '$DIGEST'"
    KEPT=; . "$WORK/found.sh"; echo "$KEPT"
    digest_of LICENSE
    """
    ran = subprocess.run(["bash", "-c", text, "-", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert ran.stdout.splitlines() == ["now: ''", 'two words; "and" $more', digest]


def pasted(block: str, stand_ins: str) -> str:
    """What a shell says that goes on after a failure, as one does into which a block is pasted."""
    variables = (
        "WORK=$1 MODELS=m BUNDLE=b REGISTRY=r VERSION=1 REGION=x PODS=p NAMESPACE=n NAME=d SHA256=old DIGEST=old"
    )
    text = f"{variables}\n. scripts/gke.sh\n{stand_ins}\n{block}"
    with tempfile.TemporaryDirectory() as work:
        (Path(work) / "values").mkdir()
        ran = subprocess.run(["bash", "-c", text, "-", work], cwd=ROOT, capture_output=True, text=True, check=False)
        values = [path.read_text(encoding="utf-8") for path in (Path(work) / "values").iterdir()]
    return "\n".join([ran.stdout, ran.stderr, *values])


def test_without_a_digest_no_bundle_goes_into_the_folder_that_is_in_use() -> None:
    (block,) = sections(ROAD)["5. Bundle"]
    said = pasted(block, 'digest_of() { :; }; gcloud() { echo "gcloud $*"; [ $2 != ls ]; }')
    assert "STOP, nothing was found for SHA256" in said
    assert "storage rsync" not in said
    assert "old" not in said
    assert "\nok:" not in f"\n{said}"


def test_an_image_that_was_not_pushed_is_not_the_one_before() -> None:
    (block,) = sections(ROAD)["6. Image"]
    said = pasted(block, "make() { return 1; }; gcloud() { echo sha256:old; }")
    assert "STOP, not so: the image is pushed" in said
    assert 'digest: ""' in said


def test_tearing_down_waits_for_the_load_balancer_before_it_goes_on() -> None:
    """A pasted block runs on after a STOP, so what must not follow is in a block of its own."""
    first, then = sections(ROAD)["Tear down"]
    assert first.splitlines()[-1].endswith("balancer_is_gone")
    assert "delete" not in first
    assert then.startswith("kubectl delete namespace")


def test_every_section_of_the_variants_says_where_it_stands() -> None:
    for heading, several in sections(VARIANTS).items():
        assert several
        text = VARIANTS.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        words = INSTEAD.get(heading, "").split()
        expected = f"*Instead of step{'s' * (len(words) > 1)} {' and '.join(words)}.*" if words else "*After step"
        assert expected in text, heading
