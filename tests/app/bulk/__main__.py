"""Label thousands of drawn photos: the run is killed (SIGKILL) half-way, and then a worker of the run that goes on is.

Nothing may be lost or done twice.

    make bulk-check                                                # 10,000 photos; BUNDLE=path
    python -m tests.app.bulk --bundle bundles/mine --photos 2000

Exit code 1 when a photo is missing or there twice, a finished shard was done again, a bad photo has another slug than the
service gives, or a label differs from the engine's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from app.engine.engine import Engine
from contract.bundle import read_bundle
from contract.cli import run
from contract.pixels import photo_to_pixels
from tests.app.bulk.photos import command, fill, finished, held_photo, killed_when, rows
from tests.conftest import ROOT

SLOW = 1200  # seconds that no run may take
COMPARED = 500  # photos whose labels are computed once more, each alone


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.app.bulk", description="Bulk labelling with a kill in the middle."
    )
    parser.add_argument("--bundle", type=Path, required=True, help="bundle folder")
    parser.add_argument("--photos", type=int, default=10_000, help="photos to draw and label (default: 10000)")
    parser.add_argument("--shard", type=int, default=500, help="photos in one output file (default: 500)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="food-vision-bulk-") as folder:
        return run(
            "tests.app.bulk",
            lambda: _report(check(args.bundle.absolute(), Path(folder), args.photos, args.shard, kill_worker=True)),
        )


def _report(faults: list[str]) -> int:
    for fault in faults:
        print(f"FAULT {fault}")
    print("bulk: nothing lost, nothing done twice" if not faults else f"bulk: {len(faults)} faults")
    return 1 if faults else 0


def check(bundle: Path, folder: Path, photos: int, shard: int, *, kill_worker: bool = False) -> list[str]:
    """The faults of a run that was killed half-way and done again; prints figures."""
    began = time.monotonic()
    bad = fill(folder / "photos", photos - 1, bad_every=50)
    last = folder / "photos" / "last.png"  # which the first run waits for, until it is killed
    bad[str(last)] = "empty_image"
    print(f"{photos} photos, {len(bad)} of them bad, drawn in {time.monotonic() - began:.1f} s", flush=True)
    out, shards = folder / "labels", -(-photos // shard)
    arguments = (folder / "photos", "--bundle", bundle, "--shard", shard)

    began = time.monotonic()
    with held_photo(last):
        killed_when(shards // 2, out, *arguments)
    before = finished(out)
    print(f"killed after {time.monotonic() - began:.1f} s with {len(before)} of {shards} shards finished", flush=True)

    began = time.monotonic()
    process = subprocess.Popen(
        command(*arguments, "--out", out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    if kill_worker:
        print(f"killed {kill_engine(process, lambda: len(finished(out)) > len(before))}", flush=True)
    summary, errors = process.communicate(timeout=SLOW)
    print(f"finished by a second run in {time.monotonic() - began:.1f} s:\n{summary}", end="", flush=True)
    if process.returncode:
        return [f"the second run ended with exit code {process.returncode}: {errors}"]
    return [*exactly_once(out, folder / "photos", bad, before, shards), *same_labels(out, bundle)]


def kill_engine(process: subprocess.Popen[str], when: Callable[[], bool]) -> str:
    """Kill the worker with the engine, once; its name. Raises `AssertionError` when the run ends before."""
    while not when():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    workers = {child: child.cmdline()[0] for child in psutil.Process(process.pid).children(recursive=True)}
    engines = [child for child, name in workers.items() if "Labeller" in name]
    engines[0].kill()
    return workers[engines[0]].strip()


def exactly_once(
    out: Path, photos: Path, bad: dict[str, str], before: dict[str, tuple[int, int]], shards: int
) -> list[str]:
    """Faults of the output folder against the photos, and against the shards that were finished at the kill."""
    good, errors = rows(out), rows(out, "errors")
    seen = Counter(row["path"] for row in (*good, *errors))
    wanted = {str(path) for path in photos.rglob("*.png")}
    faults = [f"{path} is there {count} times" for path, count in seen.items() if count != 1]
    faults += [f"{path} is {what}" for what, group in (("lost", wanted - set(seen)), ("invented", set(seen) - wanted))
               for path in group]  # fmt: skip
    after = finished(out)
    faults += [f"{name} was done again" for name, state in before.items() if after.get(name) != state]
    if len(after) != shards or not 0 < len(before) < shards:
        faults.append(f"{len(before)} shards at the kill and {len(after)} at the end, of {shards}")
    slugs = {row["path"]: row["error_type"] for row in errors}
    if slugs != bad:
        faults.append(f"the bad photos are {len(slugs)}, not {len(bad)}, or have other slugs")
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    if (summary["photos"], summary["labelled"]) != (len(wanted), len(good)):
        faults.append(f"the summary counts {summary['photos']} photos and {summary['labelled']} labelled")
    return faults


def same_labels(out: Path, bundle: Path) -> list[str]:
    """Photos whose label or confidence differs from what the engine says to each alone."""
    read = read_bundle(bundle)
    engine = Engine(read, provider="cpu", threads=1)
    assert read.labels is not None
    faults = []
    found = rows(out)
    for row in found[:: max(1, len(found) // COMPARED)]:
        scores = engine.score(photo_to_pixels(Path(row["path"]).read_bytes(), engine.image_size)[None]).probabilities[0]
        best = int(scores.argmax())
        if row["label"] != read.labels[best].name or abs(row["confidence"] - scores[best]) > 1e-4:
            faults.append(f"{row['path']} is {row['label']} {row['confidence']}, not {best} {scores[best]}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
