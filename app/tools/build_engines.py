"""Build a bundle's TensorRT engines ahead of time, with the service's own sessions, and list what is in the cache.

    python -m app.tools.build_engines bundles/food101 --engine-cache /var/cache/food-vision
    python -m app.tools.build_engines --list --engine-cache /var/cache/food-vision

Run it on the GPU model, and with the settings, that will serve: engines fit no other (`app/providers/cache.py`). The service
then starts without building. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.engine.check import run_self_check
from app.engine.engine import Engine, EngineError
from app.providers.cache import entries
from app.settings import Settings, load_settings
from contract.bundle import read_bundle
from contract.cli import run
from contract.errors import ContractError

BEAT = 10.0  # seconds between signs of life while TensorRT builds, which tells nothing itself


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    defaults = Settings.model_fields
    parser = argparse.ArgumentParser(
        prog="python -m app.tools.build_engines",
        description="Build the TensorRT engines of a bundle, so that the service starts without building.",
        epilog="The settings are those of the service (FOOD_VISION_...), so that it finds what is built here.",
    )
    parser.add_argument("bundle", type=Path, nargs="?", help="bundle folder")
    parser.add_argument("--engine-cache", type=Path, help=defaults["engine_cache"].description)
    parser.add_argument("--max-batch", type=int, help=f"{defaults['max_batch'].description} (default: the setting)")
    parser.add_argument("--cuda-graphs", action="store_true", default=None, help=defaults["cuda_graphs"].description)
    parser.add_argument("--list", action="store_true", help="list the engines in the cache and build nothing")
    args = parser.parse_args(argv)
    if args.bundle is None and not args.list:
        parser.error("name the bundle, or use --list")
    return run("engines", lambda: _main(args))


def _main(args: argparse.Namespace) -> int:
    given = {name: getattr(args, name) for name in ("engine_cache", "max_batch", "cuda_graphs")}
    given = {name: value for name, value in given.items() if value is not None}
    settings = load_settings(bundle=args.bundle or Path(), provider="tensorrt", **given)
    if settings.engine_cache is None:
        raise ContractError(
            "No folder for the engines was given; use --engine-cache FOLDER or FOOD_VISION_ENGINE_CACHE."
        )
    if not args.list:
        build(settings)
    _print_entries(settings.engine_cache)
    return 0


def build(settings: Settings) -> None:
    """Open and run every session that the service will, which builds what is missing, and check the answers.

    Raises `ContractError` when the provider cannot run or computes something else than PyTorch did.
    """
    bundle = read_bundle(settings.bundle)
    began = time.monotonic()
    with _signs_of_life() as say:
        engine = Engine(
            bundle, provider="tensorrt", threads=settings.threads, max_batch=settings.max_batch,
            cuda_graphs=settings.cuda_graphs, engine_cache=settings.engine_cache, device=settings.device,
            progress=say,
        )  # fmt: skip
        try:
            engine.warm_up()
            if bundle.check is not None:
                run_self_check(engine, bundle.check)
        except EngineError as error:
            raise ContractError(
                f"The engines compute wrongly: {error}. Delete the cache folder and try again."
            ) from None
        finally:
            engine.close()
    print(f"engines of {bundle.manifest.name} {bundle.manifest.version} ready in {time.monotonic() - began:.0f} s")


class _Progress:
    """The current step, printed when it changes and again every `BEAT` seconds with its age."""

    def __init__(self) -> None:
        self.text = ""
        self.since = time.monotonic()

    def __call__(self, text: str) -> None:
        self.text, self.since = text, time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def beat(self) -> None:
        """Say that the step still runs."""
        print(f"{self.text}: {time.monotonic() - self.since:.0f} s", file=sys.stderr, flush=True)


@contextmanager
def _signs_of_life() -> Iterator[_Progress]:
    progress, done = _Progress(), threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            progress.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield progress
    finally:
        done.set()
        thread.join()


def _print_entries(cache: Path) -> None:
    found = entries(cache)
    for entry in found:
        print(f"{entry.bytes / 1e6:9.1f} MB  {entry.name}")
    print(f"{len(found)} folders of engines in {cache}")


if __name__ == "__main__":
    sys.exit(main())
