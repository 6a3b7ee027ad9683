"""The whole path on two CPU cores, offline: train, compare, export, serve, label over HTTP.

    make demo                   # on drawn pictures of food
    make demo PHOTOS=photos     # on your own photos, which are only read
    make demo-bundle            # training and export on drawn pictures alone: the bundle that `make image` bakes in

Every step is a command that is printed before it runs, so that it can be typed again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from contract.cli import run
from contract.errors import ContractError

ROOT = Path(__file__).parent.parent
HELD_OUT_PICTURE = 1_000_005  # drawn pictures from 1,000,000 on are never trained on
SHOWN = 3  # held-out photos that are labelled at the end
NO_FOOD = "nothing: noise"
FEWEST = 3  # photos a class: one to learn from, one to choose the best epoch by, one that is never trained on


@dataclass(frozen=True)
class Plan:
    """What of the steps is the demo's own: the folder that all is written to, the recipe and its settings.

    `photos` are what is labelled at the end, each with its true label's display name.
    """

    work: Path
    recipe: str
    settings: tuple[str, ...]
    photos: tuple[tuple[Path, str], ...]
    intro: str
    learns: str

    @property
    def checkpoint(self) -> Path:
        """Where training writes to."""
        return self.work / "checkpoint"

    @property
    def bundle(self) -> Path:
        """Where export writes to."""
        return self.work / "bundle"

    def training(self) -> list[object]:
        """The arguments of the training command. A run that was cut off is begun anew: its data may be other."""
        sets = chain.from_iterable(("--set", setting) for setting in self.settings)
        return ["--recipe", self.recipe, *sets, "--out", self.checkpoint, "--force", "--restart"]


def main(argv: list[str] | None = None) -> int:
    """Run all steps.

    Returns the exit code of the first that fails, 1 for another failure, 2 for wrong usage, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m scripts.demo", description="The whole path, offline.")
    parser.add_argument(
        "--photos", type=Path, metavar="FOLDER",
        help="your own photos: FOLDER/<class>/*.jpg, or FOLDER/train/<class>/ and FOLDER/test/<class>/ "
        "(default: drawn pictures)",
    )  # fmt: skip
    parser.add_argument(
        "--bundle-only", action="store_true",
        help="train and export on drawn pictures, and nothing else: the bundle of `make image`",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.bundle_only and args.photos is not None:
        parser.error(
            "--bundle-only is for drawn pictures, which the image's demonstration is made of, not for --photos"
        )
    return run("demo", lambda: _demo(args.photos, bundle_only=args.bundle_only))


def _demo(photos: Path | None, *, bundle_only: bool) -> int:
    if photos is not None and not os.path.samefile(
        Path.cwd(), ROOT
    ):  # as it was given, it reads better in the commands
        photos = photos.resolve()
    os.chdir(ROOT)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*"  # all that is asked is on this machine
    started = time.monotonic()
    plan = drawn() if photos is None else of_photos(photos)
    plan.work.mkdir(parents=True, exist_ok=True)
    print("The demonstration of the image: train, export." if bundle_only else plan.intro, flush=True)
    try:
        step(plan.learns, "training", *plan.training())
        if not bundle_only:
            step("Before and after, on what it has never seen", "training.evaluate", plan.checkpoint)
        name = ["--name", "demonstration"] if photos is None else []
        step("Export to ONNX, compared with PyTorch", "export", plan.checkpoint, plan.bundle, *name, "--force")
        if bundle_only:
            print(f"\nBoth steps took {time.monotonic() - started:.0f} s. The bundle is {plan.bundle}.")
            return 0
        if photos is None:
            picture = plan.photos[0][0]
            step("Draw one picture it has never seen", "training.drawn", "--index", HELD_OUT_PICTURE, "--out", picture)
        with server(plan.bundle) as url:
            for photo, truth in plan.photos:
                label(url, photo, truth)
            label(url, noise(plan.work / "noise.png"), NO_FOOD, "Ask about what is no food")
    except subprocess.CalledProcessError as error:
        print(f"demo: this step failed with exit code {error.returncode}", file=sys.stderr)
        return error.returncode if error.returncode > 0 else 1
    except (RuntimeError, httpx.HTTPError) as error:
        raise ContractError(str(error)) from error
    print(f"\nAll steps took {time.monotonic() - started:.0f} s. The bundle is {plan.bundle}. Next, serve it:\n")
    print(f"    make serve BUNDLE={plan.bundle}")
    print(f"    curl -F image=@{shlex.quote(str(plan.photos[0][0]))} http://127.0.0.1:8000/predict\n")
    if photos is None:
        print("It knows drawings, no photos. The same with your own photos, in photos/<class>/*.jpg:\n")
        print("    make demo PHOTOS=photos\n")
        print("The same bundle in a container, where Docker or buildah is:\n")
        print("    make image && docker run -p 8000:8000 localhost/food-vision:cpu\n")
    return 0


# -- the two kinds of data --------------------------------------------------------------------------------------------


def drawn() -> Plan:
    """The demo on drawn pictures, which need no photos and no download."""
    work = Path("build/demo")
    return Plan(
        work, "drawn", (), ((work / "picture.png", "Ice Cream Cone"),),
        "Pictures of food, drawn by code: train, compare, export, serve, label. Some minutes on two cores, "
        "offline.",
        "Train a small text decoder on a pretrained image tower, on drawn pictures",
    )  # fmt: skip


def of_photos(folder: Path) -> Plan:
    """The demo on the photos of a folder, as recipe `folder-small` has it. Nothing is written there.

    Raises `ContractError` for a folder whose photos cannot be trained on.
    """
    work, settings = Path("build/demo-photos"), parts(folder)
    shown, classes, count = held_out("folder-small", settings)
    return Plan(
        work, "folder-small", (*settings, f"cache.folder={work}/features"), tuple(shown),
        f"{count} photos of {classes} classes in {folder}: train, compare, export, serve, label, offline.",
        "Train a small text decoder on a pretrained image tower, on your photos",
    )  # fmt: skip


def parts(folder: Path) -> list[str]:
    """The settings that name a folder's photos: its class folders, or those in its `train` and `test`.

    Raises `ContractError` for what is no folder.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ContractError(f"PHOTOS={folder} {what}; name a folder with one folder of photos for each class.")
    # "./" as `--set` reads a value such as 2024 or true as TOML does.
    start = str(folder) if folder.is_absolute() or folder.parts[:1] == ("..",) else f"./{folder}"
    train, test = folder / "train", folder / "test"
    if not train.is_dir() or not any(inner.is_dir() for inner in train.iterdir()):
        return [f"data.train={start}"]
    return [f"data.train={start}/train", *([f"data.test={start}/test"] if test.is_dir() else [])]


def held_out(recipe: str, settings: list[str]) -> tuple[list[tuple[Path, str]], int, int]:
    """Photos to show, of those that a training by this recipe keeps for the end, and all classes and photos.

    Raises `ContractError` that says which class has too few photos, or what else is wrong with them.
    """
    from training.data.dataset import Photos
    from training.data.sources import open_source
    from training.recipe import load_recipe

    source = open_source(load_recipe(recipe, [*settings, "data.validation=0"]).data, 224)
    assert isinstance(source.train, Photos)
    assert isinstance(source.test, Photos)
    test = [(Path(source.test.where(index)), source.test.label(index)) for index in range(len(source.test))]
    train = Counter(source.train.label(index) for index in range(len(source.train)))
    alone = next((name for name in source.labels if train[name.id] == 1), None)
    if alone is not None:
        raise ContractError(
            f"The class {alone.name!r} has one photo to train on; at least two are needed, as one is kept to choose the "
            f"best epoch by (and of a folder without a test part another is held out: {FEWEST} in all). Add photos, or "
            "leave the class out."
        )
    shown = [(path, source.labels[label].display) for path, label in chosen(test)]
    return shown, len(source.labels), len(source.train) + len(source.test)


def chosen(photos: Sequence[tuple[Path, int]], count: int = SHOWN) -> list[tuple[Path, int]]:
    """`count` of the photos with their label ids: of different classes, spread over all, where there are as many.

    It depends on the names alone: a class's first photo comes before any class's second.
    """
    classes: dict[int, list[tuple[Path, int]]] = {}
    for photo in sorted(photos):
        classes.setdefault(photo[1], []).append(photo)
    ids = sorted(classes)
    spread = [ids[index * (len(ids) - 1) // (count - 1)] for index in range(count)] if len(ids) >= count else ids
    turns = zip_longest(*(classes[label] for label in spread))
    return [photo for turn in turns for photo in turn if photo is not None][:count]


# -- the steps --------------------------------------------------------------------------------------------------------


def step(title: str, module: str, *arguments: object) -> None:
    """Print a command, and run it."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    print(f"\n== {title}\n$ python {shlex.join(command[1:])}", flush=True)
    subprocess.run(command, check=True)


@contextmanager
def server(bundle: Path) -> Iterator[str]:
    """Start the service on a free port, yield its URL once it is ready, and stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "--bundle", str(bundle), "--port", str(port), "--log-level", "warning"]
    print(f"\n== Serve it\n$ python {shlex.join(command[1:])}", flush=True)
    process = subprocess.Popen(command)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)
    print("service stopped")


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Raises `RuntimeError` when the service ends or is not ready within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with exit code {process.returncode}")
        try:
            if httpx.get(f"{url}/health/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError("the service was not ready within 60 s")


def noise(path: Path) -> Path:
    """Write a picture of nothing, the same every time, and return its path."""
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def label(url: str, photo: Path, truth: str, title: str = "Label it") -> None:
    """Post a photo and print the answer beside the truth, or why there is none."""
    print(f"\n== {title}\n$ curl -F image=@{shlex.quote(str(photo))} {url}/predict", flush=True)
    answer: dict[str, Any] = {}
    for _ in range(3):  # the times of the last one: caches are warm
        response = httpx.post(f"{url}/predict", files={"image": photo.read_bytes()}, params={"top_k": 3}, timeout=60)
        answer = response.json()
    print(f"photo    {photo}\ntruth    {truth}")
    if response.status_code != 200:
        print(f"label    none, status {response.status_code}: {answer.get('detail')}")
        return
    if abstained := answer.get("abstained"):
        print(f"label    none, {abstained['reason']}: {abstained['message']}")
    else:
        right = "right" if answer["prediction"] == truth else "wrong"
        print(f"label    {answer['prediction']}  ({answer['raw_output']!r}), {right}")
    print("top 3    " + ", ".join(f"{one['prediction']} {100 * one['confidence']:.1f} %" for one in answer["top"]))
    if answer.get("familiarity") is not None:
        print(f"familiar {answer['familiarity']:.2f}: the share of the training pictures that look less like the rest")
    print("times    " + ", ".join(f"{stage} {value:.1f} ms" for stage, value in answer["timings_ms"].items()))


if __name__ == "__main__":
    sys.exit(main())
