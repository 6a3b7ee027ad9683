"""One run of the engine benchmark: load, guard, warm up, measure; the result grows as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.contestants import Contestant, Entry, NotHereError
from benchmarks.engine.guard import Guard, WrongAnswerError
from benchmarks.engine.memory import METHODS, Meter
from benchmarks.engine.ours import check_provider, load_ours
from benchmarks.engine.plain_torch import OnePass, like_for_like, load_torch
from benchmarks.engine.rounds import Round, best_rates, run_round, summary
from benchmarks.engine.yardstick import Yardstick, encoder_shapes, yardstick_types
from benchmarks.hardware import cpu_has_bf16, provenance
from benchmarks.random_model import RandomModel, random_model
from contract.errors import ContractError
from contract.pixels import Pixels

FORMAT = 1
SQUARE = {"base": 2048, "small": 512, "tiny": 256}  # side of the yardstick's square product
BUSY = 0.5  # load average before the run above which a warning is due
LEAST_PICTURES = 4  # so that a batch of 1 is not always the same picture


@dataclass(frozen=True)
class Options:
    """What shapes a run; `only` empty: all contestants that run here."""

    shapes: str
    device: str
    batches: tuple[int, ...]
    rounds: int
    warmups: int
    threads: int
    seed: int = 0
    only: tuple[str, ...] = ()


def new_result(options: Options, command: str) -> dict[str, Any]:
    """The result before anything was measured, as JSON types."""
    return {
        "format": FORMAT,
        "benchmark": "engine",
        **provenance(),
        "command": command,
        "options": asdict(options),
        "complete": False,
        "stopped": None,
        "model": {},
        "contestants": {},
        "not_run": {},
        "failed": {},
        "agreement": {},
        "memory_methods": METHODS,
        "batches": {},
    }


class EngineRun:
    """Fills `result`; `progress` gets a line for people, `save` is called when there is more to keep."""

    def __init__(
        self, options: Options, work: Path, result: dict[str, Any], progress: Callable[[str], None],
        save: Callable[[], None],
    ) -> None:  # fmt: skip
        self.options = options
        self.work = work
        self.result = result
        self.progress = progress
        self.save = save
        self.loaded: dict[str, Contestant] = {}

    def run(self, known: list[Entry]) -> None:
        """The whole run. Raises `WrongAnswerError` when our fp32 answers are not PyTorch's, `ContractError` else."""
        options = self.options
        like_for_like(options.threads)
        if (load := self.result["hardware"]["load"]) > BUSY:
            self.progress(
                f"other work is running here (load {load}): figures are rough, and torch suffers more than we do"
            )
        self.progress(f"making the model ({options.shapes}, seed {options.seed}) and its fp32 bundle")
        model = random_model(options.shapes, self.work, options.seed)
        self._describe(model)
        pictures = model.pictures(max(LEAST_PICTURES, *options.batches))
        chosen = [entry for entry in known if not options.only or entry.name in options.only]
        strict = {entry.name for entry in chosen if entry.provider is not None and entry.precision == "fp32"}
        self.progress(f"PyTorch's answers to {len(pictures)} pictures")
        guard = Guard(_wanted(model, options.device, pictures), strict)
        try:
            for entry in chosen:
                self._enter(entry, model, guard, pictures)
            if not self.loaded:
                reasons = "; ".join(f"{k}: {v}" for k, v in (self.result["not_run"] | self.result["failed"]).items())
                raise ContractError(f"No contestant can run here ({reasons}).")
            for batch in options.batches:
                self._measure(batch, guard, pictures)
        finally:
            self.result["agreement"] = guard.report()
            for contestant in self.loaded.values():
                contestant.close()

    def _describe(self, model: RandomModel) -> None:
        manifest = model.bundle("fp32").manifest
        flops, missing = model.flops()
        self.result["model"] = {
            "shapes": self.options.shapes, "image_size": manifest.image_size, "image_tokens": manifest.image_tokens,
            "width": manifest.width, "vocabulary": manifest.tokens.vocabulary, "opset": manifest.opset,
            "parameters": sum(one.numel() for one in model.checkpoint.model.parameters()),
            "labels": len(model.checkpoint.labels or ()), "label_flops": flops, "operators_not_counted": missing,
        }  # fmt: skip

    def _enter(self, entry: Entry, model: RandomModel, guard: Guard, pictures: Pixels) -> None:
        """Load one contestant, check it on every batch size, and note its memory; or note why it does not run."""
        self.progress(f"loading {entry.name}")
        peak: dict[str, int | None] = {}
        try:
            bundle = None
            if entry.provider is not None:
                check_provider(entry)
                bundle = model.bundle(entry.precision)  # exported before the memory is looked at
            meter = Meter(entry.memory)
            if bundle is None:
                bf16 = entry.device != "cpu" or cpu_has_bf16()
                contestant: Contestant = load_torch(
                    entry, model.checkpoint, asked=entry.name in self.options.only, bf16=bf16
                )
            else:
                contestant = load_ours(
                    entry, bundle, threads=self.options.threads, max_batch=max(self.options.batches),
                    engine_cache=self.work / "tensorrt",
                )  # fmt: skip
            self.loaded[entry.name] = contestant
            for batch in self.options.batches:
                guard.check(entry.name, contestant.run(pictures[:batch]), np.arange(batch))
                peak[str(batch)] = meter.peak()
        except NotHereError as error:
            self.result["not_run"][entry.name] = str(error)
            self.progress(f"{entry.name} is not run: {error}")
            return
        except WrongAnswerError:
            raise
        except Exception as error:  # out of memory, a provider's fault: the others go on
            self.result["failed"][entry.name] = " ".join(str(error).split())[:500] or type(error).__name__
            if (begun := self.loaded.pop(entry.name, None)) is not None:
                begun.close()
            return
        self.result["contestants"][entry.name] = {
            "what": entry.what, "precision": entry.precision, "provider": entry.provider or "torch",
            "memory_method": entry.memory, "peak_memory_bytes": peak,
        }  # fmt: skip

    def _measure(self, batch: int, guard: Guard, pictures: Pixels) -> None:
        """All rounds at one batch size; what was measured before a stop stays."""
        options, model = self.options, self.result["model"]
        shapes = encoder_shapes(batch, model["image_tokens"], model["width"], options.device, SQUARE[options.shapes])
        wanted = {contestant.dtype for contestant in self.loaded.values()}
        yardsticks = {
            dtype: Yardstick(options.device, dtype, shapes, options.threads)
            for dtype in yardstick_types(options.device)
            if dtype in wanted
        }
        rounds: list[Round] = []
        try:
            for number in range(options.warmups + options.rounds):
                done = run_round(number, self.loaded, yardsticks, pictures, batch, guard.check)
                counted = number - options.warmups + 1
                if counted > 0:
                    rounds.append(done)
                title = f"round {counted} of {options.rounds}" if counted > 0 else "warm-up"
                times = ", ".join(f"{name} {1000 * done.seconds[name]:.1f}" for name in self.loaded)
                self.progress(f"batch {batch}, {title}: {times} ms")
        finally:
            if rounds:
                self._note(batch, rounds)

    def _note(self, batch: int, rounds: list[Round]) -> None:
        flops = self.result["model"]["label_flops"]
        self.result["batches"][str(batch)] = {
            "matmul": best_rates(rounds),
            "summary": {
                name: summary(rounds, name, batch=batch, flops=flops, dtype=contestant.dtype)
                for name, contestant in self.loaded.items()
            },
            "rounds": [asdict(one) for one in rounds],
        }
        self.save()


def _wanted(model: RandomModel, device: str, pictures: Pixels) -> np.ndarray:
    """PyTorch's fp32 label log-probabilities float32 [pictures, labels], a few pictures at a time."""
    plain = OnePass(model.checkpoint, device, "fp32")
    answers = [plain.run(pictures[i : i + 4]).logprobs for i in range(0, len(pictures), 4)]
    plain.close()
    return np.concatenate([answer for answer in answers if answer is not None])
