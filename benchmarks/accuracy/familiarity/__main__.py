"""What familiarity tells, what it cannot, and what it costs: all figures of docs/results/familiarity.md.

    D=../shared/data
    python -m benchmarks.accuracy.familiarity checkpoints/mine --train $D/food101_photos/train \\
        --food $D/food101_photos/test --other $D/not_food --work build/familiarity --out docs/results/familiarity

With `--tables` (a folder with train.parquet and validation.parquet, Food-101 at 64 px) also what becomes of classes that
were never seen, and what a sample of the training photos loses against all of them. With `--demonstration` and `--vit`,
checkpoints trained on drawn pictures and on the tables, also those. The work folder keeps bundles, features and each
part's result: what lies there is not measured again. The test photos choose nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from app.engine.engine import Engine
from benchmarks.accuracy.familiarity import bad_input, bank_size
from benchmarks.accuracy.familiarity.ask import (
    Seen,
    Table,
    decoded,
    features,
    in_folder,
    in_table,
    plain,
    refusals,
    see,
    share,
    told_apart,
)
from benchmarks.accuracy.familiarity.bundles import bundle_of, load, open_engine, with_rows, without_bank
from benchmarks.accuracy.familiarity.cost import cost
from benchmarks.accuracy.familiarity.report import histogram, markdown
from benchmarks.hardware import provenance
from contract.cli import run
from contract.errors import ContractError
from contract.familiarity import BELOW, MOST_PHOTOS
from contract.files import write_bytes_atomic, write_text_atomic
from contract.pixels import Pixels
from modeling.checkpoint import Checkpoint, read_training_record
from training.data.sources import open_source
from training.recipe import apply_overrides, parse_recipe

TABLE_PHOTOS = 1000  # of each kind that are asked of a bundle with both precisions
DRAWN = 320


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.familiarity",
        description="What familiarity tells of photos without food, classes never seen and bad input, and its cost.",
    )
    add: Any = parser.add_argument
    add("checkpoint", type=Path, help="checkpoint folder with a bank of training photos")
    add("--train", type=Path, required=True, help="the class folders that it was trained on")
    add("--food", type=Path, required=True, help="class folders of test photos of the same classes")
    add("--other", type=Path, required=True, help="folder of photos without food")
    add("--tables", type=Path, help="folder with train.parquet and validation.parquet of Food-101 (default: leave out)")
    add("--demonstration", type=Path, help="checkpoint of recipe drawn (default: leave out)")
    add("--vit", type=Path, help="checkpoint trained on some classes of the tables (default: leave out)")
    add("--screenshots", type=Path, nargs="*", default=[], help="image files whose familiarity is listed")
    add("--rounds", type=int, default=60, help="rounds of the measurement of cost (default: 60)")
    add("--work", type=Path, required=True, help="folder for bundles and features (about 400 MB)")
    add("--out", type=Path, required=True, help="writes OUT.json, OUT.md and OUT.png")
    args = parser.parse_args(argv)
    if args.rounds < 3:
        parser.error(f"--rounds must be 3 or more, not {args.rounds}")
    return run("benchmarks.accuracy.familiarity", lambda: measure(args, shlex.join(argv or sys.argv[1:])))


def measure(args: argparse.Namespace, words: str) -> int:
    """All parts that were asked for; writes the results and returns the exit code."""
    args.work.mkdir(parents=True, exist_ok=True)
    checkpoint, bank = load(args.checkpoint)
    about = {
        "photos": len(bank.features),
        "directions": bank.basis.shape[1],
        "reference": bank.origin,
        "tower": checkpoint.tower.name,
        "limit": float(bank.reference[max(0, math.ceil(BELOW * len(bank.reference)) - 1)]),
    }
    train, validation, food = parts(args.checkpoint, checkpoint, args.train, args.food)
    photos = {"food": in_folder(args.food), "others": in_folder(args.other)}
    engines = {
        "fp32": open_engine(bundle_of(checkpoint, args.work, "photos")),
        "int8": open_engine(bundle_of(checkpoint, args.work, "photos", "int8", train[::4])),
    }
    fp32 = engines["fp32"]

    def bad() -> dict[str, Any]:
        shots = bad_input.screenshots(fp32, args.screenshots) if args.screenshots else {}
        return {"kept": bad_input.kept(fp32, photos["food"], note), "refused": bad_input.made(fp32, DRAWN),
                "screenshots": shots}  # fmt: skip

    def timed() -> dict[str, Any]:
        bare = bundle_of(without_bank(checkpoint), args.work, "bare", compare=False)
        rows = bundle_of(with_rows(checkpoint, bank), args.work, "rows", compare=False)
        own = {f"{len(bank.features)} rows": fp32, f"{MOST_PHOTOS} rows": open_engine(rows)}
        return cost({"no bank": open_engine(bare)} | own, "no bank", args.rounds)

    steps: dict[str, Callable[[], dict[str, Any]]] = {
        "separation": lambda: separated(engines, train, {"validation": validation, "food": food}, photos["others"]),
        "beside_other_scores": lambda: evaluated(args),
        "bad_input": bad,
        "cost": timed,
    }
    if args.demonstration is not None:
        steps["demonstration"] = lambda: demonstration(args.demonstration, photos, args.work)
    if args.tables is not None:
        train_table, test_table = (in_table(args.tables / f"{part}.parquet") for part in ("train", "validation"))
        steps["tables"] = lambda: on_tables(engines, train_table, test_table, checkpoint, photos, args.work)
        if args.vit is not None:
            steps["vit"] = lambda: vit(args.vit, test_table, photos["others"], args.work)
    result: dict[str, Any] = {"command": f"python -m {__package__} {words}", "bank": about, **provenance()}
    for name, step in steps.items():
        result[name] = kept(args.work / f"{name}.json", step)
    write_text_atomic(args.out.with_suffix(".json"), json.dumps(result, indent=1, allow_nan=False) + "\n")
    write_bytes_atomic(args.out.with_suffix(".png"), histogram(result["separation"]["fp32"], result["bank"]["limit"]))
    write_text_atomic(args.out.with_suffix(".md"), markdown(result))
    print(f"written: {args.out}.json, .md, .png")
    return 0


def kept(path: Path, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part's result with the commit that it was measured at, from its file if that is there."""
    if not path.is_file():
        note(f"-- {path.stem}")
        found = step() | {"commit": provenance()["commit"]}
        write_text_atomic(path, json.dumps(found, indent=1, allow_nan=False) + "\n")
    kept_before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept_before


def separated(
    engines: dict[str, Engine], train: list[Pixels], food: dict[str, list[Pixels]], others: list[bytes]
) -> dict[str, Any]:
    """Photos without food against food, by the bundles and by the plain score over all training photos."""
    seen: dict[str, dict[str, Seen]] = {}
    for name, engine in engines.items():
        note(name)
        asked: dict[str, Iterable[Pixels]] = {**food, "others": decoded(others, engine.image_size)}
        seen[name] = {part: see(engine, pixels) for part, pixels in asked.items()}
    note("plain")
    whole = see(engines["fp32"], train).features
    seen["plain"] = plain(whole, **{part: one.features for part, one in seen["fp32"].items()})
    return {
        name: refusals(**found)
        | {"similarities": {part: [round(float(v), 4) for v in one.similarity] for part, one in found.items()}}
        for name, found in seen.items()
    }


def note(text: str) -> None:
    """What is being done, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def parts(path: Path, checkpoint: Checkpoint, train: Path, test: Path) -> tuple[list[Pixels], ...]:
    """The photos that a checkpoint was trained on, chose by, and never saw, as pixels: split as training splits them."""
    record = read_training_record(path)
    if record is None:
        raise ContractError(f"{path} has no training.json, so nobody knows which photos it was trained on.")
    values = {key: value for key, value in record.recipe.items() if key in ("seed", "caption", "data", "model")}
    apply_overrides(values, [f"data.train={train}", f"data.test={test}"])
    recipe = parse_recipe(values, "training.json")
    source = open_source(recipe.data, checkpoint.image_size, seed=recipe.seed)
    if source.validation is None:
        raise ContractError(f"{path} was trained without validation photos, so no threshold can be found by them.")
    found = []
    for photos in (source.train, source.validation, source.test):
        items = [photos[index] for index in range(len(photos))]  # type: ignore[arg-type]
        found.append([item.pixels.numpy() for item in items if item.pixels is not None])
    return tuple(found)


def evaluated(args: argparse.Namespace) -> dict[str, Any]:
    """What `training.evaluate --unfamiliar` says: similarity beside the largest probability and energy, in PyTorch."""
    report = args.work / "evaluate.json"
    line = [
        sys.executable, "-m", "training.evaluate", str(args.checkpoint), "--no-base", "--constrained", "0",
        "--set", f"data.train={args.train}", "--set", f"data.test={args.food}", "--unfamiliar", str(args.other),
        "--json", str(report),
    ]  # fmt: skip
    note(f"$ python {shlex.join(line[1:])}")
    if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
        raise ContractError("training.evaluate failed; see above.")
    folder = json.loads(report.read_text(encoding="utf-8"))["familiarity"]["folders"][0]
    found: dict[str, Any] = folder["scores"] | {"most_familiar": folder["most_familiar"]}
    return found


def on_tables(
    engines: dict[str, Engine],
    train: Table,
    test: Table,
    checkpoint: Checkpoint,
    whole: dict[str, list[bytes]],
    work: Path,
) -> dict[str, Any]:
    """Classes that were never seen, asked of the bundles as they are and of a bank at 64 px; and sizes of the bank."""
    assert checkpoint.labels is not None
    names = [label.name for label in checkpoint.labels]
    known = np.isin(test.names, names)
    small = {kind: [bad_input.at_64(photo) for photo in photos] for kind, photos in whole.items()}
    asked = {
        "the classes seen, 64 px": some(test.of(known)),
        "classes never seen, 64 px": some(test.of(~known)),
        "the test photos, made 64 px": small["food"],
        "the photos without food, made 64 px": small["others"],
    }
    bundle: dict[str, Any] = {}
    for title, photos in asked.items():
        note(f"tables: {title}")
        bundle[title] = {
            name: share(see(engine, decoded(photos, engine.image_size)).familiarity >= BELOW)
            for name, engine in engines.items()
        }
    note(f"tables: features of {len(train.photos)} and {len(test.photos)} photos; this takes a while")
    wide, tested, others = (
        features(engines["fp32"], photos, work) for photos in (train.photos, test.photos, small["others"])
    )
    return {
        "bundle_keeps": bundle,
        "bank_at_64_px": bank_size.unseen_classes(wide, tested, others, np.isin(train.names, names), known),
        "sizes": bank_size.sizes(wide, tested, others),
    }


def some(photos: list[bytes]) -> list[bytes]:
    """At most `TABLE_PHOTOS` of them, by chance."""
    chosen = np.random.default_rng(0).permutation(len(photos))[:TABLE_PHOTOS]
    return [photos[index] for index in np.sort(chosen).tolist()]


def demonstration(path: Path, photos: dict[str, list[bytes]], work: Path) -> dict[str, Any]:
    """A checkpoint that knows drawn pictures alone: what it keeps of new ones, and what it refuses of photos."""
    checkpoint, bank = load(path)
    engine = open_engine(bundle_of(checkpoint, work, "demonstration"))
    size = engine.image_size
    return {
        "photos": len(bank.features),
        "drawn_kept": share(see(engine, bad_input.drawn_pictures(DRAWN, size)).familiarity >= BELOW),
        "food_refused": share(see(engine, decoded(photos["food"], size)).familiarity < BELOW),
        "others_refused": share(see(engine, decoded(photos["others"], size)).familiarity < BELOW),
    }


def vit(path: Path, test: Table, others: list[bytes], work: Path) -> dict[str, Any]:
    """A small BLIP whose tower was trained on some classes: new photos of them, other classes, photos without food."""
    checkpoint, bank = load(path)
    assert checkpoint.labels is not None
    engine = open_engine(bundle_of(checkpoint, work, "vit"))
    known = np.isin(test.names, [label.name for label in checkpoint.labels])
    seen = see(engine, decoded(test.of(known), engine.image_size))
    unseen = see(engine, decoded(some(test.of(~known)), engine.image_size))
    other = see(engine, decoded((bad_input.at_64(photo) for photo in others), engine.image_size))
    return {
        "photos": len(bank.features), "reference": bank.origin, "classes": len(checkpoint.labels),
        "top1": checkpoint.metrics.get("accuracy_scored"),
        "seen_kept": share(seen.familiarity >= BELOW), "unseen_kept": share(unseen.familiarity >= BELOW),
        "others_refused": share(other.familiarity < BELOW),
        **told_apart(seen.similarity, other.similarity),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
