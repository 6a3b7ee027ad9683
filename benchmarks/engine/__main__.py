"""Our engine beside transformers, on the same random weights and pictures, in interleaved rounds of one process.

python -m benchmarks.engine                                        # BLIP-base at batch 1 and 8
python -m benchmarks.engine --shapes tiny --rounds 3               # seconds instead of minutes
python -m benchmarks.engine --batches 1,2,4,8,16,32 --work build/engine --json engine.json --markdown engine.md

Needs the `training` and `export` extras beside the service's. What is compared and how to read it: docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.contestants import Entry, entries
from benchmarks.engine.report import command_of, markdown, to_json
from benchmarks.engine.run import EngineRun, Options, new_result
from benchmarks.hardware import cores
from benchmarks.random_model import SHAPES
from contract.cli import run
from contract.errors import ContractError
from contract.files import write_text_atomic


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    known = entries(device)
    only = args.only or ()
    if unknown := [name for name in only if name not in {entry.name for entry in known}]:
        parser.error(
            f"argument --only: there is no contestant {unknown[0]!r} on {device}; "
            f"there are {', '.join(entry.name for entry in known)}"
        )
    options = Options(
        shapes=args.shapes, device=device, batches=args.batches, rounds=args.rounds, warmups=args.warmups,
        threads=args.threads or cores(), seed=args.seed, only=tuple(only),
    )  # fmt: skip
    return run("benchmarks.engine", lambda: _benchmark(options, known, args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine",
        description="Compare this project's engine with transformers on random weights, in interleaved rounds.",
        epilog="Exit code 1 when our fp32 answers are not PyTorch's, or a contestant that this machine has fails.",
    )
    parser.add_argument("--shapes", choices=sorted(SHAPES), default="base", help="model (default: base, BLIP-base)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="where all contestants run (default: cuda where torch finds a GPU)"
    )
    parser.add_argument(
        "--batches", type=_batches, default=(1, 8), metavar="N,N", help="pictures a call (default: 1,8)"
    )
    parser.add_argument("--rounds", type=_positive, default=10, help="timed calls of each contestant (default: 10)")
    parser.add_argument("--warmups", type=_count, default=2, help="rounds before, not counted (default: 2)")
    parser.add_argument("--threads", type=_count, default=0, help="CPU threads of all (default: one per core)")
    parser.add_argument("--seed", type=_count, default=0, help="seed of weights and pictures (default: 0)")
    parser.add_argument("--only", type=_names, metavar="NAME,NAME", help="contestants (default: all that run here)")
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="keep the random checkpoint and its bundles here (default: do not)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all rounds and figures here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here (default: print them)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return value


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({_positive(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 1,8") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _benchmark(options: Options, known: list[Entry], args: argparse.Namespace) -> int:
    """Measure; whatever ends the run, what was measured is written, marked as complete or not."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ContractError("--device cuda was asked for, but torch finds no GPU (torch.cuda.is_available() is false).")
    for path in (args.json, args.markdown):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made is told before the work
    result = new_result(options, command_of(options))
    with _work_folder(args.work) as work, _terminable():
        try:
            EngineRun(options, work, result, _progress, lambda: _save(result, args)).run(known)
            result["complete"] = True
        except KeyboardInterrupt:
            result["stopped"] = "interrupted"
            raise
        except Exception as error:
            result["stopped"] = " ".join(str(error).split())[:500] or type(error).__name__
            raise
        finally:
            _save(result, args)
            if args.markdown is None:
                print(markdown(result), flush=True)
    for name, reason in result["failed"].items():
        print(f"benchmarks.engine: {name} failed: {reason}", file=sys.stderr)
    return 1 if result["failed"] else 0


def _save(result: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json is not None:
        write_text_atomic(args.json, to_json(result))
    if args.markdown is not None:
        write_text_atomic(args.markdown, markdown(result))


@contextlib.contextmanager
def _work_folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="engine-benchmark-") as scratch:
        yield Path(scratch)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM stops like Ctrl-C, so that a time limit keeps what was measured."""
    try:
        before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
