"""Damaged photos by the thousand: each is answered with a label or a refusal of its own, and nothing dies of it."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from app.telemetry.metrics import PREFIX
from tests.app.decoding.test_mutations import WHOLE, mutated
from tests.chaos.overload import resident_bytes
from tests.chaos.part import Part
from tests.conftest import drawn_png, serving_process

IN_A_BATCH = 32
CLIENTS = 2
PATIENCE = 60.0  # seconds
GROWTH = 64e6  # bytes, after a first tenth that fills its caches
REFUSED = {"unsupported_format", "bad_image", "image_too_large", "image_too_costly"}
COMPLETE = "label"


def mutations_part(bundle: Path, count: int, seed: int, *flags: object, growth: float = GROWTH) -> Part:
    """`count` photos of eleven kinds, each damaged in its own way, in batches beside a good one.

    After a first tenth the server's memory may grow by `growth` bytes.
    """
    part = Part("mutations")
    with serving_process(bundle, "--log-level", "error", "--threads", 1, *flags) as (url, process):
        found = _post(part, url, seed, count // 10)
        before = resident_bytes(process.pid)
        found += _post(part, url, seed + count // 10, count - count // 10)
        grown = resident_bytes(process.pid) - before
        metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
    lost = float(metrics.partition(f"\n{PREFIX}decoders_lost_total ")[2].partition("\n")[0] or "nan")
    kinds: dict[str, dict[str, int]] = {}
    for (kind, outcome), times in sorted(found.items()):
        kinds.setdefault(kind, {})[outcome] = times
    for kind, outcomes in kinds.items():
        print(f"  {kind:16} {sum(outcomes.values()):6}  {outcomes}")
    print(f"mutations: {found.total()} photos, {lost:.0f} decoders lost, memory {grown / 1e6:+.1f} MB")
    part.figures = {"photos": found.total(), "answers": kinds, "decoders_lost": lost, "memory_bytes": grown}
    part.must(found.total() == count, f"{found.total()} photos of {count} were answered")
    part.must(lost == 0, f"{lost:.0f} decoders were lost")
    part.must(grown <= growth, f"memory grew by {grown / 1e6:.0f} MB")
    return part


def photo_of(seed: int) -> tuple[str, bytes]:
    """(kind, bytes) of the damaged photo of a seed: always the same."""
    kind = list(WHOLE)[seed % len(WHOLE)]
    return kind, mutated(WHOLE[kind], random.Random(seed))


def _post(part: Part, url: str, seed: int, count: int) -> Counter[tuple[str, str]]:
    size = IN_A_BATCH - 1  # one of each batch is good
    found: Counter[tuple[str, str]] = Counter()
    starts = range(seed, seed + count, size)
    with httpx.Client(base_url=url, timeout=PATIENCE) as client, ThreadPoolExecutor(CLIENTS) as pool:
        batches = pool.map(lambda start: _batch(client, range(start, min(start + size, seed + count))), starts)
        for start, answered in zip(starts, batches, strict=True):
            for number, (kind, outcome) in enumerate(answered):
                if kind:
                    found[kind, outcome] += 1
                allowed = REFUSED | {COMPLETE} if kind else {COMPLETE}
                part.must(outcome in allowed, f"seed {start + number}, {kind or 'a good photo'}: {outcome}")
    return found


def _batch(client: httpx.Client, seeds: range) -> list[tuple[str, str]]:
    photos = [*map(photo_of, seeds), ("", drawn_png(0))]
    files = [("images", ("a", data)) for _, data in photos]
    answer = client.post("/predict/batch", files=files)
    if answer.status_code != 200:
        return [(kind, f"{answer.status_code} {answer.text[:80]}") for kind, _ in photos]
    outcomes = [str(one.get("error_type", COMPLETE)) for one in answer.json()["results"]]
    return [(kind, outcome) for (kind, _), outcome in zip(photos, outcomes, strict=True)]
