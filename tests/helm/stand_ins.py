"""Stand-ins of gcloud, kubectl, helm and the like, for walking through docs/deploy-gke.md: they refuse a wrong order.

`main` is a tool; $STAND_INS is a folder for their memory. What is made needs what it stands on, and cannot be deleted
while something stands on it. Every call is written to $STAND_INS/calls, one Python literal a line. A walk makes some
hundred calls, each a process, so little is imported: neither `json`, `pathlib` nor `typing`.
"""

from __future__ import annotations

import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

APIS = {
    "artifacts": "artifactregistry",
    "certificate-manager": "certificatemanager",
    "compute": "compute",
    "container": "container",
    "iam": "iam",
    "storage": "storage",
}
QUOTAS = {"regions": "CPUS,24.0,0.0\nNVIDIA_L4_GPUS,4.0,0.0\nPREEMPTIBLE_NVIDIA_L4_GPUS,4.0,0.0"}
VERBS = {"create", "create-auto", "delete", "describe", "update", "list", "enable", "rsync", "ls", "rm"} | {
    "get-credentials",
    "configure-docker",
    "add-iam-policy-binding",
    "remove-iam-policy-binding",
}


def stop(why: str) -> NoReturn:
    """End with exit code 1 and a sentence."""
    sys.exit(f"{' '.join(sys.argv[1:4])} …: {why}")


class World:
    """What is there: each thing with its flags and with what it stands on."""

    def __init__(self) -> None:
        self.file = os.path.join(os.environ["STAND_INS"], "world")
        self.things: dict[str, dict[str, Any]] = {}
        if os.path.exists(self.file):
            with open(self.file, "rb") as kept:
                self.things = marshal.load(kept)

    def save(self) -> None:
        """Keep it for the next call."""
        with open(self.file, "wb") as kept:
            marshal.dump(self.things, kept)

    def need(self, *names: str) -> None:
        """End unless all these are there."""
        for name in names:
            if name not in self.things:
                stop(f"{name} is not there")

    def make(self, name: str, flags: dict[str, str] | None = None, on: list[str] | None = None) -> None:
        """Add a thing that stands on others."""
        if name in self.things:
            stop(f"{name} is there already")
        self.need(*(on or []))
        self.things[name] = {"flags": flags or {}, "on": on or []}

    def remove(self, name: str) -> None:
        """Take a thing away on which nothing stands."""
        self.need(name)
        above = [other for other, thing in self.things.items() if name in thing["on"]]
        if above:
            stop(f"{above[0]} stands on {name}")
        del self.things[name]

    def count(self, what: str) -> int:
        """How often this was asked before."""
        thing = self.things.setdefault("asked", {"flags": {}, "on": []})
        thing["flags"][what] = thing["flags"].get(what, 0) + 1
        return int(thing["flags"][what]) - 1

    def of(self, kind: str) -> dict[str, dict[str, str]]:
        """Name and flags of each thing of a kind."""
        return {name: thing["flags"] for name, thing in self.things.items() if name.startswith(kind + " ")}


def stands_on(kind: str, flags: dict[str, str]) -> list[str]:
    """What a thing of gcloud's needs."""
    named = {
        "compute networks subnets": [("compute networks", "network")],
        "compute routers": [("compute networks", "network")],
        "compute routers nats": [("compute routers", "router")],
        "container clusters": [("compute networks", "network"), ("compute networks subnets", "subnetwork")],
        "container node-pools": [("container clusters", "cluster")],
        "certificate-manager certificates": [("certificate-manager dns-authorizations", "dns-authorizations")],
        "certificate-manager maps entries": [
            ("certificate-manager maps", "map"),
            ("certificate-manager certificates", "certificates"),
        ],
    }
    found = [place(of, flags[flag], flags) for of, flag in named.get(kind, []) if flag in flags]
    if kind in ("container clusters", "container node-pools"):
        account = flags.get("service-account") or stop("the nodes have the default account")
        found += [f"iam service-accounts {account}", f"role roles/container.defaultNodeServiceAccount {account}"]
    return found


def place(kind: str, name: str, flags: dict[str, str]) -> str:
    """A thing's name; the same name may be in several locations of Certificate Manager."""
    if kind == "iam service-accounts" and "@" not in name:
        name += f"@{os.environ['PROJECT']}.iam.gserviceaccount.com"
    return f"{kind} {name}" + (f" {flags['location']}" if kind.startswith("cert") and "location" in flags else "")


def gcloud(world: World, arguments: list[str]) -> str:
    """One gcloud command; flags have their value after `=`."""
    flags = dict(it[2:].partition("=")[::2] for it in arguments if it.startswith("--"))
    words = [it for it in arguments if not it.startswith("--")]
    verb = next((it for it in words if it in VERBS), "") or stop("not a command of the page")
    kind, (name, *more) = " ".join(words[: words.index(verb)]), [*words[words.index(verb) + 1 :], ""]
    thing = place(kind, name, flags)
    if kind.partition(" ")[0] in APIS:
        world.need(f"service {APIS[kind.partition(' ')[0]]}.googleapis.com")
    if "policy" in verb:
        return binding(world, verb, thing, flags)
    if verb == "enable":
        for service in filter(None, [name, *more]):
            world.things.setdefault(f"service {service}", {"flags": {}, "on": []})
        return "Operation finished successfully."
    if kind == "projects":
        return "123456789012"
    if kind in ("compute regions", "compute project-info"):
        return QUOTAS.get(kind.split()[1], "GPUS_ALL_REGIONS,4.0,0.0")
    if kind == "auth":
        world.make("docker's credentials")
    elif kind == "storage":
        return storage(world, verb, [name, *more])
    elif kind == "artifacts docker images":
        world.need(f"image {name}")
        return "sha256:" + "3" * 64
    elif kind == "compute forwarding-rules":
        return "" if "release demo" not in world.things and world.count("rules") else "gkegw1-demo"
    elif kind == "compute machine-types":
        return name
    elif verb == "get-credentials":
        world.need(thing)
        with open(os.environ["KUBECONFIG"], "w") as file:
            file.write(name)
    elif verb.startswith("create"):
        world.make(thing, flags | {"verb": verb}, stands_on(kind, flags))
    elif verb == "delete":
        for pool in [it for it in world.of("container node-pools") if thing in world.things[it]["on"]]:
            world.remove(pool)  # GKE takes them along
        world.remove(thing)
        if kind == "artifacts repositories":  # images and roles go with it
            world.things = {it: thing for it, thing in world.things.items() if not it.endswith((f" {name}", "-gpu"))}
    else:
        world.need(thing)
        if kind == "certificate-manager certificates":
            return "ACTIVE" if world.count(thing) else "PROVISIONING"
        return "203.0.113.7"
    return f"{verb} [{name}]."


def binding(world: World, verb: str, thing: str, flags: dict[str, str]) -> str:
    """A role for an account that is there."""
    member, role = flags["member"], flags["role"]
    if member.startswith("principal://"):
        account = "/".join(member.split("/")[-3:])
        if verb.startswith("add") and not world.of("container clusters"):
            stop("the identity pool does not exist: it comes with the first cluster")
    else:
        account = member.partition(":")[2]
        world.need(f"iam service-accounts {account}")
    if not thing.startswith("projects"):
        world.need(thing)
    if verb.startswith("add"):
        world.make(f"role {role} {account}" + ("" if thing.startswith("projects") else f" {thing.split()[-1]}"))
    else:
        world.remove(f"role {role} {account}")
    return f"bindings: {role}"


def storage(world: World, verb: str, names: list[str]) -> str:
    """Objects in buckets."""
    if verb == "rsync":
        if not os.path.isfile(f"{names[0]}/manifest.json"):
            stop(f"{names[0]} is no bundle")
        world.need("storage buckets " + "/".join(names[1].split("/")[:3]))
        world.things.setdefault(f"folder {names[1]}", {"flags": {}, "on": []})
    elif verb == "ls":
        world.need("folder " + names[0].rpartition("/")[0])
    else:
        world.remove(f"storage buckets {names[0]}")
        world.things = {it: thing for it, thing in world.things.items() if names[0] not in it}
    return names[0]


def kubectl(world: World, arguments: list[str]) -> str:
    """One kubectl command."""
    cluster(world)
    text = " ".join(arguments)
    words = arguments[2:] if arguments[0] == "-n" else arguments
    if "gatewayclass" in words:
        (flags,) = world.of("container clusters").values()
        has = "HttpLoadBalancing" in flags.get("addons", "") and flags.get("gateway-api") == "standard"
        return "there" if has or flags["verb"] == "create-auto" else stop("no such kind")
    if words[:2] == ["wait", "--for=condition=Ready"] and "node" in words:
        pools = world.of("container node-pools").values()
        ready = [it for it in pools if "gpu-driver-version=latest" in it["accelerator"] and it["num-nodes"] != "0"]
        return "condition met" if ready else stop("no matching resources found")
    if "k8s-app=nvidia-gpu-device-plugin" in words:
        return "Driver Version: 580.95.05" if "nvidia-driver-installer" in words else "device plugin started"
    if words[0] == "apply":
        applied = world.things.setdefault("applied", {"flags": {}, "on": []})
        applied["flags"][words[2] if words[2] != "-" else sys.stdin.read()] = ""
    elif words[:2] == ["delete", "namespace"] and "release demo" in world.things:
        stop("the release is still there, and its load balancer would stay")
    elif words[:2] == ["create", "secret"]:
        files = [it.rpartition("=")[2] for it in words if it.startswith(("--from-file", "--cert", "--key"))]
        missing = [it for it in files if not os.path.isfile(it)]
        if missing or not files:
            stop(f"no such file: {missing}")
    elif "hpa/demo-food-vision" in words:
        world.need("role roles/monitoring.viewer custom-metrics/sa/custom-metrics-stackdriver-adapter")
        world.need("applied", "release demo")
    elif words[:2] == ["get", "secret"]:
        world.need("release demo")
        return "a-key\nanother" if "base64decode" in text else "YS1rZXkKYW5vdGhlcgo="
    elif words[0] in ("get", "describe", "rollout", "logs") and "custom-metrics" not in text:
        world.need("release demo")
    return "done"


def cluster(world: World) -> str:
    """The cluster whose credentials are at hand."""
    if not os.path.exists(os.environ["KUBECONFIG"]):
        stop("no cluster is known: get-credentials comes first")
    thing = f"container clusters {read(os.environ['KUBECONFIG'])}"
    world.need(thing)
    return thing


def helm(world: World, arguments: list[str]) -> str:
    """One helm command; an install needs its image, and its account the roles."""
    on = [cluster(world)]
    if arguments[0] == "upgrade":
        (name,) = (arguments[i + 1] for i, it in enumerate(arguments) if it == "--install")
        values = "\n".join(values_of(arguments).values())
        if name == "demo":
            account = os.environ["NODES"]
            world.need(f"role roles/artifactregistry.reader {account} food-vision")
            bucket = f"gs://{os.environ['MODELS']}"
            world.need(f"role roles/storage.objectViewer food/sa/demo-food-vision {bucket}", "docker's credentials")
            on += [it for it in world.things if it.startswith(("compute addresses", "certificate-manager maps food"))]
            if f"{bucket}/" not in values or "sha256:" not in values:
                stop("the values name no bundle or no image")
        world.things[f"release {name}"] = {"flags": {}, "on": on}
    elif "uninstall" in arguments:
        world.remove("release demo")
    else:
        world.need("release demo")
        if "test" in arguments and "--timeout" not in arguments:
            stop("helm gives up after 5 minutes, before the pod does")
    return "done"


def values_of(arguments: list[str]) -> dict[str, str]:
    """The text of each file after `-f`."""
    return {arguments[i + 1]: read(arguments[i + 1]) for i, it in enumerate(arguments) if it == "-f"}


def read(path: str) -> str:
    """A file's text."""
    with open(path) as file:
        return file.read()


def make(world: World, arguments: list[str]) -> str:
    """`make image-push`."""
    words = dict(it.split("=", 1) for it in arguments[1:])
    world.need("docker's credentials", "artifacts repositories food-vision")
    world.things.setdefault(f"image {words['IMAGE']}:{words['TAG']}", {"flags": {}, "on": []})
    return "pushed"


def curl(world: World, _: list[str]) -> str:
    """An answer over HTTPS."""
    world.need("release demo")
    return '{"prediction": "Beignets"}'


def main() -> None:
    """Be the tool that the first argument names."""
    tool, arguments = sys.argv[1], sys.argv[2:]
    values = values_of(arguments) if tool == "helm" else {}
    with open(os.path.join(os.environ["STAND_INS"], "calls"), "a") as calls:
        calls.write(f"{ ({'tool': tool, 'arguments': arguments, 'values': values})!r}\n")
    tools = {"gcloud": gcloud, "kubectl": kubectl, "helm": helm, "make": make, "curl": curl}
    if tool in tools:
        world = World()
        print(tools[tool](world, arguments))
        world.save()
    elif tool == "openssl":
        print("0" * 64)
    elif tool == "python3" and "hashlib" in arguments[1]:
        sys.argv = arguments[1:]
        exec(arguments[1])
