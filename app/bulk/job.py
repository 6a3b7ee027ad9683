"""One run of the command: what is left to do, how far it is, and what came of it."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.bulk.cluster import plan_workers, session
from app.bulk.listing import Listing, list_inputs
from app.bulk.output import Counts, Output, Parameters
from app.bulk.photos import PhotoLimits
from app.bulk.places import inside, normal, only_run, reason
from app.bulk.run import run_shards
from app.settings import Settings, load_settings
from contract.bundle import Bundle, read_bundle
from contract.errors import ContractError

BEAT = 2.0  # seconds between lines of progress
SILENCE = 30.0  # seconds without a photo, after which that is said
MOST_LABELS = 10  # in the printed summary


def label(args: argparse.Namespace) -> int:
    """Do what `python -m app.bulk` was asked, and return its exit code. Raises `ContractError`."""
    settings = _settings(args)
    bundle = read_bundle(settings.bundle, weights=False)
    if bundle.labels is None:
        raise ContractError(f"The bundle {bundle.path} has no labels: it can caption, not classify.")
    inputs, out = [normal(place) for place in args.inputs], normal(args.out)
    for place in inputs:
        if inside(out, place):
            raise ContractError(
                f"--out {out} lies in the input {place}, and would be labelled too. Choose another --out."
            )
    try:
        with only_run(out):
            return _label(args, settings, bundle, inputs, out)
    except OSError as error:  # of a bucket, or a full disk
        raise ContractError(f"{out} cannot be used: {reason(error)}. Run the same command again to go on.") from None


def _settings(args: argparse.Namespace) -> Settings:
    given = {
        "bundle": args.bundle, "provider": args.provider, "max_batch": args.batch_size, "top_k": args.top_k,
        "abstain_below": args.min_confidence, "unfamiliar": args.unfamiliar,
        "unfamiliar_below": args.unfamiliar_below, "engine_cache": args.engine_cache, "threads": args.threads,
        "device": 0,  # Ray shows each worker its own GPUs
    }  # fmt: skip
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    if settings.provider == "cpu" and args.gpus_per_worker:
        raise ContractError(
            "The provider is cpu and --gpus-per-worker was given; add --provider cuda, or leave it out."
        )
    return settings.model_copy(update={"bundle": Path(settings.bundle).absolute()})


def _label(args: argparse.Namespace, settings: Settings, bundle: Bundle, inputs: list[str], out: str) -> int:
    manifest = bundle.manifest
    parameters = Parameters(
        model=manifest.name, model_digest=manifest.digest, inputs=inputs, shard=args.shard, column=args.column,
        top_k=settings.top_k, abstain_below=settings.abstain_below, unfamiliar=settings.unfamiliar,
        unfamiliar_below=settings.unfamiliar_below, max_body_bytes=settings.max_body_bytes,
        max_pixels=settings.max_pixels,
    )  # fmt: skip
    output = Output(out, parameters)
    listing = _listing(args, output, inputs)
    shards = list(listing.shards())
    finished = output.finished(shards)
    progress = ProgressLine(listing.photos, len(shards), finished)
    todo = [pieces for pieces in shards if pieces["shard"][0].as_py() not in finished]
    if todo:
        limits = PhotoLimits(
            manifest.image_size, settings.max_body_bytes, settings.max_pixels, settings.decode_cpu_ms, args.column
        )  # fmt: skip
        _run(args, settings, limits, manifest.digest, todo, output.write, progress)
    if todo or not output.summarised():
        output.summarise(progress.summary())
    print(progress.text(args.out))
    return 0


def _listing(args: argparse.Namespace, output: Output, inputs: list[str]) -> Listing:
    begun = output.begun()
    if begun and args.as_listed:
        return output.listing()
    listing = list_inputs(inputs, args.shard, column=args.column, all_files=args.all_files)
    if begun:
        output.check_listing(listing)
    else:
        output.begin(listing)
    if listing.skipped:
        say(f"files left out: {listing.skipped} (their suffix is no image format's; --all-files takes them)")
    return listing


def _run(
    args: argparse.Namespace,
    settings: Settings,
    limits: PhotoLimits,
    digest: str,
    todo: list[Any],
    write: Callable[[Any, Any], Counts],
    progress: ProgressLine,
) -> None:
    with session(args.address) as ray:
        gpus = 0.0 if settings.provider == "cpu" else args.gpus_per_worker or 1.0
        workers = plan_workers(
            ray.cluster_resources(), gpus=gpus, threads=args.threads, asked=args.workers, growing=bool(args.address)
        )
        say(progress.start(len(todo), workers.count, settings.provider))
        with progress.watched():
            run_shards(
                ray, todo, limits, settings, digest, workers,
                done=lambda pieces, rows: progress.finished(write(pieces, rows)),
                progress=progress.photos,
            )  # fmt: skip


def say(text: str) -> None:
    """A line for people, beside the summary on stdout."""
    print(text, file=sys.stderr, flush=True)


class ProgressLine:
    """Counts what comes in and says how far it is, at most every `BEAT` seconds."""

    def __init__(self, photos: int, shards: int, finished: dict[int, Counts]) -> None:
        self.total, self.shards = photos, shards
        self.counts = Counts()
        for counts in finished.values():
            self.counts.add(counts)
        self.shards_before, self.photos_before = len(finished), self.counts.photos
        self.shards_now, self.photos_now = 0, 0
        self.began = self.said = self.heard = time.monotonic()

    def start(self, todo: int, workers: int, provider: str) -> str:
        """The first line."""
        self.began = self.said = self.heard = time.monotonic()
        left = self.total - self.photos_before
        text = f"{left:,} of {self.total:,} photos in {todo:,} shards to label; workers: {workers} ({provider})"
        return text if not self.shards_before else f"{text}; shards finished before: {self.shards_before:,}"

    def photos(self, count: int) -> None:
        """More photos were labelled, or found bad."""
        now = time.monotonic()
        self.photos_now += count
        done, rate = self.photos_before + self.photos_now, self.photos_now / (now - self.began)
        self.heard = now
        if now - self.said >= BEAT and done < self.total:
            self.said, left = now, (self.total - done) / rate
            say(
                f"{done:,} of {self.total:,} photos, {self.shards_before + self.shards_now:,} of {self.shards:,} shards "
                f"written, {rate:,.0f} photos/s, about {left:,.0f} s left"
            )

    def finished(self, counts: Counts) -> None:
        """A shard was written."""
        self.shards_now += 1
        self.counts.add(counts)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Say every `SILENCE` seconds without a photo that none has come."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(SILENCE):
                silence = time.monotonic() - self.heard
                if silence >= SILENCE:
                    say(
                        f"no photo for {silence:.0f} s: engines are loading, or Ray has no room for them (`ray status`)"
                    )

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @property
    def seconds(self) -> float:
        """Since the pipeline was started."""
        return time.monotonic() - self.began

    def summary(self) -> dict[str, Any]:
        """Figures of the whole output, and of this run."""
        seconds = self.seconds
        return {
            "photos": self.counts.photos,
            "labelled": self.counts.labels.total(),
            "abstained": dict(self.counts.abstained.most_common()),
            "labels": dict(self.counts.labels.most_common()),
            "errors": dict(self.counts.errors.most_common()),
            "shards": self.shards,
            "this_run": {
                "photos": self.photos_now,
                "shards": self.shards_now,
                "seconds": round(seconds, 3),
                "photos_per_second": round(self.photos_now / seconds, 1) if self.photos_now else None,
            },
        }

    def text(self, out: str) -> str:
        """The same for people."""
        found = self.summary()
        run, labels = found["this_run"], list(found["labels"].items())
        shown = ", ".join(f"{name} {count:,}" for name, count in labels[:MOST_LABELS])
        more = f", {len(labels) - MOST_LABELS} others" if len(labels) > MOST_LABELS else ""
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in found["abstained"].items())
        abstained = f", abstained on {self.counts.abstained.total():,} ({reasons})" if reasons else ""
        errors = ", ".join(f"{slug} {count:,}" for slug, count in found["errors"].items()) or "none"
        rate = f", {run['photos_per_second']:,.0f} photos/s" if run["photos"] else ""
        return (
            f"output   {out}\n"
            f"photos   {found['photos']:,}, labelled {found['labelled']:,}{abstained}\n"
            f"labels   {shown or 'none'}{more}\n"
            f"errors   {errors}\n"
            f"this run {run['photos']:,} photos in {run['shards']:,} of {self.shards:,} shards, {run['seconds']:.1f} s{rate}"
        )
