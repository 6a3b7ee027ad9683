"""Bundles switched, damaged and written over while photos come: each answer is of exactly the version that it names.

python -c "from pathlib import Path; from tests.chaos.swaps import swaps_part; print(swaps_part(Path('bundles/drawn')))"
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import psutil

from app.engine.engine import Engine
from contract.bundle import MANIFEST_FILE, finish_bundle, read_bundle
from contract.pixels import photo_to_pixels
from contract.self_check import CHECK_FILE
from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

CLIENTS = 4
PHOTOS = 6
CLOSE = 1e-4  # of a confidence: another batch sums in another order; two versions differ by far more
SETTLED = 5  # swaps, after which memory, threads and files must not grow
GROWTH = 24e6  # bytes
PATIENCE = 60.0  # seconds

Answers = dict[str, list[tuple[str, float]]]  # version → label and confidence of each photo


@dataclass
class Held:
    """What the server holds: bytes of memory, threads, open files, child processes."""

    memory: int
    threads: int
    files: int
    children: int


def swaps_part(bundle: Path, swaps: int = 50) -> Part:
    """`swaps` reloads by SIGHUP under load; some refused ones between them, some bundles written over in place.

    A bundle takes the other's place by renaming its folder, or every fifth time by its files being written over: wiped
    while it serves, then filled with the other's.
    """
    part = Part("swaps")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _swap(part, bundle, Path(folder), swaps)
        except (AssertionError, httpx.TransportError) as error:  # the server has ended, or hangs
            part.faults.append(str(error))
    return part


def _swap(part: Part, bundle: Path, work: Path, swaps: int) -> None:
    kinds = [Path(shutil.copytree(bundle, work / "one")), other_weights(bundle, work / "two")]
    photos = [drawn_png(i) for i in range(PHOTOS)]
    wanted = dict(expected(kind, photos) for kind in kinds)
    versions = list(wanted)
    for one, two in zip(*wanted.values(), strict=True):
        part.must(abs(one[1] - two[1]) > 10 * CLOSE, f"the two bundles cannot be told apart: {one} and {two}")
    live = Path(shutil.copytree(kinds[0], work / "live"))
    began = time.monotonic()
    with serving_process(live, "--log-level", "error", "--threads", 1) as (url, process):
        with load(url, photos) as answers:
            for number in range(1, swaps + 1):
                target = number % 2
                if number % 4 == 0:
                    refused(url, process, live, kinds[target], part)
                put = write_over if number % 5 == 0 else replace
                put(live, kinds[target])
                process.send_signal(signal.SIGHUP)
                wait(lambda wanted=versions[target]: info(url)["model"]["version"] == wanted, process)  # type: ignore[misc]
                if number == min(SETTLED, swaps):
                    first = settled(process)
        last = settled(process, like=first)
    seconds = time.monotonic() - began
    judge(part, answers, wanted)
    part.must(last.memory - first.memory < GROWTH, f"memory grew by {(last.memory - first.memory) / 1e6:.0f} MB")
    for name in ("threads", "files", "children"):
        before, after = getattr(first, name), getattr(last, name)
        part.must(after <= before, f"{after} {name} after {swaps} swaps, {before} after {SETTLED}")
    part.figures |= {
        "swaps": swaps, "refused": swaps // 4, "in_place": swaps // 5, "seconds": round(seconds, 1),
        "answers": len(answers), "memory_mb": [round(held.memory / 1e6, 1) for held in (first, last)],
        "threads": [first.threads, last.threads], "files": [first.files, last.files],
        "children": [first.children, last.children],
    }  # fmt: skip
    print(
        f"swaps: {swaps} under load ({swaps // 5} written over in place), {swaps // 4} refused, {len(answers)} answers; "
        f"memory {first.memory / 1e6:.0f} → {last.memory / 1e6:.0f} MB, threads {first.threads} → {last.threads}, "
        f"files {first.files} → {last.files} in {seconds:.0f} s"
    )


def other_weights(bundle: Path, folder: Path) -> Path:
    """A bundle with other weights in all its graphs, and so without PyTorch's answers to check it by."""
    shutil.copytree(bundle, folder)
    (folder / CHECK_FILE).unlink(missing_ok=True)
    places = set()
    for graph in folder.glob("*.onnx"):
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
            entry = {item.key: item.value for item in tensor.external_data}
            if entry and tensor.data_type == onnx.TensorProto.FLOAT:
                places.add((entry["location"], int(entry.get("offset", 0)), int(entry["length"])))
    for name, offset, length in places:
        weights = np.memmap(folder / name, np.float32, mode="r+", offset=offset, shape=(length // 4,))
        weights *= np.float32(0.9)
        weights.flush()
    fields = json.loads((folder / MANIFEST_FILE).read_text())
    del fields["files"]
    finish_bundle(folder, **fields)
    return folder


def expected(bundle: Path, photos: list[bytes]) -> tuple[str, list[tuple[str, float]]]:
    """The version, and what an engine in this process answers."""
    read = read_bundle(bundle)
    assert read.labels is not None
    engine = Engine(read, provider="cpu", threads=1)
    pixels = np.stack([photo_to_pixels(photo, engine.image_size) for photo in photos])
    rows = engine.score(pixels).probabilities
    engine.close()
    return read.manifest.version, [(read.labels.names[int(row.argmax())], float(row.max())) for row in rows]


@contextmanager
def load(url: str, photos: list[bytes]) -> Iterator[list[tuple[int, httpx.Response | Exception]]]:
    """Clients that post photos one after the other: which one, and what came."""
    found: list[tuple[int, httpx.Response | Exception]] = []
    done = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE) as session:
            while not done.is_set():
                number = (number + 1) % len(photos)
                try:
                    found.append((number, session.post("/predict", content=photos[number])))
                except httpx.TransportError as error:
                    found.append((number, error))
                    done.wait(0.1)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        done.set()
        for thread in threads:
            thread.join()


def replace(live: Path, other: Path) -> None:
    """Let a copy of `other` take the name of `live`."""
    fresh, old = live.with_name("fresh"), live.with_name("old")
    shutil.copytree(other, fresh)
    os.rename(live, old)
    os.rename(fresh, live)
    shutil.rmtree(old)


def write_over(live: Path, other: Path) -> None:
    """Wipe the files that are served, wait for answers, then write the other's over them; all into the same inodes."""
    for path in live.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    time.sleep(0.2)
    for path in other.iterdir():
        (live / path.name).write_bytes(path.read_bytes())


def refused(url: str, process: subprocess.Popen[bytes], live: Path, other: Path, part: Part) -> None:
    """Damage a copy of `other`, put it in place and ask for it: it must not be taken."""
    before = info(url)["model"]
    replace(live, other)
    weights = live / "text.weights"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    process.send_signal(signal.SIGHUP)
    wait(lambda: not (info(url)["last_reload"] or {"done": True})["done"], process)
    said = info(url)["last_reload"]["said"]
    part.must("text.weights is damaged" in said, f"a damaged bundle is refused with {said!r}")
    part.must(info(url)["model"] == before, "a damaged bundle was taken")


def judge(part: Part, answers: list[tuple[int, httpx.Response | Exception]], wanted: Answers) -> None:
    """Every photo is answered, and as the version that the answer names would."""
    faults: Counter[str] = Counter()
    for photo, answer in answers:
        if isinstance(answer, Exception):
            faults[f"no answer: {type(answer).__name__}"] += 1
        elif answer.status_code != 200:
            faults[f"{answer.status_code} {answer.json()['error_type']}"] += 1
        else:
            body = answer.json()
            label, confidence = wanted.get(
                body["model"]["version"], [("a version that was never there", 0.0)] * PHOTOS
            )[photo]
            if (body["label"], True) != (label, abs(body["confidence"] - confidence) < CLOSE):
                faults["an answer that is not its version's"] += 1
    part.faults += [f"{count} times {fault}" for fault, count in faults.items()]


def info(url: str) -> dict[str, Any]:
    """What is served."""
    found: dict[str, Any] = httpx.get(f"{url}/info", timeout=PATIENCE).raise_for_status().json()
    return found


def wait(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until it holds. Raises `AssertionError` when it does not, or the server has ended."""
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < ends, "a reload was not done"
        time.sleep(0.01)


def settled(process: subprocess.Popen[bytes], like: Held | None = None) -> Held:
    """What the server holds once the old model is gone: when nothing changes for a second, or as little as `like`."""
    ends, same, found = time.monotonic() + PATIENCE / 4, 0, held(process.pid)
    while same < 10 and time.monotonic() < ends:
        time.sleep(0.1)
        now = held(process.pid)
        less = like is None or (now.threads <= like.threads and now.files <= like.files)
        same = same + 1 if less and (now.threads, now.children) == (found.threads, found.children) else 0
        found = now
    return found


def held(pid: int) -> Held:
    """Of the server alone, but for the number of its children."""
    server = psutil.Process(pid)
    return Held(server.memory_info().rss, server.num_threads(), server.num_fds(), len(server.children(recursive=True)))
