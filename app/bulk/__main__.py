"""Label every photo of folders, buckets and Parquet tables, into Parquet.

    python -m app.bulk photos/ --bundle bundles/food101 --out labels/
    python -m app.bulk gs://bucket/photos --bundle bundles/food101 --out gs://bucket/labels --address auto

Run the same command again after a stop: what is finished stays, the rest is done. See docs/bulk.md.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any, get_args

from app.bulk.optional import import_ray
from app.settings import ENV_PREFIX, Settings, Unfamiliar
from contract.cli import run

SHARD = 1000


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.gpus_per_worker is not None and not 0 < args.gpus_per_worker <= 64:
        parser.error(f"--gpus-per-worker must be more than 0, at most 64, not {args.gpus_per_worker:g}")
    if args.gpus_per_worker and args.gpus_per_worker > 1 and args.gpus_per_worker % 1:
        parser.error(f"--gpus-per-worker above 1 must be whole, not {args.gpus_per_worker:g}")
    return run("bulk", lambda: _main(args))


def _parser() -> argparse.ArgumentParser:
    fields = Settings.model_fields
    parser = argparse.ArgumentParser(
        prog="python -m app.bulk",
        description="Label every photo of folders, buckets and Parquet tables, into Parquet.",
        epilog=f"Limits are those of the service ({ENV_PREFIX}MAX_PIXELS, {ENV_PREFIX}MAX_BODY_BYTES). Run the same command "
        "again after a stop: finished shards stay.",
    )
    add = parser.add_argument
    add("inputs", nargs="+", help="folders, photos or Parquet tables: local paths, gs:// or s3:// URIs")
    add(
        "--bundle",
        type=Path,
        help="bundle folder; on a cluster at the same path on every machine (default: the setting)",
    )
    add("--out", required=True, help="output folder: a local path or a URI")
    add("--address", help="Ray cluster: auto, or host:port (default: this machine alone)")
    add("--workers", type=_whole, help="engines, one in each Ray actor (default: as many as fit)")
    add("--threads", type=_whole, default=1, help="CPU threads of each engine (default: 1)")
    add(
        "--gpus-per-worker",
        type=float,
        help="GPUs of each engine; 0.5: two share one (default: 1; none on the CPU provider)",
    )
    add("--batch-size", type=_whole, help=f"{fields['max_batch'].description} (default: the setting)")
    add("--shard", type=_whole, default=SHARD, help=f"most photos in one output file (default: {SHARD})")
    add("--top-k", type=_whole, help="labels in `top` (default: the setting)")
    add("--min-confidence", type=float, help=f"{fields['abstain_below'].description} (default: the setting)")
    add(
        "--unfamiliar",
        choices=get_args(Unfamiliar),
        help="what becomes of a photo that does not look like the training photos (default: the setting)",
    )
    add("--unfamiliar-below", type=float, help=f"{fields['unfamiliar_below'].description} (default: the setting)")
    add("--column", help="column of the tables that holds the photos (default: the only one that can)")
    add("--all-files", action="store_true", help="take files of any suffix; else those of image formats")
    add(
        "--as-listed",
        action="store_true",
        help="finish what was listed when the run began, whatever the inputs are now",
    )
    add(
        "--provider",
        choices=("cpu", "cuda", "tensorrt"),
        help=f"{fields['provider'].description} (default: the setting)",
    )
    add("--engine-cache", type=Path, help=f"{fields['engine_cache'].description}")
    return parser


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _main(args: argparse.Namespace) -> int:
    import_ray(local=args.address is None)
    from app.bulk.job import label  # needs what the line above may find missing

    return label(args)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # as on Ctrl-C: Ray ends its processes
    sys.exit(main())
