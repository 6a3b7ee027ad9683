"""The model's answers must stay: fixed pictures, a fixed tiny bundle, and the answers that were agreed on.

    python -m scripts.model_regression                       # in this process; exit code 1 when an answer moved
    python -m scripts.model_regression --url http://…        # the same through a service that serves the bundle
    python -m scripts.model_regression --write answers       # accept what is computed now; review the diff of answers.json
    python -m scripts.model_regression --write model         # train, export and draw anew, minutes; then the answers

Everything lies in tests/regression: drawn pictures (PNG, and JPEG large enough to be decoded at a smaller scale), the
bundle `drawn-tiny`, answers.json. Log-probabilities are those of all labels as they are served, at the bundle's
temperature. The bundle's own self-check compares its graphs with PyTorch; this also holds the way from a photo's bytes to
pixels, the temperature, the order of the labels, and whatever a new version of a library does to any of them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.engine.engine import Engine
from contract.bundle import Bundle, read_bundle
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic
from contract.pixels import photo_to_pixels

FOLDER = Path(__file__).parent.parent / "tests" / "regression"
BUNDLE, PICTURES, ANSWERS = FOLDER / "drawn-tiny", FOLDER / "pictures", FOLDER / "answers.json"
TOLERANCE = 1e-3  # of a log-probability: other processors sum in another order, which is below 1e-4; see docs/image.md
ROUNDED = 1e-6  # the service rounds a probability to 6 digits
CAPTION_TOKENS = 20
RECIPE = [
    "--recipe",
    "drawn-scratch",
    "--set",
    "model.vision_layers=2",
    "--set",
    "model.vision_width=64",
    "--set",
    "model.text_width=64",
]
FIRST_PICTURE = 1_000_000  # drawn pictures from here on are never trained on


@dataclass(frozen=True)
class Answer:
    """What one picture gets: the best label's name, the caption, and the log-probability of each label in id order."""

    label: str
    caption: str
    log_probabilities: list[float]


def pictures() -> dict[str, bytes]:
    """File name → bytes of each fixed picture."""
    return {path.name: path.read_bytes() for path in sorted(PICTURES.iterdir())}


def computed(bundle: Bundle) -> dict[str, Answer]:
    """The answers of this process, on the CPU provider, each picture alone."""
    names = _names(bundle)
    engine = Engine(bundle, provider="cpu", threads=1)
    found = {}
    for file, data in pictures().items():
        pixels = photo_to_pixels(data, bundle.manifest.image_size)[None]
        row = np.log(engine.score(pixels).probabilities[0])
        caption = engine.caption(pixels, CAPTION_TOKENS).texts[0]
        found[file] = Answer(names[int(row.argmax())], caption, [round(float(value), 5) for value in row])
    engine.close()
    return found


def served(url: str, bundle: Bundle) -> dict[str, Answer]:
    """The answers of a service. Raises `ContractError` when it serves another bundle or refuses a picture."""
    names, found = _names(bundle), {}
    for file, data in pictures().items():
        best, caption = _post(f"{url}/predict?top_k={len(names)}", data), _post(f"{url}/caption", data)
        if best["model"]["version"] != bundle.manifest.version:
            raise ContractError(
                f"{url} serves version {best['model']['version']}, not {bundle.manifest.version} of {BUNDLE}."
            )
        chances = {one["class_id"]: one["confidence"] for one in best["top"]}
        row = [float(np.log(max(chances[number], ROUNDED / 10))) for number in range(len(names))]
        found[file] = Answer(best["label"], caption["caption"], row)
    return found


def differences(found: dict[str, Answer], wanted: dict[str, Answer], *, rounded: float = 0.0) -> list[str]:
    """A sentence for each picture whose answer moved; `rounded` is how far probabilities may be off by being rounded."""
    moved = [f"{file}: there is no agreed answer" for file in found.keys() - wanted.keys()]
    moved += [f"{file}: the picture is missing" for file in wanted.keys() - found.keys()]
    for file in sorted(found.keys() & wanted.keys()):
        new, old = found[file], wanted[file]
        if new.label != old.label or new.caption != old.caption:
            moved.append(f"{file}: {new.label} ({new.caption!r}), and it was {old.label} ({old.caption!r})")
            continue
        here, there = np.array(new.log_probabilities), np.array(old.log_probabilities)
        # A small change of a log-probability is that share of the probability; rounding moves the latter.
        chances = np.abs(np.exp(here) - np.exp(there)) > TOLERANCE * np.exp(there) + rounded
        if (chances if rounded else np.abs(here - there) > TOLERANCE).any():
            moved.append(
                f"{file}: a log-probability moved by {np.abs(here - there).max():.2g}, more than {TOLERANCE:g}"
            )
    return moved


def agreed() -> dict[str, Answer]:
    """The answers of answers.json."""
    return {file: Answer(**answer) for file, answer in json.loads(ANSWERS.read_text(encoding="utf-8")).items()}


def check(url: str | None) -> int:
    """Compare and print. Returns the exit code."""
    bundle, wanted = read_bundle(BUNDLE), agreed()
    found = served(url, bundle) if url else computed(bundle)
    moved = differences(found, wanted, rounded=ROUNDED if url else 0.0)
    if moved:
        print("\n".join(moved), file=sys.stderr)
        raise ContractError(
            f"{len(moved)} of {len(wanted)} answers moved. If that is meant: --write answers, and say why."
        )
    print(f"{len(wanted)} of {len(wanted)} answers stayed, within {TOLERANCE:g} of a log-probability")
    return 0


def write_answers() -> int:
    """Compute the answers and write them. Returns the exit code."""
    found = computed(read_bundle(BUNDLE))
    for line in differences(found, agreed() if ANSWERS.is_file() else {}):
        print(line)
    rows = (f"{json.dumps(file)}: {json.dumps(asdict(answer))}" for file, answer in found.items())
    write_text_atomic(ANSWERS, "{\n" + ",\n".join(rows) + "\n}\n")
    return 0


def write_model() -> int:
    """Train and export the bundle, draw the pictures, then write the answers. Returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        for command in (["training", *RECIPE, "--out", checkpoint], ["export", checkpoint, BUNDLE, "--force"]):
            subprocess.run([sys.executable, "-m", *map(str, command)], check=True)
    draw_pictures()
    ANSWERS.unlink(missing_ok=True)
    return write_answers()


def draw_pictures() -> None:
    """One picture of each food, alternately a small PNG and a JPEG of which the service decodes a smaller scale."""
    from training.drawn.pictures import FOODS, draw

    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    for number, name in enumerate(FOODS):
        large = number % 2
        picture = draw(FIRST_PICTURE + number, size=400 if large else 96)[0]
        file = PICTURES / f"{name}.{'jpg' if large else 'png'}"
        picture.save(file, **({"quality": 85} if large else {"optimize": True}))


def _names(bundle: Bundle) -> list[str]:
    if bundle.labels is None:
        raise ContractError(f"{bundle.path} has no labels.")
    return bundle.labels.names


def _post(url: str, photo: bytes) -> dict[str, Any]:
    try:
        response = httpx.post(url, content=photo, timeout=30)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ContractError(f"{url} gave no answer: {error}.") from None
    body: dict[str, Any] = response.json()
    return body


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.model_regression", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--url", help="base URL of a service that serves the bundle (default: this process computes)")
    parser.add_argument("--write", choices=["answers", "model"], help="accept the answers of now, or make all anew")
    args = parser.parse_args(argv)
    if args.url and args.write:
        parser.error("--url compares and --write accepts: give one of them")
    if args.write:
        return run("model_regression", {"answers": write_answers, "model": write_model}[args.write])
    return run("model_regression", lambda: check(args.url))


if __name__ == "__main__":
    sys.exit(main())
